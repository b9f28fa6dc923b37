"""Fitted Q evaluation: the returns that a policy would obtain, from a log of others, without an environment.

Q(x, a) is what comes from acting a at x and following the policy from then on; it is fitted to
r + gamma Q'(x', pi(x')) with Q' a slowly following copy [Le et al., arXiv 1903.08738, Alg. 3; Paine et al., arXiv
2007.09055]. Reward and every named cost have networks of their own, and each is fitted several times, to episodes
drawn anew [bootstrap of fitted Q evaluation: Hao et al., arXiv 2102.03607].

* The horizon is finite: the step is part of x, and with a discount of 1 a return is a sum to the horizon. What is
  fitted is the mean over the remaining steps, Q / (1 + gamma + ... + gamma^(T - t - 1)). Held in the range of a step's
  logged values, no estimate is beyond what could be had; while fitting, in three times that range, because to cut
  errors off on one side alone, as at a cost of 0, would add them up over the steps. With a discount below 1 the
  (discounted) mean of a step times T stands for the return, which is wrong where early and late steps differ.
* For a policy with a dial, what is still to go is part of x too, so one fit serves all its targets: pi(x) is then one
  policy, and a target is where it starts. Of a memory beyond that, x knows nothing: actions are those after the logged
  history (`learn.offline.logged`).
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field, PositiveFloat, PositiveInt
from scipy.special import stdtrit
from torch import Tensor, nn

from safehold.core.config import Config
from safehold.core.errors import DataError, ModelError, UsageError
from safehold.core.intervals import Interval
from safehold.core.seeding import Streams
from safehold.core.target import Target
from safehold.data.dataset import OfflineDataset
from safehold.data.normalise import Normaliser
from safehold.learn.actions import box_of, middle_and_half
from safehold.learn.checkpoint import module_tensors, restore_module, take
from safehold.learn.fit import OfflineRun, fit
from safehold.learn.gaussian_policy import OBSERVATION_CLIP
from safehold.learn.hooks import Hook
from safehold.learn.learner import Metrics, State
from safehold.learn.offline.held_out import units_of
from safehold.learn.offline.logged import Answering, History, Windows
from safehold.learn.optimiser import optimiser_tensors, require_state, restore_optimiser
from safehold.nn.ensemble import Ensemble
from safehold.nn.tensors import to_array, to_tensor, torch_generator

_STARTS_AT_ONCE = 512  # initial states in one pass


class FQEConfig(Config):
    """Fitted Q evaluation."""

    hidden: tuple[PositiveInt, ...] = (128, 128)
    """Sizes of the hidden layers."""
    members: int = Field(default=5, ge=2)
    """Fits of each signal, each to episodes drawn anew; their spread is the interval."""
    discount: float = Field(default=1.0, gt=0.0, le=1.0)
    """Weight of the next step against this one; 1 is the return to the horizon."""
    batch_size: PositiveInt = 512
    """Steps in a batch."""
    steps: PositiveInt = 10_000
    """Gradient steps."""
    target_rate: float = Field(default=0.1, gt=0.0, le=1.0)
    """Share by which the slow copy follows in a step; what is known of the last step of an episode needs as many
    followings as an episode has steps to reach the first, so `steps` times this should be several horizons."""
    learning_rate: PositiveFloat = 1e-3
    """Step size of Adam at the start; it falls to a twentieth along half a cosine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FQEBatch:
    """B logged steps and what the policy would do next, in the network's units.

    `signals` are the reward and each cost of the step; `left` and `next_left` are 1 + gamma + ..., a term a step that
    remains before and after it, the latter 0 where nothing follows. `weights`: how often each member's draw of episodes
    holds the step, times the share of the horizon that is left: an error in what is said of every remaining step is
    the worse, the more remain.
    """

    now: Float[np.ndarray, "B f"]
    then: Float[np.ndarray, "B f"]
    signals: Float[np.ndarray, "B s"]
    left: Float[np.ndarray, "B"]
    next_left: Float[np.ndarray, "B"]
    weights: Float[np.ndarray, "B m"]


