"""Wire a log, a policy family and a world into a certified deployment, and drive it to its end."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Bool, Float
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from safehold.core.certificate import Trial
from safehold.core.config import Config
from safehold.core.constraint import Constraint, Limit, MaximumCost, SumCost
from safehold.core.errors import Alarm, DataError, Exhausted, IntegrityError, NoSeed, UsageError
from safehold.core.measurement import Measurement
from safehold.core.policy import WHICH, Policy, PolicyFamily
from safehold.core.seeding import Streams
from safehold.core.target import Target, TargetSpace
from safehold.data.dataset import OfflineDataset
from safehold.data.summary import support
from safehold.deploy.certificates.paper import Paper
from safehold.deploy.certificates.risk_ledger import RiskLedger
from safehold.deploy.choose import fallback
from safehold.deploy.declaration import NOISE_SHARE, Declaration, Settings, Shares
from safehold.deploy.declaration import SeedRule as SeedBasis
from safehold.deploy.guard import Guard
from safehold.deploy.guarded import GuardedPolicy
from safehold.deploy.optimizer import Deployment
from safehold.deploy.prior import REWARD_DIAL_ERROR_SHARE, REWARD_EPISODE_SD_SHARE, Prior
from safehold.deploy.seeds import SeedRule, SeedSelection, from_returns
from safehold.deploy.stages import by_parts
from safehold.deploy.steps import awaiting
from safehold.deploy.watch import Monitors
from safehold.envs import registry
from safehold.gp.kernels import Matern52, Product
from safehold.ledger.events import Observed, Started
from safehold.ledger.run import RunDirectory
from safehold.rollout.episodes import rollout

SEED_BATCH = 10
"""Episodes of a seed target between two looks at its evidence; the test allows a look at any time."""

BOX_DOUBT = 2.0
"""A latent box says less of a cost than a target cost does, and costs may jump as it grows: the declared dial error
counts this many times. With 1, four of five deployments on toy/Rain ran a box over the limit, where the cost jumps by
1.3 limits (docs/results/README.md)."""

SMALLEST_BOX = "the smallest latent box, whatever the log says"
"""How the seed target of a deployment over boxes is chosen, for the ledger."""

FALLBACK = "fallback after an alarm"
"""How the source of what the runner observed at the fallback begins."""


class DeployConfig(Config):
    """What is declared before the first ask, in words that do not depend on the task's units."""

    limit: float = Field(default=20.0, gt=0.0)
    """Largest allowed expected cost, in the task's cost units per episode."""
    delta: float = Field(default=0.05, gt=0.0, lt=1.0)
    """Probability, under the declared prior, that any deployed target is unsafe."""
    certificate: Literal["risk_ledger", "paper"] = "risk_ledger"
    """Rule that certifies targets: pay each new one's risk out of delta, or stay under confidence bands as in PLS."""
    iterations: PositiveInt = 20
    """Largest number of asks."""
    episodes_per_ask: PositiveInt = 20
    """Episodes that each asked target runs for."""
    reward_points: PositiveInt = 41
    """Target rewards on the dial, from the seed box up to the best logged reward at an allowed target cost."""
    cost_points: PositiveInt = 31
    """Target costs on the dial, from 0 to `cost_span` times the limit."""
    cost_span: PositiveFloat = 1.5
    """Upper end of the cost dial, as a share of the limit: a cautious policy may have to be asked for more."""
    support_reward: PositiveFloat = 0.015
    """A target is supported by logged episodes within this share of the logged span of reward returns ..."""
    support_cost: PositiveFloat = 0.5
    """... and within this share of the limit in cost return ..."""
    support_minimum: PositiveInt = 5
    """... if there are at least so many."""
    lengthscale_reward: PositiveFloat = 0.5
    """Declared length-scale of the dial's error along the target reward, as a share of that axis, for `paper`; the risk
    ledger believes in a mixture of length-scales from 0.1 to 0.5."""
    lengthscale_cost: PositiveFloat = 0.5
    """The same along the target cost."""
    dial_error: PositiveFloat = 0.5
    """Declared standard deviation of the dial's error in cost, as a share of the limit."""
    episode_sd: PositiveFloat = 0.25
    """Declared floor of the standard deviation of one episode's cost, as a share of the limit."""
    policy_correlation: float = Field(default=0.5, ge=0.0, lt=1.0)
    """Declared correlation of the dial's errors of two policies at one target, where there are several to choose among:
    how far an episode of one says something of another."""
    correlation: tuple[Annotated[float, Field(gt=-1.0, lt=1.0)], ...] = ()
    """Declared correlation of the dial's errors in cost and in reward, which lets rewards say something of costs; of
    several, 0 and 0.9 say, each is as likely. Trusted; helps where rewards are much cleaner than costs. None: it is 0
    for certain."""
    reward_dial_error: PositiveFloat = REWARD_DIAL_ERROR_SHARE
    """Declared standard deviation of the dial's error in reward, as a share of the span of the target rewards; bears on
    safety only with a correlation."""
    reward_episode_sd: PositiveFloat = REWARD_EPISODE_SD_SHARE
    """The same of one episode's reward around its expectation: a floor, like that of the cost."""
    seed_cost: float = Field(default=0.25, gt=0.0, lt=1.0)
    """Seed targets ask for at most this share of the limit ..."""
    seed_low: PositiveFloat = 0.8
    """... and for a reward from this share ..."""
    seed_high: PositiveFloat = 0.9
    """... to this share of the best reward logged at such costs."""


