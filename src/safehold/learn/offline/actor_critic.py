"""What offline methods with actors and critics share: transitions in a network's units, parts that learn, policies.

A method names its parts in `_make`, trains them in `_improve` by losses that are functions of tensors, and says what
comes out in `policy`. Batches, saving, resuming and refusals are here.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Float32
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from safehold.core.config import Config
from safehold.core.errors import DataError, UsageError
from safehold.core.policy import Actor, Memoryless
from safehold.core.spec import TaskSpec
from safehold.data.batches import TransitionBatch
from safehold.data.normalise import Normaliser
from safehold.learn.actions import Continuous, box_of
from safehold.learn.gaussian_policy import OBSERVATION_CLIP
from safehold.learn.learner import Metrics, State
from safehold.learn.offline.learnt import Learnt, identity, require_identity
from safehold.learn.parts import Kept, parts_of, restore_all, state_of
from safehold.learn.transitions import Transitions
from safehold.nn.actors import TanhGaussianActor
from safehold.nn.distributions import TanhGaussian
from safehold.nn.randomness import OwnGenerator, drawn_generator
from safehold.nn.tensors import to_array, to_tensor

LOG_SD_RANGE = (-20.0, 2.0)
"""Of an actor's actions before the tanh   [SAC, arXiv 1812.05905]."""


class ActorCriticConfig(Config):
    """What all such methods are told."""

    hidden: tuple[PositiveInt, ...] = (256, 256)
    """Sizes of the hidden layers of actors and critics."""
    discount: float = Field(default=0.99, gt=0.0, lt=1.0)
    """Weight of the next step against this one, of rewards and of costs."""
    timeouts: Literal["bootstrap", "terminal"] = "bootstrap"
    """What an episode that its clock ended is followed by: "bootstrap" by more of the same, a clock being no part of
    what an observation shows; "terminal" by nothing, as OSRL and the published LSPC have it."""
    target_rate: float = Field(default=0.005, gt=0.0, le=1.0)
    """Share by which the slow copies of critics follow in a step."""
    reward_scale: PositiveFloat = 1.0
    """What rewards are multiplied by; OSRL has 0.1."""
    batch_size: PositiveInt = 512
    """Steps in a batch."""
    steps: PositiveInt = 100_000
    """Gradient steps."""


class LimitedConfig(ActorCriticConfig):
    """Of methods whose policy is for stated limits."""

    limits: dict[str, NonNegativeFloat] = Field(default_factory=dict)
    """Limit on the mean return of every named cost, in cost units per episode."""


def thresholds(spec: TaskSpec, config: LimitedConfig) -> Float[np.ndarray, "k"]:
    """What the discounted cost critics must stay under, a number a cost: `discounted_limit` of each.

    Raises:
        UsageError: if the limits are not of the task's costs, every one.
    """
    if set(config.limits) != set(spec.cost_names):
        raise UsageError(
            f"{spec.env_id}: limits are on {sorted(config.limits)}, the costs are {list(spec.cost_names)}; "
            "give a limit for every cost, and for nothing else"
        )
    return np.array([discounted_limit(config.limits[name], spec.horizon, config) for name in spec.cost_names])


def discounted_limit(limit: float, horizon: int, config: ActorCriticConfig) -> float:
    """A limit on an episode's cost as one on what a critic says, were the cost the same in every step.

    kappa (1 - gamma^T) / ((1 - gamma) T) where timeouts are terminal   [OSRL], and kappa / ((1 - gamma) T) where they
    are bootstrapped: a critic then sums to no horizon.
    """
    share = 1.0 - config.discount**horizon if config.timeouts == "terminal" else 1.0
    return limit * share / ((1.0 - config.discount) * horizon)


def transitions_of(
    batch: TransitionBatch, observations: Normaliser, code: Continuous, config: ActorCriticConfig
) -> Transitions:
    """A batch in the networks' units."""
    ended = batch.terminated | batch.timeouts if config.timeouts == "terminal" else batch.terminated
    return Transitions(
        observations=to_tensor(seen(observations, batch.observations)),
        actions=to_tensor(code.encode(batch.actions)),
        rewards=to_tensor(config.reward_scale * batch.rewards),
        costs=to_tensor(batch.costs),
        next_observations=to_tensor(seen(observations, batch.next_observations)),
        goes_on=to_tensor(1.0 - ended.astype(np.float32)),
    )


def seen(normaliser: Normaliser, observations: Float[np.ndarray, "n o"]) -> Float32[np.ndarray, "n o"]:
    """Observations as networks see them: normalised, and held within `OBSERVATION_CLIP` standard deviations."""
    return np.clip(normaliser.apply(observations), np.float32(-OBSERVATION_CLIP), np.float32(OBSERVATION_CLIP))


ConfigOf = TypeVar("ConfigOf", bound=ActorCriticConfig)
NetworkOf = TypeVar("NetworkOf", bound=nn.Module)
LearntOf = TypeVar("LearntOf")


