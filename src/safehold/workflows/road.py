"""The whole road: log, audit, offline training, certified deployment, evaluation, report. What `safehold demo` runs.

Each stage leaves its result in the run directory and is skipped when that is already there, so an interrupted run
goes on where it stopped. The last thing written is `manifest.json`, with the sums of all the rest: with it, the run
is finished, and running it again verifies it.
"""

import hashlib
import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt
from scipy.stats import t as student_t

from safehold import __version__
from safehold.core.certificate import Trial, TrialState
from safehold.core.config import Config
from safehold.core.episode import Episode
from safehold.core.errors import Alarm, DataError, IntegrityError, NoCertifiedTarget, UsageError
from safehold.core.measurement import Measurement
from safehold.core.policy import Policy, PolicyFamily
from safehold.core.seeding import Streams
from safehold.core.target import Target
from safehold.data import checks, hdf5
from safehold.data.dataset import OfflineDataset
from safehold.deploy.audit import audit
from safehold.deploy.optimizer import Deployment
from safehold.deploy.verify import verify
from safehold.learn.hooks import Progress
from safehold.ledger.run import RunDirectory
from safehold.report.run import read_run
from safehold.report.run_page import run_page
from safehold.report.words import grounds
from safehold.workflows.collect import collect, packaged_zoo
from safehold.workflows.deploy import DeployConfig, Plan, drive, open_or_create, plan, started_of, supported
from safehold.workflows.evaluate import DialQuality, Evaluation, dial_quality, evaluate
from safehold.workflows.files import write_text
from safehold.workflows.train import OfflineConfig, load, preset, train, training_threads

CLOCK = "clock.json"
EPISODES, EVALUATIONS, SUMMARY, MANIFEST, REPORT = (
    "episodes.hdf5",
    "evaluations.json",
    "summary.json",
    "manifest.json",
    "report.html",
)
POLICY, BC_SAFE, DEPLOYMENT = "cdt", "bc_safe", "deployment"

SEALED = (
    EPISODES,
    EVALUATIONS,
    SUMMARY,
    REPORT,
    f"{POLICY}/policy/{MANIFEST}",
    f"{POLICY}/policy/tensors.safetensors",
    f"{BC_SAFE}/policy/{MANIFEST}",
    f"{BC_SAFE}/policy/tensors.safetensors",
)
"""What the manifest of a finished run must cover, at the least."""

DIAL_COSTS = (0.0, 0.5, 1.0, 1.5, 2.0, 4.0, 8.0, 12.0)
"""Target costs, in limits, at which the dial is looked at."""
DIAL_REWARDS = 8
"""Target rewards at which it is looked at."""
TRAINING_THREADS = 1
"""Threads of PyTorch in training; fixed, because sums depend on it, and with them every later number. One, because two
save a third of the time on an idle machine (27 against 42 ms an update) and cost many times it on a busy one."""


class RoadConfig(Config):
    """One run of the whole road."""

    task: str = "HalfCheetahVelocity"
    """The world. Its behaviour policies must be in the zoo."""
    seed: NonNegativeInt = 0
    """Seed of everything that is drawn."""
    deploy: DeployConfig = DeployConfig()
    """What is declared before the first ask."""
    preset: str = "small"
    """Preset of the constrained decision transformer."""
    dial_episodes: PositiveInt = 10
    """Episodes of each target of the table that shows how well the dial works before any tuning."""
    deployed_episodes: int = Field(default=20, ge=2)
    """Fresh episodes by which each deployed target is judged afterwards."""
    evaluation_episodes: PositiveInt = 100
    """Fresh episodes of the final target, the seed, the naive target and BC-safe."""
    workers: PositiveInt = Field(default_factory=lambda: os.cpu_count() or 1)
    """Processes that run episodes; results do not depend on it."""