class Oversight(Config):
    """What people decide in a deployment, and what watches it; declared before the first ask like everything else."""

    seed_by: str | None = Field(default=None, min_length=1, max_length=200)
    """Name of who attests that the seed targets are safe; nobody: the log's word is taken."""
    verify_seeds: NonNegativeInt = 0
    """Seed targets that are to be verified on raw episodes before the first ask; 0: none."""
    seed_share: float = Field(default=0.2, gt=0.0, lt=1.0)
    """Part of delta for verifying seed targets, if they are."""
    approve: bool = False
    """A named operator must approve each trial before it runs."""
    canary_targets: NonNegativeInt = 0
    """Roll out in stages: shadow (seed targets alone), canary (so many new targets at most), full; 0: no stages."""
    canary_share: float = Field(default=0.25, gt=0.0, lt=1.0)
    """Part of the rules' share of delta that the canary stage may spend."""
    canary_episodes: PositiveInt | None = None
    """Episodes that each target runs for before the full stage; as many as in it if not said."""
    innovation_alarms: float = Field(default=0.01, gt=0.0, lt=1.0)
    """False-alarm rate of the monitor of the model."""
    cost_alarms: float = Field(default=0.01, gt=0.0, lt=1.0)
    """False-alarm rate of the monitor of the limits."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A declaration, and the evidence from the log that its seed targets rest on; `seed_by` attests them, if named.

    Of a deployment over boxes the log is no evidence: `seeds` is None.
    """

    declaration: Declaration
    seeds: SeedSelection | None
    seed_by: str | None = None


def plan(dataset: OfflineDataset, config: DeployConfig, oversight: Oversight | None = None, policies: int = 1) -> Plan:
    """The declaration that a log and a few declared scales lead to.

    With several `policies` the dial has one axis more, which of them: a target of one is another target than that of
    the next, with a certificate and a seed premise of its own. The dial of rewards starts at the seed box and ends at
    the best logged reward return among episodes whose cost is within the cost dial: beyond it the log has nothing to
    say. Candidates without logged episodes nearby are never certified.

    Raises:
        NoSeed: if the log has no safe episodes to start from.
        BadPrior: if the declared scales would certify targets before any evidence.
        UsageError: if the dataset has more than one cost; declare such a deployment by hand. Or if what people are to
            decide does not fit together.
    """
    oversight = oversight or Oversight()
    spec = dataset.spec
    if len(spec.cost_names) != 1:
        raise UsageError(f"this road limits one cost, the log has {spec.cost_names}; build a Declaration by hand")
    name = spec.cost_names[0]
    limit = Limit(name, float(config.limit))
    rewards, costs = dataset.reward_returns, dataset.cost_returns[:, 0]
    rule = SeedRule(cost_share=config.seed_cost, low=config.seed_low, high=config.seed_high)
    space = _space(rewards, costs, name, config)
    known = supported(dataset, space.points, config)
    contexts: dict[str, float] = {}
    if policies > 1:
        space = TargetSpace({**space.axes, WHICH: tuple(map(float, range(policies)))})
        known, contexts = np.repeat(known, policies), {WHICH: config.policy_correlation}
    seeds = from_returns(space, (limit,), known, rewards, {name: costs}, rule)
    spans = {axis: float(values[-1] - values[0]) for axis, values in space.axes.items()}
    scales = {
        "reward": config.lengthscale_reward * spans["reward"],
        name: config.lengthscale_cost * spans[name],
    }
    prior = Prior.asked(
        space,
        [limit],
        known,
        lengthscales=None if config.certificate == "risk_ledger" else scales,
        dial_error={name: config.dial_error * limit.value},
        episode_sd={name: config.episode_sd * limit.value},
        reward_dial_error=config.reward_dial_error * spans["reward"],
        reward_episode_sd=config.reward_episode_sd * spans["reward"],
        kernel=partial(Product.of, "matern52") if config.correlation else Matern52,
        contexts=contexts,
        correlation={name: config.correlation} if config.correlation else None,
    )
    targets = _central(space, seeds.targets, oversight.verify_seeds or len(seeds.targets))
    declaration = _declaration(dataset, prior, limit, targets, config, oversight)
    return Plan(declaration, seeds, oversight.seed_by)


