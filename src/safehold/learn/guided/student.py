"""The student: SAC-Lagrangian in the target task that imitates a guide while it is unsafe, and lets it act at times.

[SaGui, arXiv 2307.14316]
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat

from safehold.core.config import Config
from safehold.core.constraint import Limit
from safehold.core.errors import DataError
from safehold.core.seeding import Streams
from safehold.core.spec import TaskSpec
from safehold.learn.guided.guide import Guide, GuideNetwork, actor_of, check_fits
from safehold.learn.guided.handover import HandoverConfig, TakingTurns, Turns, importance, turns_of
from safehold.learn.learner import State
from safehold.learn.multiplier import MultiplierConfig
from safehold.learn.online.sac import Lesson, SACLearner
from safehold.learn.online.sac_lag import SACLagConfig, ScalarPrice
from safehold.learn.replay import ReplayBuffer
from safehold.learn.squashed_policy import SquashedExplorer
from safehold.learn.transitions import Transitions
from safehold.nn.actors import TanhGaussianActor
from safehold.nn.distributions import TanhGaussian
from safehold.rollout.steps import Explorer, StepBatch

Distillation = Literal["adaptive", "code", "fixed", "none"]


class StudentConfig(Config):
    """A student of a guide: SAC-Lagrangian with distillation and a behaviour policy of two."""

    guide: Path = Path("guide")
    """Checkpoint of the guide for this task, as `safehold explore guide` leaves it in OUT/guide."""
    sac_lag: SACLagConfig = SACLagConfig(multiplier=MultiplierConfig(initial=0.693))
    """The core; the multiplier begins at softplus(0), so that there is distillation from the start. [SaGui's code]"""
    distillation: Distillation = "adaptive"
    """Weight omega of the KL divergence from the guide. adaptive: the multiplier, in the rewards and, beside the
    temperature, as weight of the entropy [SaGui]. code: 0.1 multiplier + 0.01 in the rewards alone [SaGui's code].
    fixed: as adaptive, with a weight that stays. none: no distillation."""
    fixed_weight: NonNegativeFloat = 0.1
    """omega of "fixed", in reward units a nat."""
    handover: HandoverConfig = HandoverConfig()
    """Who acts."""
    guide_share: float = Field(default=0.25, gt=0.0, lt=1.0)
    """Share of the guide's steps in a batch, while both buffers hold any."""
    start: Literal["fresh", "guide"] = "fresh"
    """What the student's policy begins as: fresh weights, or those of the guide, which it then acts like (the baseline
    that is only trained beforehand)."""


def student(spec: TaskSpec, config: StudentConfig, guide: Guide, limit: Limit, streams: Streams) -> SACLearner:
    """A student under a limit of kind "mean".

    Raises:
        UsageError: if the limit is of another kind or on no cost of the task, actions are not continuous, or the
            student is to begin as a guide of other hidden sizes.
        DataError: if the guide is for another task.
    """
    check_fits(guide, spec)
    price = ScalarPrice(spec, config.sac_lag, limit)
    experience = GuidedExperience(spec, config, guide, price, spec.cost_names.index(limit.name))
    start = actor_of(guide.policy, guide.abstraction) if config.start == "guide" else None
    return SACLearner(spec, config.sac_lag.sac, price, limit.name, streams, experience, start)


@dataclass(frozen=True, slots=True)
class Pull:
    """How much the guide counts: omega in r'' = r + omega log pi_g(a|Xi(s)), and the weight of the entropy with it."""

    reward: float
    entropy: float


def pull_of(config: StudentConfig, multiplier: float) -> Pull:
    """The weights at a multiplier, in reward units a nat.

    -omega KL(pi_s || pi_g) = omega E[log pi_g - log pi_s]: the first term goes into the reward, the second is entropy.
    With omega = beta: r'' = r + beta log pi_g, and (alpha + beta) in place of alpha.   [SaGui]   Its code leaves the
    second out, and has omega = 0.1 beta + 0.01.
    """
    if config.distillation == "code":
        return Pull(0.1 * multiplier + 0.01, 0.0)
    omega = {"adaptive": multiplier, "fixed": config.fixed_weight, "none": 0.0}[config.distillation]
    return Pull(omega, omega)


class GuidedExperience:
    """Steps of two: a buffer for the student's, one for the guide's, and what both count for as things stand.

    A step goes to the buffer of whoever took it. A batch has `guide_share` of the guide's; where one buffer is empty
    the other gives the whole batch.   Unlike [SaGui's code], which makes no gradient step until both can fill a batch,
    and so stalls with a student that is safe, or with one that never is.
    """

    def __init__(self, spec: TaskSpec, config: StudentConfig, guide: Guide, price: ScalarPrice, column: int) -> None:
        self._config = config
        self._guide = guide
        self._network = GuideNetwork(guide)
        self._price = price
        self._turns: Turns = turns_of(config.handover, column)
        capacity = config.sac_lag.sac.capacity
        self._guides, self._own = ReplayBuffer(spec, capacity), ReplayBuffer(spec, capacity)

    def explorer(self, own: Explorer, rng: np.random.Generator) -> Explorer:
        """Student and guide, taking turns."""
        return TakingTurns(own, SquashedExplorer(self._guide, rng), self._turns, rng)

    def add(self, batch: StepBatch) -> None:
        """Every step to the buffer of whoever took it."""
        guided = np.zeros(batch.rewards.shape, np.bool_) if batch.handed_over is None else batch.handed_over
        self._guides.add(batch, guided)
        self._own.add(batch, ~guided)

    def lesson(self, count: int, actor: TanhGaussianActor, generator: torch.Generator) -> Lesson:
        """Steps of both, with the guide's opinion in their rewards, and importance ratios of the guide's.

        log pi_g is floored, and 0 of the weight is 0 of the reward. Densities are those of the policies as they are.
        """
        rows, guided = self._sample(count, generator)
        pull = pull_of(self._config, self._price.multiplier)
        guides = self._network.log_density(rows.observations, rows.actions)
        with torch.no_grad():
            acting: TanhGaussian = actor(rows.observations)
            weights = importance(acting.log_density(rows.actions), guides, guided)
        share = float(guided.float().mean())
        return Lesson(
            rows=replace(rows, rewards=rows.rewards + pull.reward * guides),
            weights=weights,
            entropy=pull.entropy,
            metrics={"distillation": pull.reward, "importance": float(weights.mean()), "guided": share},
        )

    def state(self) -> State:
        """Both buffers, and whose turn it is."""
        parts = {"guides": self._guides, "own": self._own, "turns": self._turns}
        mine = State({}, {"guide": self._guide.fingerprint})
        return State.merge(mine, *(part.state().under(name) for name, part in parts.items()))

    def restore(self, state: State) -> None:
        """Goes back to them.

        Raises:
            DataError: if they are of another task or capacity, or of a student of another guide.
        """
        if state.meta["guide"] != self._guide.fingerprint:
            raise DataError(
                f"the saved student had another guide ({str(state.meta['guide'])[:12]}...) than this one "
                f"({self._guide.fingerprint[:12]}...); go on with the guide that it began with"
            )
        guides, own, turns = (state.part(name) for name in ("guides", "own", "turns"))
        self._guides.restore(guides)
        self._own.restore(own)
        self._turns.restore(turns)

    def _sample(self, count: int, generator: torch.Generator) -> tuple[Transitions, torch.Tensor]:
        """Steps, and which of them are the guide's."""
        share = 0.0 if len(self._guides) == 0 else 1.0 if len(self._own) == 0 else self._config.guide_share
        theirs = round(share * count)
        drawn = [
            buffer.sample(size, generator)
            for buffer, size in ((self._guides, theirs), (self._own, count - theirs))
            if size > 0
        ]
        return joined(drawn), torch.arange(count) < theirs


def joined(parts: list[Transitions]) -> Transitions:
    """The steps of several batches, one after another."""
    names = ("observations", "actions", "rewards", "costs", "next_observations", "goes_on")
    return Transitions(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})
