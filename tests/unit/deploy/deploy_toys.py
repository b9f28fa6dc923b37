"""A dial whose truth we know: rewards and costs as plain functions of the target."""

import numpy as np

from safehold.core.constraint import Limit
from safehold.core.errors import SafetyHold
from safehold.core.measurement import Measurement
from safehold.core.target import TargetSpace
from safehold.deploy.certificates.paper import Paper
from safehold.deploy.declaration import Declaration, Settings
from safehold.deploy.prior import Prior
from safehold.deploy.watch import Monitors
from safehold.gp.kernels import SquaredExponential

LIMIT = Limit("cost", 20.0)


PAPER = (Paper(),)

UNWATCHED = Monitors(innovation=None, cost=None)
"""For tests of what rules and evidence do by themselves."""


def space(n_reward=9, n_cost=9):
    return TargetSpace(
        {"reward": tuple(np.linspace(0.0, 160.0, n_reward)), "cost": tuple(np.linspace(0.0, 40.0, n_cost))}
    )


def declaration(
    *,
    limits=(LIMIT,),
    caps=None,
    delta=0.1,
    horizon=12,
    seeds=None,
    support=None,
    settings=None,
    menu=None,
    kernel=SquaredExponential,
    unit=1.0,
    rules=PAPER,
    shares=None,
    monitors=UNWATCHED,
    **scales,
):
    """The toy deployment; `unit` re-states every cost in other units."""
    menu = menu or space()
    menu = TargetSpace({"reward": menu.axes["reward"], "cost": tuple(unit * c for c in menu.axes["cost"])})
    limits = tuple(Limit(limit.name, unit * limit.value, limit.kind, limit.alpha) for limit in limits)
    points = menu.points
    if support is None:
        support = np.ones(len(menu), dtype=np.bool_)
    if seeds is None:
        seeds = tuple(
            menu.target(i)
            for i in range(len(menu))
            if support[i] and points[i, 1] <= 5.0 * unit and 20 <= points[i, 0] <= 60
        )
    lengthscales = scales.pop("lengthscales", {"reward": 80.0, "cost": 20.0 * unit})
    prior = Prior.asked(menu, limits, support, lengthscales=lengthscales, kernel=kernel, **scales)
    return Declaration(
        prior=prior,
        limits=limits,
        caps=caps or {limit.name: 200.0 * unit for limit in limits},
        seed_targets=seeds,
        delta=delta,
        horizon=horizon,
        settings=settings or Settings(),
        rules=rules,
        shares=shares,
        monitors=monitors,
    )


def two_limits(delta=0.1, horizon=8, rules=PAPER):
    """A dial of a reward and two costs, both limited."""
    menu = TargetSpace(
        {
            "reward": tuple(np.linspace(0.0, 160.0, 6)),
            "cost": tuple(np.linspace(0.0, 40.0, 6)),
            "fall": tuple(np.linspace(0.0, 4.0, 5)),
        }
    )
    limits = (LIMIT, Limit("fall", 2.0))
    seeds = tuple(target for target in map(menu.target, range(len(menu))) if target[1:] == (0.0, 0.0))
    prior = Prior.asked(
        menu,
        limits,
        np.ones(len(menu), dtype=np.bool_),
        lengthscales={"reward": 80.0, "cost": 20.0, "fall": 2.0},
        kernel=SquaredExponential,
    )
    return Declaration(
        prior=prior,
        limits=limits,
        caps={"cost": 200.0, "fall": 20.0},
        seed_targets=seeds,
        delta=delta,
        horizon=horizon,
        rules=rules,
    )


def truth(target):
    """Expected reward and cost of a target: a dial that undershoots."""
    reward, cost = target
    return 0.9 * reward + 5.0, 0.6 * cost + 0.05 * reward + 0.5


def measurement(reward, cost, episodes=20, spread=2.0, name="cost"):
    """Episodes with these exact means, spread evenly around them."""
    offsets = spread * np.linspace(-1.0, 1.0, episodes) if episodes > 1 else np.zeros(1)
    return Measurement(
        rewards=reward + offsets,
        costs={name: np.maximum(cost + offsets, 0.0) if cost >= spread else np.full(episodes, float(cost))},
        failed=np.zeros(episodes, dtype=np.bool_),
    )


def answer(target, unit=1.0):
    """What the toy dial yields at a target."""
    reward, cost = truth((target[0], target[1] / unit))
    plain = measurement(reward, cost)
    return Measurement(rewards=plain.rewards, costs={"cost": unit * plain.costs["cost"]}, failed=plain.failed)


def drive(optimizer, unit=1.0):
    """Asks and tells until the deployment holds; the trials and the refusal."""
    trials = []
    while True:
        try:
            trial = optimizer.ask()
        except SafetyHold as hold:
            return trials, hold
        trials.append(optimizer.tell(trial.id, answer(trial.target, unit)))