def declare_boxes(
    dataset: OfflineDataset, boxes: Sequence[float], config: DeployConfig, oversight: Oversight
) -> Declaration:
    """A deployment that tunes the box of `lspc`: candidates are half widths of the latent box, ascending.

    A box is no return, so nothing is believed to come out as asked. Costs are believed to rise in proportion to the
    box, up to `cost_span` limits at the largest, with `BOX_DOUBT` times the declared error, and rewards from the least
    to the largest logged one. The smallest box is the seed target: the log does not say what it costs, so it is
    attested, or verified on raw episodes, as the oversight says.

    Raises:
        UsageError: if there are fewer than two boxes, the log has several costs, nobody answers for the seed, or a
            correlation is declared.
        BadPrior: if the declared scales would certify boxes before any evidence.
    """
    names, seed_rule = dataset.spec.cost_names, _seed_basis(oversight)
    if len(names) != 1 or len(boxes) < 2 or seed_rule == "log":
        raise UsageError(
            f"boxes {tuple(boxes)} over costs {names}, seeds by {seed_rule!r}: give two boxes or more and a log of one "
            "cost, and say who attests the smallest box, or that it is to be verified"
        )
    if config.correlation:
        raise UsageError("a correlation of cost and reward is declared for dials of returns; a box has none")
    space = TargetSpace({"epsilon": tuple(float(box) for box in boxes)})
    limit, rewards = Limit(names[0], float(config.limit)), dataset.reward_returns
    share, low, span = space.points[:, 0] / space.points[-1, 0], float(rewards.min()), float(np.ptp(rewards))
    prior = Prior.around(
        space,
        low + share * span,
        {limit.name: config.cost_span * limit.value * share},
        dial_error={limit.name: BOX_DOUBT * config.dial_error * limit.value},
        episode_sd={limit.name: config.episode_sd * limit.value},
        reward_dial_error=config.reward_dial_error * span,
        reward_episode_sd=config.reward_episode_sd * span,
    )
    return _declaration(dataset, prior, limit, (space.target(0),), config, oversight)


def supported(dataset: OfflineDataset, points: Float[np.ndarray, "m 2"], config: DeployConfig) -> Bool[np.ndarray, "m"]:
    """Targets (R, G) with enough logged episodes near them, by the declared rule."""
    return support(
        dataset,
        points,
        config.support_reward * float(np.ptp(dataset.reward_returns)),
        config.support_cost * config.limit,
        config.support_minimum,
    )


@dataclass(frozen=True, slots=True)
class Decision:
    """What an operator says of a trial; a rejected one is not handed out again, for the `reason`."""

    by: str
    approved: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class GuardPlan:
    """A guard in every episode: by cost what a recovery may still cost, and the policy that recovers."""

    margins: Mapping[str, float]
    recovery: Policy

    def around(self, policy: Policy, target: Target, declaration: Declaration, costs: tuple[str, ...]) -> Policy:
        """The policy at a target, guarded under the declared limits."""
        guard = Guard.start(declaration.space.names, target, declaration.limits, self.margins)
        return GuardedPolicy(policy, self.recovery, guard, costs)


