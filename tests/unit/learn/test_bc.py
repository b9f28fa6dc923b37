import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import norm

from safehold.core.errors import DataError, ModelError, UsageError
from safehold.core.spec import Box, Discrete, TaskSpec
from safehold.data.batches import TransitionSampler
from safehold.data.dataset import OfflineDataset
from safehold.data.normalise import Normaliser
from safehold.data.select import near_frontier, take
from safehold.learn.checkpoint import load_checkpoint, save_checkpoint
from safehold.learn.fit import OfflineRun, fit
from safehold.learn.gaussian_policy import GaussianPolicy
from safehold.learn.learner import State
from safehold.learn.offline.bc import (
    PRESETS,
    BCConfig,
    BCLearner,
    cloned_episodes,
    load_policy,
    negative_log_likelihood,
    save_policy,
)
from safehold.testing.learner_contract import LearnerContract

SMALL = BCConfig(hidden=(32,), batch_size=64, steps=300)
LINEAR = TaskSpec(env_id="toy/Linear", observation_size=2, action=Box((-2.0, -2.0), (2.0, 2.0)), horizon=50)


def linear(noise: float, n: int = 20) -> OfflineDataset:
    """Actions are 0.5 o (entries swapped), plus noise, whatever happens."""
    rng = np.random.default_rng(0)
    observations = rng.standard_normal((n * 51, 2)).astype(np.float32) * [1.0, 3.0] + [0.0, 5.0]
    acted = np.delete(observations, np.arange(50, n * 51, 51), axis=0)[:, ::-1] * 0.5 * [1.0 / 3.0, 1.0]
    acted = acted - [5.0 / 6.0, 0.0] + noise * rng.standard_normal(acted.shape)
    return OfflineDataset(
        spec=LINEAR,
        observations=observations.astype(np.float32),
        actions=acted.astype(np.float32),
        rewards=np.zeros(n * 50),
        costs=np.repeat(np.arange(n) / 50.0, 50)[:, None],
        offsets=np.arange(n + 1) * 50,
        terminated=np.zeros(n, dtype=np.bool_),
    )


def trained(dataset: OfflineDataset, config: BCConfig) -> BCLearner:
    learner = BCLearner(dataset.spec, Normaliser.fit(dataset.observations), config, seed=0)
    fit(
        OfflineRun(learner, TransitionSampler(dataset, config.batch_size), np.random.default_rng(1)),
        steps=config.steps,
    )
    return learner


class TestDeterministic(LearnerContract):
    head = "deterministic"

    def task(self) -> TaskSpec:
        return LINEAR

    def learner(self, seed: int) -> BCLearner:
        config = BCConfig(hidden=(16,), head=self.head)
        return BCLearner(LINEAR, Normaliser.fit(linear(0.1).observations), config, seed)

    def sampler(self) -> TransitionSampler:
        return TransitionSampler(linear(0.1), 32)

    def policy(self, learnt: object) -> object:
        return learnt


class TestGaussian(TestDeterministic):
    head = "gaussian"


def test_recovers_the_logged_rule() -> None:
    dataset = linear(noise=0.0)
    policy = trained(dataset, SMALL).policy()
    seen = dataset.observations[:500]
    actor = policy.start(500, np.random.default_rng(0))
    wanted = LINEAR.action.clip(seen[:, ::-1] * 0.5 * [1.0 / 3.0, 1.0] - [5.0 / 6.0, 0.0])
    assert np.sqrt(np.mean((actor.act(seen) - wanted) ** 2)) < 0.1


def test_the_gaussian_head_recovers_the_noise_and_draws_with_it() -> None:
    dataset = linear(noise=0.3)
    policy = trained(
        dataset, SMALL.model_copy(update={"head": "gaussian", "steps": 800, "learning_rate": 3e-3})
    ).policy()
    np.testing.assert_allclose(policy.sd, 0.3, rtol=0.15)
    middle = np.tile(dataset.observations.mean(axis=0), (2000, 1))
    actions = policy.start(2000, np.random.default_rng(3)).act(middle)
    np.testing.assert_allclose(actions.std(axis=0), policy.sd, rtol=0.1)


def test_likelihood_equals_the_textbook_density() -> None:
    rng = np.random.default_rng(0)
    means, actions, log_sd = rng.standard_normal((5, 2)), rng.standard_normal((5, 2)), np.array([-0.3, 0.4])
    loss = negative_log_likelihood(torch.tensor(means), torch.tensor(log_sd), torch.tensor(actions))
    expected = -norm.logpdf(actions, means, np.exp(log_sd)).sum(axis=1).mean()
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_cloned_episodes_keep_every_limit_and_ties_count_as_kept() -> None:
    dataset = linear(0.0)
    assert cloned_episodes(dataset, BCConfig()) is dataset
    limit = float(dataset.cost_returns[7, 0])
    kept = cloned_episodes(dataset, BCConfig(limits={"cost": limit}))
    np.testing.assert_array_equal(kept.cost_returns, dataset.cost_returns[:8])
    with pytest.raises(DataError, match="the cheapest has 1"):
        cloned_episodes(take(dataset, [1, 2], "late"), BCConfig(limits={"cost": 0.5}))
    with pytest.raises(UsageError, match="cots"):
        cloned_episodes(dataset, BCConfig(limits={"cots": 1.0}))