@runtime_checkable
class Narrator(Protocol):
    """Whoever is told what happens: a terminal, a log, or nobody."""

    def stage(self, title: str) -> None:
        """A new part begins."""
        ...

    def line(self, text: str) -> None:
        """Something worth a line."""
        ...

    def progress(self, what: str, done: int, total: int) -> None:
        """A piece of work stands at `done` of `total`."""
        ...

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Numbers side by side."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RoadSummary:
    """What `summary.json` holds. Costs are of the limited cost, returns are means over fresh episodes.

    `unsafe_targets`: deployed targets whose mean cost is above the limit with 95 % confidence (one-sided t interval
    over `deployed_episodes` fresh episodes); `raw_unsafe_targets`: those whose mean is above it at all;
    `unknown_trials`: trials that broke off while they ran. The dial's rank
    correlations of asked and obtained are over `dial_targets` supported targets, the `near` ones over those of the
    deployment's dial alone, a narrow part of them. A deployment that ended by holding says why in `held`; without a
    certified target `final_target` and its returns are None.
    """

    task: str
    limit: float
    delta: float
    iterations: int
    episodes: int
    distinct_targets: int
    unsafe_targets: int
    raw_unsafe_targets: int
    unknown_trials: int
    held: str | None
    final_target: Target | None
    final_reward_return: float | None
    final_cost_return: float | None
    seed_target: Target
    seed_reward_return: float
    seed_cost_return: float
    naive_target: Target
    naive_reward_return: float
    naive_cost_return: float
    bc_safe_reward_return: float
    bc_safe_cost_return: float
    dial_cost_rank_correlation: float | None
    dial_reward_rank_correlation: float | None
    dial_targets: int
    near_dial_cost_rank_correlation: float | None
    near_dial_reward_rank_correlation: float | None
    near_dial_targets: int
    best_logged_safe_reward: float
    seconds: float
    seconds_by_stage: Mapping[str, float]


def run_road(directory: Path, config: RoadConfig, narrator: Narrator) -> RoadSummary:
    """Walks the whole road in a run directory, or goes on where an earlier process stopped; verifies a finished run.

    Raises:
        UsageError: if the directory holds a run of another configuration, or something else.
        IntegrityError: if what the directory holds was altered, or another process walks the same road.
        SafeholdError: whatever a stage refuses.
    """
    if finished(directory):
        return verify_road(directory, config)
    _check_before_anything_is_written(directory, config)
    directory.mkdir(parents=True, exist_ok=True)
    run = RunDirectory(directory)
    with run.alone():
        if finished(directory):  # by the process that was here before
            return verify_road(directory, config)
        _claim(directory, config)
        _refuse_a_lost_manifest(directory)
        run.sign()
        return _walked(directory, config, narrator)


def _walked(directory: Path, config: RoadConfig, narrator: Narrator) -> RoadSummary:
    """The road from where an earlier process stopped to its end; nobody else walks it."""
    streams = Streams(config.seed)
    clock = _Clock(directory)
    with clock.stage("data"):
        narrator.stage("Data: behaviour policies act, their episodes are logged and audited")
        dataset = _logged(directory, config, streams, narrator)
    plan_ = plan(dataset, config.deploy)  # before the training: a log that cannot be deployed from says so at once
    with clock.stage("training"):
        narrator.stage("Training: from the log alone, no environment is touched")
        family, bc_safe = _trained(directory, dataset, config, streams, narrator)
    evaluations = _Evaluations(directory, config, dataset.spec.cost_names[0], streams, narrator)
    with clock.stage("dial"):
        narrator.stage("The dial before any tuning: what is asked, what is obtained")
        quality, near = _dial(family, dataset, evaluations, config, narrator)
    with clock.stage("deployment"):
        narrator.stage(
            f"Deployment: at most {config.deploy.iterations} targets, {config.deploy.episodes_per_ask} episodes each, "
            f"limit {config.deploy.limit:g}"
        )
        deployment, held = _deployed(directory, plan_, dataset, family, config, streams, narrator)
    try:
        with clock.stage("evaluation"):
            narrator.stage("Evaluation on fresh episodes")
            judged = _evaluated(deployment, held, dataset, family, bc_safe, evaluations, config)
    finally:
        deployment.close()
    with clock.stage("report"):
        narrator.stage("Report")
        write_text(directory / REPORT, run_page(read_run(directory)))
    summary = _summary(config, dataset, judged, (quality, near), clock)
    write_text(directory / SUMMARY, json.dumps(asdict(summary), indent=2, allow_nan=False) + "\n")
    _write_manifest(directory, config)
    clock.forget()
    return summary


def finished(directory: Path) -> bool:
    """Whether a run in this directory came to its end."""
    return (directory / MANIFEST).is_file()


