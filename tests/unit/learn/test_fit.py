import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from safehold.core.errors import DataError, ModelError, UsageError
from safehold.learn.checkpoint import load_checkpoint
from safehold.learn.fit import OfflineRun, fit
from safehold.learn.hooks import Progress, checkpoint, every, log, stop_when
from safehold.learn.learner import State
from safehold.testing.learner_contract import assert_equal_states


class Walker:
    """A learner that moves its weight by the batch, and by noise of its own."""

    kind = "walker"

    def __init__(self) -> None:
        self.weight = torch.zeros(2, dtype=torch.float64)

    def update(self, batch: float) -> dict[str, float]:
        self.weight = self.weight * 0.9 + batch
        return {"loss": float(self.weight.sum())}

    def policy(self) -> torch.Tensor:
        return self.weight.clone()

    def state(self) -> State:
        return State({"weight": self.weight.clone()}, {})

    def restore(self, state: State) -> None:
        self.weight = state.tensors["weight"].clone()


class Normal:
    def sample(self, rng: np.random.Generator) -> float:
        return float(rng.standard_normal())


class Broken(Walker):
    def update(self, batch: float) -> dict[str, float]:
        return {"loss": batch * float("nan")}


def run(seed: int = 0) -> OfflineRun[float]:
    return OfflineRun(Walker(), Normal(), np.random.default_rng(seed))


def test_makes_exactly_the_updates_asked_for_and_shows_each_to_every_hook() -> None:
    first: list[Progress] = []
    second: list[Progress] = []
    fit(run(), steps=5, hooks=[first.append, second.append])
    assert [progress.updates for progress in first] == [1, 2, 3, 4, 5]
    assert first == second


def test_interrupted_and_resumed_equals_uninterrupted() -> None:
    unbroken, broken, resumed = run(), run(), run(seed=9)
    fit(unbroken, steps=10)
    fit(broken, steps=4)
    resumed.restore(broken.state())
    assert resumed.updates == 4
    fit(resumed, steps=10)
    assert_equal_states(unbroken.state(), resumed.state())


def test_resumes_from_disk_bit_for_bit(tmp_path: Path) -> None:
    unbroken = run()
    fit(unbroken, steps=10, hooks=[every(4, checkpoint(unbroken, tmp_path, "walker"))])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000004", "00000008"]
    saved = load_checkpoint(tmp_path / "00000004")
    resumed = run(seed=9)
    resumed.restore(State(saved.tensors, saved.meta))
    fit(resumed, steps=10)
    assert_equal_states(unbroken.state(), resumed.state())


def test_a_checkpoint_is_never_written_twice(tmp_path: Path) -> None:
    one = run()
    save = checkpoint(one, tmp_path, "walker")
    save(Progress(1, {}))
    with pytest.raises(UsageError, match="never overwritten"):
        save(Progress(1, {}))


def test_nan_stops_training() -> None:
    with pytest.raises(ModelError, match=r"update 1: loss is nan; training stops here"):
        fit(OfflineRun(Broken(), Normal(), np.random.default_rng(0)), steps=3)


def test_a_hook_may_stop_training() -> None:
    stopped = run()
    fit(stopped, steps=100, hooks=[stop_when(lambda progress: progress.updates >= 3)])
    assert stopped.updates == 3


def test_logs_one_line_an_interval(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="safehold"):
        fit(run(), steps=6, hooks=[every(3, log)])
    assert [record.message.split(":")[0] for record in caplog.records] == ["update 3", "update 6"]


def test_what_is_no_run_is_refused_and_changes_nothing() -> None:
    one = run()
    fit(one, steps=2)
    before = one.state()
    for wrong in (
        State({}, {}),
        State({"learner.weight": torch.ones(2)}, {"learner": {}, "run": {"updates": 1, "rng": {"state": 3}}}),
        State({"learner.weight": torch.ones(2)}, {"learner": {}, "run": {"updates": 1}}),
    ):
        with pytest.raises(DataError, match="no training run"):
            one.restore(wrong)
    assert_equal_states(one.state(), before)