class FQESampler:
    """Logged steps drawn uniformly, each with a target drawn uniformly from those that are evaluated.

    Args:
        dataset: the log.
        policy: what is evaluated.
        targets: where it starts; a single empty one for a policy without a dial.
        config: batch size, members, discount.
        rng: draws the members' episodes: whole behaviour policies where they are known.
    """

    def __init__(
        self,
        dataset: OfflineDataset,
        policy: Answering,
        targets: Float[np.ndarray, "n d"],
        config: FQEConfig,
        rng: np.random.Generator,
    ) -> None:
        self._dataset = dataset
        self._policy = policy
        self._targets = targets
        self._config = config
        self._history = History(dataset)
        self._observations = Normaliser.fit(dataset.observations)
        self._middle, self._half = middle_and_half(box_of(dataset.spec))
        self._signals = np.column_stack([dataset.rewards, dataset.costs])
        self._episode_of = np.repeat(np.arange(len(dataset)), dataset.lengths)
        self._unit = units_of(dataset)
        units = int(self._unit.max()) + 1
        drawn = rng.multinomial(units, np.full(units, 1.0 / units), size=config.members)  # (m, units)
        self.weights: Float[np.ndarray, "E m"] = drawn.T[self._unit].astype(np.float64)

    @property
    def features(self) -> int:
        """Width of the network's input."""
        seen = self._history.windows(np.zeros(1, dtype=np.int64), self._targets[:1], 1)
        return self._inputs(seen, self._dataset.actions[:1]).shape[1]

    @property
    def ranges(self) -> Float[np.ndarray, "s 2"]:
        """Smallest and largest of each signal's steps, and 0, which is what follows an end."""
        signals = self._signals
        return np.column_stack([np.minimum(signals.min(axis=0), 0.0), np.maximum(signals.max(axis=0), 0.0)])

    @property
    def typical(self) -> Float[np.ndarray, "s 2"]:
        """Mean and standard deviation of each signal's steps, the latter 1 for a signal that is always the same."""
        sd = self._signals.std(axis=0)
        return np.column_stack([self._signals.mean(axis=0), np.where(sd > 0.0, sd, 1.0)])

    def sample(self, rng: np.random.Generator) -> FQEBatch:
        """One batch."""
        data, config = self._dataset, self._config
        flat = rng.integers(data.n_steps, size=config.batch_size)
        episodes = self._episode_of[flat]
        targets = self._targets[rng.integers(len(self._targets), size=config.batch_size)]
        states = flat + episodes
        steps = flat - data.offsets[episodes]
        ended = data.terminated[episodes] & (flat == data.offsets[episodes + 1] - 1)
        ended |= steps + 1 == data.spec.horizon
        # where nothing follows the present state stands in, and counts for nothing
        following = np.where(ended, states, states + 1)
        here, left = self._history.windows(states, targets, 1), _left(data.spec.horizon - steps, config.discount)
        return FQEBatch(
            now=self._inputs(here, data.actions[flat]),
            then=self._followed(following, targets, rng),
            signals=self._signals[flat],
            left=left,
            next_left=np.where(ended, 0.0, _left(data.spec.horizon - steps - 1, config.discount)),
            weights=self.weights[episodes] * (left / _left(np.array([data.spec.horizon]), config.discount))[:, None],
        )

    def starts(self, target: Float[np.ndarray, "d"], rng: np.random.Generator) -> Float[np.ndarray, "E f"]:
        """Inputs at the first state of every episode, with what the policy does there."""
        first = self._history.first
        parts = []
        for begin in range(0, len(first), _STARTS_AT_ONCE):
            states = first[begin : begin + _STARTS_AT_ONCE]
            parts.append(self._followed(states, np.tile(target, (len(states), 1)), rng))
        return np.concatenate(parts)

    def _followed(
        self, states: Int[np.ndarray, "B"], targets: Float[np.ndarray, "B d"], rng: np.random.Generator
    ) -> Float[np.ndarray, "B f"]:
        """Inputs at some states with what the policy does there."""
        windows = self._history.windows(states, targets, self._policy.context)
        return self._inputs(windows, self._policy.acts(windows, rng))

    def _inputs(self, windows: Windows, actions: Float[np.ndarray, "B a"]) -> Float[np.ndarray, "B f"]:
        """Observation, action, share of the time that has passed, and what is still to go as the policy sees it."""
        seen = self._observations.apply(windows.state())
        steps = windows.steps[np.arange(len(windows.newest)), windows.newest]
        columns = (
            np.clip(seen, -OBSERVATION_CLIP, OBSERVATION_CLIP),
            (actions - self._middle) / self._half,
            2.0 * steps[:, None] / self._dataset.spec.horizon - 1.0,
            self._policy.asked(windows),
        )
        return np.concatenate(columns, axis=1).astype(np.float32)


