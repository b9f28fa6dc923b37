"""Learning online, from configuration to snapshots: one run of one method, evaluated along the way."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from safehold import __version__
from safehold.core.config import Config
from safehold.core.constraint import Limit, LimitKind, MaximumCost
from safehold.core.env import PlacedEnvs, SafeEnvs
from safehold.core.errors import UsageError
from safehold.core.seeding import Streams
from safehold.core.spec import TaskSpec
from safehold.data.dataset import OfflineDataset
from safehold.envs import registry
from safehold.envs.augmented import Augmented
from safehold.envs.roaming import DISTANCES, Roaming
from safehold.learn.augmented_policy import LearntPolicy
from safehold.learn.guided.abstraction import between
from safehold.learn.guided.guide import Guide, GuideConfig, load_guide
from safehold.learn.guided.student import StudentConfig, student
from safehold.learn.hooks import Stop
from safehold.learn.interact import OnlineLearner, OnlineProgress, OnlineRun, interact
from safehold.learn.multiplier_network import MultiplierField
from safehold.learn.online.cpo import CPOConfig, CPOLearner, SCPOConfig
from safehold.learn.online.limited import episode_metrics
from safehold.learn.online.ppo_lag import PPOLagConfig, PPOLagLearner
from safehold.learn.online.sac import SACLearner
from safehold.learn.online.sac_lag import SACLagConfig, sac_lag
from safehold.learn.online.statewise_lag import LIMIT_KINDS, StatePrice, StatewiseLagConfig, statewise_lag
from safehold.learn.online.trpo_lag import TRPOLagConfig, TRPOLagLearner
from safehold.learn.online.zoo import Evaluation, ZooPolicy
from safehold.learn.squashed_policy import SquashedPolicy
from safehold.rollout.episodes import rollout
from safehold.rollout.recorder import RecordedWorlds
from safehold.rollout.steps import FinishedEpisode, StepCollector

OnlineConfig = (
    PPOLagConfig
    | SACLagConfig
    | StatewiseLagConfig
    | TRPOLagConfig
    | CPOConfig
    | SCPOConfig
    | GuideConfig
    | StudentConfig
)
"""The configurations of the online methods."""


class ExploreConfig(Config):
    """One run of one method in one environment."""

    env_id: str = "HalfCheetahVelocity"
    """Where to learn."""
    limit: NonNegativeFloat | None = 20.0
    """The limit, in cost units: on the mean cost of an episode, or, for methods that limit states, of a step; none for
    a run without a limit."""
    cost: str | None = None
    """Name of the limited cost; the environment's first, if none is said."""
    seed: NonNegativeInt = 0
    """Seed of weights, exploration and resets."""
    total_steps: PositiveInt = 3_000_000
    """Environment steps, over all environments."""
    environments: PositiveInt = 16
    """Worlds in lockstep, in this process."""
    steps_per_batch: PositiveInt = 512
    """Steps of each world between two updates."""
    snapshots: PositiveInt = 20
    """Snapshots, evenly along training; the last is at its end."""
    evaluation_episodes: PositiveInt = 5
    """Episodes a snapshot is evaluated by, without noise and as many with its own noise."""
    log_every: NonNegativeInt = 0
    """Of the episodes that are met while learning, one in so many is kept as a log for offline learning; 0: none. They
    are kept in memory until the end; those that a guide's arena ends are no whole episodes of the task, and are not."""
    method: OnlineConfig = PPOLagConfig()
    """Hyper-parameters."""

    @property
    def name(self) -> str:
        """What the run is called: its limit and its seed."""
        limit = "none" if self.limit is None else f"{self.limit:g}"
        return f"limit-{limit}-seed-{self.seed}"


@dataclass(frozen=True, slots=True)
class Method:
    """How one method is configured, and built: of a task, its configuration, a limit or none, and streams.

    `defaults` are those of a run of it; `limit_kind` says what kind of limit it takes; `worlds` makes of a task's
    worlds those that the learner sees, from the configuration and the name of the limited cost.
    """

    defaults: ExploreConfig
    limit_kind: Callable[[OnlineConfig], LimitKind]
    build: Callable[[TaskSpec, OnlineConfig, Limit | None, Streams], OnlineLearner[LearntPolicy]]
    worlds: Callable[[SafeEnvs, OnlineConfig, str], SafeEnvs] = lambda worlds, _config, _cost: worlds