def drive(
    deployment: Deployment,
    env_id: str,
    family: PolicyFamily,
    *,
    streams: Streams,
    workers: int = 1,
    on_told: Callable[[Trial, Measurement], None] | None = None,
    decide: Callable[[Trial], Decision] | None = None,
    guard: GuardPlan | None = None,
    fallback_batches: int = 0,
) -> None:
    """Asks, runs and tells until the declared asks are spent; goes on where an earlier process stopped.

    The reset seeds of a trial's episodes follow from its number alone, so a trial that was interrupted runs again
    on the same episodes, and the ledger ends up as that of an unbroken run. `decide` is asked about trials that need
    approval; without it the run holds at the first of them. After an alarm that leaves nothing but the fallback, up to
    `fallback_batches` batches run at it, as long as it stays one, before the alarm is raised.

    Raises:
        SafetyHold: as `Deployment.ask` does, `Exhausted` excepted: that is the planned end.
        DataError: if the policy has another dial than was declared.
        Exception: whatever breaks while a trial runs; the trial is abandoned first, as of unknown outcome.
    """
    declaration = deployment.state.declaration
    cost_names = registry.spec(env_id).cost_names
    constraints = folds(declaration.limits)
    if family.target_names != declaration.space.names:
        raise DataError(
            f"the policy has the dial {family.target_names}, the deployment was declared for {declaration.space.names}"
        )
    with deployment.run.runner_lock():
        while True:
            try:
                trial = _next_trial(deployment)
            except Alarm:
                _fall_back(deployment, env_id, family, fallback_batches, streams=streams, workers=workers, guard=guard)
                raise
            if trial is None:
                return
            if decide is not None and awaiting(deployment.state, trial.id):
                decision = decide(trial)
                if not decision.approved:
                    deployment.reject(trial.id, decision.by, decision.reason)
                    continue
                deployment.approve(trial.id, decision.by)
            try:
                deployment.deployed(trial.id)
            except Exhausted:  # stopped by its owner while this trial was open: it does not run
                return
            first = trial.number * declaration.settings.episodes_per_ask  # a stage of the roll-out may run fewer
            seeds = streams.episode_seeds("deployment", first, deployment.state.episodes_per_ask)
            try:
                policy = family.at(trial.target)
                episodes = rollout(
                    env_id,
                    policy if guard is None else guard.around(policy, trial.target, declaration, cost_names),
                    seeds,
                    rng_seed=streams.integer("deployment/policy"),
                    workers=workers,
                )
                measurement = Measurement.of(episodes, constraints, cost_names)
                told = deployment.tell(
                    trial.id, measurement, lengths=tuple(len(episode) for episode in episodes), seeds=seeds
                )
            except Exception as fault:  # whatever it was, actions were taken and their outcome is not known
                deployment.abandon(trial.id, f"{type(fault).__name__}: {fault}")
                raise
            if on_told is not None:
                on_told(told, measurement)


def _fall_back(
    deployment: Deployment,
    env_id: str,
    family: PolicyFamily,
    batches: int,
    *,
    streams: Streams,
    workers: int,
    guard: GuardPlan | None,
) -> None:
    """Runs the fallback target, a batch as large as an ask's at a time, each observed before the next.

    Ends when so many batches are in the ledger, or no fallback is left: what is observed at a seed target is watched
    too, and leads to the level at which nothing runs. No certificate is claimed for these episodes. A batch whose
    process died runs again on the same reset seeds.
    """
    declaration, cost_names = deployment.state.declaration, registry.spec(env_id).cost_names
    size = declaration.settings.episodes_per_ask
    ran = sum(isinstance(event, Observed) and event.source.startswith(FALLBACK) for event in deployment.events())
    for number in range(ran, batches):
        state = deployment.state
        target = fallback(state, state.verdict()) if state.level == "seed" and state.stopped is None else None
        if target is None:
            return
        policy = family.at(target)
        policy = policy if guard is None else guard.around(policy, target, declaration, cost_names)
        seeds = streams.episode_seeds("deployment/fallback", number * size, size)
        rolled = rollout(env_id, policy, seeds, rng_seed=streams.integer("deployment/policy"), workers=workers)
        source = f"{FALLBACK}, batch {number}: {env_id}, {size} episodes from reset seed {seeds[0]} on"
        deployment.observe(target, Measurement.of(rolled, folds(declaration.limits), cost_names), source=source)