class FQELearner:
    """The networks of all members and signals, and their slow copies; its policy is what the copies say.

    Args:
        features: width of the input.
        ranges: bounds of each signal's step.
        typical: mean and standard deviation of each signal's step.
        config: sizes and rates.
        seed: of the weights.
    """

    def __init__(
        self,
        features: int,
        ranges: Float[np.ndarray, "s 2"],
        typical: Float[np.ndarray, "s 2"],
        config: FQEConfig,
        seed: int,
    ) -> None:
        self._config = config
        self._signals = len(ranges)
        sizes = (features, *config.hidden, 1)
        self._networks = Ensemble(
            config.members * self._signals, sizes, generator=torch_generator(seed), activation=nn.functional.silu
        )
        self._slow = copy.deepcopy(self._networks).requires_grad_(requires_grad=False)
        self._mean, self._sd = to_tensor(typical[:, 0]), to_tensor(typical[:, 1])
        width = ranges[:, 1] - ranges[:, 0]
        low, high = to_tensor(ranges[:, 0] - width), to_tensor(ranges[:, 1] + width)
        self._values = MeanSteps(self._slow, config.members, low, high, self._mean, self._sd)
        self._optimiser = torch.optim.Adam(self._networks.parameters(), lr=config.learning_rate)
        self._updates = 0

    def update(self, batch: FQEBatch) -> Metrics:
        """One step of Adam; metrics: `loss`, the weighted mean square of the errors, in units of each signal's standard
        deviation, and `rate.0`, `rate.1`, ..., the mean of what is fitted to of each signal."""  # noqa: D205, D209
        config = self._config
        with torch.no_grad():
            then = self._values(to_tensor(batch.then))
            shares = to_tensor(config.discount * batch.next_left / batch.left)[:, None, None]
            wanted = to_tensor(batch.signals / batch.left[:, None])[:, None, :] + shares * then
        said = self._networks(to_tensor(batch.now)).unflatten(-1, (config.members, self._signals))
        errors = (said - (wanted - self._mean) / self._sd).square()
        loss = (errors * to_tensor(batch.weights)[:, :, None]).mean()
        if not torch.isfinite(loss):
            raise ModelError(
                f"update {self._updates + 1}: the loss of fitted Q evaluation is {loss.item()}; lower the learning "
                "rate, or look for outliers in the data"
            )
        self._optimiser.zero_grad()
        torch.autograd.backward(loss)
        share = min(1.0, self._updates / config.steps)
        rate = config.learning_rate * (0.05 + 0.95 * 0.5 * (1.0 + math.cos(math.pi * share)))
        self._optimiser.param_groups[0]["lr"] = rate
        self._optimiser.step()
        with torch.no_grad():
            for slow, quick in zip(self._slow.parameters(), self._networks.parameters(), strict=True):
                slow.lerp_(quick, config.target_rate)
        self._updates += 1
        means = {f"rate.{i}": float(value) for i, value in enumerate(wanted.mean(dim=(0, 1)))}
        return {"loss": loss.item(), **means}

    def policy(self) -> "MeanSteps":
        """What the slow copies say, frozen."""
        return replace(self._values, networks=copy.deepcopy(self._slow))

    def state(self) -> State:
        """Weights, slow weights and moments."""
        tensors = {
            **module_tensors(self._networks, "model"),
            **module_tensors(self._slow, "slow"),
            **{f"optimiser.{name}": value for name, value in optimiser_tensors(self._optimiser).items()},
        }
        return State(tensors, {"updates": self._updates, "config": self._config.to_json()})

    def restore(self, state: State) -> None:
        """Goes on from saved weights and moments."""
        if state.meta["config"] != self._config.to_json():
            raise DataError("the saved configuration of fitted Q evaluation is another one; resume with the same")
        updates, moments = int(state.meta["updates"]), take(state.tensors, "optimiser")
        require_state(moments, updates)
        restore_module(self._networks, state.tensors, "model")
        restore_module(self._slow, state.tensors, "slow")
        restore_optimiser(self._optimiser, moments)
        self._updates = updates


