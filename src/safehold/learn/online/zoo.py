"""A zoo: snapshots of policies along several training runs, kept together with what each earned and cost."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from safehold.core.errors import DataError
from safehold.core.spec import Box
from safehold.learn.augmented_policy import AugmentedPolicy, LearntPolicy
from safehold.learn.checkpoint import load_checkpoint, save_checkpoint
from safehold.learn.gaussian_policy import GaussianPolicy
from safehold.learn.squashed_policy import NoisyPolicy, SquashedPolicy
from safehold.nn.tensors import to_array

KIND = "zoo"
"""What a zoo's checkpoint calls itself."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Returns of a few episodes at one noise level: means, and standard deviations between episodes.

    `noise` is the policy's `noise_level`: of a Gaussian one the mean over action entries of the noise's standard
    deviation, in action units; of a squashed one the share of its learnt noise.
    """

    noise: float
    episodes: int
    reward: float
    reward_sd: float
    cost: float
    cost_sd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ZooPolicy:
    """One snapshot. `limit` is None for a run without one; `step` counts environment steps of its training."""

    name: str
    run: str
    limit: float | None
    seed: int
    step: int
    evaluations: tuple[Evaluation, ...]
    policy: LearntPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Zoo:
    """Snapshots for one environment. `provenance` says how they were made; `digest` names every byte of the files."""

    env_id: str
    policies: tuple[ZooPolicy, ...]
    provenance: Mapping[str, Any]
    digest: str


def save_zoo(directory: Path, *, env_id: str, policies: Sequence[ZooPolicy], provenance: Mapping[str, Any]) -> str:
    """Writes a zoo as one checkpoint, and returns its digest.

    Raises:
        UsageError: if the directory exists.
        DataError: if two policies have one name.
    """
    names = [entry.name for entry in policies]
    if len(set(names)) != len(names):
        raise DataError(f"two of the {len(names)} policies have the same name; a zoo tells its policies by name")
    tensors: dict[str, torch.Tensor] = {}
    for entry in policies:
        arrays = arrays_of(entry.policy)
        tensors |= {f"{entry.name}/{name}": torch.from_numpy(array.copy()) for name, array in arrays.items()}
    meta = {
        "env_id": env_id,
        "provenance": dict(provenance),
        "policies": [
            {
                "name": entry.name,
                "run": entry.run,
                "limit": entry.limit,
                "seed": entry.seed,
                "step": entry.step,
                "evaluations": [asdict(evaluation) for evaluation in entry.evaluations],
                **described(entry.policy),
            }
            for entry in policies
        ],
    }
    return save_checkpoint(directory, kind=KIND, tensors=tensors, meta=meta)


def load_zoo(directory: Path) -> Zoo:
    """Reads a zoo, sums checked.

    Raises:
        IntegrityError: if the bytes are not those that were written.
        DataError: if the checkpoint is of another kind, or an entry is incomplete.
    """
    checkpoint = load_checkpoint(directory)
    if checkpoint.kind != KIND:
        raise DataError(f"{directory} holds a {checkpoint.kind!r}, not a zoo of policies")
    try:
        policies = tuple(_entry(described, checkpoint.tensors) for described in checkpoint.meta["policies"])
        return Zoo(
            env_id=str(checkpoint.meta["env_id"]),
            policies=policies,
            provenance=checkpoint.meta["provenance"],
            digest=checkpoint.digest,
        )
    except (KeyError, TypeError) as error:
        raise DataError(f"{directory}: an entry of this zoo is incomplete ({error!r}); build the zoo again") from error


_GAUSSIAN = ("observation_mean", "observation_sd", "sd")


def _inner(policy: LearntPolicy) -> NoisyPolicy:
    """The network that acts."""
    return policy.inner if isinstance(policy, AugmentedPolicy) else policy


def arrays_of(policy: LearntPolicy) -> dict[str, np.ndarray]:
    """All that a policy's network is made of, by name."""
    inner = _inner(policy)
    arrays = {
        **{f"weight.{i}": weight for i, weight in enumerate(inner.weights)},
        **{f"bias.{i}": bias for i, bias in enumerate(inner.biases)},
    }
    if isinstance(inner, GaussianPolicy):
        arrays |= {name: getattr(inner, name) for name in _GAUSSIAN}
    return arrays


def described(policy: LearntPolicy) -> dict[str, Any]:
    """All else of a policy, as JSON; `policy_of` makes the policy of both."""
    inner = _inner(policy)
    return {"action": asdict(inner.action), "layers": len(inner.weights), **_kind(policy)}


def policy_of(described: Mapping[str, Any], array: Callable[[str], np.ndarray]) -> LearntPolicy:
    """The policy of a description and its arrays, by name.

    Raises:
        KeyError: if something is missing.
    """
    layers = range(int(described["layers"]))
    weights = tuple(array(f"weight.{i}") for i in layers)
    biases = tuple(array(f"bias.{i}") for i in layers)
    action = Box(tuple(described["action"]["low"]), tuple(described["action"]["high"]))
    squashed = described.get("squashed")  # absent where there were no such policies yet
    if squashed is not None:
        low, high = squashed["log_sd_range"]
        return SquashedPolicy(weights, biases, (float(low), float(high)), action, float(squashed["noise"]))
    normaliser = {entry: array(entry) for entry in _GAUSSIAN}
    policy = GaussianPolicy(weights=weights, biases=biases, action=action, **normaliser)
    return AugmentedPolicy(policy, int(described["remembers"])) if "remembers" in described else policy


def _kind(policy: LearntPolicy) -> dict[str, Any]:
    """What a description says of a policy that is not Gaussian, or not of the observation alone."""
    if isinstance(policy, AugmentedPolicy):
        return {"remembers": policy.column}
    if isinstance(policy, SquashedPolicy):
        return {"squashed": {"log_sd_range": list(policy.log_sd_range), "noise": policy.noise}}
    return {}


def _entry(described: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> ZooPolicy:
    """One policy from its description and its tensors."""
    name = str(described["name"])
    policy = policy_of(described, lambda entry: to_array(tensors[f"{name}/{entry}"]))
    limit = described["limit"]
    return ZooPolicy(
        name=name,
        run=str(described["run"]),
        limit=None if limit is None else float(limit),
        seed=int(described["seed"]),
        step=int(described["step"]),
        evaluations=tuple(Evaluation(**evaluation) for evaluation in described["evaluations"]),
        policy=policy,
    )
