"""Everything that can be wrong with a dataset, as findings with places; a file is judged, never raised for."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from safehold.core.errors import ResourceError, SafeholdError, UsageError
from safehold.core.spec import Box, TaskSpec
from safehold.data.dataset import OfflineDataset
from safehold.data.declared import Columns
from safehold.data.findings import Finding, Severity
from safehold.data.frontier import cost_column
from safehold.data.guard import BUDGET
from safehold.data.layouts import read_with_findings
from safehold.data.summary import Summary, intraclass_correlation, summarise

SHORT = 0.1
"""An episode is short if it has less than this share of the steps that an episode usually has."""

FEW_EPISODES = 20
"""With fewer episodes than this, on the safe side of a limit or in all, quantiles say little."""

STUCK_STEPS = 5
"""Equal observations in a row, in every column, that make a sensor look stuck."""

HELD_STEPS = 50
"""Equal values in a row, in one column that varies otherwise, that make it look stuck."""

JUMP = 5.0
"""A jump is a step in which a column moves this many times as far as in 999 of 1000 steps."""

HUGE_COST = 1000.0
"""A cost of one step beyond this many times the median positive cost looks like another unit."""

Verdict = Literal["pass", "warn", "fail"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What a file is worth. `exit_code` is 0 unless the verdict is "fail": 3 bad content, 4 damage, 7 too large.

    `summary`, `digest`, `layout` and `sha256` are None if the file could not be read.
    """

    path: Path
    verdict: Verdict
    findings: tuple[Finding, ...]
    exit_code: int
    layout: str | None
    sha256: str | None
    digest: str | None
    summary: Summary | None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "path": str(self.path)}


def audit(
    path: Path,
    *,
    limit: float | Mapping[str, float] | None = None,
    spec: TaskSpec | None = None,
    columns: Columns | None = None,
    budget: int = BUDGET,
) -> Audit:
    """Reads a file of any layout we know and judges it.

    Args:
        path: the file.
        limit: what the cost return of an episode should keep, in cost units per episode; by name if there are
            several costs.
        spec: the task the data is of, if the file does not say.
        columns: where everything is in the file, if its layout does not say.
        budget: bytes of memory that the file may claim.

    Raises:
        UsageError: if a limit is no number >= 0 or names no cost, the columns contradict the task or themselves, or a
            package is missing. Nothing that is wrong with the file is raised.
    """
    _check_limit_values(limit)
    try:
        reading = read_with_findings(path, spec=spec, columns=columns, budget=budget)
    except UsageError:
        raise
    except SafeholdError as error:
        return _failed(path, type(error).__name__, str(error), error.exit_code)
    except MemoryError:
        return _failed(path, "MemoryError", f"{path}: no memory for its content", ResourceError.exit_code)
    limits = _limits_by_name(reading.dataset.spec, limit)
    findings = (*reading.findings, *check(reading.dataset, limits))
    return Audit(
        path=path,
        verdict="warn" if any(finding.severity == "warn" for finding in findings) else "pass",
        findings=_worst_first(findings),
        exit_code=0,
        layout=reading.layout,
        sha256=reading.sha256,
        digest=reading.dataset.digest,
        summary=summarise(reading.dataset, limits),
    )


def check(dataset: OfflineDataset, limits: Mapping[str, float] | None = None) -> tuple[Finding, ...]:
    """What is odd about episodes that are sound one by one; worst first, in a fixed order."""
    findings = [finding for look in _LOOKS for finding in look(dataset)]
    for name, value in ({} if limits is None else limits).items():
        findings.extend(_coverage(dataset, name, value))
    return _worst_first(findings)


# -- what is looked at, each by a function from a dataset to findings ------------------------------------------------


def _size(dataset: OfflineDataset) -> Iterator[Finding]:
    if len(dataset) < FEW_EPISODES:
        yield _warn(
            "few-episodes",
            "the file",
            f"only {len(dataset)} episodes",
            "Log more before anything is learnt from their returns.",
        )


