"""What deploy_peers.py measured, summed up: values first, then a page of them."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from safehold.core.intervals import Interval, mean_interval, proportion_interval


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of one method.

    `unsafe`: ask by ask, whether the true expected cost is above the limit; `excess`: the largest amount by which it
    is, 0 if it never is. `stopped`: why it asked no more, if it stopped early. `regret`: of a safe recommendation.
    `start_regret`: that of the best seed target.
    """

    number: int
    world: str
    asked: tuple[int, ...]
    unsafe: tuple[bool, ...]
    excess: float
    stopped: str | None
    recommended: int | None
    recommended_unsafe: bool | None
    regret: float | None
    start_regret: float
    ask_seconds: float
    tell_seconds: float
    commit: str


@dataclass(frozen=True, kw_only=True)
class Clock:
    """Milliseconds of an ask and a tell of one method after `tells` measurements; None and why, if there are none.

    `ask_ms` and `tell_ms` are the least processor time of some asks and tells, the others the least wall time.
    """

    side: int
    tells: int
    ask_ms: float | None
    tell_ms: float | None
    ask_wall_ms: float | None
    tell_wall_ms: float | None
    missing: str | None
    commit: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method on one family of worlds."""

    method: str
    runs: int
    violating_runs: int
    violating: Interval
    unsafe_per_ask: Interval
    worst_excess: float | None
    recommended: int
    unsafe_recommendations: int
    unsafe_recommendation: Interval
    missing_recommendations: int
    regret: Interval
    stopped_early: int
    asks_per_run: float
    ask_ms: float
    tell_ms: float


def row(method: str, runs: Sequence[Run]) -> Row:
    """The figures of some runs; `worst_excess` is the median over violating runs."""
    violating = [run for run in runs if any(run.unsafe)]
    recommended = [run for run in runs if run.recommended is not None]
    unsafe = sum(bool(run.recommended_unsafe) for run in recommended)
    shares = [sum(run.unsafe) / len(run.unsafe) for run in runs if run.unsafe]
    regrets = [run.regret for run in runs if run.regret is not None]
    return Row(
        method=method,
        runs=len(runs),
        violating_runs=len(violating),
        violating=proportion_interval(len(violating), len(runs)),
        unsafe_per_ask=mean_interval(np.array(shares)),
        worst_excess=statistics.median(run.excess for run in violating) if violating else None,
        recommended=len(recommended),
        unsafe_recommendations=unsafe,
        unsafe_recommendation=proportion_interval(unsafe, len(recommended)),
        missing_recommendations=len(runs) - len(recommended),
        regret=mean_interval(np.array(regrets)),
        stopped_early=sum(run.stopped is not None for run in runs),
        asks_per_run=statistics.mean(len(run.asked) for run in runs),
        ask_ms=1000 * statistics.median(run.ask_seconds for run in runs),
        tell_ms=1000 * statistics.median(run.tell_seconds for run in runs),
    )


def shared(runs: Mapping[str, Sequence[Run]]) -> dict[str, list[Run]]:
    """The runs that every method has made.

    Raises:
        ValueError: if two methods did not see the same world in a run.
    """
    numbers = set.intersection(*({run.number for run in some} for some in runs.values()))
    seen: dict[int, str] = {}
    for some in runs.values():
        for run in some:
            if seen.setdefault(run.number, run.world) != run.world:
                raise ValueError(f"run {run.number} had the world {seen[run.number]} and the world {run.world}")
    return {method: [run for run in some if run.number in numbers] for method, some in runs.items()}


def rows_table(rows: Sequence[Row]) -> str:
    """A table in Markdown, a method a row."""
    head = (
        "| method | runs | runs with an unsafe deployment | unsafe deployments an ask | median worst excess "
        "| unsafe recommendations | none recommended | regret of safe recommendations | stopped early |\n"
        "|---|---|---|---|---|---|---|---|---|\n"
    )
    return head + "\n".join(
        f"| {row.method} | {row.runs} | {_percent(row.violating)} | {_percent(row.unsafe_per_ask)} "
        f"| {'-' if row.worst_excess is None else f'{row.worst_excess:.1f}'} "
        f"| {row.unsafe_recommendations} of {row.recommended} ({_percent(row.unsafe_recommendation)}) "
        f"| {row.missing_recommendations} | {_number(row.regret)} | {row.stopped_early} |"
        for row in rows
    )


def clocks_table(clocks: Mapping[str, Sequence[Clock]]) -> str:
    """A table in Markdown: ask and tell in milliseconds, a method a row, a size and a number of tells a column."""
    cells = sorted({(clock.side, clock.tells) for some in clocks.values() for clock in some})
    head = "| method | " + " | ".join(f"{side} x {side}, {tells} tells" for side, tells in cells) + " |\n"
    lines = [head + "|---" * (len(cells) + 1) + "|"]
    reasons: list[str] = []
    for method, some in clocks.items():
        by_cell = {(clock.side, clock.tells): clock for clock in some}
        words = []
        for cell in cells:
            clock = by_cell.get(cell)
            if clock is None or clock.ask_ms is None or clock.tell_ms is None:
                reason = "not run" if clock is None else clock.missing or "not run"
                if reason not in reasons:
                    reasons.append(reason)
                words.append(f"- ({reasons.index(reason) + 1})")
            else:
                words.append(f"{clock.ask_ms:.3g} + {clock.tell_ms:.3g}")
        lines.append(f"| {method} | " + " | ".join(words) + " |")
    notes = "".join(f"\n({number}) {reason}" for number, reason in enumerate(reasons, start=1))
    return "\n".join(lines) + ("\n" + notes if notes else "")


def goals(ours: str, clocks: Mapping[str, Sequence[Clock]], rows: Mapping[str, Sequence[Row]]) -> list[str]:
    """What was aimed at, one sentence each: how much quicker, and whether a method is as good and breaks less."""
    sentences = []
    for side, tells in ((100, 100), (1000, 100)):
        taken = {
            name: clock.ask_ms + clock.tell_ms
            for name, some in clocks.items()
            for clock in some
            if (clock.side, clock.tells) == (side, tells) and clock.ask_ms is not None and clock.tell_ms is not None
        }
        if ours in taken and len(taken) > 1:
            ratios = ", ".join(
                f"{name} {taken[name] / taken[ours]:.3g} times that" for name in taken if taken[name] > taken[ours]
            )
            sentences.append(
                f"An ask and a tell of {ours} on {side} x {side} after {tells} tells take {taken[ours]:.3g} ms"
                + (f"; {ratios}." if ratios else ".")
            )
    for geometry, some in rows.items():
        by_name = {row.method: row for row in some}
        own = by_name.get(ours)
        if own is None:
            continue
        better = [
            row.method
            for row in some
            if row.violating_runs < own.violating_runs and row.regret.estimate <= own.regret.estimate
        ]
        sentences.append(
            f'Worlds "{geometry}", shared runs: '
            + (f"{', '.join(better)} had" if better else "no method had")
            + f" fewer runs with an unsafe deployment than {ours} at no larger mean regret."
        )
    return sentences


def plain(value: Row | Clock) -> dict[str, object]:
    """JSON values; an unknown bound is null."""
    return {name: _finite(item) for name, item in asdict(value).items()}


def _finite(item: object) -> object:
    """The value, with None for what is not a finite number."""
    if isinstance(item, dict):
        return {name: _finite(part) for name, part in item.items()}
    return None if isinstance(item, float) and not np.isfinite(item) else item


def _percent(interval: Interval) -> str:
    """In per cent, with its interval."""
    if interval.n == 0:
        return "no data"
    if not interval.known:
        return f"{100 * interval.estimate:.3g} %"
    return f"{100 * interval.estimate:.3g} % [{100 * max(0.0, interval.low):.3g}, {100 * interval.high:.3g}]"


def _number(interval: Interval) -> str:
    """With its interval."""
    if not interval.known:
        return str(interval)
    return f"{interval.estimate:.2f} [{interval.low:.2f}, {interval.high:.2f}]"