def _ppo_lag(
    spec: TaskSpec, config: OnlineConfig, limit: Limit | None, streams: Streams
) -> OnlineLearner[LearntPolicy]:
    assert isinstance(config, PPOLagConfig)
    return PPOLagLearner(spec, config, limit, streams)


def _sac_lag(
    spec: TaskSpec, config: OnlineConfig, limit: Limit | None, streams: Streams
) -> OnlineLearner[LearntPolicy]:
    assert isinstance(config, SACLagConfig)
    return sac_lag(spec, config, limit, streams)


def _statewise_lag(
    spec: TaskSpec, config: OnlineConfig, limit: Limit | None, streams: Streams
) -> OnlineLearner[LearntPolicy]:
    assert isinstance(config, StatewiseLagConfig)
    return statewise_lag(spec, config, _needed(limit, "statewise_lag"), streams)


def _trpo_lag(
    spec: TaskSpec, config: OnlineConfig, limit: Limit | None, streams: Streams
) -> OnlineLearner[LearntPolicy]:
    assert isinstance(config, TRPOLagConfig)
    return TRPOLagLearner(spec, config, limit, streams)


def _cpo(spec: TaskSpec, config: OnlineConfig, limit: Limit | None, streams: Streams) -> OnlineLearner[LearntPolicy]:
    assert isinstance(config, CPOConfig | SCPOConfig)
    return CPOLearner(spec, config, _needed(limit, method_name(config)), streams)


def _guide(spec: TaskSpec, config: OnlineConfig, limit: Limit | None, streams: Streams) -> OnlineLearner[LearntPolicy]:
    assert isinstance(config, GuideConfig)
    return sac_lag(spec, config.sac_lag, _needed(limit, "guide"), streams)


def _roaming(worlds: SafeEnvs, config: OnlineConfig, cost: str) -> SafeEnvs:  # noqa: ARG001 - whatever is limited
    assert isinstance(config, GuideConfig)
    if not isinstance(worlds, PlacedEnvs):
        raise UsageError(f"{worlds.spec_of_task.env_id}: these worlds do not say where their robots are")
    return Roaming(worlds, DISTANCES[config.distance], config.arena)


def _sagui(spec: TaskSpec, config: OnlineConfig, limit: Limit | None, streams: Streams) -> OnlineLearner[LearntPolicy]:
    assert isinstance(config, StudentConfig)
    return student(spec, config, load_guide(config.guide), _needed(limit, "sagui"), streams)


def _needed(limit: Limit | None, method: str) -> Limit:
    """The limit, for methods that are nothing without one."""
    if limit is None:
        raise UsageError(f"{method} needs a limit; for a run without one take ppo_lag or sac_lag")
    return limit


def _mean(config: OnlineConfig) -> LimitKind:  # noqa: ARG001 - whatever the configuration
    return "mean"


def _peak(config: OnlineConfig) -> LimitKind:  # noqa: ARG001 - whatever the configuration
    return "peak"


def _of_states(config: OnlineConfig) -> LimitKind:
    assert isinstance(config, StatewiseLagConfig)
    return LIMIT_KINDS[config.constraint]


_SAC_LAG = ExploreConfig(total_steps=300_000, environments=8, steps_per_batch=4, method=SACLagConfig())
_TRPO_LAG = ExploreConfig(steps_per_batch=2048, method=TRPOLagConfig())  # about the 30,000 steps a batch of [SCPO]