def verify_road(directory: Path, config: RoadConfig | None = None) -> RoadSummary:
    """Checks a finished run: every file's sum, the ledger's chain, and that each ask follows from what came before it.

    Raises:
        IntegrityError: if a byte changed, a file is missing, or an ask cannot be derived again.
        UsageError: if the run was made with another configuration than `config`.
    """
    manifest = _manifest(directory)
    _same_configuration(directory, manifest["config"], config)
    unlisted = [name for name in SEALED if name not in manifest["sha256"]]
    if unlisted:
        raise IntegrityError(f"{directory / MANIFEST} lists no sum of {unlisted[0]}; the manifest was altered")
    for name, expected in manifest["sha256"].items():
        path = directory / name
        if not path.is_file():
            raise IntegrityError(f"{path} is missing from a finished run; restore it or run again with --overwrite")
        found = _sum(path)
        if found != expected:
            raise IntegrityError(
                f"{path} changed after the run was finished: SHA-256 {found[:12]}..., recorded {expected[:12]}...; "
                "restore it or run again with --overwrite"
            )
    differences = verify(directory / DEPLOYMENT)
    if differences:
        raise IntegrityError(f"{directory / DEPLOYMENT}: {differences[0]} ({len(differences)} differences)")
    audited = audit(directory / DEPLOYMENT)
    if not audited.ok:
        wrong = audited.findings[0] if audited.findings else f"not checked: {audited.not_checked[0]}"
        raise IntegrityError(f"{directory / DEPLOYMENT}: {wrong}")
    _check_ledger_is_of_this_run(directory)
    try:
        plain = json.loads((directory / SUMMARY).read_text(encoding="utf-8"))
        for name in ("final_target", "seed_target", "naive_target"):
            plain[name] = None if plain[name] is None else tuple(plain[name])
        return RoadSummary(**plain)
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"{directory / SUMMARY} is of another version of safehold ({error}); run again with --overwrite"
        ) from error


def _refuse_a_lost_manifest(directory: Path) -> None:
    """A summary without a manifest is either seconds old, and the clock is there too, or its sums are lost.

    Raises:
        IntegrityError: if they are: to go on would take what lies there for what was made.
    """
    if (directory / SUMMARY).exists() and not (directory / CLOCK).exists():
        raise IntegrityError(
            f"{directory} holds the summary of a finished run without its {MANIFEST}, so that nothing shows whether "
            "its files are those that the run made; restore the manifest, or run again with --overwrite"
        )


def _check_ledger_is_of_this_run(directory: Path) -> None:
    """The ledger names the log and the policy that lie beside it.

    Raises:
        IntegrityError: if it names others.
    """
    with Deployment.open(directory / DEPLOYMENT, read_only=True) as deployment:
        started = started_of(deployment)
    found = (hdf5.read(directory / EPISODES).digest, _manifest_digest(directory / POLICY / "policy"))
    if found != (started.provenance.get("dataset"), started.policy_digest):
        raise IntegrityError(f"{directory / DEPLOYMENT} is the ledger of another log or policy than lie in {directory}")


# Stages ----------------------------------------------------------------------------------------------------------


def _logged(directory: Path, config: RoadConfig, streams: Streams, narrator: Narrator) -> OfflineDataset:
    """The benchmark's episodes, collected once, and audited each time."""
    path = directory / EPISODES
    if not path.exists():
        seed = streams.integer("collect")
        narrator.line(f"safehold data collect {config.task} --seed {seed} makes the same log")
        dataset = collect(
            config.task,
            seed=seed,
            workers=config.workers,
            on_progress=lambda done, total: narrator.progress("episodes", done, total),
        )
        hdf5.write(path, dataset)
    audit = checks.audit(path, limit=config.deploy.limit)
    narrator.line(f"audit of {path.name}: {audit.verdict}, {len(audit.findings)} findings")
    for finding in audit.findings:
        narrator.line(f"  {finding.severity}: {finding.what} ({finding.where})")
    if audit.exit_code:
        raise DataError(f"{path}: the audit failed, nothing is learnt from this file: {audit.findings[0].what}")
    dataset = hdf5.read(path)
    cost = dataset.cost_returns[:, 0]
    narrator.line(
        f"{len(dataset)} episodes, {dataset.n_steps} steps; reward {dataset.reward_returns.min():.0f} to "
        f"{dataset.reward_returns.max():.0f}, cost {cost.min():.0f} to {cost.max():.0f}"
    )
    return dataset


