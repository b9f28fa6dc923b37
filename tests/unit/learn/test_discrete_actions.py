"""Discrete actions, by every offline method: coded, fitted by likelihood, acted by the likeliest, saved and loaded."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from safehold.core.episode import Episode
from safehold.core.errors import DataError
from safehold.core.policy import Policy, PolicyFamily
from safehold.core.spec import Box, Discrete, TaskSpec
from safehold.data.dataset import OfflineDataset
from safehold.learn.actions import Continuous, OneOf, code_of
from safehold.workflows.train import METHODS, load, preset, train

STEPS = 12
SPEC = TaskSpec(env_id="toy/Lanes", observation_size=2, action=Discrete(3), horizon=STEPS)
"""Three lanes: stay in the slow one, drive, or race. Driving earns 1 a step; racing earns 2 and costs 1."""
QUICK = {
    "bc": {"hidden": (16,), "batch_size": 64, "steps": 300, "learning_rate": 1e-2},
    "rvs": {"hidden": (32,), "batch_size": 64, "steps": 400, "learning_rate": 5e-3},
    "cdt": {"width": 16, "layers": 1, "heads": 2, "context": 3, "batch_size": 32, "steps": 250, "learning_rate": 5e-3},
}


def driven(lanes: np.ndarray, rng: np.random.Generator) -> Episode:
    """An episode in these lanes, an action a step."""
    return Episode(
        observations=rng.normal(size=(STEPS + 1, 2)).astype(np.float32),
        actions=lanes[:, None].astype(np.float32),
        rewards=lanes.astype(np.float64),
        costs=(lanes == 2)[:, None].astype(np.float64),
        terminated=False,
        truncated=True,
    )


def log() -> OfflineDataset:
    """Episodes that keep to one lane each."""
    rng = np.random.default_rng(0)
    return OfflineDataset.of([driven(np.full(STEPS, lane), rng) for lane in (0, 1, 2) for _ in range(20)], SPEC)


def acted(policy: Policy, n: int = 4) -> np.ndarray:
    """The lanes that a policy drives in, (STEPS, n)."""
    rng = np.random.default_rng(1)
    actor, lanes = policy.start(n, rng), []
    for _ in range(STEPS):
        lanes.append(actor.act(rng.normal(size=(n, 2)).astype(np.float32)))
        assert lanes[-1].shape == (n, 1)
        actor.observe(lanes[-1], lanes[-1][:, 0].astype(np.float64), (lanes[-1] == 2).astype(np.float64))
    return np.stack(lanes)[:, :, 0]


def test_the_code_of_an_action_is_one_at_its_place_and_is_decoded_to_it() -> None:
    code = code_of(Discrete(4))
    assert isinstance(code, OneOf)
    actions = np.array([[0.0], [3.0], [2.0]], dtype=np.float32)
    np.testing.assert_array_equal(code.encode(actions), np.eye(4)[[0, 3, 2]])
    np.testing.assert_array_equal(code.decode(code.encode(actions)), actions)
    np.testing.assert_array_equal(code.decode(np.zeros((1, 4), dtype=np.float32)), [[0.0]])  # the first of equals


@pytest.mark.parametrize("wrong", [-1.0, 4.0, 0.5, float("nan")])
def test_what_is_no_action_is_refused(wrong: float) -> None:
    with pytest.raises(DataError, match="none of the 4 discrete ones"):
        code_of(Discrete(4)).encode(np.array([[0.0], [wrong]], dtype=np.float32))


def test_the_loss_is_the_cross_entropy_and_the_error_the_share_that_is_not_likeliest() -> None:
    rng = np.random.default_rng(0)
    logits, chosen = rng.normal(size=(50, 5)), rng.integers(0, 5, 50)
    code = code_of(Discrete(5))
    codes = torch.tensor(code.encode(chosen[:, None].astype(np.float32)), dtype=torch.float64)
    by_hand = np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(50), chosen])
    assert code.loss(torch.tensor(logits), codes).item() == pytest.approx(by_hand, rel=1e-12)
    assert code.error(torch.tensor(logits), codes).item() == pytest.approx(np.mean(logits.argmax(axis=1) != chosen))


@given(st.lists(st.floats(-1.0, 1.0, width=32), min_size=2, max_size=2))
def test_continuous_actions_come_back_through_their_code(action: list[float]) -> None:
    code = code_of(Box((-1.0, 2.0), (1.0, 6.0)))
    assert isinstance(code, Continuous)
    given_ = np.array([action], dtype=np.float32) * [1.0, 2.0] + [0.0, 4.0]
    np.testing.assert_allclose(code.decode(code.encode(given_.astype(np.float32))), given_, atol=1e-5)
    assert code.decode(np.array([[9.0, -9.0]], dtype=np.float32)).tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize("method", ["rvs", "cdt"])
def test_a_dial_of_discrete_actions_chooses_the_lane_that_was_asked_for(method: str, tmp_path: Path) -> None:
    config = METHODS[method].config.model_validate({**preset(method, "small").model_dump(), **QUICK[method]})
    train(log(), method, config, tmp_path / method, seed=0)
    family = load(tmp_path / method / "policy")
    assert isinstance(family, PolicyFamily)
    for lane in (0, 1, 2):
        target = (float(lane * STEPS), float(STEPS * (lane == 2)))
        assert np.mean(acted(family.at(target)) == lane) > 0.9, (lane, acted(family.at(target)))


def test_cloning_the_safe_episodes_never_races(tmp_path: Path) -> None:
    config = METHODS["bc"].config.model_validate({**preset("bc", "small").model_dump(), **QUICK["bc"]})
    careful = config.model_copy(update={"limits": {"cost": 0.0}})
    train(log(), "bc", careful, tmp_path / "bc", seed=0)
    policy = load(tmp_path / "bc" / "policy")
    assert isinstance(policy, Policy)
    lanes = acted(policy)
    assert set(np.unique(lanes)) <= {0.0, 1.0}
    assert lanes.dtype == np.float32


@pytest.mark.parametrize("method", ["bc", "rvs", "cdt"])
def test_training_on_discrete_actions_resumes_to_the_same_bytes(method: str, tmp_path: Path) -> None:
    quick = {**QUICK[method], "steps": 6}
    config = METHODS[method].config.model_validate({**preset(method, "small").model_dump(), **quick})
    whole = train(log(), method, config, tmp_path / "whole", seed=0, checkpoint_every=2)

    class Enough(Exception):
        pass

    def stop(progress: object) -> None:
        if progress.updates == 4:  # type: ignore[attr-defined]
            raise Enough

    with pytest.raises(Enough):
        train(log(), method, config, tmp_path / "cut", seed=0, checkpoint_every=2, hooks=[stop])
    assert (
        train(log(), method, config, tmp_path / "cut", seed=0, checkpoint_every=2, resume=True).digest == whole.digest
    )
