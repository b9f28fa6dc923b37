"""Wire a log, a policy family and a world into a certified deployment, and drive it to its end."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from pydantic import Field, PositiveFloat, PositiveInt

from safehold.core.certificate import Trial
from safehold.core.config import Config
from safehold.core.constraint import Limit, MaximumCost, SumCost
from safehold.core.errors import DataError, Exhausted, IntegrityError, NoSeed, UsageError
from safehold.core.measurement import Measurement
from safehold.core.policy import PolicyFamily
from safehold.core.seeding import Streams
from safehold.core.target import TargetSpace
from safehold.data.dataset import OfflineDataset
from safehold.data.summary import support
from safehold.deploy.certificates.paper import Paper
from safehold.deploy.certificates.risk_ledger import RiskLedger
from safehold.deploy.declaration import Declaration, Settings
from safehold.deploy.optimizer import Deployment
from safehold.deploy.prior import Prior
from safehold.deploy.seeds import SeedRule, SeedSelection, from_returns
from safehold.envs import registry
from safehold.ledger.events import Started
from safehold.ledger.run import RunDirectory
from safehold.rollout.episodes import rollout


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
    seed_cost: float = Field(default=0.25, gt=0.0, lt=1.0)
    """Seed targets ask for at most this share of the limit ..."""
    seed_low: PositiveFloat = 0.8
    """... and for a reward from this share ..."""
    seed_high: PositiveFloat = 0.9
    """... to this share of the best reward logged at such costs."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A declaration, and the evidence from the log that its seed targets rest on."""

    declaration: Declaration
    seeds: SeedSelection


def plan(dataset: OfflineDataset, config: DeployConfig) -> Plan:
    """The declaration that a log and a few declared scales lead to.

    The dial of rewards starts at the seed box and ends at the best logged reward return among episodes whose cost
    is within the cost dial: beyond it the log has nothing to say. Candidates without logged episodes nearby are
    never certified.

    Raises:
        NoSeed: if the log has no safe episodes to start from.
        BadPrior: if the declared scales would certify targets before any evidence.
        UsageError: if the dataset has more than one cost; declare such a deployment by hand.
    """
    spec = dataset.spec
    if len(spec.cost_names) != 1:
        raise UsageError(f"this road limits one cost, the log has {spec.cost_names}; build a Declaration by hand")
    name = spec.cost_names[0]
    limit = Limit(name, float(config.limit))
    rewards, costs = dataset.reward_returns, dataset.cost_returns[:, 0]
    rule = SeedRule(cost_share=config.seed_cost, low=config.seed_low, high=config.seed_high)
    space = _space(rewards, costs, name, config)
    known = supported(dataset, space.points, config)
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
    )
    declaration = Declaration(
        prior=prior,
        limits=(limit,),
        caps={name: _cap(dataset)},
        seed_targets=seeds.targets,
        seed_rule="log",
        delta=config.delta,
        horizon=config.iterations,
        rules=(RiskLedger() if config.certificate == "risk_ledger" else Paper(),),
        settings=Settings(episodes_per_ask=config.episodes_per_ask),
    )
    return Plan(declaration, seeds)


def supported(dataset: OfflineDataset, points: Float[np.ndarray, "m 2"], config: DeployConfig) -> Bool[np.ndarray, "m"]:
    """Targets (R, G) with enough logged episodes near them, by the declared rule."""
    return support(
        dataset,
        points,
        config.support_reward * float(np.ptp(dataset.reward_returns)),
        config.support_cost * config.limit,
        config.support_minimum,
    )


def drive(
    deployment: Deployment,
    env_id: str,
    family: PolicyFamily,
    *,
    streams: Streams,
    workers: int = 1,
    on_told: Callable[[Trial, Measurement], None] | None = None,
) -> None:
    """Asks, runs and tells until the declared asks are spent; goes on where an earlier process stopped.

    The reset seeds of a trial's episodes follow from its number alone, so a trial that was interrupted runs again
    on the same episodes, and the ledger ends up as that of an unbroken run.

    Raises:
        SafetyHold: as `Deployment.ask` does, `Exhausted` excepted: that is the planned end.
        DataError: if the policy has another dial than was declared.
        Exception: whatever breaks while a trial runs; the trial is abandoned first, as of unknown outcome.
    """
    declaration = deployment.state.declaration
    cost_names = registry.spec(env_id).cost_names
    constraints = [
        MaximumCost(limit.name) if limit.kind == "peak" else SumCost(limit.name) for limit in declaration.limits
    ]
    if family.target_names != declaration.space.names:
        raise DataError(
            f"the policy has the dial {family.target_names}, the deployment was declared for {declaration.space.names}"
        )
    with deployment.run.runner_lock():
        while (trial := _next_trial(deployment)) is not None:
            try:
                deployment.deployed(trial.id)
            except Exhausted:  # stopped by its owner while this trial was open: it does not run
                return
            count = declaration.settings.episodes_per_ask
            seeds = streams.episode_seeds("deployment", trial.number * count, count)
            try:
                episodes = rollout(
                    env_id,
                    family.at(trial.target),
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


def open_or_create(path: Path, declared: Plan, *, dataset: str, policy: str, task: str, seed: int) -> Deployment:
    """The deployment in a run directory, new or reopened; a reopened one is of this very policy, log and plan.

    `dataset` and `policy` are digests.

    Raises:
        IntegrityError: if the policy is not the one that was deployed before, or the ledger is damaged or lost.
        UsageError: if anything else differs.
    """
    provenance = {"task": task, "seed": seed, "dataset": dataset}
    if not RunDirectory(path).started:
        return Deployment.create(
            path,
            declared.declaration,
            policy_digest=policy,
            provenance=provenance,
            seed_rule=declared.seeds.rule,
            seed_evidence=declared.seeds.evidence(),
        )
    deployment = Deployment.open(path)
    try:
        started = started_of(deployment)
        if started.policy_digest != policy:
            raise IntegrityError(
                f"{path} was declared for the policy {started.policy_digest}, this one is {policy}; its certificates "
                "say nothing about another policy"
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


def _cap(dataset: OfflineDataset) -> float:
    """Largest possible cost return: the horizon times the largest cost of a step that the log has seen, at least 1."""
    return float(dataset.spec.horizon * max(1.0, float(dataset.costs.max())))
