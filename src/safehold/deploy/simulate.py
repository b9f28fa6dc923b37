"""Whole deployments on worlds drawn from the declared prior: what would have happened, and how often it went wrong."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from safehold.core.errors import SafetyHold, UsageError
from safehold.core.intervals import Interval, proportion_interval
from safehold.core.measurement import Measurement
from safehold.core.seeding import Streams
from safehold.deploy.declaration import Declaration
from safehold.deploy.optimizer import TargetOptimizer
from safehold.deploy.prior import OutputPrior

_DRAWS = 1000


@dataclass(frozen=True, kw_only=True)
class World:
    """A truth: expected returns of every candidate, and the standard deviation of one episode around them."""

    reward: Float[np.ndarray, "m"]
    costs: Mapping[str, Float[np.ndarray, "m"]]
    reward_episode_sd: float
    cost_episode_sds: Mapping[str, float]

    def safe(self, declaration: Declaration) -> np.ndarray:
        """Candidates whose expected costs are at or under every limit."""
        return np.all([self.costs[limit.name] <= limit.value for limit in declaration.limits], axis=0)

    def measure(self, index: int, episodes: int, caps: Mapping[str, float], rng: np.random.Generator) -> Measurement:
        """Gaussian episodes of one candidate; a cost outside [0, cap] is moved to the nearest possible one."""
        costs = {}
        for name, truth in self.costs.items():
            draws = truth[index] + self.cost_episode_sds[name] * rng.standard_normal(episodes)
            costs[name] = np.clip(draws, 0.0, caps[name])
        return Measurement(
            rewards=self.reward[index] + self.reward_episode_sd * rng.standard_normal(episodes),
            costs=costs,
            failed=np.zeros(episodes, dtype=np.bool_),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedRun:
    """One deployment on a known world.

    `unsafe` marks, ask by ask, whether the truth of the asked target is above a limit. `held` names the refusal the
    run ended with. `gap_closed`: share of the way from the best seed target's reward to the best safe candidate's
    reward that the recommendation goes; None without a recommendation, or where no candidate beats the seeds.
    """

    asked: tuple[int, ...]
    unsafe: tuple[bool, ...]
    held: str
    recommended: int | None
    gap_closed: float | None

    @property
    def violating(self) -> bool:
        """Whether any deployed target was unsafe: the event that delta bounds."""
        return any(self.unsafe)


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """Many simulated runs: `violating` of `runs` had an unsafe target; with its 95 % Clopper-Pearson interval."""

    runs: int
    violating: int
    interval: Interval
    delta: float
    mean_gap_closed: float | None
    held: Mapping[str, int]


class WorldSampler:
    """Draws worlds from a declared prior, conditional on safe seed targets and possible costs."""

    def __init__(self, declaration: Declaration) -> None:
        self._declaration = declaration
        self._reward_root = _root(declaration.prior.reward, declaration.space.points)
        self._cost_roots = {n: _root(output, declaration.space.points) for n, output in declaration.prior.costs.items()}

    def draw(self, rng: np.random.Generator) -> World:
        """One world in which every seed target is safe and every expected cost lies in [0, cap].

        Raises:
            UsageError: if such a world is too rare under the prior.
        """
        declaration, prior = self._declaration, self._declaration.prior
        for _ in range(_DRAWS):
            costs = {
                name: output.mean + self._cost_roots[name] @ rng.standard_normal(len(declaration.space))
                for name, output in prior.costs.items()
            }
            possible = all(np.all((c >= 0) & (c <= declaration.caps[n])) for n, c in costs.items())
            world = World(
                reward=prior.reward.mean + self._reward_root @ rng.standard_normal(len(declaration.space)),
                costs=costs,
                reward_episode_sd=prior.reward.episode_sd,
                cost_episode_sds={name: output.episode_sd for name, output in prior.costs.items()},
            )
            if possible and world.safe(declaration)[declaration.seed_indices].all():
                return world
        raise UsageError(
            f"none of {_DRAWS} worlds drawn from the prior has safe seed targets and costs within [0, cap]; "
            "the prior puts its mean too close to 0, to the cap, or to the limit at the seed targets"
        )


def simulate(declaration: Declaration, world: World, rng: np.random.Generator) -> SimulatedRun:
    """One whole deployment on a world, until it holds."""
    optimizer = TargetOptimizer(declaration)
    episodes = declaration.settings.episodes_per_ask
    safe = world.safe(declaration)
    asked: list[int] = []
    held = ""
    while not held:
        try:
            trial = optimizer.ask()
        except SafetyHold as hold:
            held = type(hold).__name__
            break
        index = declaration.space.index(trial.target)
        asked.append(index)
        optimizer.tell(trial.id, world.measure(index, episodes, declaration.caps, rng))
    try:
        recommended = optimizer.recommend().index
    except SafetyHold:
        recommended = None
    return SimulatedRun(
        asked=tuple(asked),
        unsafe=tuple(not safe[index] for index in asked),
        held=held,
        recommended=recommended,
        gap_closed=_gap_closed(declaration, world, recommended),
    )


def study(declaration: Declaration, runs: int, seed: int) -> Study:
    """Many runs on worlds from the declaration's own prior; run i depends on (seed, i) alone."""
    sampler = WorldSampler(declaration)
    results = []
    for number in range(runs):
        rng = Streams(seed)[f"simulate/{number}"]
        results.append(simulate(declaration, sampler.draw(rng), rng))
    violating = sum(result.violating for result in results)
    gaps = [result.gap_closed for result in results if result.gap_closed is not None]
    words = [result.held for result in results]
    return Study(
        runs=runs,
        violating=violating,
        interval=proportion_interval(violating, runs),
        delta=declaration.delta,
        mean_gap_closed=float(np.mean(gaps)) if gaps else None,
        held={word: words.count(word) for word in sorted(set(words))},
    )


def _root(output: OutputPrior, points: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "m m"]:
    """A square root of the prior covariance, by its eigenvalues (rounding below zero counts as zero)."""
    values, vectors = np.linalg.eigh(output.kernel(points, points))
    return vectors * np.sqrt(np.maximum(values, 0.0))


def _gap_closed(declaration: Declaration, world: World, recommended: int | None) -> float | None:
    """How far the recommendation goes from the best seed target to the best safe candidate."""
    safe = world.safe(declaration) & declaration.prior.support
    start = float(np.max(world.reward[declaration.seed_indices]))
    top = float(np.max(world.reward, where=safe, initial=-np.inf))
    if recommended is None or top <= start:
        return None
    return (float(world.reward[recommended]) - start) / (top - start)