def test_cloning_near_the_frontier_may_be_joined_with_a_limit(logged: Callable[[int], OfflineDataset]) -> None:
    dataset = logged(40)
    kept = cloned_episodes(dataset, BCConfig(frontier=0.1))
    assert kept.digest == near_frontier(dataset, 0.1).digest
    both = cloned_episodes(dataset, BCConfig(frontier=0.1, limits={"cost": float(np.median(kept.cost_returns))}))
    assert set(both.reward_returns) <= set(kept.reward_returns)
    assert 0 < len(both) < len(kept) < len(dataset)


def test_cloning_safe_episodes_imitates_only_them(logged: Callable[[int], OfflineDataset], drive: object) -> None:
    costs = {}
    for name, limits in (("all", {}), ("safe", {"cost": 2.0})):
        config = SMALL.model_copy(update={"limits": limits, "steps": 600})
        policy = trained(cloned_episodes(logged(80), config), config).policy()
        episodes = drive.run(policy, 20, np.random.default_rng(2))
        costs[name] = np.mean([episode.cost_returns[0] for episode in episodes])
    assert costs["safe"] < 3.0 < costs["all"]


def test_nan_stops_training_before_the_weights_change() -> None:
    learner = TestDeterministic().learner(0)
    batch = TestDeterministic().sampler().sample(np.random.default_rng(0))
    poisoned = replace(batch, actions=np.full_like(batch.actions, np.nan))
    before = learner.state()
    with pytest.raises(ModelError, match="update 1: the loss of behaviour cloning is nan"):
        learner.update(poisoned)
    for name, tensor in learner.state().tensors.items():
        assert torch.equal(tensor, before.tensors[name])


def test_another_normalisation_is_refused_at_resume() -> None:
    learner = TestDeterministic().learner(0)
    state = learner.state()
    other = BCLearner(LINEAR, Normaliser.fit(linear(0.1, n=3).observations), BCConfig(hidden=(16,)), 0)
    with pytest.raises(DataError, match="another one"):
        other.restore(state)


def test_moments_missing_after_updates_are_refused() -> None:
    learner = trained(linear(0.1), SMALL.model_copy(update={"steps": 2}))
    state = learner.state()
    weights = {name: value for name, value in state.tensors.items() if not name.startswith("optimiser")}
    with pytest.raises(DataError, match="no optimiser moments"):
        learner.restore(State(weights, state.meta))


def test_discrete_actions_are_not_fitted_by_a_gaussian() -> None:
    spec = TaskSpec(env_id="toy/Choice", observation_size=2, action=Discrete(3), horizon=5)
    with pytest.raises(UsageError, match='head must be "deterministic"'):
        BCLearner(spec, Normaliser.fit(np.eye(2)), BCConfig(head="gaussian"), 0)


def test_the_policy_travels_to_another_process() -> None:
    policy = TestGaussian().learner(0).policy()
    travelled = pickle.loads(pickle.dumps(policy))
    seen = np.ones((3, 2), dtype=np.float32)
    first, second = (p.start(3, np.random.default_rng(0)).act(seen) for p in (policy, travelled))
    np.testing.assert_array_equal(first, second)


def saved(tmp_path: Path) -> tuple[Path, GaussianPolicy, str]:
    policy = TestGaussian().learner(0).policy()
    return tmp_path / "policy", policy, save_policy(tmp_path / "policy", policy, LINEAR, {"dataset": "abc"})


def test_the_policy_round_trips_through_a_checkpoint(tmp_path: Path) -> None:
    directory, policy, digest = saved(tmp_path)
    loaded = load_policy(directory, expected_digest=digest)
    seen = np.ones((3, 2), dtype=np.float32)
    first, second = (p.start(3, np.random.default_rng(0)).act(seen) for p in (policy, loaded))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda meta, _: meta.pop("spec"), "spec"),
        (lambda meta, _: meta["spec"].update(observation_size=5), "layer 0"),
        (lambda meta, _: meta.update(layers=3), "weight.2"),
        (lambda meta, _: meta.update(layers=1), "outputs"),
        (lambda _, tensors: tensors.pop("observation_sd"), "observation_sd"),
        (lambda _, tensors: tensors["observation_sd"].zero_(), "positive"),
        (lambda _, tensors: tensors["weight.0"].fill_(torch.nan), "not finite"),
        (lambda _, tensors: tensors.update(extra=torch.zeros(1)), "unknown"),
    ],
)
def test_a_checkpoint_that_does_not_fit_together_is_refused(
    tmp_path: Path, change: Callable[[dict, dict], object], message: str
) -> None:
    directory, _, _ = saved(tmp_path)
    good = load_checkpoint(directory)
    meta, tensors = dict(good.meta), dict(good.tensors)
    change(meta, tensors)
    save_checkpoint(tmp_path / "bad", kind="bc", tensors=tensors, meta=meta)
    with pytest.raises(DataError, match=message):
        load_policy(tmp_path / "bad")


def test_a_checkpoint_of_another_method_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", kind="cdt", tensors={}, meta={})
    with pytest.raises(DataError, match="of kind 'bc', this is 'cdt'"):
        load_policy(tmp_path / "c")


def test_presets_are_what_the_paper_says() -> None:
    assert PRESETS["published"].hidden == (256, 256)
    assert PRESETS["published"].steps == 100_000
