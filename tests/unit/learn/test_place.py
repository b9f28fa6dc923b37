"""Training in half precision, and by several processes: what may differ, and what must not."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from safehold.cli.main import main
from safehold.core.errors import UsageError
from safehold.data.hdf5 import write
from safehold.learn.checkpoint import load_checkpoint
from safehold.learn.fit import OfflineRun, fit
from safehold.learn.offline.cdt import CDTLearner
from safehold.learn.offline.cdt_network import CDTConfig
from safehold.learn.offline.dial import windows
from safehold.learn.offline.scales import Scales
from safehold.learn.place import HERE, Place, joined
from safehold.nn.randomness import OwnGenerator
from safehold.workflows.train import METHODS, preset

TINY = CDTConfig(
    width=16, layers=2, heads=2, context=4, dropout=0.1, batch_size=32, steps=150, learning_rate=3e-3, warm_up=10
)


def learner_of(dataset, config, place=HERE):
    return CDTLearner(dataset.spec, Scales.fit(dataset, config.to_go_features), config, 0, place)


def last_errors(dataset, config):
    """Action errors of the last thirty updates."""
    errors = []
    made = learner_of(dataset, config)
    run = OfflineRun(made, windows(dataset, config, config.context), np.random.default_rng(0))
    fit(run, steps=config.steps, hooks=[lambda progress: errors.append(progress.metrics["action_error"])])
    assert all(parameter.dtype == torch.float32 for parameter in made.policy().network.parameters())
    return np.array(errors[-30:])


def test_half_precision_learns_as_well_and_is_not_the_same(logged):
    dataset = logged(30)
    full = last_errors(dataset, TINY)
    half = last_errors(dataset, TINY.model_copy(update={"precision": "bfloat16"}))
    assert not np.array_equal(full, half)
    assert half.mean() == pytest.approx(full.mean(), rel=0.05)


def test_two_processes_of_torchrun_train_the_weights_of_one(logged, tmp_path):
    write(tmp_path / "log.hdf5", logged(10))
    said = ["--data", str(tmp_path / "log.hdf5"), "--seed", "3", "--steps", "8", "--batch-size", "30", "--width", "16"]
    said += ["--cost-loss-weight", "0.5", "--observation-loss-weight", "0.5", "--head", "gaussian"]
    assert main(["train", "cdt", *said, "--out", str(tmp_path / "one")]) == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, "-m", "safehold", "train", "cdt", *said, "--out", str(tmp_path / "two")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("8 updates") == 1, "one process speaks for both"
    one, two = (load_checkpoint(tmp_path / name / "policy").tensors for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, two[name], atol=1e-5, rtol=0.0, msg=name)


def test_every_window_is_in_one_share_and_the_weights_of_the_shares_add_up_to_one(logged):
    batch = windows(logged(10), TINY.model_copy(update={"batch_size": 7}), 4).sample(np.random.default_rng(0))
    shares = [part for rank in range(3) for part in Place(rank=rank, count=3).parts(batch)]
    np.testing.assert_array_equal(np.concatenate([mine.observations for mine, _ in shares]), batch.observations)
    assert sum(weight for _, weight in shares) == pytest.approx(1.0)
    with pytest.raises(UsageError, match="a batch of 7 windows cannot be shared by 8 processes"):
        list(Place(rank=0, count=8).parts(batch))


@pytest.mark.parametrize("head", ["deterministic", "gaussian"])
def test_an_update_in_parts_is_the_update_of_the_whole_batch(logged, monkeypatch, head):
    """Without dropout, in float32: gradients of parts, weighed by their valid steps, add up."""
    config = TINY.model_copy(update={"batch_size": 23, "dropout": 0.0, "head": head, "cost_loss_weight": 0.3})
    log = logged(10)
    found = []
    for size in (64, 5):
        monkeypatch.setattr("safehold.learn.place.PART", size)
        learner, rng = learner_of(log, config), np.random.default_rng(0)
        metrics = [learner.update(windows(log, config, 4).sample(rng)) for _ in range(3)]
        found.append((learner.state().tensors, metrics))
    (whole, said), (parts, same) = found
    for name, tensor in whole.items():
        torch.testing.assert_close(tensor, parts[name], atol=1e-5, rtol=1e-4, msg=name)
    for one, other in zip(said, same, strict=True):
        assert one == pytest.approx(other, abs=1e-4)


def test_processes_with_the_same_generator_draw_other_numbers_and_keep_the_same_generator():
    drawn, states = [], []
    for stream in (0, 1):
        own = OwnGenerator(0)
        for _ in range(2):
            with own.drawing(stream):
                drawn.append(torch.rand(3).tolist())
        states.append(own.state())
    assert len({tuple(numbers) for numbers in drawn}) == 4
    assert torch.equal(*states)


def test_what_cannot_be_is_refused(logged, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="no CUDA device is to be had"), joined("cuda"):
        pass
    with pytest.raises(UsageError, match="'rvs' trains in one process"):
        METHODS["rvs"].build(logged(3), preset("rvs", "small"), 0, Place(rank=0, count=2))
