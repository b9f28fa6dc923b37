"""The command that trains the zoo of every task in zoo/runs.toml, at small size."""

import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from safehold.learn.online.zoo import load_zoo

ROOT = Path(__file__).parents[3]
TASKS = tuple(tomllib.loads((ROOT / "zoo" / "runs.toml").read_text(encoding="utf-8")))


@pytest.mark.slow  # all runs of a task, two batches and their evaluations each
@pytest.mark.parametrize("task", TASKS)
def test_every_zoo_can_be_trained(task, tmp_path):
    needed = "bullet_safety_gym" if task.startswith("bullet/") else "mujoco"
    if importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    words = [sys.executable, ROOT / "zoo" / "train.py", task, tmp_path, "--steps", "8192", "--processes", "1"]
    subprocess.run(words, check=True, capture_output=True, timeout=1200)
    assert load_zoo(tmp_path / "runs").env_id == task
    assert len((tmp_path / "curves.csv").read_text(encoding="utf-8").splitlines()) > 1
