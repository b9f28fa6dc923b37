"""Policies that make a log worth learning from: noise and changes of mind that differ from episode to episode."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int

from safehold.core.policy import Actor, Policy
from safehold.learn.augmented_policy import AugmentedPolicy, LearntPolicy
from safehold.learn.squashed_policy import NoisyPolicy


@dataclass(frozen=True, slots=True)
class NoiseSpread:
    """One mean, but the standard deviation of the noise is drawn for each episode, uniform in [0, largest_sd].

    `largest_sd` is in action units, the same for every action entry.
    """

    policy: LearntPolicy
    largest_sd: float

    def start(self, n: int, rng: np.random.Generator) -> Actor:
        """An actor for n episodes, each with a noise level of its own."""
        levels = rng.uniform(0.0, self.largest_sd, n).astype(np.float32)
        if isinstance(self.policy, AugmentedPolicy):
            return self.policy.remembering(NoiseSpreadActor(self.policy.inner, levels, rng), n)
        return NoiseSpreadActor(self.policy, levels, rng)


class NoiseSpreadActor:
    """A NoiseSpread living through n episodes."""

    def __init__(self, policy: NoisyPolicy, sd: Float32[np.ndarray, "n"], rng: np.random.Generator) -> None:
        self._policy = policy
        self._sd = sd[:, None]
        self._rng = rng

    def act(self, observations: Float[np.ndarray, "n o"]) -> Float[np.ndarray, "n a"]:
        """The mean, plus each episode's noise, inside the bounds."""
        means = self._policy.means(observations)
        noise = self._rng.standard_normal(means.shape, dtype=np.float32)
        return self._policy.action.clip(means + self._sd * noise)

    def observe(
        self, actions: Float[np.ndarray, "n a"], rewards: Float[np.ndarray, "n"], costs: Float[np.ndarray, "n k"]
    ) -> None:
        """Nothing: the next action depends on the next observation alone."""


@dataclass(frozen=True, slots=True)
class Switch:
    """One policy up to a step drawn for each episode, uniform from `earliest` to `latest`; from then on another.

    Between a careful and a reckless policy this yields every mixture of their returns, which no single policy that
    cannot see the clock does.
    """

    before: Policy
    after: Policy
    earliest: int
    latest: int

    def start(self, n: int, rng: np.random.Generator) -> "SwitchActor":
        """An actor for n episodes, each with a step of its own."""
        steps = rng.integers(self.earliest, self.latest, size=n, endpoint=True)
        return SwitchActor(self.before.start(n, rng), self.after.start(n, rng), steps)


class SwitchActor:
    """A Switch living through n episodes; both actors see every observation."""

    def __init__(self, before: Actor, after: Actor, steps: Int[np.ndarray, "n"]) -> None:
        self._before = before
        self._after = after
        self._steps = steps[:, None]
        self._now = 0

    def act(self, observations: Float[np.ndarray, "n o"]) -> Float[np.ndarray, "n a"]:
        """Each episode's action, by the policy whose turn it is."""
        before, after = self._before.act(observations), self._after.act(observations)
        return np.where(self._now < self._steps, before, after)

    def observe(
        self, actions: Float[np.ndarray, "n a"], rewards: Float[np.ndarray, "n"], costs: Float[np.ndarray, "n k"]
    ) -> None:
        """One more step is over."""
        self._before.observe(actions, rewards, costs)
        self._after.observe(actions, rewards, costs)
        self._now += 1