def _trained(
    directory: Path, dataset: OfflineDataset, config: RoadConfig, streams: Streams, narrator: Narrator
) -> tuple[PolicyFamily, Policy]:
    """The family with the dial, and behaviour cloning of the safe episodes as the baseline."""
    limits = {dataset.spec.cost_names[0]: config.deploy.limit}
    cloning = bc_safe_config(limits, config.preset)
    bc_safe = _learnt(directory / BC_SAFE, dataset, "bc", cloning, streams, "behaviour cloning", narrator)
    transformer = preset("cdt", config.preset)
    family = _learnt(directory / POLICY, dataset, "cdt", transformer, streams, "decision transformer", narrator)
    if not isinstance(bc_safe, Policy) or not isinstance(family, PolicyFamily):
        raise DataError(f"{directory}: the trained policies are not of the kinds they should be; run with --overwrite")
    return family, bc_safe


def bc_safe_config(limits: Mapping[str, float], size: str) -> OfflineConfig:
    """Behaviour cloning of the episodes that keep the limits, at the size of this preset."""
    return preset("bc", size).model_copy(update={"limits": dict(limits)})


def _learnt(
    directory: Path,
    dataset: OfflineDataset,
    method: str,
    config: OfflineConfig,
    streams: Streams,
    what: str,
    narrator: Narrator,
) -> Policy | PolicyFamily:
    """What one method learns from the log; training that was interrupted goes on, training that is done is loaded."""

    def show(progress: Progress) -> None:
        if progress.updates % 20 == 0 or progress.updates == config.steps:
            narrator.progress(what, progress.updates, config.steps)

    if not (directory / "policy").exists():
        with training_threads(TRAINING_THREADS):
            seed = streams.integer(f"train/{method}")
            train(dataset, method, config, directory, seed=seed, resume=directory.exists(), hooks=[show])
    return load(directory / "policy")


def dial_targets(dataset: OfflineDataset, config: DeployConfig) -> tuple[Target, ...]:
    """Targets over the part of the plane that the log supports: the deployment's dial, and far beyond its limit.

    Target costs are DIAL_COSTS times the limit; target rewards run evenly from the bottom of the deployment's dial to
    the best logged reward at such costs. A target counts as supported by the same rule as in `plan`.
    """
    rewards, costs = dataset.reward_returns, dataset.cost_returns[:, 0]
    bottom = plan(dataset, config).declaration.space.axes["reward"][0]
    top = float(rewards[costs <= DIAL_COSTS[-1] * config.limit].max())
    grid = np.array([(r, share * config.limit) for r in np.linspace(bottom, top, DIAL_REWARDS) for share in DIAL_COSTS])
    return tuple((float(r), float(g)) for (r, g), ok in zip(grid, supported(dataset, grid, config), strict=True) if ok)


def _dial(
    family: PolicyFamily,
    dataset: OfflineDataset,
    evaluations: "_Evaluations",
    config: RoadConfig,
    narrator: Narrator,
) -> tuple[DialQuality, DialQuality]:
    """Asked against obtained, over all supported targets, and over those of the deployment's dial alone."""
    targets = dial_targets(dataset, config.deploy)
    found = evaluations.of("dial", [(family.at(z), z) for z in targets], config.dial_episodes)
    quality = dial_quality(found)
    top = config.deploy.cost_span * config.deploy.limit
    near = dial_quality([e for e in found if e.target is not None and e.target[1] <= top])
    narrator.table(
        "asked and obtained",
        ("asked reward", "asked cost", "obtained reward", "obtained cost"),
        [
            (f"{e.target[0]:.0f}", f"{e.target[1]:.1f}", f"{e.rewards.mean():.0f}", f"{e.costs.mean():.1f}")
            for e in found
            if e.target is not None
        ],
    )
    narrator.line(
        f"rank correlation of asked and obtained over {quality.targets} targets: cost {_rho(quality.cost)}, reward "
        f"{_rho(quality.reward)}; over the {near.targets} up to cost {top:g}: {_rho(near.cost)}, {_rho(near.reward)}"
    )
    return quality, near


