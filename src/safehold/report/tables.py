"""The numbers of a run in tables: what was asked, what came, with intervals."""

import numpy as np

from safehold.core.intervals import mean_interval, proportion_interval
from safehold.deploy.replay import State
from safehold.report.figures.palette import NAMES
from safehold.report.page import Table
from safehold.report.run import Evaluation, RunView
from safehold.report.words import grounds, over_limit, percent, target_text, verdict_of

MOST_ROWS = 100
"""Asks that a table shows: of more, the first and the last ones."""

_INTERVALS = "Square brackets: 95 % Student interval of the mean over the episodes."


def deployments(state: State) -> Table:
    """A row an ask: target, certified bound, what came, and whether it stayed at or under every limit."""
    names = [limit.name for limit in state.declaration.limits]
    rows = []
    trials = list(state.asked)
    hidden = len(trials) - MOST_ROWS
    shown = trials if hidden <= 0 else [*trials[: MOST_ROWS // 4], *trials[-(MOST_ROWS - MOST_ROWS // 4) :]]
    for trial in shown:
        asked, told = state.asked[trial], state.told.get(trial)
        bounds = [grounds(asked.certificate, name) for name in names]
        predicted = [f"{asked.costs[name].mean:.4g}" for name in names]
        if told is None:
            came, reward, mark = [state.states[trial].value] * len(names), "", ""
        else:
            measured = told.measurement
            came = [str(mean_interval(np.where(measured.failed, np.nan, measured.costs[name]))) for name in names]
            reward, mark = str(mean_interval(measured.rewards)), verdict_of(state, trial)
        rows.append(
            (str(asked.number), asked.phase, target_text(asked.target), *predicted, *bounds, *came, reward, mark)
        )
    columns = (
        "ask",
        "why",
        "target asked",
        *(f"{name}: predicted" for name in names),
        *(f"{name}: certified" for name in names),
        *(f"{name}: told" for name in names),
        "reward told",
        "mean cost",
    )
    note = (
        f'{_INTERVALS} Certified by an upper bound, or by a risk that was paid out of delta; "premise": a seed target, '
        "which rests on its premise instead."
    )
    if hidden > 0:
        note += f" {hidden} asks in the middle are left out here; `safehold deploy export` has them all."
    return Table("Every deployment", columns, tuple(rows), note)


def evaluations(run: RunView, limit: float | None) -> Table:
    """A row a target that was run outside the certified loop."""
    rows = []
    for found in run.evaluations:
        rows.append(
            (
                NAMES.get(found.label, found.label),
                target_text(found.target),
                str(mean_interval(found.rewards)),
                str(mean_interval(found.costs)),
                _share_over(found, limit),
                str(len(found.rewards)),
            )
        )
    columns = ("what", "target asked", "reward obtained", "cost obtained", "episodes over the limit", "episodes")
    note = f"{_INTERVALS} Shares: 95 % Clopper-Pearson interval."
    return Table("Targets compared on fresh episodes", columns, tuple(rows), note)


def _share_over(found: Evaluation, limit: float | None) -> str:
    """Share of single episodes that are not at or under the limit."""
    if limit is None:
        return ""
    over = over_limit(found.costs, limit)
    share = proportion_interval(over, len(found.costs))
    return f"{percent(share.estimate)} [{percent(share.low)}, {percent(share.high)}]"
