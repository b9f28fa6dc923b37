"""safehold behind the line protocol: `python safehold_peer.py paper`.

The model is the problem's, in the middle of a range where there is one. The seed measurements are the first asks of the
run, at the seed targets in turn instead of where the acquisition would go; the horizon is longer by as many.
"""

import argparse
from dataclasses import replace

import numpy as np
from line_protocol import Plane, Problem, Told, middle, serve

from safehold.core.constraint import Limit
from safehold.core.errors import SafetyHold
from safehold.core.measurement import Measurement
from safehold.core.target import TargetSpace
from safehold.deploy import steps
from safehold.deploy.choose import certificate, next_ask
from safehold.deploy.declaration import Declaration, Settings
from safehold.deploy.prior import OutputPrior, Prior
from safehold.deploy.replay import State
from safehold.deploy.status import recommend
from safehold.gp.kernels import SquaredExponential


class SafeholdPeer:
    """One deployment in memory."""

    def __init__(self, problem: Problem) -> None:
        self._state = State.start(declaration(problem))
        for told in problem.start:
            self._state = asked_at(self._state, told.index)
            self._tell(told)

    def ask(self) -> int:
        """The next certified target; raises if the answer is to hold."""
        step = steps.ask(self._state, None)
        self._state = step.state
        if step.held is not None:
            raise step.held
        return self._state.asked[self._state.open_trials[0]].index

    def tell(self, told: Told) -> None:
        """Outcomes of the open trial."""
        self._tell(told)

    def recommend(self) -> int | None:
        """What safehold recommends; None if it holds."""
        try:
            return recommend(self._state).index
        except SafetyHold:
            return None

    def _tell(self, told: Told) -> None:
        measurement = Measurement(
            rewards=np.array(told.rewards),
            costs={"cost": np.array(told.costs)},
            failed=np.zeros(len(told.rewards), dtype=np.bool_),
        )
        self._state = steps.tell(self._state, self._state.open_trials[0], measurement, None, None).state


def declaration(problem: Problem) -> Declaration:
    """The problem in safehold's terms."""
    space = TargetSpace({"reward": problem.rewards, "cost": problem.costs})
    spans = space.points.max(axis=0) - space.points.min(axis=0)
    unit = np.array(problem.unit_points)
    scale = middle(problem.lengthscale)
    lengthscales = (float(scale * spans[0]), float(scale * spans[1]))

    def output(plane: Plane, sd: tuple[float, float]) -> OutputPrior:
        mean = plane.constant + unit @ np.array([plane.along_reward, plane.along_cost])
        return OutputPrior(
            mean=mean, kernel=SquaredExponential(middle(sd), lengthscales), episode_sd=problem.episode_sd
        )

    return Declaration(
        prior=Prior(
            space=space,
            reward=output(problem.reward_plane, problem.reward_sd),
            costs={"cost": output(problem.cost_plane, problem.cost_sd)},
            support=np.ones(len(space), dtype=np.bool_),
        ),
        limits=(Limit("cost", problem.limit),),
        caps={"cost": problem.cap},
        seed_targets=tuple(space.target(told.index) for told in problem.start),
        delta=problem.delta,
        horizon=problem.asks + len(problem.start),
        settings=Settings(episodes_per_ask=problem.episodes),
    )


def asked_at(state: State, index: int) -> State:
    """The state after an ask of a given seed target."""
    event = replace(
        next_ask(state, None),
        target=state.declaration.space.target(index),
        index=index,
        certificate=certificate(state, state.verdict(), index),
    )
    return state.apply(event)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rule", choices=["paper"])
    parser.parse_args()
    serve(SafeholdPeer, ["safehold", "numpy", "scipy"])