METHODS: Mapping[str, Method] = {
    "ppo_lag": Method(ExploreConfig(), _mean, _ppo_lag),
    "sac_lag": Method(_SAC_LAG, _mean, _sac_lag),
    "statewise_lag": Method(_SAC_LAG.model_copy(update={"method": StatewiseLagConfig()}), _of_states, _statewise_lag),
    "trpo_lag": Method(_TRPO_LAG, _mean, _trpo_lag),
    "cpo": Method(_TRPO_LAG.model_copy(update={"method": CPOConfig()}), _mean, _cpo),
    "scpo": Method(
        _TRPO_LAG.model_copy(update={"method": SCPOConfig()}),
        _peak,
        _cpo,
        worlds=lambda worlds, _config, cost: Augmented(worlds, MaximumCost(cost)),
    ),
    "guide": Method(
        _SAC_LAG.model_copy(update={"env_id": "toy/PointRobotGuide", "limit": 3.0, "method": GuideConfig()}),
        _mean,
        _guide,
        worlds=_roaming,
    ),
    "sagui": Method(
        _SAC_LAG.model_copy(update={"env_id": "toy/PointRobot", "limit": 3.0, "method": StudentConfig()}),
        _mean,
        _sagui,
    ),
}
"""The methods of `safehold explore`."""


def method_name(config: OnlineConfig) -> str:
    """The method that a configuration is of."""
    return next(name for name, method in METHODS.items() if type(method.defaults.method) is type(config))


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """One point of a learning curve: means over the episodes that finished since the point before.

    `peak` is the cost of an episode's dearest step; `multiplier` that of the last update, of a network its mean over a
    batch; `noise` the mean sd of exploration then, before the tanh if there is one.
    """

    step: int
    reward: float
    cost: float
    peak: float
    multiplier: float
    noise: float


@dataclass(frozen=True, slots=True)
class Exploration:
    """What a run yields: snapshots in the order of training, and the curve, `CURVE_POINTS` points or fewer.

    `multipliers` is lambda over the states at the end, of methods whose multiplier is a network. `log` holds the
    episodes that were kept, as the task's worlds answered them; None if none came to its end.
    """

    config: ExploreConfig
    snapshots: tuple[ZooPolicy, ...]
    curve: tuple[CurvePoint, ...]
    multipliers: MultiplierField | None
    log: OfflineDataset | None


CURVE_POINTS = 100
"""Points of a learning curve."""