def verify_seed(
    deployment: Deployment,
    target: Target,
    env_id: str,
    family: PolicyFamily,
    *,
    episodes: int,
    streams: Streams,
    workers: int = 1,
    guard: GuardPlan | None = None,
    on_batch: Callable[[int, float], None] | None = None,
) -> bool:
    """Runs a seed target until its raw episodes verify it, or `episodes` more have run; whether it is verified now.

    Ten episodes at a time, each batch in the ledger before the next; a batch whose process died runs again on the
    same reset seeds. `on_batch` is told how many have run, and the least evidence of any limit.

    Raises:
        UsageError: if seed targets of this run are not to be verified, or the target is none of them.
        DataError: if the policy has another dial, or an episode does not fit the declaration.
        Exception: whatever breaks while an episode runs; nothing of its batch is recorded.
    """
    declaration = deployment.state.declaration
    space, limits = declaration.space, declaration.limits
    if family.target_names != space.names:
        raise DataError(f"the policy has the dial {family.target_names}, the deployment was declared for {space.names}")
    index, cost_names = space.index(target), registry.spec(env_id).cost_names
    policy = family.at(target)
    policy = policy if guard is None else guard.around(policy, target, declaration, cost_names)
    verified, ran = bool(deployment.state.established[index]), 0
    while not verified and ran < episodes:
        first = raw_episodes(deployment, target)
        seeds = streams.episode_seeds(f"seed/{index}", first, min(SEED_BATCH, episodes - ran))
        rolled = rollout(env_id, policy, seeds, rng_seed=streams.integer("deployment/policy"), workers=workers)
        measurement = Measurement.of(rolled, folds(limits), cost_names)
        source = f"{env_id}, episodes {first} to {first + len(seeds) - 1} from reset seed {seeds[0]} on"
        verified = deployment.verify_seed(target, measurement.costs, source=source, failed=measurement.failed)
        ran += len(seeds)
        if on_batch is not None:
            capitals = deployment.state.seed_capitals[index]
            on_batch(ran, min(capital.peak for capital in capitals.values()))
    return verified


def raw_episodes(deployment: Deployment, target: Target) -> int:
    """Raw episodes that a seed target has been verified by so far."""
    told = deployment.state.seed_capitals.get(deployment.state.declaration.space.index(target), {})
    return max((capital.n for capital in told.values()), default=0)


def folds(limits: Sequence[Limit]) -> list[Constraint]:
    """What of an episode's costs each limit is on."""
    return [MaximumCost(limit.name) if limit.kind == "peak" else SumCost(limit.name) for limit in limits]


def open_or_create(
    path: Path,
    declared: Plan,
    *,
    dataset: str,
    policy: str,
    task: str,
    seed: int,
    guard: Mapping[str, float] | None = None,
) -> Deployment:
    """The deployment in a run directory, new or reopened; a reopened one is of this very policy, log and plan.

    `dataset` and `policy` are digests; `guard` the margins of the guard in every episode, None without one.

    Raises:
        IntegrityError: if the policy is not the one that was deployed before, or the ledger is damaged or lost.
        UsageError: if anything else differs.
    """
    provenance: dict[str, object] = {"task": task, "seed": seed, "dataset": dataset}
    if guard is not None:
        provenance["guard"] = {name: float(margin) for name, margin in guard.items()}
    if not RunDirectory(path).started:
        return Deployment.create(
            path,
            declared.declaration,
            policy_digest=policy,
            provenance=provenance,
            seed_rule=SMALLEST_BOX if declared.seeds is None else declared.seeds.rule,
            seed_evidence={
                **({} if declared.seeds is None else declared.seeds.evidence()),
                **({} if declared.seed_by is None else {"attested_by": declared.seed_by}),
            },
        )
    deployment = Deployment.open(path)
    try:
        started = started_of(deployment)
        if started.policy_digest != policy:
            raise IntegrityError(
                f"{path} was declared for the policy {started.policy_digest}, this one is {policy}; its certificates "
                "say nothing about another policy, and of several the order counts"
            )
        if dict(started.provenance) != provenance or started.declaration != declared.declaration.to_json():
            raise UsageError(
                f"{path} was declared with other data, seed or settings; resume with the same, or start anew"
            )
    except BaseException:
        deployment.close()
        raise
    return deployment


def started_of(deployment: Deployment) -> Started:
    """The declaring event of a deployment."""
    return next(event for event in deployment.events() if isinstance(event, Started))


