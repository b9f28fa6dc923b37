"""A roll-out in stages: what each may hand out, and the part of delta it may spend; a person decides to go on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from safehold.core.errors import UsageError
from safehold.deploy.certificates.rule import Rule

StageName = Literal["shadow", "canary", "full"]

ORDER: tuple[StageName, ...] = ("shadow", "canary", "full")
"""Stages come in this order; "full" is always the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage of a roll-out; it only ever takes away from what the rules allow.

    "shadow": seed targets and what was handed out before alone; what would have been asked instead is recorded.
    "canary": besides, at most `new_targets` new ones in all. "full": all that the rules allow.
    `share`: of delta, a part of the rules' share. Until the next stage the rules may not have spent more than the
    shares so far, together; what a stage leaves goes on to the next. `episodes_per_ask`: fewer than declared.
    """

    name: StageName
    share: float
    episodes_per_ask: int | None = None
    new_targets: int | None = None


def check(stages: Sequence[Stage], *, certificate: float, episodes_per_ask: int, rules: Sequence[Rule]) -> None:
    """The stages are in order, each bounded as its name says, and their shares add up to the rules'.

    Raises:
        UsageError: naming what does not fit.
    """
    if not stages:
        return
    names = [stage.name for stage in stages]
    if names != [name for name in ORDER if name in names] or names[-1] != "full":
        raise UsageError(f"stages are {names}; they come in the order {list(ORDER)}, each once, the last is 'full'")
    at_once = [rule.kind for rule in rules if rule.one_epoch]
    if at_once:
        raise UsageError(
            f"the rule {at_once[0]!r} spends its whole share of delta at once, which no stage can give out in parts; "
            "stage a roll-out under rules that are charged ask by ask"
        )
    for stage in stages:
        bounded = {"shadow": stage.new_targets == 0, "canary": (stage.new_targets or 0) >= 1, "full": True}
        if not bounded[stage.name] or (stage.name == "full" and stage.new_targets is not None):
            raise UsageError(
                f"stage {stage.name!r} allows {stage.new_targets} new targets; shadow allows 0, canary at least 1, "
                "full all that are certified (None)"
            )
        if not 0.0 <= stage.share < 1.0 or (stage.share > 0.0) == (stage.name == "shadow"):
            raise UsageError(
                f"stage {stage.name!r} has the share {stage.share} of delta; shadow spends nothing, the others some"
            )
        if stage.episodes_per_ask is not None and not 1 <= stage.episodes_per_ask <= episodes_per_ask:
            raise UsageError(
                f"stage {stage.name!r} runs {stage.episodes_per_ask} episodes an ask; from 1 to the declared "
                f"{episodes_per_ask}"
            )
    total = sum(stage.share for stage in stages)
    if not math.isclose(total, certificate, rel_tol=1e-9):
        raise UsageError(
            f"the stages' shares of delta add up to {total:g}, the rules' share is {certificate:g}; one delta is "
            "shared out"
        )


def by_parts(certificate: float, parts: Sequence[float], new_targets: int, episodes_per_ask: int) -> tuple[Stage, ...]:
    """Shadow, canary and full, the last two with these parts (two, adding up to 1) of the rules' share."""
    canary, full = (certificate * part for part in parts)
    return (
        Stage(name="shadow", share=0.0, new_targets=0, episodes_per_ask=episodes_per_ask),
        Stage(name="canary", share=canary, new_targets=new_targets, episodes_per_ask=episodes_per_ask),
        Stage(name="full", share=full),
    )
