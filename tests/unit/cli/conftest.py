"""Runs of the command line inside the test's process, and a small deployment to run them on."""

import importlib.util
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from safehold.cli.main import main


@dataclass(frozen=True)
class Ran:
    """What one command line did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def safehold(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Runs `safehold WORD ...`."""

    def run(*words: object) -> Ran:
        capsys.readouterr()
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def small_runs() -> ModuleType:
    """The small deployment of the report's tests."""
    path = Path(__file__).parents[1] / "report" / "small_runs.py"
    spec = importlib.util.spec_from_file_location("small_runs", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def finished(small_runs: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three asks, all told; not to be changed."""
    return small_runs.whole_run(tmp_path_factory.mktemp("finished") / "run", horizon=3, tells=3)


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def open_run(small_runs: ModuleType, tmp_path: Path) -> Path:
    """A run of eight asks that was just declared."""
    small_runs.deploy(tmp_path / "open", tells=0).close()
    return tmp_path / "open"
