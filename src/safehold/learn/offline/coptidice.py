"""COptiDICE: the best correction of the log's own distribution that keeps the limits, then weighted cloning.

[COptiDICE, Lee et al., arXiv 2204.08957, Alg. 1; OSRL, algorithms/coptidice.py]
"""

import copy
import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from safehold.core.spec import TaskSpec
from safehold.data.normalise import Normaliser
from safehold.learn.learner import Metrics
from safehold.learn.offline.actor_critic import ActorCriticLearner, LimitedConfig, ModePolicy, seen, thresholds
from safehold.learn.parts import Kept, Part
from safehold.learn.transitions import Transitions
from safehold.nn.distributions import DiagonalGaussian, TanhGaussian
from safehold.nn.ensemble import Ensemble
from safehold.nn.randomness import drawn_generator
from safehold.nn.tensors import to_tensor

KIND = "coptidice"


class COptiDICEConfig(LimitedConfig):
    """Constrained optimisation of the stationary distribution's correction."""

    reward_scale: PositiveFloat = 0.1
    """What rewards are multiplied by."""
    divergence_weight: PositiveFloat = 0.5
    """Weight alpha of the f-divergence from the log's distribution; f is the soft chi-square."""
    value_networks: PositiveInt = 2
    """Networks of nu and of each chi; the smallest of them counts."""
    cost_divergence: PositiveFloat = 0.01
    """Bound epsilon on how far, in nats, the log may be bent to make costs look large: the cost's upper estimate."""
    threshold: Literal["per_step", "osrl"] = "per_step"
    """What the corrected cost of a step is held under: "per_step" the limit in its units, (1 - gamma) times what a
    critic's would be; "osrl" what a critic's would be, which a step's cost hardly ever reaches."""
    starts: PositiveInt = 64
    """First states drawn in every update. OSRL counts those that happen to be in the batch: with 512 steps of episodes
    of 1,000, one in every other update."""
    smoothing: NonNegativeFloat = 0.1
    """Noise on what is cloned, as a share of the standard deviation of observations and of actions."""
    actor_learning_rate: PositiveFloat = 1e-4
    """Step size of the actor's Adam."""
    value_learning_rate: PositiveFloat = 1e-4
    """Step size of the Adams of nu and chi."""
    scalar_learning_rate: PositiveFloat = 1e-4
    """Step size of the Adams of the multipliers lambda and of the temperatures tau."""


PRESETS: Mapping[str, COptiDICEConfig] = {
    "published": COptiDICEConfig(timeouts="terminal"),
    "osrl": COptiDICEConfig(timeouts="terminal", threshold="osrl"),
    "small": COptiDICEConfig(
        hidden=(128, 128),
        actor_learning_rate=1e-3,
        value_learning_rate=1e-3,
        scalar_learning_rate=1e-3,
        batch_size=256,
        steps=10_000,
    ),
}
"""`published`: OSRL's `coptidice_configs.py`; `osrl`: the same with OSRL's threshold; `small`: minutes on one core."""


class COptiDICEPolicy(ModePolicy[COptiDICEConfig]):
    """The mean of the cloned actions. No tanh is taken: actions are fitted as they are, and held in their bounds.

    Unlike [OSRL], which fits a Gaussian to actions as they are, but acts by the tanh of its mean.
    """

    kind = KIND
    config_type = COptiDICEConfig

    def codes(self, observations: Float[Tensor, "n o"], rng: np.random.Generator) -> Float[Tensor, "n a"]:  # noqa: ARG002
        """The mean."""
        distribution: TanhGaussian = self.network(observations)
        return distribution.inner.mean.clamp(-1.0, 1.0)