def _rho(value: float | None) -> str:
    """A rank correlation for people."""
    return "undefined" if value is None else f"{value:.2f}"


def _deployed(
    directory: Path,
    plan_: Plan,
    dataset: OfflineDataset,
    family: PolicyFamily,
    config: RoadConfig,
    streams: Streams,
    narrator: Narrator,
) -> tuple[Deployment, str | None]:
    """The certified deployment, created or resumed, driven to its end; and why it held, if it did."""
    deployment = open_or_create(
        directory / DEPLOYMENT,
        plan_,
        dataset=dataset.digest,
        policy=_manifest_digest(directory / POLICY / "policy"),
        task=config.task,
        seed=config.seed,
    )
    limit = plan_.declaration.limits[0]

    def told(trial: Trial, measurement: Measurement) -> None:
        upper = grounds(trial.certificate, limit.name)
        mean = measurement.mean_cost(limit.name)
        word = "SAFE" if limit.holds(mean) else "OVER"
        narrator.line(
            f"{trial.number + 1:3d}  target R {trial.target[0]:7.0f}  G {trial.target[1]:5.1f} | cost {upper:>8} "
            f"| got reward {np.mean(measurement.rewards):7.0f}  cost {mean:6.2f} | {word}"
        )

    try:
        drive(deployment, config.task, family, streams=streams, workers=config.workers, on_told=told)
    except (NoCertifiedTarget, Alarm) as hold:  # answers, not failures: recorded, and the report says so
        narrator.line(f"HOLD  {type(hold).__name__}: {hold}")
        return deployment, f"{type(hold).__name__}: {hold}"
    except BaseException:
        deployment.close()
        raise
    return deployment, None


def _recommended(deployment: Deployment) -> Target | None:
    """The tuned target; None if no told target is certified, or an alarm stands."""
    try:
        return deployment.recommend().target
    except (NoCertifiedTarget, Alarm):
        return None


@dataclass(frozen=True, slots=True)
class _Judged:
    """Everything that was evaluated after the deployment."""

    deployed: tuple[Evaluation, ...]
    final: Evaluation | None
    held: str | None
    seed: Evaluation
    naive: Evaluation
    bc_safe: Evaluation
    asks: int
    unknown: int
    told_episodes: int


def _evaluated(
    deployment: Deployment,
    held: str | None,
    dataset: OfflineDataset,
    family: PolicyFamily,
    bc_safe: Policy,
    evaluations: "_Evaluations",
    config: RoadConfig,
) -> _Judged:
    """Fresh episodes for every deployed target and for what the result is compared with."""
    state, many = deployment.state, config.evaluation_episodes
    # every target that acted counts, whatever became of its trial
    asked = [a.target for trial, a in state.asked.items() if state.states[trial] is not TrialState.ABORTED]
    if not asked:
        raise DataError("the deployment ran no target at all; there is nothing to judge")
    final, seed = _recommended(deployment), asked[0]
    naive = (float(dataset.reward_returns.max()), float(config.deploy.limit))
    return _Judged(
        final=None if final is None else evaluations.of("final", [(family.at(final), final)], many)[0],
        held=held,
        seed=evaluations.of("seed", [(family.at(seed), seed)], many)[0],
        naive=evaluations.of("naive", [(family.at(naive), naive)], many)[0],
        bc_safe=evaluations.of("bc_safe", [(bc_safe, None)], many)[0],
        deployed=tuple(
            evaluations.of("deployed", [(family.at(z), z) for z in dict.fromkeys(asked)], config.deployed_episodes)
        ),
        asks=len(state.asked),
        unknown=sum(state.states[trial] is TrialState.UNKNOWN for trial in state.asked),
        told_episodes=sum(len(told.rewards) for told in state.told.values()),
    )


