"""The guide: what is learnt without a reward in a source task, and acts in a target task through an abstraction."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32
from pydantic import PositiveFloat
from torch import Tensor, nn

from safehold.core.config import Config
from safehold.core.errors import DataError
from safehold.core.policy import Actor, Memoryless
from safehold.core.spec import TaskSpec
from safehold.learn.actions import box_of
from safehold.learn.checkpoint import load_checkpoint, save_checkpoint
from safehold.learn.guided.abstraction import Abstraction
from safehold.learn.multiplier import MultiplierConfig
from safehold.learn.online.sac import SACConfig
from safehold.learn.online.sac_lag import SACLagConfig
from safehold.learn.online.zoo import arrays_of, described, policy_of
from safehold.learn.squashed_policy import SquashedPolicy
from safehold.nn.actors import TanhGaussianActor
from safehold.nn.distributions import TanhGaussian
from safehold.nn.mlp import linear_layers
from safehold.nn.tensors import to_array, to_tensor, torch_generator

KIND = "guide"
"""What a guide's checkpoint calls itself."""

LEAST_LOG_DENSITY = -20.0
"""Of an action under the guide, in nats: where it would never go is this bad and no worse."""

SAC_LAG = SACLagConfig(
    sac=SACConfig(initial_temperature=1.0, temperature="fixed"), multiplier=MultiplierConfig(initial=0.693)
)
"""SAC-Lagrangian as SaGui has it for its guide: a fixed temperature, and a multiplier that begins at softplus(0)."""


class GuideConfig(Config):
    """A guide, learnt in a task that has no reward: it is paid for moving, under a limit on cost."""

    target: str = "toy/PointRobot"
    """The task that the guide is for; its observations hold those of the task that it learns in."""
    distance: Literal["displacement", "none"] = "displacement"
    """What a step is paid: the metres covered, or nothing (entropy alone)."""
    arena: PositiveFloat | None = None
    """Half the width of the square around the origin, in metres, whose edge ends an episode; no bound if not said."""
    sac_lag: SACLagConfig = SAC_LAG
    """How it learns."""


@dataclass(frozen=True, slots=True)
class Guide:
    """A policy of a source task in a target's observations: pi_g(a | Xi(s)).

    A recovery policy for a guard, too: it never looks at what the target's task adds.

    Raises:
        DataError: if the policy is of other observations than the abstraction yields.
    """

    policy: SquashedPolicy
    abstraction: Abstraction

    def __post_init__(self) -> None:
        wanted = len(self.policy.weights[0])
        if wanted != len(self.abstraction.columns):
            raise DataError(
                f"the guide's policy sees {wanted} entries, the abstraction keeps {len(self.abstraction.columns)}; "
                "they are of different tasks"
            )

    def start(self, n: int, rng: np.random.Generator) -> Actor:  # noqa: ARG002 - any number of rows is answered
        """An actor for n episodes of the target; it has no memory, only `rng`."""
        return Memoryless(lambda observations: self.draw(observations, rng))

    def draw(self, observations: Float[np.ndarray, "n o"], rng: np.random.Generator) -> Float32[np.ndarray, "n a"]:
        """Actions with noise, inside their bounds."""
        return self.policy.draw(self.abstraction(observations), rng)

    def without_noise(self) -> "Guide":
        """The guide that acts by the tanh of its mean."""
        return replace(self, policy=self.policy.without_noise())

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what it is: the abstraction, the policy's description, and every weight."""
        said = json.dumps([self.abstraction.to_json(), described(self.policy)], sort_keys=True)
        found = hashlib.sha256(said.encode())
        for name, array in sorted(arrays_of(self.policy).items()):
            found.update(name.encode())
            found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()


class GuideNetwork(nn.Module):
    """A guide's densities, for gradients of others; it does not learn."""

    def __init__(self, guide: Guide) -> None:
        super().__init__()
        self._abstraction = guide.abstraction
        self._actor = actor_of(guide.policy).requires_grad_(requires_grad=False)

    def log_density(self, observations: Float[Tensor, "B o"], actions: Float[Tensor, "B a"]) -> Float[Tensor, "B"]:
        """Of actions in [-1, 1], bounds included, under pi_g(. | Xi(s)), in nats; at least `LEAST_LOG_DENSITY`."""
        distribution: TanhGaussian = self._actor(self._abstraction(observations))
        return distribution.log_density(actions).clamp(min=LEAST_LOG_DENSITY)


def actor_of(policy: SquashedPolicy, abstraction: Abstraction | None = None) -> TanhGaussianActor:
    """A network with a frozen policy's weights: the inverse of `freeze_squashed`.

    With an abstraction it is a network of the target's observations that acts as the policy does, whatever the entries
    are that the abstraction drops: their weights are 0.
    """
    first = policy.weights[0]
    if abstraction is not None:
        widened = np.zeros((abstraction.size, first.shape[1]), dtype=np.float32)
        widened[list(abstraction.columns)] = first
        first = widened
    weights = (first, *policy.weights[1:])
    hidden = [len(bias) for bias in policy.biases[:-1]]
    actor = TanhGaussianActor(
        len(first), policy.action.size, hidden, log_sd_range=policy.log_sd_range, generator=torch_generator(0)
    )
    with torch.no_grad():
        for layer, weight, bias in zip(linear_layers(actor.perceptron), weights, policy.biases, strict=True):
            layer.weight.copy_(to_tensor(weight).T)
            layer.bias.copy_(to_tensor(bias))
    return actor


def save_guide(directory: Path, guide: Guide, target: TaskSpec, provenance: Mapping[str, Any]) -> str:
    """Writes a guide for a target task as a checkpoint, and returns its digest.

    Raises:
        UsageError: if the directory exists.
        DataError: if the guide is not for this task.
    """
    check_fits(guide, target)
    tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays_of(guide.policy).items()}
    meta = {
        "spec": target.to_json(),
        "abstraction": guide.abstraction.to_json(),
        "policy": described(guide.policy),
        "provenance": dict(provenance),
    }
    return save_checkpoint(directory, kind=KIND, tensors=tensors, meta=meta)


def load_guide(directory: Path, *, expected_digest: str | None = None) -> Guide:
    """Reads a guide, sums checked.

    Raises:
        IntegrityError: if the bytes are not those that were written.
        DataError: if the checkpoint is of another kind, or is incomplete.
    """
    checkpoint = load_checkpoint(directory, expected_digest=expected_digest)
    if checkpoint.kind != KIND:
        raise DataError(
            f"{directory} holds a {checkpoint.kind!r}, not a guide; name OUT/guide, as `safehold explore "
            "guide` leaves it"
        )
    try:
        policy = policy_of(checkpoint.meta["policy"], lambda name: to_array(checkpoint.tensors[name]))
        abstraction = Abstraction.of_json(checkpoint.meta["abstraction"])
    except (KeyError, TypeError) as error:
        raise DataError(f"{directory}: this guide is incomplete ({error!r}); train it again") from error
    if not isinstance(policy, SquashedPolicy):
        raise DataError(f"{directory}: a guide is a squashed policy, this is a {type(policy).__name__}")
    return Guide(policy, abstraction)


def check_fits(guide: Guide, target: TaskSpec) -> None:
    """Refuses a guide for another task.

    Raises:
        DataError: if observations or actions are not those of the task.
    """
    if guide.abstraction.size != target.observation_size or guide.policy.action != box_of(target):
        raise DataError(
            f"the guide is for observations of {guide.abstraction.size} entries and the actions {guide.policy.action}, "
            f"{target.env_id} has {target.observation_size} and {target.action}; train a guide for this task"
        )
