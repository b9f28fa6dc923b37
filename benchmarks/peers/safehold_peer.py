"""safehold behind the line protocol: `python safehold_peer.py ledger`, `ledger-16`, or `paper` for the band of PLS.

Where hyper-parameters are known, both have that kernel. Where only ranges are, the ledger has safehold's default
hyper-prior around the geometric middle of the deviation's range, and the paper's rule, which has no mixture of its own,
the middle; `ledger-16` is the ledger over a mixture of sixteen, for the clock. The seed measurements are told as
outside data; they certify nothing by themselves.
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from line_protocol import Plane, Problem, Told, middle, serve

from safehold.core.certificate import Trial
from safehold.core.constraint import Limit
from safehold.core.errors import SafetyHold
from safehold.core.measurement import Measurement
from safehold.core.target import TargetSpace
from safehold.deploy.certificates.paper import Paper
from safehold.deploy.certificates.risk_ledger import RiskLedger
from safehold.deploy.declaration import Declaration, Settings
from safehold.deploy.optimizer import TargetOptimizer
from safehold.deploy.prior import Prior
from safehold.gp.kernels import Product, SquaredExponential


class SafeholdPeer:
    """One deployment in memory."""

    def __init__(self, declaration: Declaration, start: tuple[Told, ...]) -> None:
        self._space = declaration.space
        self._optimizer = TargetOptimizer(declaration)
        self._open: Trial | None = None
        for told in start:
            self._optimizer.observe(self._space.target(told.index), measurement(told), source="seed measurement")

    def ask(self) -> int:
        """The next certified target; raises if the answer is to hold."""
        self._open = self._optimizer.ask()
        return self._space.index(self._open.target)

    def tell(self, told: Told) -> None:
        """Outcomes of the open trial."""
        if self._open is None:
            raise RuntimeError("told before it was asked")
        self._optimizer.tell(self._open.id, measurement(told))

    def recommend(self) -> int | None:
        """What safehold recommends; None if it holds."""
        try:
            return self._optimizer.recommend().index
        except SafetyHold:
            return None


def measurement(told: Told) -> Measurement:
    """Episodes in safehold's terms."""
    return Measurement(
        rewards=np.array(told.rewards),
        costs={"cost": np.array(told.costs)},
        failed=np.zeros(len(told.rewards), dtype=np.bool_),
    )


def ledger(problem: Problem) -> Declaration:
    """Safehold's defaults: the risk ledger, over the default hyper-prior unless the kernel is known."""
    known = problem.lengthscale[0] == problem.lengthscale[1]
    return replace(declaration(problem, mixture=not known), rules=(RiskLedger(),))


def ledger_of_sixteen(problem: Problem) -> Declaration:
    """The ledger over four length-scales an axis."""
    declared = ledger(problem)
    spans = np.ptp(declared.space.points, axis=0)
    sd = math.sqrt(math.prod(problem.cost_sd))
    kernels = tuple(
        Product.of("matern52", sd, (first * float(spans[0]), second * float(spans[1])))
        for first in SHARES
        for second in SHARES
    )
    cost = replace(declared.prior.costs["cost"], kernels=kernels, weights=())
    return replace(declared, prior=replace(declared.prior, costs={"cost": cost}))


def paper(problem: Problem) -> Declaration:
    """The rule of PLS under one kernel."""
    return replace(declaration(problem, mixture=False), rules=(Paper(),))


def declaration(problem: Problem, *, mixture: bool) -> Declaration:
    """The problem in safehold's terms."""
    space = TargetSpace({"reward": problem.rewards, "cost": problem.costs})
    limit = Limit("cost", problem.limit)
    unit = np.array(problem.unit_points)
    spans = space.points.max(axis=0) - space.points.min(axis=0)
    scale = middle(problem.lengthscale)
    prior = Prior.asked(
        space,
        [limit],
        np.ones(len(space), dtype=np.bool_),
        lengthscales=None if mixture else {"reward": float(scale * spans[0]), "cost": float(scale * spans[1])},
        dial_error={"cost": math.sqrt(math.prod(problem.cost_sd)) if mixture else middle(problem.cost_sd)},
        episode_sd={"cost": problem.episode_sd},
        noise_known=True,
        reward_dial_error=middle(problem.reward_sd),
        reward_episode_sd=problem.episode_sd,
        kernel=SquaredExponential,
    )

    def mean(plane: Plane) -> np.ndarray:
        return plane.constant + unit @ np.array([plane.along_reward, plane.along_cost])

    return Declaration(
        prior=replace(
            prior,
            reward=replace(prior.reward, mean=mean(problem.reward_plane)),
            costs={"cost": replace(prior.costs["cost"], mean=mean(problem.cost_plane))},
        ),
        limits=(limit,),
        caps={"cost": problem.cap},
        seed_targets=tuple(space.target(told.index) for told in problem.start[:SEEDS]),
        delta=problem.delta,
        horizon=problem.asks,
        settings=Settings(episodes_per_ask=problem.episodes),
    )


SEEDS = 5
"""Seed targets that are declared; measurements beyond them are data alone."""

SHARES = (0.1, 0.2, 0.3, 0.5)
"""Length-scales of the mixture of sixteen, as shares of an axis."""

RULES: dict[str, Callable[[Problem], Declaration]] = {
    "ledger": ledger,
    "ledger-16": ledger_of_sixteen,
    "paper": paper,
}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rule", choices=sorted(RULES))
    declare = RULES[parser.parse_args().rule]
    serve(lambda problem: SafeholdPeer(declare(problem), problem.start), ["safehold", "numpy", "scipy"])
