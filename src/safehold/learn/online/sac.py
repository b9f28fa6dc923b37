"""Soft actor-critic with a priced cost: the core of every off-policy method that learns online.

A method brings a `Price`: what a step's cost counts for, and how that answers violations.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from safehold.core.config import Config
from safehold.core.errors import DataError, UsageError
from safehold.core.seeding import Streams
from safehold.core.spec import TaskSpec
from safehold.learn.actions import box_of
from safehold.learn.cost_value import CostValue
from safehold.learn.learner import Metrics, State
from safehold.learn.online.limited import episode_metrics
from safehold.learn.parts import Kept, Part, SlowCopy, parts_of, restore_all, state_of
from safehold.learn.replay import ReplayBuffer
from safehold.learn.squashed_policy import SquashedExplorer, SquashedPolicy, UniformExplorer, freeze_squashed
from safehold.learn.temperature import Temperature
from safehold.learn.transitions import Transitions
from safehold.nn.actors import TanhGaussianActor
from safehold.nn.ensemble import Ensemble
from safehold.nn.tensors import torch_generator
from safehold.rollout.steps import Explorer, FinishedEpisode, StepBatch

LOG_SD_RANGE = (-20.0, 2.0)
"""Bounds of the log of the noise's sd before the tanh.   [SAC's and SaGui's code]"""
TWINS = 2
"""Reward critics, the first columns of all critics; the cost critic, if there is a price, is the last."""
CRITIC_LOSSES = ("reward_critic_loss", "cost_critic_loss")


class SACConfig(Config):
    """Soft actor-critic."""

    hidden: tuple[PositiveInt, ...] = (256, 256)
    """Sizes of the hidden layers of actor and critics."""
    learning_rate: PositiveFloat = 1e-3
    """Adam's step size for actor, critics and temperature. [SaGui]"""
    discount: float = Field(default=0.99, gt=0.0, lt=1.0)
    """Weight of the next step against this one, of rewards and of costs."""
    target_rate: float = Field(default=0.005, gt=0.0, le=1.0)
    """Share by which the slow copies of critics follow in a step."""
    initial_temperature: PositiveFloat = 0.5
    """Weight of the entropy at the start, in reward units a nat."""
    temperature: Literal["learnt", "fixed"] = "learnt"
    """Whether that weight follows the entropy from then on, or stays; SaGui's guide has it fixed at 1."""
    batch_size: PositiveInt = 256
    """Steps in one gradient step."""
    capacity: PositiveInt = 1_000_000
    """Steps that the replay buffer keeps."""
    random_steps: NonNegativeInt = 500
    """Environment steps by uniform actions before the first gradient step. [SaGui]"""
    gradient_steps: PositiveFloat = 1.0
    """Gradient steps for each environment step; SaGui takes 100 after every 100."""


@runtime_checkable
class Price(Kept, Protocol):
    """What costs count for while a policy is improved, and how that follows from violations."""

    @property
    def value(self) -> CostValue:
        """What the cost critic estimates."""
        ...

    def signal(self, rows: Transitions) -> Float[Tensor, "B"]:
        """What the cost critic accumulates of each step, from its costs."""
        ...

    def weights(
        self, observations: Float[Tensor, "B o"], expected: Float[Tensor, "B"]
    ) -> Float[Tensor, "B"] | Float[Tensor, ""]:
        """Price of the critic's value in each of these states, >= 0, without gradient.

        `expected`: the critic's values of the policy's actions there.
        """
        ...

    def finish(self, episodes: Sequence[FinishedEpisode]) -> None:
        """Answers what whole episodes have cost."""
        ...

    def improve(self, rows: Transitions, expected: Float[Tensor, "B"]) -> Metrics:
        """Answers one gradient step's batch; what the price is now, as metrics, "multiplier" (its mean) among them."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What one gradient step learns from.

    `rows`: steps, with the rewards that the critics are to see. `weights`: what each of them counts for, 1 for all but
    those of another policy. `entropy`: weight of the entropy beyond the temperature, in reward units a nat. `metrics`:
    what is to be told of it.
    """

    rows: Transitions
    weights: Float[Tensor, "B"]
    entropy: float
    metrics: Metrics


@runtime_checkable
class Experience(Kept, Protocol):
    """Who takes the steps, which of them are kept, and what they count for."""

    def explorer(self, own: Explorer, rng: np.random.Generator) -> Explorer:
        """Who draws the actions of the next batch, where the learner alone would let `own` do it."""
        ...

    def add(self, batch: StepBatch) -> None:
        """Takes steps in."""
        ...

    def lesson(self, count: int, actor: TanhGaussianActor, generator: torch.Generator) -> Lesson:
        """`count` steps, for a policy that is as `actor` is now; every draw comes from `generator`."""
        ...


