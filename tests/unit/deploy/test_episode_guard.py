"""A guard inside an episode: lowers, hands over, and never takes that back."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safehold.core.constraint import Limit
from safehold.core.errors import UsageError
from safehold.core.policy import Actor
from safehold.deploy.guard import Guard

LIMIT = Limit("cost", 20.0)
NAMES = ("reward", "cost")


def guard(cost_target=10.0, margin=4.0, limits=(LIMIT,)):
    return Guard.start(NAMES, (300.0, cost_target), limits, {"cost": margin})


def test_keeps_the_policy_while_its_own_budget_fits():
    after, action = guard().step({"cost": 3.0})
    assert (action.kind, action.to_go, action.reason) == ("keep", {"cost": 7.0}, "")
    assert after.spent == {"cost": 3.0}
    assert not after.handed_over


def test_lowers_a_target_cost_that_leaves_no_margin():
    _, action = guard(cost_target=20.0).step({"cost": 3.0})
    assert action.kind == "lower"
    assert action.to_go == {"cost": 13.0}
    assert action.reason == "cost to go is 13 instead of 17"


def test_an_overspent_target_has_nothing_to_go_instead_of_a_negative_budget():
    _, action = guard(cost_target=10.0).step({"cost": 12.0})
    assert action.kind == "lower"
    assert action.to_go == {"cost": 0.0}


def test_hands_over_only_once_spent_and_margin_pass_the_limit_without_tolerance():
    _, kept = guard(cost_target=16.0).step({"cost": 16.0})
    assert kept.kind == "keep"
    _, over = guard(cost_target=16.0).step({"cost": math.nextafter(16.0, 17.0)})
    assert over.kind == "hand over"
    assert over.to_go == {"cost": 0.0}
    assert "are above the limit 20" in over.reason


@pytest.mark.parametrize(
    ("running", "words"),
    [
        ({}, "missing cost is no evidence"),
        ({"cost": math.nan}, "missing cost is no evidence"),
        ({"cost": math.inf}, "missing cost is no evidence"),
        ({"other": 0.0}, "missing cost is no evidence"),
        ({"cost": -1.0}, "fell from 0 to -1"),
    ],
)
def test_hands_over_without_evidence(running, words):
    after, action = guard().step(running)
    assert action.kind == "hand over"
    assert words in action.reason
    assert words in after.handed_over


def test_hands_over_when_a_running_cost_falls():
    after, _ = guard().step({"cost": 3.0})
    _, action = after.step({"cost": 2.9})
    assert action.kind == "hand over"
    assert "fell from 3 to 2.9" in action.reason


def test_never_takes_a_hand_over_back():
    after, first = guard().step({"cost": math.nan})
    again, action = after.step({"cost": 0.0})
    assert action == first
    assert again == after


def test_any_one_limit_hands_over():
    limits = (LIMIT, Limit("heat", 5.0))
    start = Guard.start(NAMES, (300.0, 10.0), limits, {"cost": 0.0, "heat": 1.0})
    _, fine = start.step({"cost": 1.0, "heat": 2.0})
    assert fine.kind == "keep"  # no target for heat: limit - margin is its budget
    assert fine.to_go == {"cost": 9.0, "heat": 2.0}
    _, over = start.step({"cost": 1.0, "heat": 4.5})
    assert over.kind == "hand over"
    _, blind = start.step({"cost": 1.0})
    assert blind.kind == "hand over"


def test_a_peak_limit_leaves_no_budget_to_lower():
    peak = (Limit("cost", 20.0, "peak"),)
    _, kept = guard(cost_target=18.0, limits=peak).step({"cost": 15.0})
    assert (kept.kind, kept.to_go) == ("keep", {"cost": 18.0})
    assert guard(limits=peak).step({"cost": 16.5})[1].kind == "hand over"


@given(st.lists(st.floats(0.0, 6.0), max_size=30), st.floats(0.0, 25.0), st.floats(0.0, 20.0))
def test_the_policy_never_acts_on_more_than_limit_and_margin_leave(costs, cost_target, margin):
    watching, spent, handed = guard(cost_target, margin), 0.0, False
    for cost in costs:
        spent += cost
        watching, action = watching.step({"cost": spent})
        handed = handed or not spent + margin <= 20.0
        assert (action.kind == "hand over") == handed
        assert 0 <= action.to_go["cost"] <= max(min(cost_target, 20.0 - margin) - spent, 0.0)


def test_refuses_to_start_without_a_declared_margin():
    with pytest.raises(UsageError, match="margin of 'cost' is nan"):
        Guard.start(NAMES, (300.0, 10.0), (LIMIT,), {})
    with pytest.raises(UsageError, match=r"margin of 'cost' is 20\.5"):
        guard(margin=20.5)
    with pytest.raises(UsageError, match="a guard without limits"):
        guard(limits=())
    with pytest.raises(UsageError, match="has 1 entries for the names"):
        Guard.start(NAMES, (300.0,), (LIMIT,), {"cost": 0.0})


@dataclass
class Constant:
    """An actor that always does the same."""

    action: float

    def act(self, observations):
        return np.full((len(observations), 1), self.action)

    def observe(self, actions, rewards, costs):
        pass


class Guarded:
    """What a rollout wrapper comes to: one guard an episode, the recovery actor's action once it hands over."""

    def __init__(self, policy: Actor, recovery: Actor, guards: list[Guard], names: tuple[str, ...]) -> None:
        self.policy, self.recovery, self.guards, self.names = policy, recovery, guards, names
        self.spent = np.zeros((len(guards), len(names)))

    def act(self, observations):
        handed = np.array([bool(guard.handed_over) for guard in self.guards])
        return np.where(handed[:, None], self.recovery.act(observations), self.policy.act(observations))

    def observe(self, actions, rewards, costs):
        for actor in (self.policy, self.recovery):
            actor.observe(actions, rewards, costs)
        self.spent = self.spent + costs
        running = [dict(zip(self.names, row.tolist(), strict=True)) for row in self.spent]
        self.guards = [guard.step(row)[0] for guard, row in zip(self.guards, running, strict=True)]


def test_a_wrapper_hands_single_episodes_over():
    actor = Guarded(Constant(1.0), Constant(0.0), [guard(), guard()], ("cost",))
    observations = np.zeros((2, 3))
    spent = np.zeros(2)
    for _ in range(30):
        actions = actor.act(observations)
        costs = actions * np.array([[1.0], [0.1]])
        spent += costs[:, 0]
        actor.observe(actions, np.zeros(2), costs)
    np.testing.assert_allclose(spent, [17.0, 3.0])  # handed over at the first step past 16; the other acts on
    np.testing.assert_array_equal(actor.act(observations)[:, 0], [0.0, 1.0])
