"""Learning online, from configuration to snapshots: one run of PPO-Lagrangian, evaluated along the way."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from safehold.core.config import Config
from safehold.core.constraint import Limit
from safehold.core.seeding import Streams
from safehold.envs import registry
from safehold.learn.gaussian_policy import GaussianPolicy
from safehold.learn.hooks import Stop
from safehold.learn.interact import OnlineProgress, OnlineRun, interact
from safehold.learn.online.ppo_lag import PPOLagConfig, PPOLagLearner
from safehold.learn.online.zoo import Evaluation, ZooPolicy
from safehold.rollout.episodes import rollout
from safehold.rollout.steps import StepCollector


class ExploreConfig(Config):
    """One run of PPO-Lagrangian in one environment."""

    env_id: str = "HalfCheetahVelocity"
    """Where to learn."""
    limit: NonNegativeFloat | None = 20.0
    """Limit on the mean cost return, in cost units per episode; none for a run without a limit."""
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
    method: PPOLagConfig = PPOLagConfig()
    """Hyper-parameters."""

    @property
    def name(self) -> str:
        """What the run is called: its limit and its seed."""
        limit = "none" if self.limit is None else f"{self.limit:g}"
        return f"limit-{limit}-seed-{self.seed}"


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One point of a learning curve: mean returns of the episodes that finished since the point before."""

    step: int
    reward: float
    cost: float
    multiplier: float
    noise: float


@dataclass(frozen=True, slots=True)
class Exploration:
    """What a run yields: snapshots in the order of training, and the curve, `CURVE_POINTS` points or fewer."""

    config: ExploreConfig
    snapshots: tuple[ZooPolicy, ...]
    curve: tuple[CurvePoint, ...]


CURVE_POINTS = 100
"""Points of a learning curve."""


def explore(config: ExploreConfig, *, stop: Callable[[], bool] = lambda: False) -> Exploration:
    """Learns under a limit and keeps snapshots; `stop` is asked after every update and ends the run early.

    Uses one torch thread, and puts the number of threads back afterwards.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    environments = registry.make_many(config.env_id, config.environments)
    try:
        streams = Streams(config.seed)
        spec = environments.spec_of_task
        limit = None if config.limit is None else Limit(spec.cost_names[0], config.limit)
        learner = PPOLagLearner(spec, config.method, limit, streams)
        collector = StepCollector(environments, streams)
        run = OnlineRun(learner, collector, steps_per_batch=config.steps_per_batch, streams=streams)
        diary = _Diary(config, learner)

        def stop_if_asked(progress: OnlineProgress) -> None:  # noqa: ARG001 - the signature of a hook
            if stop():
                raise Stop

        interact(run, total_steps=config.total_steps, hooks=(diary, stop_if_asked))
    finally:
        environments.close()
        torch.set_num_threads(threads)
    return Exploration(config, tuple(diary.snapshots), tuple(diary.curve))


def evaluate(env_id: str, policy: GaussianPolicy, seeds: Sequence[int], rng_seed: int) -> Evaluation:
    """Returns of one episode a seed, by the same rollout as everywhere."""
    episodes = rollout(env_id, policy, seeds, rng_seed=rng_seed)
    rewards = np.array([episode.reward_return for episode in episodes])
    costs = np.array([episode.cost_returns[0] for episode in episodes])
    return Evaluation(
        noise=float(policy.sd.mean()),
        episodes=len(episodes),
        reward=float(rewards.mean()),
        reward_sd=float(rewards.std()),
        cost=float(costs.mean()),
        cost_sd=float(costs.std()),
    )


class _Diary:
    """The hook that keeps snapshots and curve."""

    def __init__(self, config: ExploreConfig, learner: PPOLagLearner) -> None:
        self.snapshots: list[ZooPolicy] = []
        self.curve: list[CurvePoint] = []
        self._config = config
        self._learner = learner
        self._streams = Streams(config.seed)
        self._rewards: list[float] = []
        self._costs: list[float] = []

    def __call__(self, progress: OnlineProgress) -> None:
        self._rewards += [episode.reward_return for episode in progress.episodes]
        self._costs += [float(episode.cost_returns[0]) for episode in progress.episodes]
        total = self._config.total_steps
        if self._rewards and progress.steps * CURVE_POINTS >= total * (len(self.curve) + 1):
            self._note(progress)
        if progress.steps * self._config.snapshots >= total * (len(self.snapshots) + 1):
            self._keep(progress)

    def _note(self, progress: OnlineProgress) -> None:
        self.curve.append(
            CurvePoint(
                step=progress.steps,
                reward=float(np.mean(self._rewards)),
                cost=float(np.mean(self._costs)),
                multiplier=self._learner.multiplier,
                noise=progress.metrics["sd"],
            )
        )
        self._rewards, self._costs = [], []

    def _keep(self, progress: OnlineProgress) -> None:
        config, number = self._config, len(self.snapshots)
        policy = self._learner.policy()
        count = config.evaluation_episodes
        seeds = self._streams.episode_seeds("evaluate", number * count, count)
        rng_seed = self._streams.integer("evaluation noise")
        self.snapshots.append(
            ZooPolicy(
                name=f"{config.name}-{number:02d}",
                run=config.name,
                limit=config.limit,
                seed=config.seed,
                step=progress.steps,
                evaluations=tuple(
                    evaluate(config.env_id, judged, seeds, rng_seed) for judged in (policy.with_noise(0.0), policy)
                ),
                policy=policy,
            )
        )
