"""Policy families with a dial for reward and one for each named cost: what methods conditioned on returns learn.

To-go values start at the target and fall by what was obtained, in environment units.   [CDT, arXiv 2302.07351]
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Float32
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator
from torch import nn

from safehold.core.config import Config
from safehold.core.errors import DataError, UsageError
from safehold.core.policy import Actor
from safehold.core.spec import TaskSpec
from safehold.core.target import Target
from safehold.data.augment import Augmentation, beyond_frontier
from safehold.data.batches import SequenceBatch, SequenceSampler, even_weights, low_cost_weights
from safehold.data.dataset import OfflineDataset
from safehold.learn.actions import code_of
from safehold.learn.checkpoint import module_tensors, restore_module, take
from safehold.learn.learner import Metrics, State
from safehold.learn.offline.learnt import Learnt, identity, require_identity
from safehold.learn.offline.scales import Feature, Scales
from safehold.learn.optimiser import optimiser_tensors, require_state, restore_optimiser
from safehold.learn.place import HERE, Place
from safehold.nn.randomness import OwnGenerator

OSRL_COST = 70.0
"""OSRL never draws a logged episode that costs this or more."""


class DialConfig(Config):
    """What all such methods are told: how targets enter the network, and which windows of the log are drawn."""

    to_go_features: tuple[Feature, ...] = ("value",)
    """How a to-go value enters the network; [CDT] knows "value" alone."""
    scaling: Literal["data", "osrl"] = "data"
    """What observations and to-go values are scaled by: "data" the log's; "osrl" OSRL's constants for every task."""
    sampling: Literal["uniform", "low_cost", "even", "osrl"] = "low_cost"
    """How episodes are drawn: "uniform" all alike; "low_cost" the cheaper the likelier, down to a floor; "even" so that
    all regions of the reward-cost plane that the data fills are seen alike; "osrl" as max(0, 70 - cost)."""
    sampling_floor: float = Field(default=0.05, gt=0.0, le=1.0)
    """For "low_cost": the weight of the costliest episode, as a share of that of a free one."""
    sampling_bins: PositiveInt = 10
    """For "even": parts that the range of each return is cut into."""
    augmentation: float = Field(default=0.0, ge=0.0, le=1.0)
    """Further episodes with returns above the logged frontier, as a share of the logged ones; OSRL takes 0.2. A target
    beyond what was ever obtained is a promise that the data cannot keep: none by default."""
    frontier_degree: NonNegativeInt = 1
    """Degree of the polynomial R(C) that is fitted to the frontier."""
    frontier_margin: NonNegativeFloat = 1.0
    """Least distance of a new reward return from the frontier, in reward units."""
    frontier_top: float | None = None
    """Largest new reward return; the best logged one if not said."""
    frontier_slack: NonNegativeFloat = 100.0
    """By how much the reward return of an episode that stands in for another one may be smaller."""
    batch_size: PositiveInt = 2048
    """Windows in a batch."""
    steps: PositiveInt = 100_000
    """Gradient steps."""

    @model_validator(mode="after")
    def _features_differ(self) -> "DialConfig":
        if not self.to_go_features or len(set(self.to_go_features)) != len(self.to_go_features):
            raise ValueError("to_go_features must name at least one feature, each once")
        if self.scaling == "osrl" and self.to_go_features != ("value",):
            raise ValueError('scaling "osrl" knows the value of a to-go alone; leave to_go_features at it')
        return self


def scales_of(dataset: OfflineDataset, config: DialConfig, augmentation: Augmentation) -> Scales:
    """What observations and to-go values are scaled by."""
    if config.scaling == "osrl":
        return Scales.osrl(dataset.spec)
    return Scales.fit(dataset, config.to_go_features, augmentation)


def augmented(dataset: OfflineDataset, config: DialConfig, rng: np.random.Generator) -> Augmentation:
    """The further episodes that a configuration asks for.

    Raises:
        UsageError: if the task has several costs, or the log no frontier.
    """
    names = dataset.spec.cost_names
    if config.augmentation == 0.0:
        return Augmentation.none(len(names))
    if len(names) != 1:
        raise UsageError(f"augmentation knows the frontier of one cost, the log has {names}; set augmentation to 0")
    return beyond_frontier(
        dataset.reward_returns,
        dataset.cost_returns[:, 0],
        share=config.augmentation,
        degree=config.frontier_degree,
        margin=config.frontier_margin,
        top=float(dataset.reward_returns.max()) if config.frontier_top is None else config.frontier_top,
        slack=config.frontier_slack,
        rng=rng,
    )


def windows(
    dataset: OfflineDataset, config: DialConfig, context: int, augmentation: Augmentation | None = None
) -> SequenceSampler:
    """The windows of `context` steps that a configuration asks for; augmented episodes weigh by their new returns."""
    rewards, costs, weights = dataset.reward_returns, dataset.cost_returns, None
    if augmentation is not None:
        rewards = np.concatenate([rewards, rewards[augmentation.episodes] + augmentation.reward])
        costs = np.concatenate([costs, costs[augmentation.episodes] + augmentation.costs])
    if config.sampling == "low_cost":
        weights = low_cost_weights(costs, config.sampling_floor)
    elif config.sampling == "osrl":
        weights = np.maximum(0.0, OSRL_COST - costs.max(axis=1))
    elif config.sampling == "even":
        weights = even_weights(np.column_stack([rewards, costs]), config.sampling_bins)
    return SequenceSampler(dataset, config.batch_size, context, weights, augmentation)


ConfigOf = TypeVar("ConfigOf", bound=DialConfig)
NetworkOf = TypeVar("NetworkOf", bound=nn.Module)


class DialFamily(Learnt[ConfigOf, Scales, NetworkOf]):
    """Policies that aim at a target: the reward return, then each named cost's return, in environment units."""

    @classmethod
    def scales_of(cls, plain: Mapping[str, Any], spec: TaskSpec, config: ConfigOf) -> Scales:
        """The scales that `Scales.to_json` wrote."""
        return Scales.of_json(plain, spec, config.to_go_features)

    @abstractmethod
    def start(self, target: Target, n: int) -> Actor:
        """An actor for n fresh episodes that aims at the target."""

    @property
    def target_names(self) -> tuple[str, ...]:
        """("reward", *cost names)."""
        return ("reward", *self.spec.cost_names)

    def at(self, target: Target) -> "DialPolicy":
        """The policy that aims at this target.

        Raises:
            UsageError: if the target has another length, is not finite, or asks for a negative cost.
        """
        if len(target) != len(self.target_names) or not np.isfinite(target).all() or min(target[1:]) < 0.0:
            raise UsageError(f"target {target}: expected finite {self.target_names}, costs >= 0, in environment units")
        return DialPolicy(self, tuple(float(value) for value in target))


