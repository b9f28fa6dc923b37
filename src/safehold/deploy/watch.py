"""The monitors of a run: their declared false-alarm rates, what they have seen, and where an alarm leads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool

from safehold.core.constraint import Limit
from safehold.core.measurement import Measurement
from safehold.core.target import TargetSpace
from safehold.deploy.belief import Belief, ToldMean
from safehold.deploy.betting import probability
from safehold.deploy.monitors import CostMonitor, InnovationMonitor, normal_score
from safehold.ledger.events import Alarmed, Level

LADDER: tuple[Level, ...] = ("normal", "paid_only", "seed", "stop")
"""From new targets, over told and paid ones, over the seed targets, to nothing; alarms lead down, a person up."""

INNOVATIONS, COSTS = "innovations", "costs"
"""Names of the monitors in a ledger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Monitors:
    """False-alarm rates: probability that the monitor ever alarms although what it watches is as declared.

    `innovation`: of all limited costs together, does the model foretell what is measured? `cost`: of all limits
    together, do deployed targets keep them, whatever the model? A rate is for one watch: from the start of the run, or
    from the last alarm or new epoch, on. None switches a monitor off.
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

    `evidence` is an e-value, 1 at the start; `seen` counts measurements (innovations) or episodes (costs).
    """

    monitor: str
    limit: str
    evidence: float
    needed: float
    seen: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """The monitors of one watch, by limit; immutable, every method returns the next value."""

    innovations: Mapping[str, InnovationMonitor]
    costs: Mapping[str, CostMonitor]

    @staticmethod
    def start(monitors: Monitors, limits: Sequence[Limit], caps: Mapping[str, float]) -> "Watch":
        """Nothing seen; each monitor's rate is split evenly over the limits."""
        n = len(limits)
        return Watch(
            innovations={}
            if monitors.innovation is None
            else {limit.name: InnovationMonitor.start(monitors.innovation / n) for limit in limits},
            costs={}
            if monitors.cost is None
            else {limit.name: CostMonitor.start(limit, caps[limit.name], monitors.cost / n) for limit in limits},
        )

    def lowered(self, monitors: Monitors, limits: Sequence[Limit], caps: Mapping[str, float]) -> "Watch":
        """After a limit was lowered: bets on the old one say nothing of the new one; the model is what it was."""
        return replace(self, costs=Watch.start(monitors, limits, caps).costs)

    def asked(self, index: int) -> "Watch":
        """After a target was handed out, which decides its share of the cost monitors' capital."""
        return replace(self, costs={name: monitor.asked(index) for name, monitor in self.costs.items()})

    def foretold(self, scores: Mapping[str, float]) -> "Watch":
        """After a measurement with these normal scores, for limits whose statistic was really measured."""
        innovations = {
            name: monitor.told(np.array([scores[name]])) if name in scores else monitor
            for name, monitor in self.innovations.items()
        }
        return replace(self, innovations=innovations)

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
                Reading(monitor=INNOVATIONS, limit=name, evidence=m.value, needed=1.0 / m.level, seen=m.wager.n)
                for name, m in self.innovations.items()
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
        for name, innovation in self.innovations.items():
            if innovation.alarmed and level in ("normal", "paid_only"):
                reason = (
                    f"the model does not foretell {name!r}: the evidence against it reached {1 / innovation.level:.4g} "
                    f"within {innovation.wager.n} measurements (false-alarm rate {innovation.level:.3g})"
                )
                found.append(_alarmed(reason, LADDER[LADDER.index(level) + 1], INNOVATIONS, name))
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
    process = before.process
    noise = after.episode_variance(point.index) * point.noise_factor
    sds = np.sqrt(process.sds[:, point.index] ** 2 + noise)
    return normal_score(point.value, process.means[:, point.index], sds, process.weights)


def _alarmed(reason: str, level: Level, monitor: str, limit: str, target: tuple[float, ...] | None = None) -> Alarmed:
    """The event; bounds are those of certificate rules alone."""
    return Alarmed(reason=reason, level=level, monitor=monitor, limit=limit, target=target, lower=None, upper=None)