def _duplicates(dataset: OfflineDataset) -> Iterator[Finding]:
    first: dict[bytes, int] = {}
    pairs = []
    for i, episode in enumerate(dataset):
        content = hashlib.sha256()
        for values in (episode.observations, episode.actions, episode.rewards, episode.costs):
            content.update(values.tobytes())
        original = first.setdefault(content.digest(), i)
        if original != i:
            pairs.append((original, i))
    if pairs:
        yield _warn(
            "duplicates",
            f"episodes {pairs[0][0]} and {pairs[0][1]}",
            f"{len(pairs)} episodes repeat an earlier one, value by value",
            "Drop the copies: they would count as independent evidence, and leak from a training to a test split.",
        )


def _lengths(dataset: OfflineDataset) -> Iterator[Finding]:
    lengths, usual = dataset.lengths, _usual_length(dataset)
    single = np.flatnonzero(lengths == 1)
    if len(single):
        yield _warn(
            "one-step",
            f"episode {single[0]}",
            f"{len(single)} episodes have a single step",
            "Look whether an end is marked at every step, or whether the recording broke off.",
        )
    short = np.flatnonzero(lengths < SHORT * usual)
    if len(short) >= 0.05 * len(dataset) and len(short):
        yield _warn(
            "bimodal-lengths",
            f"episode {short[0]} and others",
            f"{len(short)} of {len(dataset)} episodes have less than a tenth of the usual {usual:.0f} steps: two kinds "
            "of episodes, and returns that are sums over very different times",
            "Ask why they ended. A mean return says little here; compare within each kind.",
        )


def _ends(dataset: OfflineDataset) -> Iterator[Finding]:
    """The clock should end all episodes at one length; lengths that differ were not ended by a clock."""
    terminated, lengths = dataset.terminated, dataset.lengths
    clock = lengths[~terminated]
    if len(clock) < 2 or clock.min() == clock.max():
        return
    apart = bool(terminated.any()) and int(lengths[terminated].max()) < int(clock.min())
    yield _warn(
        "clock-varies",
        "ends of episodes",
        f"{len(clock)} episodes count as ended by the clock, at {clock.min()} to {clock.max()} steps"
        + (
            f"; every terminated one is shorter (at most {lengths[terminated].max()} steps), so the marks may have "
            "been inferred from the length"
            if apart
            else ""
        ),
        "Cost and reward returns are sums over different times: give limits per episode of one stated length, or cut.",
    )