class OwnExperience:
    """The learner's own steps, every one alike."""

    def __init__(self, spec: TaskSpec, capacity: int) -> None:
        self._replay = ReplayBuffer(spec, capacity)

    def explorer(self, own: Explorer, rng: np.random.Generator) -> Explorer:  # noqa: ARG002 - `own` draws
        """The learner's."""
        return own

    def add(self, batch: StepBatch) -> None:
        """Takes steps in."""
        self._replay.add(batch)

    def lesson(self, count: int, actor: TanhGaussianActor, generator: torch.Generator) -> Lesson:  # noqa: ARG002
        """Steps drawn uniformly."""
        rows = self._replay.sample(count, generator)
        return Lesson(rows=rows, weights=torch.ones(count), entropy=0.0, metrics={})

    def state(self) -> State:
        """Every step that is kept."""
        return self._replay.state()

    def restore(self, state: State) -> None:
        """Goes back to saved steps."""
        self._replay.restore(state)


class SACLearner:
    """Maximises E sum of (reward + temperature entropy) less the price of the costs.

    Losses, with y the targets from slow copies and a' ~ pi(s') [SAC, arXiv 1812.05905, with its learnt temperature]:

        reward critics   (Q_r - y_r)^2,   y_r = r + gamma (min Q_r'(s', a') - alpha' log pi(a'|s'))
        cost critic      (Q_c - y_c)^2,   y_c by the price's `CostValue`; one network, no minimum
        policy           alpha' log pi(a|s) - min Q_r(s, a) + w(s) Q_c(s, a),   a ~ pi(s)   [SaGui, arXiv 2307.14316]
        temperature      -alpha (log pi(a|s) + target),   target = -|A|,   alpha = softplus(theta)

    Nothing follows where the task ended; where only the clock did, the critics go on. Errors of critics and the
    policy's loss are weighed row by row, and alpha' = alpha + what the `Experience` adds: 1 and 0 but for a learner
    that leans on another policy.

    Args:
        spec: the task; its actions must be continuous.
        config: hyper-parameters.
        price: of costs; None for no limit.
        cost: name of the cost that is reported (and priced).
        streams: weights are drawn from its stream "weights", batches and noise of updates from "updates".
        experience: what is learnt from; the learner's own steps if none is given.
        start: a policy network to begin as, instead of fresh weights.

    Raises:
        UsageError: if `start` is of another shape than the configured network.
    """

    def __init__(
        self,
        spec: TaskSpec,
        config: SACConfig,
        price: Price | None,
        cost: str,
        streams: Streams,
        experience: Experience | None = None,
        start: TanhGaussianActor | None = None,
    ) -> None:
        self._box = box_of(spec)
        self._config = config
        self._price = price
        self._cost_column = spec.cost_names.index(cost)
        generator = torch_generator(streams.integer("weights"))
        observations, actions, hidden = spec.observation_size, self._box.size, config.hidden
        actor = TanhGaussianActor(observations, actions, hidden, log_sd_range=LOG_SD_RANGE, generator=generator)
        if start is not None:
            begin_as(actor, start)
        count = TWINS if price is None else TWINS + 1
        critics = Ensemble(count, (observations + actions, *hidden, 1), generator=generator)
        self._actor = Part("policy", actor, config.learning_rate)
        self._critics = Part("critics", critics, config.learning_rate)
        self._temperature = Temperature(config.initial_temperature, config.learning_rate)
        self._slow_critics = SlowCopy(critics, config.target_rate)
        self._experience = OwnExperience(spec, config.capacity) if experience is None else experience
        self._generator = torch_generator(streams.integer("updates"))
        self._kept: dict[str, Kept] = {
            "actor": self._actor,
            "critics": self._critics,
            "temperature": self._temperature,
            "slow_critics": self._slow_critics,
            "replay": self._experience,
        }
        if price is not None:
            self._kept["price"] = price
        self._steps = 0
        self._owed = 0.0

    @property
    def price(self) -> Price | None:
        """Of costs; None without a limit."""
        return self._price

    def policy(self) -> SquashedPolicy:
        """The policy with its noise; `without_noise` acts by the tanh of its mean."""
        return freeze_squashed(self._actor.network, LOG_SD_RANGE, self._box)

    def explorer(self, rng: np.random.Generator) -> Explorer:
        """Uniform actions at first, then the policy; or whoever the experience lets act beside it."""
        own: Explorer
        if self._steps < self._config.random_steps:
            own = UniformExplorer(self._box, rng)
        else:
            own = SquashedExplorer(self.policy(), rng)
        return self._experience.explorer(own, rng)

    def update(self, batch: StepBatch) -> Metrics:
        """Keeps the steps, answers the episodes that ended, and makes the gradient steps that are due.

        The metrics are those of the last gradient step, and means over the episodes.

        Raises:
            ModelError: if a loss is not finite.
        """
        metrics = episode_metrics(batch.episodes, self._cost_column)
        if self._price is not None:
            self._price.finish(batch.episodes)
        self._experience.add(batch)
        self._steps += batch.n_steps
        if self._steps >= self._config.random_steps:
            self._owed += self._config.gradient_steps * batch.n_steps
        last: Metrics = {}
        while self._owed >= 1.0:
            last = self._improve(self._experience.lesson(self._config.batch_size, self._actor.network, self._generator))
            self._owed -= 1.0
        return {**metrics, **last}

    def state(self) -> State:
        """Weights, moments, slow copies, price, every step that is kept, and the generator of updates."""
        return state_of(self._kept, self._generator, {"steps": self._steps, "owed": self._owed})

    def restore(self, state: State) -> None:
        """Goes back to a saved state.

        Raises:
            DataError: if a part is missing, unknown, of another shape, or not finite.
        """
        try:
            steps, owed = int(state.meta["steps"]), float(state.meta["owed"])
            saved = parts_of(state, self._kept)
        except (KeyError, TypeError) as error:
            raise DataError(f"this state is not of a soft actor-critic of this method: {error!r}") from error
        restore_all(self._kept, self._generator, saved, state)
        self._steps, self._owed = steps, owed

    def _improve(self, lesson: Lesson) -> Metrics:
        """One gradient step of everything."""
        rows = lesson.rows
        losses_of_critics = self._critic_losses(lesson)
        self._critics.descend(torch.stack(losses_of_critics).sum())
        metrics = {name: loss.item() for name, loss in zip(CRITIC_LOSSES, losses_of_critics, strict=False)}
        acting = self._actor.network(rows.observations)
        actions, log_density = acting.sample_with_log_density(self._generator)
        said = self._critics.network(torch.cat([rows.observations, actions], dim=-1))
        losses = (self._temperature.value + lesson.entropy) * log_density - said[:, :TWINS].amin(dim=-1)
        priced: Metrics = {"multiplier": 0.0}
        if self._price is not None:
            expected = said[:, TWINS]
            fixed = expected.detach()
            losses = losses + self._price.weights(rows.observations, fixed) * expected
            priced = self._price.improve(rows, fixed)
        metrics["policy_loss"] = self._actor.descend((lesson.weights * losses).mean())
        if self._config.temperature == "learnt":
            self._temperature.answer(float(log_density.detach().mean()) - self._box.size)
        self._slow_critics.follow()
        return {
            **metrics,
            **priced,
            **lesson.metrics,
            "temperature": self._temperature.value,
            "entropy": -float(log_density.detach().mean()),
            "sd": float(acting.inner.log_sd.detach().exp().mean()),  # before the tanh
        }

    def _critic_losses(self, lesson: Lesson) -> list[Float[Tensor, ""]]:
        """Squared errors of the reward critics, and of the cost critic if there is a price."""
        rows = lesson.rows
        with torch.no_grad():
            following, log_density = self._actor.network(rows.next_observations).sample_with_log_density(
                self._generator
            )
            ahead = self._slow_critics.network(torch.cat([rows.next_observations, following], dim=-1))
            soft = ahead[:, :TWINS].amin(dim=-1) - (self._temperature.value + lesson.entropy) * log_density
            wanted = [(rows.rewards + self._config.discount * rows.goes_on * soft)[:, None]]
            if self._price is not None:
                cost = self._price.value.targets(self._price.signal(rows), ahead[:, TWINS], rows.goes_on)
                wanted.append(cost[:, None])
        said = self._critics.network(torch.cat([rows.observations, rows.actions], dim=-1))
        parts = said.split([TWINS, 1] if len(wanted) > 1 else [TWINS], dim=-1)
        weights = lesson.weights[:, None]
        return [
            0.5 * (weights * (part - targets).square()).mean(dim=0).sum()
            for part, targets in zip(parts, wanted, strict=True)
        ]


def begin_as(actor: TanhGaussianActor, start: TanhGaussianActor) -> None:
    """Gives an actor the weights of another.

    Raises:
        UsageError: if they are of different shapes.
    """
    own, theirs = actor.state_dict(), start.state_dict()
    if {name: value.shape for name, value in own.items()} != {name: value.shape for name, value in theirs.items()}:
        raise UsageError(
            "the policy to begin as has layers of other sizes than those that are configured; give the learner the "
            "hidden sizes of that policy"
        )
    actor.load_state_dict(theirs)