class _Evaluations:
    """Evaluations of one run, each made once and kept in one file; every label has a stream of fresh episodes."""

    def __init__(
        self, directory: Path, config: RoadConfig, cost_name: str, streams: Streams, narrator: Narrator
    ) -> None:
        self._path, self._config, self._cost_name = directory / EVALUATIONS, config, cost_name
        self._streams, self._narrator = streams, narrator
        self._policies = {name: _manifest_digest(directory / name / "policy") for name in (POLICY, BC_SAFE)}
        self._done: list[Evaluation] = []
        if self._path.exists():
            plain = _record(self._path)
            if plain.get("policies") != self._policies:
                raise IntegrityError(f"{self._path} holds returns of other policies than {directory}; delete it")
            self._done = [Evaluation.from_json(entry) for entry in plain["targets"]]

    def of(self, label: str, policies: Sequence[tuple[Policy, Target | None]], episodes: int) -> list[Evaluation]:
        """The evaluations under this label, from the file or, all together, from the world."""
        kept = [done for done in self._done if done.label == label]
        wanted = [(target, episodes) for _, target in policies]
        if [(done.target, len(done.rewards)) for done in kept] == wanted:
            return kept
        count = 0

        def seen(_: Episode) -> None:
            nonlocal count
            count += 1
            self._narrator.progress(f"{label} episodes", count, episodes * len(policies))

        found = evaluate(
            self._config.task,
            policies,
            label=label,
            cost_name=self._cost_name,
            streams=self._streams,
            stream=f"evaluate/{label}",
            episodes=episodes,
            workers=self._config.workers,
            on_episode=seen,
        )
        self._done = [*(done for done in self._done if done.label != label), *found]
        record = {
            "task": self._config.task,
            "limit": self._config.deploy.limit,
            "cost_name": self._cost_name,
            "policies": self._policies,
            "targets": [done.to_json() for done in self._done],
        }
        write_text(self._path, json.dumps(record, allow_nan=False) + "\n")
        return found


# Summary ---------------------------------------------------------------------------------------------------------


def lower_bound(costs: np.ndarray) -> float:
    """One-sided 95 % lower bound of the mean by Student's t.

    Raises:
        DataError: for fewer than two episodes: they bound nothing, and that must not pass for a low cost.
    """
    if len(costs) < 2:
        raise DataError(f"{len(costs)} episodes give no bound of their mean cost; evaluate at least two")
    error = float(np.std(costs, ddof=1)) / np.sqrt(len(costs))
    return float(np.mean(costs) - student_t.ppf(0.95, len(costs) - 1) * error)


def _summary(
    config: RoadConfig,
    dataset: OfflineDataset,
    judged: _Judged,
    quality: tuple[DialQuality, DialQuality],
    clock: "_Clock",
) -> RoadSummary:
    limit = config.deploy.limit
    safe = dataset.cost_returns[:, 0] <= limit
    final, seed, naive = judged.final, judged.seed.target, judged.naive.target
    if seed is None or naive is None:
        raise DataError("an evaluation of a target has no target; delete evaluations.json to evaluate again")
    return RoadSummary(
        task=config.task,
        limit=limit,
        delta=config.deploy.delta,
        iterations=judged.asks,
        episodes=judged.told_episodes,
        distinct_targets=len(judged.deployed),
        unsafe_targets=sum(not lower_bound(e.costs) <= limit for e in judged.deployed),
        raw_unsafe_targets=sum(not float(np.mean(e.costs)) <= limit for e in judged.deployed),
        unknown_trials=judged.unknown,
        held=judged.held,
        final_target=None if final is None else final.target,
        final_reward_return=None if final is None else float(final.rewards.mean()),
        final_cost_return=None if final is None else float(final.costs.mean()),
        seed_target=seed,
        seed_reward_return=float(judged.seed.rewards.mean()),
        seed_cost_return=float(judged.seed.costs.mean()),
        naive_target=naive,
        naive_reward_return=float(judged.naive.rewards.mean()),
        naive_cost_return=float(judged.naive.costs.mean()),
        bc_safe_reward_return=float(judged.bc_safe.rewards.mean()),
        bc_safe_cost_return=float(judged.bc_safe.costs.mean()),
        dial_cost_rank_correlation=quality[0].cost,
        dial_reward_rank_correlation=quality[0].reward,
        dial_targets=quality[0].targets,
        near_dial_cost_rank_correlation=quality[1].cost,
        near_dial_reward_rank_correlation=quality[1].reward,
        near_dial_targets=quality[1].targets,
        best_logged_safe_reward=float(dataset.reward_returns[safe].max()),
        seconds=round(clock.total, 1),
        seconds_by_stage={name: round(seconds, 1) for name, seconds in clock.seconds.items()},
    )


