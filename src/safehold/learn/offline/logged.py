"""What a policy would do at logged states, after the history that was logged, aiming at any target.

For a policy with a memory this is an approximation when its target is not what the episode obtained: the history is
that of whoever flew, while what is still to go is the policy's own target less what was logged until then.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from safehold.core.errors import UsageError
from safehold.core.policy import Policy, PolicyFamily
from safehold.data.dataset import OfflineDataset
from safehold.learn.actions import box_of, middle_and_half
from safehold.learn.gaussian_policy import GaussianPolicy
from safehold.learn.offline.actor_critic import ActorPolicy
from safehold.learn.offline.cdt_network import Inputs
from safehold.learn.offline.cdt_policy import CDTPolicyFamily
from safehold.learn.offline.dial import as_tensor
from safehold.learn.offline.lspc import LSPCPolicy
from safehold.learn.offline.rvs import RvSPolicyFamily
from safehold.learn.offline.scales import Scales
from safehold.nn.tensors import to_array


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """B histories of at most K steps, each up to a state whose action is asked for; zeros behind it.

    `newest` is the place of that state in its window; `actions` are those before it. `to_go` is what was still to be
    obtained at each step, of the reward and of each cost, in environment units; it has no column for a policy without
    a target. `steps` counts from the start of the episode.
    """

    observations: Float[np.ndarray, "B K o"]
    actions: Float[np.ndarray, "B K a"]
    to_go: Float[np.ndarray, "B K d"]
    steps: Int[np.ndarray, "B K"]
    newest: Int[np.ndarray, "B"]

    def state(self) -> Float[np.ndarray, "B o"]:
        """The observation at which the action is asked for."""
        return np.asarray(self.observations[np.arange(len(self.newest)), self.newest])


class History:
    """All N + E states of a log, one more an episode than it has steps, and how they came about."""

    def __init__(self, dataset: OfflineDataset) -> None:
        self._dataset = dataset
        states = dataset.lengths + 1
        self.first: Int[np.ndarray, E] = dataset.offsets[:-1] + np.arange(len(dataset))
        self.episode: Int[np.ndarray, states] = np.repeat(np.arange(len(dataset)), states)
        self.step: Int[np.ndarray, states] = np.arange(len(self.episode)) - np.repeat(self.first, states)
        signals = np.column_stack([dataset.rewards, dataset.costs])
        before = np.concatenate([np.zeros((1, signals.shape[1])), np.cumsum(signals, axis=0)])
        # before each state: all that was obtained up to it, less all that was obtained before its episode
        self.obtained: Float[np.ndarray, "states d"] = (
            before[np.arange(len(self.episode)) - self.episode] - before[dataset.offsets[:-1]][self.episode]
        )
        self.returns: Float[np.ndarray, "E d"] = np.column_stack([dataset.reward_returns, dataset.cost_returns])

    def windows(self, states: Int[np.ndarray, "B"], targets: Float[np.ndarray, "B d"], context: int) -> Windows:
        """The last `context` steps up to some states, under some targets; d is 0 for a policy without one."""
        data, places = self._dataset, np.arange(context)
        newest = np.minimum(self.step[states], context - 1)
        shown: Bool[np.ndarray, "B K"] = places <= newest[:, None]
        rows = np.where(shown, (states - newest)[:, None] + places, states[:, None])
        flat = np.minimum(rows - self.episode[states][:, None], data.n_steps - 1)
        past = places < newest[:, None]
        to_go = targets[:, None, :] - self.obtained[rows][:, :, : targets.shape[1]]
        return Windows(
            observations=data.observations[rows] * shown[:, :, None].astype(np.float32),
            actions=data.actions[flat] * past[:, :, None].astype(np.float32),
            to_go=to_go * shown[:, :, None],
            steps=np.where(shown, self.step[rows], 0),
            newest=newest,
        )


@dataclass(frozen=True, slots=True)
class Answers:
    """Mean of the action at B states, and the logarithm of its standard deviation, None where only the mean was
    learnt; in environment units, not yet moved inside the bounds."""  # noqa: D205, D209

    mean: Float[np.ndarray, "B a"]
    log_sd: Float[np.ndarray, "B a"] | None


@runtime_checkable
class Answering(Protocol):
    """A policy that can be asked at logged states."""

    context: int
    """Steps of history that it looks at."""
    targets: int
    """Entries of its target; 0 if it has none."""

    def answers(self, windows: Windows) -> Answers:
        """Its action at the newest state of each window."""
        ...

    def acts(self, windows: Windows, rng: np.random.Generator) -> Float[np.ndarray, "B a"]:
        """What it would execute there: with noise if it acts with noise, inside the bounds."""
        ...

    def asked(self, windows: Windows) -> Float[np.ndarray, "B f"]:
        """What is still to go at the newest state, as the policy sees it; no column if it has no target."""
        ...


def answering(policy: Policy | PolicyFamily) -> Answering:
    """A trained policy as one that can be asked at logged states.

    Raises:
        UsageError: if it is of a kind that cannot be.
    """
    if isinstance(policy, GaussianPolicy):
        return ClonedAnswers(policy)
    if isinstance(policy, CDTPolicyFamily):
        return CDTAnswers(policy)
    if isinstance(policy, RvSPolicyFamily):
        return RvSAnswers(policy)
    if isinstance(policy, ActorPolicy | LSPCPolicy):
        return ActorAnswers(policy)
    raise UsageError(
        f"a {type(policy).__name__} cannot be asked at logged states; policies of `safehold train` can (a family with "
        "a dial as a whole, not at one target)"
    )


class ClonedAnswers:
    """A policy of the observation alone."""

    context = 1
    targets = 0

    def __init__(self, policy: GaussianPolicy) -> None:
        self._policy = policy

    def answers(self, windows: Windows) -> Answers:
        """Mean and noise of the policy."""
        mean = self._policy.means(windows.state())
        noisy = bool((self._policy.sd > 0.0).all())
        return Answers(mean, np.broadcast_to(np.log(self._policy.sd), mean.shape) if noisy else None)

    def acts(self, windows: Windows, rng: np.random.Generator) -> Float[np.ndarray, "B a"]:
        """An action drawn as the policy draws it."""
        return self._policy.action.clip(self._policy.draw(windows.state(), rng))

    def asked(self, windows: Windows) -> Float[np.ndarray, "B f"]:
        """Nothing: it has no target."""
        return np.zeros((len(windows.newest), 0), dtype=np.float32)


class ActorAnswers:
    """A policy of the observation alone that knows no more of its distribution than how to draw from it."""

    context = 1
    targets = 0

    def __init__(self, policy: ActorPolicy[Any, Any] | LSPCPolicy) -> None:
        self._policy = policy

    def answers(self, windows: Windows) -> Answers:
        """Its action; if it draws, one drawn from the same seed every time."""
        return Answers(self._policy.acts(windows.state(), np.random.default_rng(0)), None)

    def acts(self, windows: Windows, rng: np.random.Generator) -> Float[np.ndarray, "B a"]:
        """An action as it acts."""
        return self._policy.acts(windows.state(), rng)

    def asked(self, windows: Windows) -> Float[np.ndarray, "B f"]:
        """Nothing: it has no target."""
        return np.zeros((len(windows.newest), 0), dtype=np.float32)


class _DialAnswers:
    """What policies with a dial share: they act by the mean."""

    def __init__(self, family: CDTPolicyFamily | RvSPolicyFamily) -> None:
        self._box = box_of(family.spec)
        self._scales: Scales = family.scales
        self._middle, self._half = middle_and_half(self._box)
        self.targets = len(family.target_names)

    def answers(self, windows: Windows) -> Answers:
        raise NotImplementedError

    def acts(self, windows: Windows, rng: np.random.Generator) -> Float[np.ndarray, "B a"]:  # noqa: ARG002
        """The mean action inside its bounds."""
        return self._box.clip(self.answers(windows).mean)

    def asked(self, windows: Windows) -> Float[np.ndarray, "B f"]:
        """Features of what is still to go, scaled and held in range as the network sees them."""
        rows = np.arange(len(windows.newest))
        to_go, steps = windows.to_go[rows, windows.newest], windows.steps[rows, windows.newest]
        return np.concatenate(self._scales.to_go(to_go[:, 0], to_go[:, 1:], steps), axis=-1)


class RvSAnswers(_DialAnswers):
    """A perceptron with a dial."""

    context = 1

    def __init__(self, family: RvSPolicyFamily) -> None:
        super().__init__(family)
        self._family = family

    @torch.inference_mode()
    def answers(self, windows: Windows) -> Answers:
        """Its action; it was fitted by least squares."""
        seen = as_tensor(self._scales.observations.apply(windows.state()))
        actions = self._family.network(as_tensor(self.asked(windows)), seen)
        return Answers(to_array(actions) * self._half + self._middle, None)


class CDTAnswers(_DialAnswers):
    """A constrained decision transformer."""

    def __init__(self, family: CDTPolicyFamily) -> None:
        super().__init__(family)
        self._family = family
        self.context = family.config.context

    @torch.inference_mode()
    def answers(self, windows: Windows) -> Answers:
        """Its action, and its spread if it was fitted by likelihood."""
        scales, rows = self._scales, torch.arange(len(windows.newest))
        reward, *costs = scales.to_go(windows.to_go[..., 0], windows.to_go[..., 1:], windows.steps)
        said = self._family.network(
            Inputs(
                as_tensor(reward),
                tuple(as_tensor(values) for values in costs),
                as_tensor(scales.observations.apply(windows.observations)),
                as_tensor((windows.actions - self._middle) / self._half),
                torch.from_numpy(windows.steps),
            )
        )
        newest = torch.from_numpy(windows.newest)
        mean = to_array(said.action_mean[rows, newest]) * self._half + self._middle
        if self._family.config.head == "deterministic":
            return Answers(mean, None)
        return Answers(mean, to_array(said.action_log_sd[rows, newest]) + np.log(self._half))