class Positive(nn.Module):
    """Numbers > 0, one a cost: softplus of parameters that start at 1."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.before = nn.Parameter(torch.ones(count))

    def forward(self) -> Float[Tensor, "k"]:
        """The numbers."""
        return nn.functional.softplus(self.before)


class CostBound(nn.Module):
    """What bounds the corrected costs from above: chi of each cost, and its temperature tau."""

    def __init__(self, spec: TaskSpec, config: COptiDICEConfig, generator: torch.Generator) -> None:
        super().__init__()
        costs = len(spec.cost_names)
        self._members = config.value_networks
        sizes = (spec.observation_size, *config.hidden, 1)
        self.chi = Ensemble(config.value_networks * costs, sizes, generator=generator)
        self.tau = Positive(costs)

    def forward(self, observations: Float[Tensor, "B o"]) -> Float[Tensor, "B k"]:
        """What chi is of each cost."""
        return self.chi.least(observations, self._members)


class COptiDICELearner(ActorCriticLearner[COptiDICEConfig, COptiDICEPolicy]):
    """nu, the costs' bounds, their multipliers and the actor, all in every update.

    Args:
        spec: the task; its actions must be continuous.
        observations: normalises what networks see; fitted to the data beforehand.
        config: hyper-parameters.
        seed: of the weights, and of what updates draw.
        starts: first observations of the logged episodes.
    """

    def __init__(
        self,
        spec: TaskSpec,
        observations: Normaliser,
        config: COptiDICEConfig,
        seed: int,
        starts: Float[np.ndarray, "E o"],
    ) -> None:
        super().__init__(spec, observations, config, seed)
        self._starts = to_tensor(seen(observations, starts))

    def _make(self) -> Mapping[str, Kept]:
        config, spec = self._config, self._spec
        generator = drawn_generator()
        nu = Ensemble(config.value_networks, (spec.observation_size, *config.hidden, 1), generator=generator)
        self._limits = to_tensor(step_limits(spec, config))
        self._actor = Part("actor", COptiDICEPolicy.build(spec, config), config.actor_learning_rate)
        self._nu = Part("nu", nu, config.value_learning_rate)
        self._bound = Part("cost bound", CostBound(spec, config, generator), config.value_learning_rate)
        self._multipliers = Part("multipliers", Positive(len(spec.cost_names)), config.scalar_learning_rate)
        return {"actor": self._actor, "nu": self._nu, "bound": self._bound, "multipliers": self._multipliers}

    def _improve(self, batch: Transitions) -> Metrics:
        """One update of every part.

        Metrics: `nu_loss`, `bound_loss` and `actor_loss`; `correction`, the mean of the weights w, which is 1 once nu
        is found; `cost.NAME`, the upper estimate of a step's corrected cost, and `multiplier.NAME`.
        """
        config = self._config
        drawn = torch.randint(len(self._starts), (config.starts,), generator=self._generator)
        rows = torch.cat([batch.observations, batch.next_observations, self._starts[drawn]])
        sizes = [len(batch.rewards), len(batch.rewards), len(drawn)]
        here, there, first = torch.split(self._nu.network.least(rows, config.value_networks)[:, 0], sizes)
        multipliers = self._multipliers.network()
        error = advantage(batch, here, there, multipliers.detach(), config.discount)
        weights = correction(error, config.divergence_weight)
        fixed = weights.detach()
        chi_here, chi_there, chi_first = self._bound.network(rows).split(sizes)
        pairs = chi_first[torch.arange(len(fixed)) % len(drawn)]
        surplus = cost_surplus(batch, fixed, chi_here, chi_there, pairs, config.discount)
        tau = self._bound.network.tau()
        bound = self._bound.descend(upper_bound(surplus, tau, config.cost_divergence).sum())
        tilted = tilt(surplus.detach(), tau.detach()) * fixed[:, None]
        costs = (tilted * batch.costs).mean(dim=0)
        nu = self._nu.descend(nu_loss(first, weights, error, config.divergence_weight, config.discount))
        self._multipliers.descend((multipliers * (self._limits - costs)).sum())
        noisy = self._smoothed(batch)
        actor = self._actor.descend(weighted_cloning(self._actor.network(noisy[0]).inner, noisy[1], fixed))
        metrics = {"nu_loss": nu, "bound_loss": bound, "actor_loss": actor, "correction": fixed.mean().item()}
        for name, cost, multiplier in zip(self._spec.cost_names, costs.tolist(), multipliers.tolist(), strict=True):
            metrics |= {f"cost.{name}": cost, f"multiplier.{name}": multiplier}
        return metrics

    def _smoothed(self, batch: Transitions) -> tuple[Float[Tensor, "B o"], Float[Tensor, "B a"]]:
        """Observations and actions with a little noise, so that the actor is fitted to their surroundings."""
        share = self._config.smoothing
        return (
            _with_noise(batch.observations, share, self._generator),
            _with_noise(batch.actions, share, self._generator),
        )

    def policy(self) -> COptiDICEPolicy:
        """The policy so far."""
        return COptiDICEPolicy(self._spec, self._config, self._observations, copy.deepcopy(self._actor.network))


def step_limits(spec: TaskSpec, config: COptiDICEConfig) -> Float[np.ndarray, "k"]:
    """What a step's corrected cost is held under: the distribution's weights sum to 1, a critic's to 1 / (1 - gamma).

    Unlike [OSRL], which holds it under a critic's threshold: 3.2 for a limit of 10 in 300 steps, where a step costs 0
    or 1, so that no multiplier ever rises.
    """
    found = thresholds(spec, config)
    return found if config.threshold == "osrl" else (1.0 - config.discount) * found


def advantage(
    batch: Transitions,
    here: Float[Tensor, "B"],
    there: Float[Tensor, "B"],
    multipliers: Float[Tensor, "k"],
    discount: float,
) -> Float[Tensor, "B"]:
    """The error r - sum_j lambda_j c_j + gamma nu(s') - nu(s); nothing follows an end.   [COptiDICE, e(s, a)]."""
    return batch.rewards - batch.costs @ multipliers + discount * batch.goes_on * there - here


def soft_chi_square(weights: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
    """The divergence's f(x): x log x - x + 1 below 1, (x - 1)^2 / 2 from there on.   [OptiDICE; COptiDICE]."""
    below = weights * (torch.log(weights + 1e-10) - 1.0) + 1.0
    return torch.where(weights < 1.0, below, 0.5 * (weights - 1.0).square())


def correction(error: Float[Tensor, "B"], divergence_weight: float) -> Float[Tensor, "B"]:
    """The best weights for given nu and lambda: w = [(f')^-1(e / alpha)]_+.   [COptiDICE, Prop. 1 ff.].

    (f')^-1(x) is e^x below 0, x + 1 from there on, and so above 0 already.
    """
    scaled = error / divergence_weight
    return torch.where(scaled < 0.0, torch.exp(scaled.clamp(max=0.0)), scaled + 1.0)


def nu_loss(
    first: Float[Tensor, "n"],
    weights: Float[Tensor, "B"],
    error: Float[Tensor, "B"],
    divergence_weight: float,
    discount: float,
) -> Float[Tensor, ""]:
    """(1 - gamma) E[nu(s_0)] + E[w e - alpha f(w)], to be made small in nu.   [COptiDICE, dual objective]."""
    return (1.0 - discount) * first.mean() + (weights * error - divergence_weight * soft_chi_square(weights)).mean()


def cost_surplus(
    batch: Transitions,
    weights: Float[Tensor, "B"],
    here: Float[Tensor, "B k"],
    there: Float[Tensor, "B k"],
    first: Float[Tensor, "B k"],
    discount: float,
) -> Float[Tensor, "B k"]:
    """What chi makes of a step's cost: (1 - gamma) chi(s_0) + w (c + gamma chi(s') - chi(s)).

    [COptiDICE, cost-conservative constraint; a first state is drawn beside every step]
    """
    follows = discount * batch.goes_on[:, None] * there
    return (1.0 - discount) * first + weights[:, None] * (batch.costs + follows - here)


def upper_bound(surplus: Float[Tensor, "B k"], tau: Float[Tensor, "k"], cost_divergence: float) -> Float[Tensor, "k"]:
    """A bound: tau log E[exp(surplus / tau)] + tau epsilon, which chi and tau make as small as it can be.

    Of all reweightings of the log within epsilon nats it is the one that costs most.   [COptiDICE, dual]
    """
    exponents = torch.logsumexp(surplus / tau, dim=0) - math.log(len(surplus))
    return tau * (exponents + cost_divergence)


def tilt(surplus: Float[Tensor, "B k"], tau: Float[Tensor, "k"]) -> Float[Tensor, "B k"]:
    """The worst reweighting, softmax(surplus / tau) times the batch's size: its mean is 1."""
    return torch.softmax(surplus / tau, dim=0) * len(surplus)


def weighted_cloning(
    actor: DiagonalGaussian, actions: Float[Tensor, "B a"], weights: Float[Tensor, "B"]
) -> Float[Tensor, ""]:
    """Mean of -w log pi(a | s).   [COptiDICE, policy extraction; OSRL]."""
    return -(weights * actor.log_density(actions)).mean()


def _with_noise(values: Float[Tensor, "B d"], share: float, generator: torch.Generator) -> Float[Tensor, "B d"]:
    """Normal noise of so many standard deviations of each column."""
    return values + share * values.std(dim=0) * torch.randn(values.shape, generator=generator)