def _early_ends(dataset: OfflineDataset) -> Iterator[Finding]:
    """Failure looks like safety: an episode that ends early has a small cost sum, and few negative rewards."""
    usual, lengths = _usual_length(dataset), dataset.lengths
    early = dataset.terminated & (lengths < 0.5 * usual)
    if not early.any() or early.all():
        return
    for column, name in enumerate(dataset.spec.cost_names):
        returns = dataset.cost_returns[:, column]
        rates = [float(returns[part].sum() / lengths[part].sum()) for part in (early, ~early)]
        cheap = returns <= np.median(returns)
        if rates[0] > 2 * rates[1] and (early & cheap).any():
            yield _warn(
                "early-ends-look-safe",
                f"cost {name!r}",
                f"{int(early.sum())} terminated episodes have less than half the usual {usual:.0f} steps; they cost "
                f"{rates[0]:.3g} a step, the others {rates[1]:.3g}, yet {int((early & cheap).sum())} of them are in "
                "the cheaper half by cost return",
                "Their sums are small because they ended, not because they were safe: filter or charge early ends "
                "before a limit is learnt from this data.",
            )
    best = np.argsort(-dataset.reward_returns, kind="stable")[: max(1, len(dataset) // 10)]
    share = float(early[best].mean())
    if share >= 0.5:
        top = int(best[0])
        yield _warn(
            "early-ends-look-good",
            f"episode {top}",
            f"{share:.0%} of the best tenth by reward return are episodes that terminated early; the best of all has "
            f"{lengths[top]} steps. Rewards lie in [{dataset.rewards.min():.3g}, {dataset.rewards.max():.3g}] a step, "
            "so ending sooner pays",
            "A high target return asks for an early end here: add a reward for lasting, or leave these episodes out.",
        )


def _observations(dataset: OfflineDataset) -> Iterator[Finding]:
    observations = dataset.observations
    low, high = observations.min(axis=0), observations.max(axis=0)
    constant = np.flatnonzero(low == high)
    if len(constant):
        yield _note(
            "constant-columns",
            f"observations, {_columns(constant)}",
            f"{len(constant)} of {observations.shape[1]} columns never change",
            "Normalisation must not divide by their spread; look whether a sensor was off.",
        )
    large = np.flatnonzero(np.maximum(np.abs(low), np.abs(high)) > 1e5)
    if len(large):
        yield _warn(
            "large-observations",
            f"observations, {_columns(large)}",
            f"values up to {float(np.abs(observations[:, large]).max()):.3g} in size",
            "Look at the unit; a clock or an encoder count needs an offset before float32 can resolve its steps.",
        )


def _stuck(dataset: OfflineDataset) -> Iterator[Finding]:
    """Runs of equal values: of the whole observation, and of single columns that vary otherwise."""
    anew = _starts_anew(dataset)
    held_all = ~anew
    echoes = set(_action_columns(dataset))
    for column in range(dataset.observations.shape[1]):
        values = dataset.observations[:, column]
        held = (values[1:] == values[:-1]) & ~anew
        held_all &= held
        if column in echoes or len(np.unique(values[:: max(1, len(values) // 10_000)])) <= 50:
            continue  # an action may stay at its bound; a flag or a counter may repeat
        run, row = _longest_run(held)
        episode, step = _place(dataset, row)
        share = held.sum() / max(1, len(held) - int(anew.sum()))
        if run >= HELD_STEPS:
            yield _warn(
                "stuck-column",
                f"observations, column {column}, episode {episode}, steps {step - run} to {step}",
                f"one value for {run + 1} observations, though it varies otherwise",
                "Look whether this sensor hung.",
            )
        elif share > 0.05:
            yield _note(
                "held-column",
                f"observations, column {column}",
                f"keeps its value in {share:.0%} of the steps (at most {run} in a row): measured more slowly, or more "
                "coarsely, than the rest",
                "Nothing to do, unless a policy differentiates it.",
            )
    run, row = _longest_run(held_all)
    if run >= STUCK_STEPS:
        episode, step = _place(dataset, row)
        yield _warn(
            "stuck-observation",
            f"episode {episode}, steps {step - run} to {step}",
            f"the whole observation stays the same for {run} steps",
            "Look whether the sensors or the recorder hung; costs of these steps may be old, too.",
        )


def _jumps(dataset: OfflineDataset) -> Iterator[Finding]:
    """Steps in which a column moves far beyond its usual: lost samples, a reset inside an episode, a sign flip."""
    inside = np.flatnonzero(~_starts_anew(dataset))
    if len(inside) < 2000:
        return  # too few steps to know what one in a thousand looks like
    rows: set[int] = set()
    largest, where = 0.0, (0, 0)
    for column in range(dataset.observations.shape[1]):
        sizes = np.abs(np.diff(dataset.observations[:, column].astype(np.float64)))[inside]
        usual = float(np.quantile(sizes, 0.999))
        if usual == 0:
            continue
        far = inside[sizes > JUMP * usual]
        rows.update(far.tolist())
        if sizes.max() > largest * usual:
            largest, where = float(sizes.max() / usual), (int(inside[np.argmax(sizes)]), column)
    if rows:
        (row, column), episodes = where, {_place(dataset, row)[0] for row in rows}
        episode, step = _place(dataset, row)
        yield _warn(
            "jumps",
            f"observations, column {column}, episode {episode}, step {step} to {step + 1}",
            f"the largest of {len(rows)} jumps in {len(episodes)} episodes: {largest:.1f} times as far as the column "
            f"moves in 999 of 1000 steps (listed from {JUMP:.0f} times)",
            "Look for lost samples, a reset without an end, or an angle or quaternion that changes sign.",
        )


def _actions(dataset: OfflineDataset) -> Iterator[Finding]:
    bounds = dataset.spec.action
    if not isinstance(bounds, Box):
        return
    low, high = np.asarray(bounds.low, dtype=np.float32), np.asarray(bounds.high, dtype=np.float32)
    outside = ((dataset.actions < low) | (dataset.actions > high)).any(axis=1)
    if outside.any():
        row = int(np.argmax(outside))
        yield _warn(
            "actions-out-of-bounds",
            f"actions[{row}]",
            f"{int(outside.sum())} of {dataset.n_steps} actions leave the bounds of the task",
            "Give the bounds that were in force, or clip knowingly: a policy learnt from these will be clipped.",
        )
    unit = np.abs(dataset.actions).max()
    if unit > 1:
        yield _note(
            "actions-not-unit",
            "actions",
            f"they lie in [{dataset.actions.min():.3g}, {dataset.actions.max():.3g}], not in [-1, 1]",
            "Nothing to do if the bounds of the task say so.",
        )
    saturated = ((dataset.actions <= low) | (dataset.actions >= high)).mean(axis=0)
    if saturated.max() >= 0.05:
        say = _warn if saturated.max() >= 0.5 else _note
        yield say(
            "saturated-actions",
            "actions",
            "share of steps at a bound, by column: " + ", ".join(f"{share:.1%}" for share in saturated),
            "A tanh policy cannot reach its bounds; a policy that imitates these learns large pre-activations.",
        )
    still = np.flatnonzero(np.ptp(dataset.actions, axis=0) == 0)
    if len(still):
        yield _warn(
            "constant-actions",
            f"actions, {_columns(still)}",
            f"{len(still)} of {dataset.actions.shape[1]} columns never change",
            "Nothing can be learnt about what they do; look whether the right signal was logged.",
        )


def _previous_action(dataset: OfflineDataset) -> Iterator[Finding]:
    columns = _action_columns(dataset)
    if columns:
        yield _note(
            "previous-action-seen",
            f"observations, {_columns(columns)}",
            "equal to the action before, step by step",
            "Imitation may learn to repeat it; compare with a policy that does not see these columns.",
        )


def _rewards(dataset: OfflineDataset) -> Iterator[Finding]:
    if np.ptp(dataset.rewards) == 0:
        yield _warn(
            "constant-rewards",
            "rewards",
            f"every reward is {dataset.rewards[0]:g}",
            "No episode is better than another of its length; look whether the right signal was logged.",
        )
        return
    binary = bool(np.isin(dataset.rewards, (0.0, 1.0)).all())
    for column, name in enumerate(dataset.spec.cost_names):
        costs = dataset.costs[:, column]
        if binary and len(np.unique(costs)) > 2:
            yield _warn(
                "swapped",
                f"rewards and costs {name!r}",
                "rewards are 0 or 1 while costs take many values: they look swapped",
                "Compare both with what the task says; a swap turns the limit into a goal.",
            )
        elif np.array_equal(costs, dataset.rewards) or np.array_equal(costs, -dataset.rewards):
            yield _warn(
                "swapped",
                f"rewards and costs {name!r}",
                "costs are the rewards, or minus the rewards",
                "Store the cost of the task; a limit on the reward itself says nothing about danger.",
            )


def _costs(dataset: OfflineDataset) -> Iterator[Finding]:
    for column, name in enumerate(dataset.spec.cost_names):
        costs = dataset.costs[:, column]
        positive = costs[costs > 0]
        if len(positive) == 0:
            yield _warn(
                "no-danger",
                f"cost {name!r}",
                "every cost is 0: no step shows danger, so nothing here says where danger begins",
                "Look whether the cost was recorded at all. No limit can be learnt from this data.",
            )
            continue
        binary = bool(np.all(positive == 1))
        yield _note(
            "cost-values",
            f"cost {name!r}",
            ("0 or 1 a step" if binary else f"real-valued, up to {positive.max():.3g} a step")
            + f"; {len(positive) / len(costs):.2%} of the steps have one",
            "Nothing to do."
            if binary
            else "A learner that predicts whether a step has a cost needs another loss here.",
        )
        yield from _huge_costs(name, positive)
        ends = np.zeros(len(costs), dtype=np.bool_)
        ends[dataset.offsets[1:] - 1] = True
        if dataset.n_steps > 2 * len(dataset) and np.all(costs[~ends] == 0):
            yield _note(
                "cost-at-end-only",
                f"cost {name!r}",
                "only last steps have a cost",
                "A cost-to-go then only says whether the end is bad; look whether costs before it were dropped.",
            )


def _huge_costs(name: str, positive: Float[np.ndarray, "n"]) -> Iterator[Finding]:
    usual = float(np.median(positive))
    if positive.max() <= HUGE_COST * usual and positive.max() < 1e6:
        return
    decades, counts = np.unique(np.floor(np.log10(positive)).astype(int), return_counts=True)
    yield _warn(
        "huge-cost",
        f"cost {name!r}",
        f"the largest cost of a step is {positive.max():.3g}, the median of the positive ones {usual:.3g}; by decade: "
        + ", ".join(f"1e{decade}: {count}" for decade, count in zip(decades, counts, strict=True)),
        "Look for a change of unit, or a counter that was logged as a cost.",
    )


def _groups(dataset: OfflineDataset) -> Iterator[Finding]:
    if dataset.group is None:
        return
    alike = {
        "reward return": intraclass_correlation(dataset.reward_returns, dataset.group),
        **{
            f"return of cost {name!r}": intraclass_correlation(dataset.cost_returns[:, column], dataset.group)
            for column, name in enumerate(dataset.spec.cost_names)
        },
    }
    strong = {name: value for name, value in alike.items() if value is not None and value > 0.2}
    if strong:
        yield _note(
            "episodes-alike",
            "group",
            f"{len(np.unique(dataset.group))} behaviour policies; episodes of one are alike (intraclass correlation of "
            + ", of ".join(f"the {name} {value:.2f}" for name, value in strong.items())
            + ")",
            "Split by group, and count policies rather than episodes when an interval is given.",
        )


_LOOKS: Sequence[Callable[[OfflineDataset], Iterator[Finding]]] = (
    _size,
    _duplicates,
    _lengths,
    _ends,
    _early_ends,
    _rewards,
    _costs,
    _observations,
    _stuck,
    _jumps,
    _actions,
    _previous_action,
    _groups,
)


def _coverage(dataset: OfflineDataset, name: str, limit: float) -> Iterator[Finding]:
    returns = dataset.cost_returns[:, cost_column(dataset, name)]
    kept = returns <= limit
    count = int(kept.sum())
    where = f"cost {name!r}, limit {limit:g}"
    if count == 0:
        yield _warn(
            "limit-never-kept",
            where,
            f"no episode keeps the limit; the cheapest costs {returns.min():g}",
            "There is nothing safe to start from: log safer episodes, or state a limit that the task allows.",
        )
        return
    say = _warn if count < FEW_EPISODES else _note
    yield say(
        "coverage",
        where,
        f"{count} of {len(dataset)} episodes keep the limit"
        + (
            f", {int((kept & dataset.terminated).sum())} of them terminated"
            if (kept & dataset.terminated).any()
            else ""
        ),
        "Few episodes show how the limit is kept." if count < FEW_EPISODES else "Nothing to do.",
    )
    if kept.all():
        yield _warn(
            "limit-never-passed",
            where,
            f"no episode passes the limit; the dearest costs {returns.max():g}",
            "This data does not show where the limit would be passed, so it cannot warn of it.",
        )


# -- shared by the looks ---------------------------------------------------------------------------------------------


def _usual_length(dataset: OfflineDataset) -> float:
    """Median length of the episodes that the clock ended, or the longest length if it ended none."""
    clock = dataset.lengths[~dataset.terminated]
    return float(np.median(clock)) if len(clock) else float(dataset.lengths.max())


def _starts_anew(dataset: OfflineDataset) -> Bool[np.ndarray, "rows_minus_1"]:
    """Marks row r if row r + 1 of the observations belongs to the next episode."""
    anew = np.zeros(len(dataset.observations) - 1, dtype=np.bool_)
    anew[dataset.offsets[1:-1] + np.arange(len(dataset) - 1)] = True
    return anew


def _longest_run(true: Bool[np.ndarray, "n"]) -> tuple[int, int]:
    """Length of the longest run of True, and the row after which it ends."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], true, [False]]).astype(np.int8)))
    if len(edges) == 0:
        return 0, 0
    lengths = edges[1::2] - edges[::2]
    longest = int(np.argmax(lengths))
    return int(lengths[longest]), int(edges[2 * longest + 1])


def _place(dataset: OfflineDataset, row: int) -> tuple[int, int]:
    """Episode and step of a row of the observations."""
    starts = dataset.offsets[:-1] + np.arange(len(dataset))
    episode = int(np.searchsorted(starts, row, side="right")) - 1
    return episode, row - int(starts[episode])


def _action_columns(dataset: OfflineDataset) -> Sequence[int]:
    """Columns of the observations that are an action column, one step later, in every episode."""
    inner = np.ones(len(dataset.observations), dtype=np.bool_)
    inner[dataset.offsets[:-1] + np.arange(len(dataset))] = False  # no action comes before the first observation
    few = np.flatnonzero(inner)[:100]
    found = []
    for column in range(dataset.observations.shape[1]):
        for action in range(dataset.actions.shape[1]):
            if np.array_equal(dataset.observations[few, column], dataset.actions[:100, action]):
                seen = dataset.observations[inner, column]
                if np.ptp(seen) > 0 and np.array_equal(seen, dataset.actions[:, action]):
                    found.append(column)
                    break
    return found


def _columns(columns: Sequence[int] | Int[np.ndarray, "n"]) -> str:
    shown = ", ".join(str(int(column)) for column in columns[:8])
    return f"column{'s' if len(columns) > 1 else ''} {shown}{', ...' if len(columns) > 8 else ''}"


def _warn(code: str, where: str, what: str, fix: str) -> Finding:
    return Finding(severity="warn", code=code, where=where, what=what, fix=fix)


def _note(code: str, where: str, what: str, fix: str) -> Finding:
    return Finding(severity="note", code=code, where=where, what=what, fix=fix)


def _worst_first(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    order: Sequence[Severity] = ("fail", "warn", "note")
    return tuple(sorted(findings, key=lambda finding: order.index(finding.severity)))


def _failed(path: Path, kind: str, message: str, exit_code: int) -> Audit:
    codes = {3: "unreadable", 4: "damaged", 7: "too-large"}
    finding = Finding(
        severity="fail",
        code=codes.get(exit_code, kind),
        where=str(path),
        what=message.removeprefix(f"{path}: "),
        fix="Nothing can be learnt from this file as it is.",
    )
    return Audit(
        path=path,
        verdict="fail",
        findings=(finding,),
        exit_code=exit_code,
        layout=None,
        sha256=None,
        digest=None,
        summary=None,
    )


def _check_limit_values(limit: float | Mapping[str, float] | None) -> None:
    values = limit.values() if isinstance(limit, Mapping) else () if limit is None else (limit,)
    for value in values:
        if not (0 <= value < float("inf")):
            raise UsageError(f"limit {value}: a limit is a finite number >= 0, in cost units per episode")


def _limits_by_name(spec: TaskSpec, limit: float | Mapping[str, float] | None) -> Mapping[str, float]:
    if limit is None:
        return {}
    if not isinstance(limit, Mapping):
        if len(spec.cost_names) > 1:
            raise UsageError(f"limit {limit}: the data has costs {spec.cost_names}; say which one it is for")
        return {spec.cost_names[0]: limit}
    unknown = sorted(set(limit) - set(spec.cost_names))
    if unknown:
        raise UsageError(f"limit on {unknown[0]!r}: the data has costs {spec.cost_names}")
    return limit