class ActorCriticLearnt(Learnt[ConfigOf, Normaliser, NetworkOf]):
    """What such a method leaves behind; its scales are those of observations."""

    def __init__(self, spec: TaskSpec, config: ConfigOf, scales: Normaliser, network: NetworkOf) -> None:
        super().__init__(spec, config, scales, network)
        self._code = Continuous(box_of(spec))

    @classmethod
    def scales_of(cls, plain: Mapping[str, Any], spec: TaskSpec, config: ConfigOf) -> Normaliser:  # noqa: ARG003
        """The normaliser of observations."""
        return Normaliser.of_json(plain, spec.observation_size)


class ActorPolicy(ActorCriticLearnt[ConfigOf, NetworkOf]):
    """A policy of the observation alone."""

    @abstractmethod
    def codes(self, observations: Float[Tensor, "n o"], rng: np.random.Generator) -> Float[Tensor, "n a"]:
        """Actions in [-1, 1] at normalised observations; every draw from `rng`."""

    def start(self, n: int, rng: np.random.Generator) -> Actor:  # noqa: ARG002 - any number of rows is answered
        """An actor for n episodes; it has no memory, only `rng`."""
        return Memoryless(lambda observations: self.acts(observations, rng))

    @torch.inference_mode()
    def acts(self, observations: Float[np.ndarray, "n o"], rng: np.random.Generator) -> Float32[np.ndarray, "n a"]:
        """Actions in environment units, inside their bounds."""
        codes = self.codes(to_tensor(seen(self.scales, observations)), rng)
        return self._code.decode(to_array(codes))


class ModePolicy(ActorPolicy[ConfigOf, TanhGaussianActor]):
    """A policy that takes its actor's mode."""

    @classmethod
    def build(cls, spec: TaskSpec, config: ConfigOf) -> TanhGaussianActor:
        """A fresh actor; its noise is bounded as in [SAC, arXiv 1812.05905]."""
        actions, generator = box_of(spec).size, drawn_generator()
        return TanhGaussianActor(
            spec.observation_size, actions, config.hidden, log_sd_range=LOG_SD_RANGE, generator=generator
        )

    def codes(self, observations: Float[Tensor, "n o"], rng: np.random.Generator) -> Float[Tensor, "n a"]:  # noqa: ARG002
        """The tanh of the mean."""
        distribution: TanhGaussian = self.network(observations)
        return distribution.mode()


class ActorCriticLearner(ABC, Generic[ConfigOf, LearntOf]):
    """Parts that learn from transitions.

    Args:
        spec: the task; its actions must be continuous.
        observations: normalises what networks see; fitted to the data beforehand.
        config: hyper-parameters.
        seed: of the weights, and of what updates draw.
    """

    def __init__(self, spec: TaskSpec, observations: Normaliser, config: ConfigOf, seed: int) -> None:
        self._spec = spec
        self._observations = observations
        self._config = config
        self._code = Continuous(box_of(spec))
        with OwnGenerator(seed).drawing():
            self._kept = dict(self._make())
            self._generator = drawn_generator()
        self._updates = 0

    @abstractmethod
    def _make(self) -> Mapping[str, Kept]:
        """Everything that a checkpoint must carry, by name; weights are drawn from torch's default generator."""

    @abstractmethod
    def _improve(self, batch: Transitions) -> Metrics:
        """One update of every part; all noise comes from `self._generator`."""

    @abstractmethod
    def policy(self) -> LearntOf:
        """What has been learnt so far, frozen."""

    def update(self, batch: TransitionBatch) -> Metrics:
        """One update of every part.

        Raises:
            ModelError: if a loss is not finite.
        """
        metrics = self._improve(transitions_of(batch, self._observations, self._code, self._config))
        self._updates += 1
        return metrics

    def state(self) -> State:
        """Weights, moments, slow copies, multipliers, and the generator of noise."""
        return state_of(self._kept, self._generator, {"updates": self._updates, **self._identity()})

    def restore(self, state: State) -> None:
        """Goes back to a saved state.

        Raises:
            DataError: if it is of another task, configuration or method, or something is missing.
        """
        try:
            require_identity(state.meta, self._spec, self._config, self._observations)
            updates = int(state.meta["updates"])
            saved = parts_of(state, self._kept)
        except (KeyError, TypeError) as error:
            raise DataError(f"this is no saved training of this method: {error!r}") from error
        restore_all(self._kept, self._generator, saved, state)
        self._updates = updates

    def _identity(self) -> dict[str, Any]:
        return identity(self._spec, self._config, self._observations)


def least(values: Float[Tensor, "*B m s"]) -> Float[Tensor, "*B s"]:
    """The smallest of all networks of a signal."""
    return values.amin(dim=-2)


def backed_up(batch: Transitions, values: Float[Tensor, "B s"], discount: float) -> Float[Tensor, "B s"]:
    """What critics are fitted to: x + gamma Q(s', a'), x the reward, then each cost; nothing follows an end.

    Unlike [OSRL], where costs go on past every end, an end ends them as it ends rewards.
    """
    signals = torch.column_stack([batch.rewards, batch.costs])
    return signals + discount * batch.goes_on[:, None] * values


def critic_loss(said: Float[Tensor, "B m s"], wanted: Float[Tensor, "B s"]) -> Float[Tensor, ""]:
    """Mean over the batch of (Q - wanted)^2, summed over networks and signals; L_Q of [IQL]."""
    return (said - wanted[:, None]).square().sum(dim=(-2, -1)).mean()
