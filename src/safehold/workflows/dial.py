"""Does a policy follow its dial? Asked before a deployment, which can only tune a dial that is obeyed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from safehold.core.episode import Episode
from safehold.core.errors import UsageError
from safehold.core.intervals import Interval
from safehold.core.policy import PolicyFamily
from safehold.core.seeding import Streams
from safehold.data.dataset import OfflineDataset
from safehold.workflows.deploy import DeployConfig
from safehold.workflows.evaluate import Evaluation, dial_quality, evaluate, require_task
from safehold.workflows.road import dial_targets

FEWEST_TARGETS = 5
"""Of fewer targets nothing is said of the dial but this."""

WEAK_COST, WEAK_REWARD = 0.8, 0.5
"""Rank correlations of asked and obtained under which a dial is called weak."""

SURELY = 2.0
"""Standard errors by which a mean cost must fall for its fall to count."""

DRAWS = 400
"""Of the bootstrap."""

MANY_FALLS = 0.1
"""Share of neighbouring targets whose cost falls where more is asked, from which that is remarked on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DialReport:
    """What asked and obtained returns say about a dial, in environment units.

    Over all targets: `rank_cost` and `rank_reward` (Spearman; None where there is none), `slope` of obtained against
    asked cost (least squares, with an intercept) and `residual_sd`, the spread of obtained means around that line, with
    95 % intervals of rank and slope by bootstrap over each target's episodes; `falls` of `pairs` neighbouring
    target costs at one target reward where the obtained cost surely falls. Over targets of the deployment's dial,
    `near` of them: `dial_error`, the root mean square of obtained mean less asked cost, less what sampling
    explains; `episode_sd`, of an episode's cost around its target's mean. `warnings`: what speaks against tuning
    this dial as it would be declared.
    """

    targets: int
    near: int
    episodes: int
    rank_cost: float | None
    rank_cost_interval: Interval | None
    rank_reward: float | None
    slope: float | None
    slope_interval: Interval | None
    residual_sd: float | None
    falls: int
    pairs: int
    dial_error: float | None
    episode_sd: float | None
    warnings: tuple[str, ...]


def try_dial(
    family: PolicyFamily,
    dataset: OfflineDataset,
    env_id: str,
    config: DeployConfig,
    *,
    streams: Streams,
    episodes: int,
    workers: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Evaluation], DialReport]:
    """Fresh episodes at targets over what the log supports, far beyond the limit too, and what they say.

    `on_progress` is called with the episodes done and the episodes in all. They run without any certificate: in a
    simulator, or where a costly episode does no harm.

    Raises:
        UsageError: if the log supports no target, or the task has several costs.
        DataError: if the log is of a task of another shape.
        NoSeed: if the log holds no seed target either; then no deployment could begin.
    """
    names = dataset.spec.cost_names
    require_task(dataset, env_id)
    if len(names) != 1:
        raise UsageError(f"a dial is tried over one cost, the log has {names}; keep one")
    targets = dial_targets(dataset, config)
    if not targets:
        raise UsageError("the log supports no target of this dial; log more episodes under the limit, or raise it")
    done, total = 0, episodes * len(targets)

    def count_one(_: Episode) -> None:
        nonlocal done
        done += 1
        if on_progress is not None:
            on_progress(done, total)

    found = evaluate(
        env_id,
        [(family.at(target), target) for target in targets],
        label="dial",
        cost_name=names[0],
        streams=streams,
        stream="evaluate/dial",
        episodes=episodes,
        workers=workers,
        on_episode=count_one,
    )
    return found, judge_dial(found, config)


def judge_dial(found: Sequence[Evaluation], config: DeployConfig) -> DialReport:
    """What evaluations at targets (R, G) of one cost say about the dial, against what a deployment would declare."""
    asked = np.array([evaluation.target for evaluation in found], dtype=np.float64).reshape(-1, 2)
    means = np.array([evaluation.costs.mean() for evaluation in found])
    variances = np.array(
        [evaluation.costs.var(ddof=1) if len(evaluation.costs) > 1 else np.nan for evaluation in found]
    )
    errors = variances / np.array([len(evaluation.costs) for evaluation in found])
    quality = dial_quality(found)
    near = asked[:, 1] <= config.cost_span * config.limit
    falls, pairs = _falls(asked, means, errors)
    dial_error = episode_sd = None
    if near.any() and np.isfinite(variances[near]).all():
        # the square of what is measured overstates the error by the variance of a mean
        square = float(np.mean((means[near] - asked[near, 1]) ** 2 - errors[near]))
        dial_error, episode_sd = float(np.sqrt(max(square, 0.0))), float(np.sqrt(variances[near].mean()))
    line = _line(asked[:, 1], means) if np.ptp(asked[:, 1] if len(asked) else [0.0]) > 0 else None
    slope = None if line is None else line[0]
    report = DialReport(
        targets=len(found),
        near=int(near.sum()),
        episodes=min((len(evaluation.costs) for evaluation in found), default=0),
        rank_cost=quality.cost,
        rank_cost_interval=_interval(found, quality.cost, ranks=True),
        rank_reward=quality.reward,
        slope=slope,
        slope_interval=_interval(found, slope, ranks=False),
        residual_sd=None if line is None else line[1],
        falls=falls,
        pairs=pairs,
        dial_error=dial_error,
        episode_sd=episode_sd,
        warnings=(),
    )
    return _warned(report, config)


