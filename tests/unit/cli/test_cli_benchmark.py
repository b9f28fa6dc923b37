"""`safehold benchmark`: one file in, a table out, refusals before anything runs."""

import json

import numpy as np
import pytest

from safehold.core.seeding import Streams
from safehold.data import hdf5
from safehold.data.dataset import OfflineDataset
from safehold.envs.toy import dial
from safehold.rollout.episodes import Job, rollouts

FILE = """
tasks = ["toy/Dial"]
limits = [20.0]
seeds = [0, 1]
episodes = 2
[logs]
"toy/Dial" = "log.hdf5"
[methods.bc-all]
method = "bc"
settings = { hidden = [8], batch_size = 8, steps = 4 }
[methods.bc-safe]
method = "bc"
safe = true
settings = { hidden = [8], batch_size = 8, steps = 4 }
"""


@pytest.fixture
def file(tmp_path):
    policies = [dial.DialFamily().at((reward, cost)) for reward in (0.0, 50.0) for cost in (0.0, 10.0, 30.0)]
    jobs = [Job(policy, Streams(0).episode_seeds("log", i, 1)) for i, policy in enumerate(policies)]
    episodes = [episode for of_job in rollouts("toy/Dial", jobs, rng_seed=0) for episode in of_job]
    hdf5.write(tmp_path / "log.hdf5", OfflineDataset.of(episodes, dial.TASK.spec))
    (tmp_path / "file.toml").write_text(FILE)
    return tmp_path / "file.toml"


def test_the_table_is_written_and_the_same_again(safehold, file, tmp_path):
    out = tmp_path / "out"
    ran = safehold("benchmark", file, "--out", out, "--json")
    assert ran.code == 0
    scores = json.loads(ran.out)["scores"]
    assert [(score["method"], score["limit"]) for score in scores] == [("bc-all", 20.0), ("bc-safe", 20.0)]
    assert np.isfinite([score["reward"]["estimate"] for score in scores]).all()
    text = (out / "table.md").read_text()
    again = safehold("benchmark", file, "--out", out)
    assert again.code == 0
    assert "bc-safe" in again.out
    assert (out / "table.md").read_text() == text


def test_shares_leave_the_table_to_the_whole(safehold, file, tmp_path):
    out = tmp_path / "out"
    for share in ("0/2", "1/2"):
        ran = safehold("benchmark", file, "--out", out, "--share", share)
        assert ran.code == 0
        assert f"Share {share} is done" in ran.out
        assert not (out / "table.md").exists()
    assert safehold("benchmark", file, "--out", out).code == 0
    assert (out / "table.md").exists()


@pytest.mark.parametrize("share", ["2/2", "half", "1", "-1/2", "0/0"])
def test_a_share_that_is_none_is_refused(safehold, file, tmp_path, share):
    ran = safehold("benchmark", file, "--out", tmp_path / "out", f"--share={share}")
    assert ran.code == 2
    assert "share" in ran.err


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("toy/Dial", "toy/Nowhere", "toy/Nowhere"),
        ('method = "bc"', 'method = "sac"', "methods.bc-all.method"),
        ("steps = 4", "step = 4", "step"),
        ("limits = [20.0]", "limits = [nan]", "limits"),
        ("seeds = [0, 1]", "seeds = [0, 1", "TOML"),
        ("log.hdf5", "lost.hdf5", "lost.hdf5"),
    ],
)
def test_what_cannot_be_run_is_refused(safehold, file, tmp_path, old, new, why):
    file.write_text(FILE.replace(old, new))
    ran = safehold("benchmark", file, "--out", tmp_path / "out")
    assert ran.code in (2, 3)
    assert why in ran.err
    assert not list((tmp_path / "out").rglob("result.json"))