def _next_trial(deployment: Deployment) -> Trial | None:
    """The trial that is still open, or a new one; None once the declared asks are spent."""
    deployment.refresh()
    state = deployment.state
    if state.open_trials:
        return state.trial(state.open_trials[0])
    try:
        return deployment.ask(key=f"ask-{len(state.asked)}")
    except Exhausted:
        return None


def _declaration(
    dataset: OfflineDataset,
    prior: Prior,
    limit: Limit,
    seed_targets: tuple[Target, ...],
    config: DeployConfig,
    oversight: Oversight,
) -> Declaration:
    """What is declared of one limit, around a prior."""
    shares = _shares(config.delta, oversight)
    return Declaration(
        prior=prior,
        limits=(limit,),
        caps={limit.name: _cap(dataset)},
        seed_targets=seed_targets,
        seed_rule=_seed_basis(oversight),
        delta=config.delta,
        horizon=config.iterations,
        rules=(RiskLedger() if config.certificate == "risk_ledger" else Paper(),),
        shares=shares,
        settings=Settings(episodes_per_ask=config.episodes_per_ask, approval=oversight.approve),
        monitors=Monitors(innovation=oversight.innovation_alarms, cost=oversight.cost_alarms),
        stages=by_parts(
            shares.certificate,
            (oversight.canary_share, 1.0 - oversight.canary_share),
            oversight.canary_targets,
            oversight.canary_episodes or config.episodes_per_ask,
        )
        if oversight.canary_targets
        else (),
    )


def _space(rewards: np.ndarray, costs: np.ndarray, name: str, config: DeployConfig) -> TargetSpace:
    """The dial: a grid of target rewards and target costs."""
    low_cost = costs <= config.seed_cost * config.limit
    allowed = costs <= config.cost_span * config.limit
    # without a cheap episode there are no seeds; the seed rule says so in its own words
    best = float(np.max(rewards[low_cost] if low_cost.any() else rewards))
    if not best > 0:
        raise NoSeed(
            f"the best reward logged at costs up to {config.seed_cost * config.limit:g} is {best:.4g}; a share of it "
            "places the seed box only where it is positive. Shift the rewards, or build a Declaration by hand"
        )
    bottom = config.seed_low * best
    top = float(np.max(rewards[allowed] if allowed.any() else rewards))
    if not bottom < top:
        raise UsageError(
            f"the dial of rewards would run from {bottom:.4g} to {top:.4g}: the log holds no better episodes at costs "
            f"up to {config.cost_span * config.limit:g} than those the seeds are taken from; nothing is to be tuned"
        )
    return TargetSpace(
        {
            "reward": tuple(np.linspace(bottom, top, config.reward_points).tolist()),
            name: tuple(np.linspace(0.0, config.cost_span * config.limit, config.cost_points).tolist()),
        }
    )


def _shares(delta: float, oversight: Oversight) -> Shares:
    """A tenth of delta for the bounds on the noise, the declared part for verifying seeds, the rest for the rules."""
    noise, seed = NOISE_SHARE * delta, oversight.seed_share * delta if oversight.verify_seeds else 0.0
    return Shares(seed=seed, certificate=delta - noise - seed, noise=noise)


def _seed_basis(oversight: Oversight) -> SeedBasis:
    """How seed targets are known to be safe.

    Raises:
        UsageError: if they are to be attested and verified at once.
    """
    if oversight.verify_seeds and oversight.seed_by is not None:
        raise UsageError("seed targets are either attested by somebody or verified on episodes; choose one")
    if oversight.verify_seeds:
        return "verified"
    return "log" if oversight.seed_by is None else "attested"


def _central(space: TargetSpace, targets: tuple[Target, ...], count: int) -> tuple[Target, ...]:
    """Of these targets the so many that are nearest to the middle of them all, in units of their spread.

    Of several policies each in turn: the first target of every one, then the second.
    """
    if count >= len(targets):
        return targets
    points = np.array(targets)[:, [name != WHICH for name in space.names]]
    span = np.ptp(points, axis=0)
    away = np.sum(
        ((points - (points.min(axis=0) + points.max(axis=0)) / 2) / np.where(span > 0, span, 1.0)) ** 2, axis=1
    )
    return tuple(space.target(space.index(targets[int(i)])) for i in np.argsort(away, kind="stable")[:count])


def _cap(dataset: OfflineDataset) -> float:
    """Largest possible cost return: the horizon times the largest cost of a step that the log has seen, at least 1."""
    return float(dataset.spec.horizon * max(1.0, float(dataset.costs.max())))