# The run directory -----------------------------------------------------------------------------------------------


class _Clock:
    """Seconds of each stage, over all the processes that worked on a run."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / CLOCK
        self.seconds: dict[str, float] = {}
        if self._path.exists():
            self.seconds = _record(self._path)
        self._name, self._begun = "", 0.0

    @property
    def total(self) -> float:
        """Seconds of all stages together."""
        return sum(self.seconds.values())

    def stage(self, name: str) -> "_Clock":
        """Times what follows."""
        self._name = name
        return self

    def __enter__(self) -> None:
        self._begun = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.seconds[self._name] = self.seconds.get(self._name, 0.0) + time.monotonic() - self._begun
        if self._path.parent.is_dir():
            write_text(self._path, json.dumps(self.seconds) + "\n")

    def forget(self) -> None:
        """The run is finished; the summary has the times."""
        self._path.unlink(missing_ok=True)


def _check_before_anything_is_written(directory: Path, config: RoadConfig) -> None:
    """Refuses what would be refused later anyway, while there is nothing to clean up."""
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"{directory} is a file; name a directory for the run")
    packaged_zoo(config.task)
    preset("cdt", config.preset)
    preset("bc", config.preset)


def _claim(directory: Path, config: RoadConfig) -> None:
    """Makes the run directory ours, or sees that it is."""
    path = directory / "config.json"
    if path.is_file():
        _same_configuration(directory, _record(path), config)
        return
    partial = f".{path.name}."  # of a process that was killed while it wrote its first file
    if not all(found.name.startswith(partial) for found in directory.iterdir()):
        raise UsageError(f"{directory} exists and is no run of this kind; choose another directory")
    write_text(path, json.dumps(_identity(config.to_json()), indent=2) + "\n")


def _identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """What makes two runs the same: everything but the number of workers."""
    return {name: value for name, value in config.items() if name != "workers"}


def _same_configuration(directory: Path, found: Mapping[str, Any], config: RoadConfig | None) -> None:
    """Refuses to mix two configurations in one directory."""
    if config is None:
        return
    wanted = _identity(config.to_json())
    if dict(found) != wanted:
        changed = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
        raise UsageError(
            f"{directory} holds a run with another configuration (different: {', '.join(changed)}); "
            "choose another directory, or --overwrite"
        )


def _write_manifest(directory: Path, config: RoadConfig) -> None:
    """Seals a finished run, but for locks, and what begins with a dot: leftovers of writes that were cut short."""
    files = sorted(
        path
        for path in directory.rglob("*")
        if path.is_file()
        and path.suffix != ".lock"
        and path not in (directory / MANIFEST, directory / "clock.json")
        and not any(part.startswith(".") for part in path.relative_to(directory).parts)
    )
    simulator = "pybullet" if config.task.startswith("bullet/") else "mujoco"
    manifest = {
        "config": _identity(config.to_json()),
        "safehold": __version__,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("numpy", "scipy", "torch", "gymnasium", simulator)},
        },
        "platform": platform.platform(),
        # the ledger's database has its own chain and head, and changes its bytes when it is merely opened
        "sha256": {str(path.relative_to(directory)): _sum(path) for path in files if "sqlite" not in path.name},
    }
    write_text(directory / MANIFEST, json.dumps(manifest, indent=2) + "\n")


def _manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a finished run."""
    manifest = _record(directory / MANIFEST)
    try:
        return {"config": dict(manifest["config"]), "sha256": dict(manifest["sha256"])}
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{directory / MANIFEST} is no manifest: {error!r}; run again with --overwrite") from error


def _record(path: Path) -> dict[str, Any]:
    """A JSON object that a road wrote.

    Raises:
        IntegrityError: if the file cannot be read, or holds something else.
    """
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise IntegrityError(f"{path} cannot be read: {error}; restore it, or choose another directory") from error
    if not isinstance(plain, dict):
        raise IntegrityError(f"{path} holds no record of a run; restore it, or choose another directory")
    return plain


def _manifest_digest(checkpoint: Path) -> str:
    """The digest that names a checkpoint."""
    return str(json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))["digest"])


def _sum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