def explore(config: ExploreConfig, *, stop: Callable[[], bool] = lambda: False) -> Exploration:
    """Learns under a limit and keeps snapshots; `stop` is asked after every update and ends the run early.

    Uses one torch thread, and puts the number of threads back afterwards.

    Raises:
        UsageError: if the environment, the cost or the limit does not suit the method.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    environments = registry.make_many(config.env_id, config.environments)
    try:
        streams = Streams(config.seed)
        spec = environments.spec_of_task
        cost = limited_cost(config, spec)
        method = METHODS[method_name(config.method)]
        limit = None if config.limit is None else Limit(cost, config.limit, method.limit_kind(config.method))
        recorded = RecordedWorlds(environments, config.log_every) if config.log_every else None
        seen = method.worlds(recorded or environments, config.method, cost)
        learner = method.build(seen.spec_of_task, config.method, limit, streams)
        collector = StepCollector(seen, streams)
        run = OnlineRun(learner, collector, steps_per_batch=config.steps_per_batch, streams=streams)
        diary = _Diary(config, learner, spec.cost_names.index(cost))

        def stop_if_asked(progress: OnlineProgress) -> None:  # noqa: ARG001 - the signature of a hook
            if stop():
                raise Stop

        interact(run, total_steps=config.total_steps, hooks=(diary, stop_if_asked))
    finally:
        environments.close()
        torch.set_num_threads(threads)
    price = learner.price if isinstance(learner, SACLearner) else None
    multipliers = price.field() if isinstance(price, StatePrice) else None
    return Exploration(config, tuple(diary.snapshots), tuple(diary.curve), multipliers, _log(config, spec, recorded))


def _log(config: ExploreConfig, spec: TaskSpec, recorded: RecordedWorlds | None) -> OfflineDataset | None:
    """What was met, as a dataset."""
    if recorded is None or not recorded.episodes:
        return None
    provenance = {
        "collector": "safehold.workflows.explore",
        "safehold": __version__,
        "method": method_name(config.method),
        "config": config.to_json(),
    }
    return OfflineDataset.of(recorded.episodes, spec, provenance=provenance)


def guide_of(exploration: Exploration) -> Guide:
    """What a run of "guide" leaves for its target task: the last snapshot, behind the abstraction of the two tasks.

    Raises:
        UsageError: if the run is of another method, or was stopped before its first snapshot.
        DataError: if the target's observation does not hold the source's.
    """
    config = exploration.config
    if not isinstance(config.method, GuideConfig) or not exploration.snapshots:
        raise UsageError("a guide is what a run of the method guide leaves at its end; this one left none")
    policy = exploration.snapshots[-1].policy
    assert isinstance(policy, SquashedPolicy)  # what SAC learns
    return Guide(policy, between(registry.task(config.env_id).parts, registry.task(config.method.target).parts))


def limited_cost(config: ExploreConfig, spec: TaskSpec) -> str:
    """The cost that a run limits, or reports if it limits none.

    Raises:
        UsageError: if the task has no cost of this name.
    """
    if config.cost is None:
        return spec.cost_names[0]
    if config.cost not in spec.cost_names:
        raise UsageError(f"{spec.env_id} has no cost {config.cost!r}; its costs are {list(spec.cost_names)}")
    return config.cost


def evaluate(env_id: str, policy: LearntPolicy, seeds: Sequence[int], rng_seed: int, column: int = 0) -> Evaluation:
    """Returns of one episode a seed, by the same rollout as everywhere; of the cost in this column."""
    episodes = rollout(env_id, policy, seeds, rng_seed=rng_seed)
    rewards = np.array([episode.reward_return for episode in episodes])
    costs = np.array([episode.cost_returns[column] for episode in episodes])
    return Evaluation(
        noise=policy.noise_level,
        episodes=len(episodes),
        reward=float(rewards.mean()),
        reward_sd=float(rewards.std()),
        cost=float(costs.mean()),
        cost_sd=float(costs.std()),
    )


@dataclass
class _Diary:
    """The hook that keeps snapshots and curve."""

    config: ExploreConfig
    learner: OnlineLearner[LearntPolicy]
    column: int
    snapshots: list[ZooPolicy] = field(default_factory=list)
    curve: list[CurvePoint] = field(default_factory=list)
    finished: list[FinishedEpisode] = field(default_factory=list)

    def __call__(self, progress: OnlineProgress) -> None:
        self.finished += progress.episodes
        total = self.config.total_steps
        learns = "multiplier" in progress.metrics  # before its first gradient step a learner has nothing to say
        if self.finished and learns and progress.steps * CURVE_POINTS >= total * (len(self.curve) + 1):
            self._note(progress)
        if progress.steps * self.config.snapshots >= total * (len(self.snapshots) + 1):
            self._keep(progress)

    def _note(self, progress: OnlineProgress) -> None:
        means = episode_metrics(self.finished, self.column)
        self.curve.append(
            CurvePoint(
                step=progress.steps,
                reward=means["reward_return"],
                cost=means["cost_return"],
                peak=means["cost_peak"],
                multiplier=progress.metrics["multiplier"],
                noise=progress.metrics["sd"],
            )
        )
        self.finished = []

    def _keep(self, progress: OnlineProgress) -> None:
        config, number, streams = self.config, len(self.snapshots), Streams(self.config.seed)
        policy = self.learner.policy()
        count = config.evaluation_episodes
        seeds = streams.episode_seeds("evaluate", number * count, count)
        rng_seed = streams.integer("evaluation noise")
        self.snapshots.append(
            ZooPolicy(
                name=f"{config.name}-{number:02d}",
                run=config.name,
                limit=config.limit,
                seed=config.seed,
                step=progress.steps,
                evaluations=tuple(
                    evaluate(config.env_id, judged, seeds, rng_seed, self.column)
                    for judged in (policy.without_noise(), policy)
                ),
                policy=policy,
            )
        )
