"""Policies with a dial for reward and one for each cost: what a constrained decision transformer has learnt.

To-go values start at the target and fall by what was obtained, in environment units.   [CDT, arXiv 2302.07351]
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from safehold.core.errors import DataError, UsageError
from safehold.core.spec import TaskSpec
from safehold.core.target import Target
from safehold.learn.checkpoint import load_checkpoint, module_tensors, restore_module, save_checkpoint
from safehold.learn.offline.cdt_network import CDTConfig, CDTNetwork, Scales, box_of, middle_and_half
from safehold.nn.randomness import OwnGenerator
from safehold.nn.tensors import to_array
from safehold.nn.transformer import SlidingWindow

KIND = "cdt"
"""What its checkpoints call themselves."""


class CDTPolicyFamily:
    """Policies that aim at a target: the reward return, then each named cost's return, in environment units."""

    def __init__(self, spec: TaskSpec, config: CDTConfig, scales: Scales, network: CDTNetwork) -> None:
        self.spec = spec
        self.config = config
        self.scales = scales
        self.network = network.eval().requires_grad_(requires_grad=False)

    @property
    def target_names(self) -> tuple[str, ...]:
        """("reward", *cost names)."""
        return ("reward", *self.spec.cost_names)

    def at(self, target: Target) -> "CDTPolicy":
        """The policy that aims at this target.

        Raises:
            UsageError: if the target has another length, is not finite, or asks for a negative cost.
        """
        if len(target) != len(self.target_names) or not np.isfinite(target).all() or min(target[1:]) < 0.0:
            raise UsageError(f"target {target}: expected finite {self.target_names}, costs >= 0, in environment units")
        return CDTPolicy(self, tuple(float(value) for value in target))

    def save(self, directory: Path, provenance: Mapping[str, Any]) -> str:
        """Writes the family as a checkpoint and returns its digest; `provenance` says where it came from."""
        return save_checkpoint(
            directory,
            kind=KIND,
            tensors=module_tensors(self.network, "model"),
            meta={**identity(self.spec, self.config, self.scales), "provenance": dict(provenance)},
        )

    @staticmethod
    def load(directory: Path, *, expected_digest: str | None = None) -> "CDTPolicyFamily":
        """The family that `save` wrote.

        Raises:
            IntegrityError: if bytes changed, or the checkpoint is not the pinned one.
            DataError: if it is of another method, or does not fit together.
        """
        checkpoint = load_checkpoint(directory, expected_digest=expected_digest)
        if checkpoint.kind != KIND:
            raise DataError(f"{directory}: expected a checkpoint of kind {KIND!r}, this is {checkpoint.kind!r}")
        try:
            spec = TaskSpec.of_json(checkpoint.meta["spec"])
            config = CDTConfig.model_validate(checkpoint.meta["config"])
            scales = Scales.of_json(checkpoint.meta["scales"], spec, config)
        except (KeyError, ValueError) as error:
            raise DataError(f"{directory}: {error}") from error
        with OwnGenerator(0).drawing():  # every weight is replaced below
            network = CDTNetwork(spec, config)
        restore_module(network, checkpoint.tensors, "model")
        return CDTPolicyFamily(spec, config, scales, network)


@dataclass(frozen=True, slots=True)
class CDTPolicy:
    """A family at one target; acts by the mean of the action's distribution."""

    family: CDTPolicyFamily
    target: Target

    def start(self, n: int, rng: np.random.Generator) -> "CDTActor":  # noqa: ARG002 - it draws nothing
        """An actor for n fresh episodes."""
        return CDTActor(self.family, self.target, n)


class CDTActor:
    """n episodes in lockstep: what remains of each target, and the window of the last K steps."""

    def __init__(self, family: CDTPolicyFamily, target: Target, n: int) -> None:
        self._family = family
        self._reward_to_go = np.full(n, target[0])
        self._cost_to_go = np.tile(np.array(target[1:]), (n, 1))
        self._step = 0
        self._middle, self._half = middle_and_half(box_of(family.spec))
        # the current step has no action yet, so that its tokens are one fewer
        self._capacity = family.config.context * family.network.tokens_per_step - 1
        self._window = SlidingWindow(family.network.transformer, n, self._capacity + 1)

    @torch.inference_mode()
    def act(self, observations: Float[np.ndarray, "n o"]) -> Float[np.ndarray, "n a"]:
        """The mean action, moved inside its bounds.

        Raises:
            UsageError: if the episode is longer than the task's horizon.
        """
        family, network, steps = self._family, self._family.network, np.full(len(observations), self._step)
        if self._step >= family.spec.horizon:
            raise UsageError(
                f"step {self._step} of an episode of {family.spec.env_id}, whose horizon is {family.spec.horizon}; the "
                "policy was not trained beyond it"
            )
        scales = family.scales
        tokens = [network.embed_reward_to_go(_tensor(scales.reward_to_go.encode(self._reward_to_go, steps)))]
        for i, embed in enumerate(network.embed_cost_to_go):
            tokens.append(embed(_tensor(scales.cost_to_go[i].encode(self._cost_to_go[:, i], steps))))
        tokens.append(network.embed_observation(_tensor(scales.observations.apply(observations))))
        self._append(torch.stack(tokens, dim=1))
        self._window.forget(max(0, len(self._window) - self._capacity))
        mean = network.action_mean(self._window.newest())
        return box_of(family.spec).clip(to_array(mean) * self._half + self._middle)

    @torch.inference_mode()
    def observe(
        self, actions: Float[np.ndarray, "n a"], rewards: Float[np.ndarray, "n"], costs: Float[np.ndarray, "n k"]
    ) -> None:
        """Remembers the action and takes what was obtained off what is still to go."""
        tokens = self._family.network.embed_action(_tensor((actions - self._middle) / self._half))
        self._append(tokens.unsqueeze(1))
        self._reward_to_go = self._reward_to_go - rewards
        self._cost_to_go = self._cost_to_go - costs
        self._step += 1

    def _append(self, tokens: Float[Tensor, "n s d"]) -> None:
        """Adds tokens of the current step."""
        place = torch.tensor([[self._step]])
        self._window.append(self._family.network.placed(tokens.unsqueeze(1), place).squeeze(1))


def identity(spec: TaskSpec, config: CDTConfig, scales: Scales) -> dict[str, Any]:
    """What makes weights mean something: the task, the configuration, the scales."""
    return {"spec": spec.to_json(), "config": config.to_json(), "scales": scales.to_json()}


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.float32, copy=False))
