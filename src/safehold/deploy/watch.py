"""The monitors of a run: their declared false-alarm rates, what they have seen, and where an alarm leads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool

from safehold.core.constraint import Limit
from safehold.core.errors import UsageError
from safehold.core.measurement import Measurement
from safehold.core.target import TargetSpace
from safehold.deploy.belief import Belief, ToldMean
from safehold.deploy.betting import probability
from safehold.deploy.monitors import CostMonitor, InnovationMonitor, normal_score
from safehold.ledger.events import Alarmed, Level

LADDER: tuple[Level, ...] = ("normal", "paid_only", "seed", "stop")
"""From new targets, over told and paid ones, over the seed targets, to nothing; alarms lead down, a person up."""

INNOVATIONS, REWARDS, COSTS = "innovations", "rewards", "costs"
"""Names of the monitors in a ledger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Monitors:
    """False-alarm rates: probability that the monitor ever alarms although what it watches is as declared.

    `innovation`: of all limited costs together, and of the reward that one may go with, does the model
    foretell what is measured? `cost`: of all limits together, do deployed targets keep them, whatever the model? A rate
    is for one watch: from the start of the run, or from the last alarm or new epoch, on. None switches a monitor off.
    """

    innovation: float | None = 0.01
    cost: float | None = 0.01

    def __post_init__(self) -> None:
        for name, rate in (("innovation", self.innovation), ("cost", self.cost)):
            if rate is not None:
                probability(f"the {name} monitor's false-alarm rate", rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one monitor of one limit has come to: it alarms once its evidence reaches `needed` = 1 / rate.

    `evidence` is an e-value, 1 at the start; `seen` counts measurements (innovations, rewards) or episodes (costs).
    """

    monitor: str
    limit: str
    evidence: float
    needed: float
    seen: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """The monitors of one watch, by limit; immutable, every method returns the next value.

    `rewards` is of the limited cost that is believed to go with the reward, if one is, and watches the reward's side.
    """

    innovations: Mapping[str, InnovationMonitor]
    rewards: Mapping[str, InnovationMonitor]
    costs: Mapping[str, CostMonitor]

    @staticmethod
    def start(
        monitors: Monitors, limits: Sequence[Limit], caps: Mapping[str, float], coupled: str | None = None
    ) -> "Watch":
        """Nothing seen; each rate is split evenly over what it is of. `coupled`: the cost that goes with the reward."""
        innovations, rewards = {}, {}
        if monitors.innovation is not None:
            beside = [limit.name for limit in limits if limit.name == coupled]
            level = monitors.innovation / (len(limits) + len(beside))
            innovations = {limit.name: InnovationMonitor.start(level) for limit in limits}
            rewards = {name: InnovationMonitor.start(level) for name in beside}
        return Watch(innovations=innovations, rewards=rewards, costs=_cost_monitors(monitors, limits, caps))

    def lowered(self, monitors: Monitors, limits: Sequence[Limit], caps: Mapping[str, float]) -> "Watch":
        """After a limit was lowered: bets on the old one say nothing of the new one; the model is what it was."""
        return replace(self, costs=_cost_monitors(monitors, limits, caps))

    def asked(self, index: int) -> "Watch":
        """After a target was handed out, which decides its share of the cost monitors' capital."""
        return replace(self, costs={name: monitor.asked(index) for name, monitor in self.costs.items()})

    def foretold(self, scores: Mapping[str, float], rewards: Mapping[str, float]) -> "Watch":
        """After a measurement with these normal scores of limited costs and of the rewards beside them, by limit."""
        return replace(self, innovations=_told(self.innovations, scores), rewards=_told(self.rewards, rewards))

    def ran(self, index: int, measurement: Measurement) -> "Watch":
        """After episodes of a target that was handed out; failed ones count as the cap."""
        costs = {
            name: monitor.asked(index).told(index, measurement.costs[name], measurement.failed)
            for name, monitor in self.costs.items()
        }
        return replace(self, costs=costs)

    def readings(self) -> tuple[Reading, ...]:
        """Every monitor's evidence."""
        return (
            *(
                Reading(monitor=monitor, limit=name, evidence=m.value, needed=1.0 / m.level, seen=m.wager.n)
                for monitor, of in ((INNOVATIONS, self.innovations), (REWARDS, self.rewards))
                for name, m in of.items()
            ),
            *(
                Reading(monitor=COSTS, limit=name, evidence=m.value, needed=1.0 / m.level, seen=m.pooled.n)
                for name, m in self.costs.items()
            ),
        )

    def alarms(self, level: Level, seeds: Bool[np.ndarray, "m"], space: TargetSpace) -> list[Alarmed]:
        """The alarms that the monitors call for at this level of the ladder.

        The model's: one rung down, to "seed" at most; there nothing rests on the model any more. The costs': to
        "seed", or to "stop" if it is a seed target that is accused, or if only seed targets ran.
        """
        found = []
        for monitor, of in ((INNOVATIONS, self.innovations), (REWARDS, self.rewards)):
            for name, innovation in of.items():
                if innovation.alarmed and level in ("normal", "paid_only"):
                    what = repr(name) if monitor == INNOVATIONS else f"the reward that {name!r} goes with"
                    reason = (
                        f"the model does not foretell {what}: the evidence against it reached "
                        f"{1 / innovation.level:.4g} within {innovation.wager.n} measurements (false-alarm rate "
                        f"{innovation.level:.3g})"
                    )
                    found.append(_alarmed(reason, LADDER[LADDER.index(level) + 1], monitor, name))
        for name, cost in self.costs.items():
            if not cost.alarmed or level == "stop":
                continue
            accused = sorted(cost.accused, key=lambda index: (not seeds[index], index))
            on_seed = level == "seed" or (bool(accused) and bool(seeds[accused[0]]))
            who = f"target {space.target(accused[0])} does" if accused else "the deployed targets do"
            reason = (
                f"{who} not keep the limit on {name!r}: the evidence of raw episodes reached {1 / cost.level:.4g} "
                f"within {cost.pooled.n} episodes (false-alarm rate {cost.level:.3g})"
            )
            found.append(
                _alarmed(
                    reason, "stop" if on_seed else "seed", COSTS, name, space.target(accused[0]) if accused else None
                )
            )
        return found


def score(before: Belief, after: Belief, point: ToldMean) -> float:
    """Normal score of a measured statistic under what was believed before it.

    With the noise as it is believed once this trial's own scatter is known: of normal episodes scatter and mean are
    independent, and a larger noise only makes the score smaller.
    """
    means, sds, weights = before.foretold(point.index)
    noise = after.episode_variance(point.index) * point.noise_factor
    return normal_score(point.value, means, np.sqrt(sds**2 + noise), weights)


def reward_score(before: Belief, after: Belief, reward: ToldMean) -> float:
    """The same of the mean reward that was told beside a cost, by the belief about the two of them.

    Raises:
        UsageError: if the cost goes with no reward.
    """
    if after.partner is None:
        raise UsageError("this cost goes with no reward; only the reward of a coupled pair is foretold with its cost")
    means, sds, weights = before.foretold_partner(reward.index)
    _, (value,), (noise,) = after.partner.measurements([reward])
    return normal_score(float(value), means, np.sqrt(sds**2 + noise), weights)


def _told(monitors: Mapping[str, InnovationMonitor], scores: Mapping[str, float]) -> Mapping[str, InnovationMonitor]:
    """Every monitor after its score, where it has one."""
    return {
        name: monitor.told(np.array([scores[name]])) if name in scores else monitor
        for name, monitor in monitors.items()
    }


def _cost_monitors(monitors: Monitors, limits: Sequence[Limit], caps: Mapping[str, float]) -> Mapping[str, CostMonitor]:
    """One a limit, nothing seen."""
    if monitors.cost is None:
        return {}
    level = monitors.cost / len(limits)
    return {limit.name: CostMonitor.start(limit, caps[limit.name], level) for limit in limits}


def _alarmed(reason: str, level: Level, monitor: str, limit: str, target: tuple[float, ...] | None = None) -> Alarmed:
    """The event; bounds are those of certificate rules alone."""
    return Alarmed(reason=reason, level=level, monitor=monitor, limit=limit, target=target, lower=None, upper=None)