@dataclass(frozen=True, slots=True)
class MeanSteps:
    """What every member says of every signal: its mean over the steps that remain, in environment units."""

    networks: nn.Module
    members: int
    low: Float[Tensor, "s"]
    high: Float[Tensor, "s"]
    mean: Float[Tensor, "s"]
    sd: Float[Tensor, "s"]

    @torch.no_grad()
    def __call__(self, inputs: Float[Tensor, "B f"]) -> Float[Tensor, "B m s"]:
        """Held in three times the range of a logged step."""
        said = self.networks(inputs).unflatten(-1, (self.members, len(self.low)))
        return (said * self.sd + self.mean).clamp(self.low, self.high)


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedReturns:
    """What fitted Q evaluation says of a policy at one target, None without a dial: returns of an episode.

    `members` has a row a member, and a column for the reward and for each cost.
    """

    target: Target | None
    members: Float[np.ndarray, "m s"]

    def interval(self, signal: int, level: float = 0.95) -> Interval:
        """Mean of the members, and Student's interval with their standard deviation as standard error.

        That is how much the answer depends on which episodes were logged and on where the fits began. What all fits
        have wrong in common, such as actions that nobody has tried, it does not know.
        """
        values = self.members[:, signal]
        mean, half = float(values.mean()), float(stdtrit(len(values) - 1, 0.5 + level / 2) * values.std(ddof=1))
        return Interval(estimate=mean, low=mean - half, high=mean + half, level=level, n=len(values))


def fitted_returns(
    dataset: OfflineDataset,
    policy: Answering,
    targets: Sequence[Target],
    config: FQEConfig,
    *,
    seed: int,
    hooks: Sequence[Hook] = (),
) -> list[FittedReturns]:
    """Fits once for all targets, and says what each would obtain; for a policy without a dial give no target.

    Raises:
        UsageError: if targets are given to a policy without a dial, missing, of another length, or not finite.
    """
    array = _checked(targets, policy.targets)
    streams = Streams(seed)
    sampler = FQESampler(dataset, policy, array, config, streams["bootstrap"])
    learner = FQELearner(sampler.features, sampler.ranges, sampler.typical, config, streams.integer("weights"))
    fit(OfflineRun(learner, sampler, streams["batches"]), steps=config.steps, hooks=hooks)
    rates, shares = learner.policy(), sampler.weights / sampler.weights.sum(axis=0)
    found = []
    for row, target in zip(array, targets or (None,), strict=True):
        steps = to_array(rates(to_tensor(sampler.starts(row, streams["starts"])))).astype(np.float64)
        means = np.clip(np.einsum("ems,em->ms", steps, shares), *sampler.ranges.T)
        found.append(FittedReturns(target=target, members=dataset.spec.horizon * means))
    return found


def _checked(targets: Sequence[Target], entries: int) -> Float[np.ndarray, "n d"]:
    """Targets as rows; a single empty row without a dial."""
    if not entries:
        if targets:
            raise UsageError(f"a policy without a dial has no target, got {list(targets)}; leave targets out")
        return np.zeros((1, 0))
    if not targets or any(len(target) != entries or not np.isfinite(target).all() for target in targets):
        raise UsageError(f"targets {list(targets)}: expected one or more, each of {entries} finite entries")
    return np.array(targets, dtype=np.float64)


def _left(steps: Int[np.ndarray, "B"], discount: float) -> Float[np.ndarray, "B"]:
    """1 + gamma + gamma^2 + ..., a term a step that remains."""
    if discount == 1.0:
        return steps.astype(np.float64)
    return np.asarray((1.0 - discount**steps) / (1.0 - discount))