def _line(asked: Float[np.ndarray, "m"], obtained: Float[np.ndarray, "m"]) -> tuple[float, float]:
    """Slope of the least squares line, and the standard deviation of what is obtained around it."""
    slope, intercept = np.polyfit(asked, obtained, 1)
    apart = obtained - slope * asked - intercept
    return float(slope), float(np.sqrt(np.square(apart).sum() / max(len(asked) - 2, 1)))


def _interval(found: Sequence[Evaluation], said: float | None, *, ranks: bool) -> Interval | None:
    """Of the slope, or of the rank correlation, with every target's episodes drawn anew; None of single episodes.

    What is drawn anew scatters more than what was measured, so that it may all lie to one side; the interval then
    begins or ends with what was measured.
    """
    if said is None or min(len(one.costs) for one in found) < 2:
        return None
    # scipy is heavy to import and only its ranks are needed here
    from scipy.stats import rankdata

    rng, asked = Streams(0)["bootstrap"], np.array([one.target[1] for one in found if one.target is not None])
    drawn = [one.costs[rng.integers(len(one.costs), size=(DRAWS, len(one.costs)))].mean(axis=1) for one in found]
    means = np.stack(drawn, axis=1)
    if ranks:
        asked, means = rankdata(asked), rankdata(means, axis=1)
    apart = asked - asked.mean()
    values = (means @ apart) / (apart @ apart)
    if ranks:
        values = values * apart.std() / np.maximum(means.std(axis=1), 1e-300)
    low, high = np.quantile(values, [0.025, 0.975])
    return Interval(estimate=said, low=min(float(low), said), high=max(float(high), said), level=0.95, n=len(found))


def _falls(asked: np.ndarray, means: np.ndarray, errors: np.ndarray) -> tuple[int, int]:
    """Neighbours in asked cost at one asked reward: how many fall surely, of how many."""
    falls = pairs = 0
    for reward in np.unique(asked[:, 0]):
        row = np.flatnonzero(asked[:, 0] == reward)
        row = row[np.argsort(asked[row, 1])]
        drops, spread = means[row][:-1] - means[row][1:], np.sqrt(errors[row][:-1] + errors[row][1:])
        pairs += len(drops)
        falls += int(np.sum(drops > SURELY * spread))
    return falls, pairs


def _warned(report: DialReport, config: DeployConfig) -> DialReport:
    """The same with what speaks against tuning this dial."""
    said = []
    if report.targets < FEWEST_TARGETS:
        said.append(f"the log supports only {report.targets} targets: too few to say whether the dial is obeyed")
    if report.rank_cost is None or not report.rank_cost >= WEAK_COST:
        said.append(
            f"obtained costs hardly follow what is asked (rank correlation {_number(report.rank_cost)}, at least "
            f"{WEAK_COST:g} wanted): tuning has no handle; train longer, or on a log with more cheap episodes"
        )
    if report.rank_reward is None or not report.rank_reward >= WEAK_REWARD:
        said.append(
            f"obtained rewards hardly follow what is asked (rank correlation {_number(report.rank_reward)}): there is "
            "little to be gained by tuning"
        )
    if report.pairs and report.falls > MANY_FALLS * report.pairs:
        said.append(f"in {report.falls} of {report.pairs} neighbouring targets more cost is asked and less obtained")
    declared_error, declared_sd = config.dial_error * config.limit, config.episode_sd * config.limit
    wider = heeded(report, config)
    if report.dial_error is None or not report.dial_error <= declared_error:
        instead = "" if report.dial_error is None else f"; declare --dial-error {wider.dial_error:g}"
        said.append(
            f"near the limit obtained costs miss what is asked by {_number(report.dial_error)} (root mean square), "
            f"more than the dial error of {declared_error:g} that would be declared{instead}"
        )
    if report.episode_sd is None or not report.episode_sd <= declared_sd:
        instead = "" if report.episode_sd is None else f"; declare --episode-sd {wider.episode_sd:g}"
        said.append(
            f"single episodes scatter by {_number(report.episode_sd)} around their target's mean, more than the "
            f"{declared_sd:g} that would be declared{instead}"
        )
    return replace(report, warnings=tuple(said))


def heeded(report: DialReport, config: DeployConfig) -> DeployConfig:
    """The declaration with the dial error and the scatter that the report found, where they are more than declared.

    Rounded up to a hundredth of the limit; what the report does not know stays as declared.
    """

    def larger(found: float | None, declared: float) -> float:
        return declared if found is None else max(declared, float(np.ceil(100.0 * found / config.limit)) / 100.0)

    return config.model_copy(
        update={
            "dial_error": larger(report.dial_error, config.dial_error),
            "episode_sd": larger(report.episode_sd, config.episode_sd),
        }
    )


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"
