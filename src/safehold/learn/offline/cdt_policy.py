"""Policies with a dial for reward and one for each cost: what a constrained decision transformer has learnt."""

from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from safehold.core.spec import TaskSpec
from safehold.core.target import Target
from safehold.learn.actions import code_of
from safehold.learn.offline.cdt_network import CDTConfig, CDTNetwork
from safehold.learn.offline.dial import DialConfig, DialFamily, ToGo, as_tensor
from safehold.nn.tensors import to_array
from safehold.nn.transformer import SlidingWindow

KIND = "cdt"
"""What its checkpoints call themselves."""


class CDTPolicyFamily(DialFamily[CDTConfig, CDTNetwork]):
    """A constrained decision transformer; acts by the mean of the action's distribution, or by the likeliest action."""

    kind: ClassVar[str] = KIND
    config_type: ClassVar[type[DialConfig]] = CDTConfig

    @classmethod
    def build(cls, spec: TaskSpec, config: CDTConfig) -> CDTNetwork:
        """A network with fresh weights."""
        return CDTNetwork(spec, config)

    def start(self, target: Target, n: int) -> "CDTActor":
        """An actor for n fresh episodes."""
        return CDTActor(self, target, n)


class CDTActor:
    """n episodes in lockstep: what remains of each target, and the window of the last K steps."""

    def __init__(self, family: CDTPolicyFamily, target: Target, n: int) -> None:
        self._family = family
        self._to_go = ToGo(family.spec, family.scales, target, n)
        self._code = code_of(family.spec.action)
        # the current step has no action yet, so that its tokens are one fewer
        self._capacity = family.config.context * family.network.tokens_per_step - 1
        self._window = SlidingWindow(family.network.transformer, n, self._capacity + 1)
        self._done: Tensor | None = None  # the last action; its token enters the window with those of the next step

    @torch.inference_mode()
    def act(self, observations: Float[np.ndarray, "n o"]) -> Float[np.ndarray, "n a"]:
        """The mean action, moved inside its bounds; of discrete ones the likeliest.

        Raises:
            UsageError: if the episode is longer than the task's horizon.
        """
        family, network, step = self._family, self._family.network, self._to_go.step
        embeddings = (network.embed_reward_to_go, *network.embed_cost_to_go)
        tokens = [embed(as_tensor(values)) for embed, values in zip(embeddings, self._to_go.features(), strict=True)]
        tokens.append(network.embed_observation(as_tensor(family.scales.observations.apply(observations))))
        steps = [step] * len(tokens)
        if self._done is not None:
            tokens.insert(0, network.embed_action(self._done))
            steps.insert(0, step - 1)
        placed = network.placed(torch.stack(tokens, dim=1).unsqueeze(2), torch.tensor([steps]))
        self._window.append(placed.squeeze(2))
        self._window.forget(max(0, len(self._window) - self._capacity))
        return self._code.decode(to_array(network.action_mean(self._window.newest())))

    def observe(
        self, actions: Float[np.ndarray, "n a"], rewards: Float[np.ndarray, "n"], costs: Float[np.ndarray, "n k"]
    ) -> None:
        """Remembers the action and takes what was obtained off what is still to go."""
        self._done = as_tensor(self._code.encode(actions))
        self._to_go.take_off(rewards, costs)

    def lower(self, to_go: Float[np.ndarray, "n k"]) -> None:
        """Aims at no more than these costs from here on."""
        self._to_go.lower(to_go)
