"""Behaviour cloning: imitate the logged actions, of all episodes or the safe ones. The worked example of a learner."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from safehold.core.config import Config
from safehold.core.errors import DataError, ModelError, UsageError
from safehold.core.policy import Actor, Memoryless
from safehold.core.spec import Box, Discrete, TaskSpec
from safehold.data.batches import TransitionBatch
from safehold.data.dataset import OfflineDataset
from safehold.data.normalise import Normaliser
from safehold.data.select import at_or_under, near_frontier
from safehold.learn.actions import code_of
from safehold.learn.checkpoint import load_checkpoint, module_tensors, restore_module, save_checkpoint, take
from safehold.learn.gaussian_policy import GaussianPolicy, freeze, normalise
from safehold.learn.learner import Metrics, State
from safehold.learn.optimiser import optimiser_tensors, require_state, restore_optimiser
from safehold.nn.distributions import DiagonalGaussian
from safehold.nn.mlp import mlp
from safehold.nn.tensors import to_array, to_tensor, torch_generator

KIND = "bc"


class BCConfig(Config):
    """Behaviour cloning."""

    hidden: tuple[PositiveInt, ...] = (256, 256)
    """Sizes of the hidden layers."""
    head: Literal["deterministic", "gaussian"] = "deterministic"
    """What is fitted: "deterministic", the action, by least squares; "gaussian", the action's distribution, by
    likelihood, and the policy then draws from it. Discrete actions, for which it must be "deterministic", are fitted by
    likelihood, and the likeliest acts."""
    limits: dict[str, NonNegativeFloat] = Field(default_factory=dict)
    """Clone only episodes whose return of each cost named here is at most this, in cost units; empty clones all."""
    frontier: PositiveFloat | None = None
    """Clone only episodes no further than this from the frontier of reward over cost returns, as a share of the range
    of rewards; BC-Frontier has 0.2, without limits. The task must have one cost, or one limit name it."""
    learning_rate: PositiveFloat = 1e-3
    """Step size of Adam."""
    batch_size: PositiveInt = 512
    """Steps in a batch."""
    steps: PositiveInt = 100_000
    """Gradient steps."""


PRESETS: Mapping[str, BCConfig] = {
    "published": BCConfig(),
    "small": BCConfig(hidden=(64, 64), batch_size=256, steps=5_000),
    "long": BCConfig(hidden=(64, 64), batch_size=256, steps=15_000),
}
"""`published`: the baseline of [PLS, tables 3-4]; `small`: minutes on a laptop; `long`: three times as many updates."""


def cloned_episodes(dataset: OfflineDataset, config: BCConfig) -> OfflineDataset:
    """The episodes that keep every limit of the configuration and, if it says so, lie near the frontier of the log.

    Raises:
        UsageError: if a limit names a cost that the task does not have.
        DataError: if no episode is left.
    """
    if config.frontier is not None:
        dataset = near_frontier(dataset, config.frontier, next(iter(config.limits), None))
    for name, limit in config.limits.items():
        dataset = at_or_under(dataset, limit, name)
    return dataset


class BCLearner:
    """Fits a network to the logged actions.

    `observations` normalises what the network sees; it is fitted to the data beforehand.
    """

    kind = KIND

    def __init__(self, spec: TaskSpec, observations: Normaliser, config: BCConfig, seed: int) -> None:
        if isinstance(spec.action, Discrete) and config.head != "deterministic":
            raise UsageError(f'{spec.env_id}: its actions are discrete, so head must be "deterministic"')
        self._action, self._code = spec.action, code_of(spec.action)
        self._observations = observations
        self._head = config.head
        sizes = (spec.observation_size, *config.hidden, self._code.size)
        self._network = mlp(sizes, generator=torch_generator(seed), output_gain=0.01)
        # the logarithm of the noise's standard deviation, in action units; unused by the deterministic head
        self._log_sd = nn.Parameter(torch.log(_half_range(_box(spec.action))))
        self._model = nn.ParameterDict({"log_sd": self._log_sd})
        parameters = [*self._network.parameters(), *([self._log_sd] if config.head == "gaussian" else [])]
        self._optimiser = torch.optim.Adam(parameters, lr=config.learning_rate)
        self._updates = 0

    def update(self, batch: TransitionBatch) -> Metrics:
        """One step of Adam.

        Metrics: `loss`, and `action_error`, the root mean square error in action units, or the share of discrete
        actions that are not the likeliest.
        """
        seen = normalise(batch.observations, *_float32(self._observations))
        means = self._network(to_tensor(seen))
        if isinstance(self._action, Discrete):
            actions = to_tensor(self._code.encode(batch.actions))
            loss, error = self._code.loss(means, actions), self._code.error(means.detach(), actions)
        else:
            actions = to_tensor(batch.actions)
            error = squared_error(means.detach(), actions).sqrt()
            gaussian = self._head == "gaussian"
            loss = negative_log_likelihood(means, self._log_sd, actions) if gaussian else squared_error(means, actions)
        if not torch.isfinite(loss):
            raise ModelError(f"update {self._updates + 1}: the loss of behaviour cloning is {loss.item()}")
        self._optimiser.zero_grad()
        torch.autograd.backward(loss)
        self._optimiser.step()
        self._updates += 1
        return {"loss": loss.item(), "action_error": error.item()}

    def policy(self) -> "GaussianPolicy | LikeliestPolicy":
        """The network so far; it explores only if its head is Gaussian."""
        mean, std = _float32(self._observations)
        sd = np.exp(to_array(self._log_sd)) if self._head == "gaussian" else np.zeros(self._code.size)
        box = _box(self._action)
        network = freeze(self._network, observation_mean=mean, observation_sd=std, sd=sd, action=box)
        return LikeliestPolicy(network) if isinstance(self._action, Discrete) else network

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


@dataclass(frozen=True, slots=True)
class LikeliestPolicy:
    """Of discrete actions, that for which the network puts out the most; the first of equals."""

    network: GaussianPolicy

    def start(self, n: int, rng: np.random.Generator) -> Actor:  # noqa: ARG002 - it draws nothing
        """An actor for n episodes, without memory."""
        return Memoryless(lambda seen: np.argmax(self.network.means(seen), axis=1, keepdims=True).astype(np.float32))


def squared_error(means: Float[Tensor, "B a"], actions: Float[Tensor, "B a"]) -> Float[Tensor, ""]:
    """Mean over batch and entries of (mean - action)^2."""
    return (means - actions).square().mean()


def negative_log_likelihood(
    means: Float[Tensor, "B a"], log_sd: Float[Tensor, "a"], actions: Float[Tensor, "B a"]
) -> Float[Tensor, ""]:
    """Mean over the batch of -log N(action; mean, sd^2), summed over entries."""
    return -DiagonalGaussian(means, log_sd).log_density(actions).mean()


def save_policy(
    directory: Path, policy: GaussianPolicy | LikeliestPolicy, spec: TaskSpec, provenance: Mapping[str, Any]
) -> str:
    """Writes a cloned policy as a checkpoint and returns its digest; `provenance` says where it came from."""
    policy = policy.network if isinstance(policy, LikeliestPolicy) else policy
    arrays = {
        **{f"weight.{i}": weight for i, weight in enumerate(policy.weights)},
        **{f"bias.{i}": bias for i, bias in enumerate(policy.biases)},
        "observation_mean": policy.observation_mean,
        "observation_sd": policy.observation_sd,
        "sd": policy.sd,
    }
    meta = {"spec": spec.to_json(), "layers": len(policy.weights), "provenance": dict(provenance)}
    return save_checkpoint(
        directory, kind=KIND, tensors={name: to_tensor(array) for name, array in arrays.items()}, meta=meta
    )


def load_policy(directory: Path, *, expected_digest: str | None = None) -> GaussianPolicy | LikeliestPolicy:
    """The policy that `save_policy` wrote.

    Raises:
        IntegrityError: if bytes changed, or the checkpoint is not the pinned one.
        DataError: if it is of another method, or does not fit together.
    """
    checkpoint = load_checkpoint(directory, expected_digest=expected_digest)
    if checkpoint.kind != KIND:
        raise DataError(f"{directory}: expected a checkpoint of kind {KIND!r}, this is {checkpoint.kind!r}")
    arrays = {name: to_array(tensor) for name, tensor in checkpoint.tensors.items()}
    try:
        spec, layers = TaskSpec.of_json(checkpoint.meta["spec"]), range(int(checkpoint.meta["layers"]))
        policy = GaussianPolicy(
            weights=tuple(arrays.pop(f"weight.{i}") for i in layers),
            biases=tuple(arrays.pop(f"bias.{i}") for i in layers),
            observation_mean=arrays.pop("observation_mean"),
            observation_sd=arrays.pop("observation_sd"),
            sd=arrays.pop("sd"),
            action=_box(spec.action),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{directory}: not a cloned policy: {error}") from error
    _check_chain(directory, policy, spec)
    if arrays:
        raise DataError(f"{directory}: tensors unknown: {sorted(arrays)}")
    return LikeliestPolicy(policy) if isinstance(spec.action, Discrete) else policy


def _check_chain(directory: Path, policy: GaussianPolicy, spec: TaskSpec) -> None:
    """Refuses layers that do not follow from one another, from observations to actions."""
    widths = [spec.observation_size, *(weight.shape[-1] for weight in policy.weights)]
    for i, (weight, bias) in enumerate(zip(policy.weights, policy.biases, strict=True)):
        if weight.shape != (widths[i], widths[i + 1]) or bias.shape != (widths[i + 1],):
            raise DataError(
                f"{directory}: layer {i} is {weight.shape}, its bias {bias.shape}; it does not fit what is before it"
            )
    if policy.observation_mean.shape != (spec.observation_size,) or not (policy.observation_sd > 0.0).all():
        raise DataError(f"{directory}: normalisation needs {spec.observation_size} means and positive deviations")


def _box(action: Box | Discrete) -> Box:
    """The bounds of continuous actions; of discrete ones bounds of what the network puts out, which nobody looks at."""
    return Box((-1.0,) * action.n, (1.0,) * action.n) if isinstance(action, Discrete) else action


def _half_range(action: Box) -> Float[Tensor, "a"]:
    return torch.tensor([(high - low) / 2.0 for low, high in zip(action.low, action.high, strict=True)])


def _float32(normaliser: Normaliser) -> tuple[Float[np.ndarray, "o"], Float[np.ndarray, "o"]]:
    return normaliser.mean.astype(np.float32), normaliser.std.astype(np.float32)
