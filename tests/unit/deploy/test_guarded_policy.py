"""A guarded policy in a world: what an episode can cost at most, and that nothing else changes."""

from dataclasses import dataclass

import numpy as np
import pytest

from safehold.core.constraint import Limit
from safehold.core.errors import DataError
from safehold.core.policy import Actor, BudgetedActor, Policy
from safehold.core.seeding import Streams
from safehold.deploy.guard import Guard
from safehold.deploy.guarded import GuardedPolicy
from safehold.envs.toy import dial
from safehold.rollout.episodes import rollout

LIMIT = Limit("cost", 20.0)
MARGIN = 3.0
STEP = 2.0 * (1 + dial.NOISE)
"""Largest cost of one step of the reckless policy."""
SEEDS = Streams(0).episode_seeds("guard", 0, 30)


def guarded(policy, recovery=None, limit=LIMIT, target=(50.0, 15.0), margin=MARGIN):
    guard = Guard.start(("reward", "cost"), target, (limit,), {"cost": margin})
    return GuardedPolicy(policy, recovery or dial.Constant(reward=0.0, cost=0.0), guard, ("cost",))


def costs_of(policy):
    return np.array([episode.cost_returns[0] for episode in rollout("toy/Dial", policy, SEEDS, rng_seed=0)])


@dataclass
class Spender:
    """Spends what is left of its budget evenly over the steps that are left; 2.0 a step if nobody lowers it."""

    n: int
    n_steps: int = 0

    def __post_init__(self):
        self.left = np.full((self.n, 1), 40.0)

    def act(self, observations):  # noqa: ARG002
        share = np.minimum(self.left / (dial.HORIZON - self.n_steps), 2.0)
        return np.concatenate([np.ones_like(share), np.maximum(share, 0.0)], axis=1)

    def observe(self, actions, rewards, costs):  # noqa: ARG002
        self.left, self.n_steps = self.left - costs, self.n_steps + 1

    def lower(self, to_go):
        self.left = np.minimum(self.left, to_go)


@dataclass(frozen=True)
class SpenderPolicy:
    def start(self, n, rng) -> Actor:  # noqa: ARG002
        return Spender(n)


def test_a_reckless_episode_costs_the_limit_less_the_margin_and_one_step_at_most():
    reckless = dial.Constant(reward=1.0, cost=2.0)
    assert costs_of(reckless).min() > LIMIT.value
    damage = costs_of(guarded(reckless))
    assert damage.max() <= LIMIT.value - MARGIN + STEP
    assert damage.min() > LIMIT.value - MARGIN  # it was not stopped before it had to be


def test_a_recovery_that_costs_its_margin_at_most_keeps_the_limit_but_for_one_step():
    recovery = dial.Constant(reward=0.0, cost=MARGIN / dial.HORIZON / (1 + dial.NOISE))
    damage = costs_of(guarded(dial.Constant(reward=1.0, cost=2.0), recovery))
    assert damage.max() <= LIMIT.value + STEP


def test_a_policy_that_keeps_its_target_is_left_alone_bit_for_bit():
    frugal = dial.Constant(reward=1.0, cost=0.3)
    np.testing.assert_array_equal(costs_of(guarded(frugal)), costs_of(frugal))


def test_an_actor_with_a_budget_is_lowered_before_it_has_to_be_handed_over():
    assert isinstance(Spender(1), BudgetedActor)
    assert not isinstance(dial.Constant(reward=0.0, cost=0.0).start(1, np.random.default_rng(0)), BudgetedActor)
    free, watched = costs_of(SpenderPolicy()), costs_of(guarded(SpenderPolicy()))
    assert free.min() > LIMIT.value
    assert watched.max() <= 15.0 + STEP  # its own target


def test_results_do_not_depend_on_workers():
    policy = guarded(dial.Constant(reward=1.0, cost=2.0))
    one = rollout("toy/Dial", policy, SEEDS[:20], rng_seed=0, workers=1)
    np.testing.assert_array_equal([e.cost_returns[0] for e in one], costs_of(policy)[:20])


def test_a_peak_limit_hands_over_at_the_first_step_that_comes_too_near():
    policy = guarded(dial.Constant(reward=1.0, cost=2.0), limit=Limit("cost", 3.0, "peak"), margin=1.0)
    episodes = rollout("toy/Dial", policy, SEEDS, rng_seed=0)
    for episode in episodes:
        over = np.flatnonzero(episode.costs[:, 0] > 2.0)
        assert len(over) == 1
        assert np.all(episode.costs[over[0] + 1 :, 0] == 0.0)


def test_a_cost_that_the_world_does_not_have_cannot_be_guarded():
    guard = Guard.start(("reward", "heat"), (1.0, 1.0), (Limit("heat", 2.0),), {"heat": 0.0})
    with pytest.raises(DataError, match="the guard watches 'heat'"):
        GuardedPolicy(SpenderPolicy(), SpenderPolicy(), guard, ("cost",))


def test_it_is_a_policy():
    assert isinstance(guarded(SpenderPolicy()), Policy)