@dataclass(frozen=True, slots=True)
class DialPolicy:
    """A family at one target; acts without noise."""

    family: DialFamily[Any, Any]
    target: Target

    def start(self, n: int, rng: np.random.Generator) -> Actor:  # noqa: ARG002 - it draws nothing
        """An actor for n fresh episodes."""
        return self.family.start(self.target, n)


class ToGo:
    """What n episodes in lockstep still have to obtain, of reward and of each cost, to come out at the target."""

    def __init__(self, spec: TaskSpec, scales: Scales, target: Target, n: int) -> None:
        self._spec = spec
        self._scales = scales
        self._reward = np.full(n, target[0])
        self._costs = np.tile(np.array(target[1:]), (n, 1))
        self.step = 0

    def features(self) -> list[Float32[np.ndarray, "n f"]]:
        """Of the reward, then of each cost, in the network's units.

        Raises:
            UsageError: if the episode is longer than the task's horizon.
        """
        if self.step >= self._spec.horizon:
            raise UsageError(
                f"step {self.step} of an episode of {self._spec.env_id}, whose horizon is {self._spec.horizon}; the "
                "policy was not trained beyond it"
            )
        steps = np.full(len(self._reward), self.step)
        return self._scales.to_go(self._reward, self._costs, steps)

    def take_off(self, rewards: Float[np.ndarray, "n"], costs: Float[np.ndarray, "n k"]) -> None:
        """One step's reward and costs were obtained."""
        self._reward = self._reward - rewards
        self._costs = self._costs - costs
        self.step += 1

    def lower(self, costs: Float[np.ndarray, "n k"]) -> None:
        """No episode is to cost more than this from here on."""
        self._costs = np.minimum(self._costs, costs)


class DialLearner(ABC, Generic[ConfigOf, NetworkOf]):
    """What the learners of such methods share: a network, its optimiser, a generator, and how they are resumed."""

    family: type[DialFamily[ConfigOf, NetworkOf]]
    """What comes out; its network is what is trained."""

    def __init__(self, spec: TaskSpec, scales: Scales, config: ConfigOf, seed: int, place: Place = HERE) -> None:
        self._place = place
        self._spec = spec
        self._code = code_of(spec.action)
        self._scales = scales
        self._config = config
        self._generator = OwnGenerator(seed)
        with self._generator.drawing():
            self._network = self.family.build(spec, config)
        self._network.to(place.device)
        self._optimiser = self._make_optimiser()
        self._updates = 0

    @abstractmethod
    def _make_optimiser(self) -> torch.optim.Optimizer:
        """The optimiser of the network's parameters."""

    @abstractmethod
    def update(self, batch: SequenceBatch) -> Metrics:
        """One step of the optimiser."""

    def policy(self) -> DialFamily[ConfigOf, NetworkOf]:
        """The family so far."""
        return self.family(self._spec, self._config, self._scales, copy.deepcopy(self._network).cpu())

    def state(self) -> State:
        """Weights, moments and the generator of dropout."""
        tensors = {
            **module_tensors(self._network, "model"),
            **{f"optimiser.{name}": value for name, value in optimiser_tensors(self._optimiser).items()},
            "generator": self._generator.state(),
        }
        tensors = {name: value.cpu() for name, value in tensors.items()}
        return State(tensors, {"updates": self._updates, **identity(self._spec, self._config, self._scales)})

    def restore(self, state: State) -> None:
        """Goes on from saved weights, moments and generator."""
        require_identity(state.meta, self._spec, self._config, self._scales)
        updates, moments = int(state.meta["updates"]), take(state.tensors, "optimiser")
        require_state(moments, updates)
        if "generator" not in state.tensors:
            raise DataError("the checkpoint holds no generator state; training cannot go on from it bit for bit")
        restore_module(self._network, state.tensors, "model")
        restore_optimiser(self._optimiser, moments)
        self._generator.restore(state.tensors["generator"])
        self._updates = updates


def as_tensor(array: np.ndarray) -> torch.Tensor:
    """A float32 tensor that shares memory where it can."""
    return torch.from_numpy(array.astype(np.float32, copy=False))
