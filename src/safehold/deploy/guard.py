"""A guard inside one episode: takes the budget down, and hands over to a recovery policy before the limit is gone."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from safehold.core.constraint import Limit
from safehold.core.errors import UsageError
from safehold.core.target import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardAction:
    """What the guard asks of the next step.

    kind "keep": let the policy act on. "lower": let it act with the costs to go given here, less than its target
    leaves it. "hand over": let the recovery policy act from now to the end of the episode. `to_go`: by cost name what
    the policy may still spend in this episode, in cost units (0 after a hand over). `reason`: why, for the ledger.
    """

    kind: Literal["keep", "lower", "hand over"]
    to_go: Mapping[str, float]
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """Watches the running costs of one episode against its limits, read here as limits on this one episode.

    `targets`: by name what the policy aims at over the whole episode. `margins`: by cost name what a recovery may
    still cost, declared by the user. The policy may spend min(target cost, limit - margin). The guard hands over once
    spent + margin > limit, or once a running cost is missing, not finite, negative, or below what it was (`spent`);
    it never takes that back (`handed_over` keeps the reason).

    It bounds the damage of an episode as far as the margin is true. No certificate is claimed, and the costs measured
    with a guard are those of the guarded policy: guard every episode of a deployment, or none.

    A running cost is the limit's own fold so far: the sum of the steps' costs; for a peak limit their maximum, which
    leaves no budget to lower, so that only the hand over applies.
    """

    limits: tuple[Limit, ...]
    targets: Mapping[str, float]
    margins: Mapping[str, float]
    spent: Mapping[str, float] = field(default_factory=dict)
    handed_over: str = ""

    @staticmethod
    def start(names: Sequence[str], target: Target, limits: tuple[Limit, ...], margins: Mapping[str, float]) -> "Guard":
        """The guard before the first step. `names`: what the entries of the target are, e.g. ("reward", "cost").

        Raises:
            UsageError: if a limit has no margin between 0 and itself, or names and target differ in number.
        """
        if not limits:
            raise UsageError("a guard without limits guards nothing; give at least one")
        if len(names) != len(target):
            raise UsageError(f"target {target} has {len(target)} entries for the names {tuple(names)}")
        for limit in limits:
            margin = margins.get(limit.name, math.nan)
            if not 0 <= margin <= limit.value:
                raise UsageError(
                    f"margin of {limit.name!r} is {margin}; declare what a recovery may still cost, from 0 to the "
                    f"limit {limit.value}"
                )
        return Guard(limits=limits, targets=dict(zip(names, target, strict=True)), margins=dict(margins))

    def step(self, running: Mapping[str, float]) -> tuple["Guard", GuardAction]:
        """The guard after one more step, and what it asks for; `running` by cost name, at the end of that step."""
        reason = self.handed_over or self._objection(running)
        if reason:
            return replace(self, handed_over=reason), GuardAction(
                kind="hand over", to_go={limit.name: 0.0 for limit in self.limits}, reason=reason
            )
        to_go, lowered = {}, []
        for limit in self.limits:
            room = limit.value - self.margins[limit.name]
            asked = self.targets.get(limit.name, room)
            if limit.kind == "peak":
                to_go[limit.name] = asked
                continue
            left = asked - running[limit.name]
            to_go[limit.name] = max(min(asked, room) - running[limit.name], 0.0)
            if to_go[limit.name] != left:
                lowered.append(f"{limit.name} to go is {to_go[limit.name]:.6g} instead of {left:.6g}")
        after = replace(self, spent={limit.name: running[limit.name] for limit in self.limits})
        return after, GuardAction(kind="lower" if lowered else "keep", to_go=to_go, reason="; ".join(lowered))

    def _objection(self, running: Mapping[str, float]) -> str:
        """Why the policy may not go on; empty if it may."""
        for limit in self.limits:
            now, before = running.get(limit.name, math.nan), self.spent.get(limit.name, 0.0)
            if not math.isfinite(now):
                return f"running cost {limit.name!r} is {now}: a missing cost is no evidence of safety"
            if now < before:
                return f"running cost {limit.name!r} fell from {before:.6g} to {now:.6g}: it cannot be a fold of costs"
            if not now + self.margins[limit.name] <= limit.value:
                return (
                    f"{limit.name} {now:.6g} and margin {self.margins[limit.name]:.6g} are above the limit "
                    f"{limit.value:.6g}"
                )
        return ""
