"""Behaviour cloning: imitate the logged actions, of all episodes or the safe ones. The worked example of a learner."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from safehold.core.config import Config
from safehold.core.errors import DataError, ModelError, UsageError
from safehold.core.spec import Box, TaskSpec
from safehold.data.batches import TransitionBatch
from safehold.data.dataset import OfflineDataset
from safehold.data.normalise import Normaliser
from safehold.learn.checkpoint import module_tensors, restore_module, take
from safehold.learn.gaussian_policy import GaussianPolicy, freeze, normalise
from safehold.learn.learner import Metrics, State
from safehold.learn.optimiser import optimiser_tensors, require_state, restore_optimiser
from safehold.nn.distributions import DiagonalGaussian
from safehold.nn.mlp import mlp
from safehold.nn.randomness import OwnGenerator
from safehold.nn.tensors import to_array, to_tensor, torch_generator


class BCConfig(Config):
    """Behaviour cloning."""

    hidden: tuple[PositiveInt, ...] = (256, 256)
    """Sizes of the hidden layers."""
    head: Literal["deterministic", "gaussian"] = "deterministic"
    """What is fitted: "deterministic", the action, by least squares; "gaussian", the action's distribution, by
    likelihood, and the policy then draws from it."""
    limits: dict[str, NonNegativeFloat] = Field(default_factory=dict)
    """Clone only episodes whose return of each cost named here is at most this, in cost units; empty clones all."""
    learning_rate: PositiveFloat = 1e-3
    """Step size of Adam."""
    batch_size: PositiveInt = 512
    """Steps in a batch."""
    steps: PositiveInt = 100_000
    """Gradient steps."""


PRESETS: Mapping[str, BCConfig] = {
    "published": BCConfig(),
    "small": BCConfig(hidden=(64, 64), batch_size=256, steps=5_000),
}
"""`published`: the baseline of [PLS, tables 3-4]; `small`: minutes on a laptop."""


def safe_episodes(dataset: OfflineDataset, limits: Mapping[str, float]) -> Bool[np.ndarray, "E"]:
    """Which episodes keep every limit.

    Raises:
        UsageError: if a limit names a cost that the task does not have.
    """
    kept = np.ones(len(dataset), dtype=np.bool_)
    for name, limit in limits.items():
        if name not in dataset.spec.cost_names:
            raise UsageError(f"limit on {name!r}: the task {dataset.spec.env_id} has costs {dataset.spec.cost_names}")
        kept &= dataset.cost_returns[:, dataset.spec.cost_names.index(name)] <= limit
    return kept


class BCLearner:
    """Fits a network to the logged actions.

    `observations` normalises what the network sees; it is fitted to the data beforehand.
    """

    kind = "bc"

    def __init__(self, spec: TaskSpec, observations: Normaliser, config: BCConfig, seed: int) -> None:
        if not isinstance(spec.action, Box):
            raise UsageError(f"{spec.env_id}: behaviour cloning is for continuous actions, the task has {spec.action}")
        self._action = spec.action
        self._observations = observations
        self._head = config.head
        sizes = (spec.observation_size, *config.hidden, spec.action.size)
        with OwnGenerator(seed).drawing():  # torch draws weights that `mlp` then replaces
            self._network = mlp(sizes, generator=torch_generator(seed), output_gain=0.01)
        # the logarithm of the noise's standard deviation, in action units; unused by the deterministic head
        self._log_sd = nn.Parameter(torch.log(_half_range(spec.action)))
        self._model = nn.ParameterDict({"log_sd": self._log_sd})
        parameters = [*self._network.parameters(), *([self._log_sd] if config.head == "gaussian" else [])]
        self._optimiser = torch.optim.Adam(parameters, lr=config.learning_rate)
        self._updates = 0

    def update(self, batch: TransitionBatch) -> Metrics:
        """One step of Adam; metrics: `loss`, and `action_error`, the root mean square error in action units."""
        seen = normalise(batch.observations, *_float32(self._observations))
        means = self._network(to_tensor(seen))
        actions = to_tensor(batch.actions)
        if self._head == "gaussian":
            loss = negative_log_likelihood(means, self._log_sd, actions)
        else:
            loss = squared_error(means, actions)
        if not torch.isfinite(loss):
            raise ModelError(f"update {self._updates + 1}: the loss of behaviour cloning is {loss.item()}")
        self._optimiser.zero_grad()
        torch.autograd.backward(loss)
        self._optimiser.step()
        self._updates += 1
        return {"loss": loss.item(), "action_error": squared_error(means.detach(), actions).sqrt().item()}

    def policy(self) -> GaussianPolicy:
        """The network so far; it explores only if its head is Gaussian."""
        mean, std = _float32(self._observations)
        sd = np.exp(to_array(self._log_sd)) if self._head == "gaussian" else np.zeros(self._action.size)
        return freeze(self._network, observation_mean=mean, observation_sd=std, sd=sd, action=self._action)

    def state(self) -> State:
        """Weights and moments."""
        tensors = {
            **module_tensors(self._network, "model.network"),
            **module_tensors(self._model, "model.noise"),
            **{f"optimiser.{name}": value for name, value in optimiser_tensors(self._optimiser).items()},
        }
        return State(tensors, {"updates": self._updates, "observations": self._observations.to_json()})

    def restore(self, state: State) -> None:
        """Goes on from saved weights and moments."""
        updates = int(state.meta["updates"])
        if state.meta["observations"] != self._observations.to_json():
            raise DataError("the saved normalisation of observations is another one; resume with the same dataset")
        moments = take(state.tensors, "optimiser")
        require_state(moments, updates)
        restore_optimiser(self._optimiser, moments)
        restore_module(self._network, state.tensors, "model.network")
        restore_module(self._model, state.tensors, "model.noise")
        self._updates = updates


def squared_error(means: Float[Tensor, "B a"], actions: Float[Tensor, "B a"]) -> Float[Tensor, ""]:
    """Mean over batch and entries of (mean - action)^2."""
    return (means - actions).square().mean()


def negative_log_likelihood(
    means: Float[Tensor, "B a"], log_sd: Float[Tensor, "a"], actions: Float[Tensor, "B a"]
) -> Float[Tensor, ""]:
    """Mean over the batch of -log N(action; mean, sd^2), summed over entries."""
    return -DiagonalGaussian(means, log_sd).log_density(actions).mean()


def _half_range(action: Box) -> Float[Tensor, "a"]:
    return torch.tensor([(high - low) / 2.0 for low, high in zip(action.low, action.high, strict=True)])


def _float32(normaliser: Normaliser) -> tuple[Float[np.ndarray, "o"], Float[np.ndarray, "o"]]:
    return normaliser.mean.astype(np.float32), normaliser.std.astype(np.float32)
