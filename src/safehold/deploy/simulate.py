"""Whole deployments on worlds drawn from the declared prior: what would have happened, and how often it went wrong."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from safehold.core.errors import SafetyHold, UsageError
from safehold.core.intervals import Interval, proportion_interval
from safehold.core.measurement import Measurement
from safehold.core.seeding import Streams
from safehold.deploy import steps
from safehold.deploy.declaration import Declaration
from safehold.deploy.prior import OutputPrior
from safehold.deploy.replay import State
from safehold.deploy.status import recommend

_DRAWS = 1000

Noise = Callable[[float, int, np.random.Generator], Float[np.ndarray, "_"]]
"""How the costs of some episodes (how many) scatter around their expectation, given their standard deviation."""


def gaussian(sd: float, episodes: int, rng: np.random.Generator) -> Float[np.ndarray, "_"]:
    """Independent normal episodes."""
    return sd * rng.standard_normal(episodes)


@dataclass(frozen=True, kw_only=True)
class World:
    """A truth: expected reward and limited statistics of every candidate, and how single episodes scatter.

    `kappas`: of limits on mean + kappa sd; the mean of an episode's cost is that much lower than the statistic.
    `noise`: the law of an episode's costs; rewards are always normal.
    """

    reward: Float[np.ndarray, "m"]
    costs: Mapping[str, Float[np.ndarray, "m"]]
    reward_episode_sd: float | Float[np.ndarray, "m"]
    cost_episode_sds: Mapping[str, float | Float[np.ndarray, "m"]]
    kappas: Mapping[str, float] = field(default_factory=dict)
    noise: Noise = gaussian

    def safe(self, declaration: Declaration) -> np.ndarray:
        """Candidates whose expected costs are at or under every limit."""
        return np.all([self.costs[limit.name] <= limit.value for limit in declaration.limits], axis=0)

    def measure(self, index: int, episodes: int, caps: Mapping[str, float], rng: np.random.Generator) -> Measurement:
        """Episodes of one candidate; a cost outside [0, cap] is moved to the nearest possible one."""
        costs = {}
        for name, truth in self.costs.items():
            sd = _at(self.cost_episode_sds[name], index)
            mean = float(truth[index]) - self.kappas.get(name, 0.0) * sd
            costs[name] = np.clip(mean + self.noise(sd, episodes, rng), 0.0, caps[name])
        return Measurement(
            rewards=self.reward[index] + _at(self.reward_episode_sd, index) * rng.standard_normal(episodes),
            costs=costs,
            failed=np.zeros(episodes, dtype=np.bool_),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedRun:
    """One deployment on a known world.

    `unsafe` marks, ask by ask, whether the truth of the asked target is above a limit; `charges` is what each ask was
    charged, `on_premise` whether the ask rested on the seed targets being safe and on no rule. `seeds_safe`: whether
    they all were. `held` names the refusal the run ended with. `gap_closed`: share of the way from the best seed
    target's reward to the best safe candidate's that the recommendation goes; None without a recommendation, or where
    no candidate beats the seeds.
    """

    asked: tuple[int, ...]
    unsafe: tuple[bool, ...]
    charges: tuple[float, ...]
    on_premise: tuple[bool, ...]
    seeds_safe: bool
    held: str
    recommended: int | None
    gap_closed: float | None

    @property
    def violating(self) -> bool:
        """Whether any deployed target was unsafe: the event that delta bounds, if the seed targets are safe."""
        return any(self.unsafe)

    @property
    def rules_violating(self) -> bool:
        """Whether any target that the rules certified was unsafe: the event that delta bounds, whatever the seeds."""
        return any(unsafe and not premise for unsafe, premise in zip(self.unsafe, self.on_premise, strict=True))

    @property
    def charged_unsafe(self) -> int:
        """Distinct unsafe targets that were paid for: what the sum of the charges foretells."""
        paid = {index for index, charge in zip(self.asked, self.charges, strict=True) if charge > 0.0}
        return len(paid & {index for index, unsafe in zip(self.asked, self.unsafe, strict=True) if unsafe})


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """Many simulated runs: `violating` of `runs` had an unsafe target; with its 95 % Clopper-Pearson interval.

    `mean_charge`: what a run was charged in all, on average; `mean_charged_unsafe`: how many distinct targets that it
    paid for turned out unsafe.
    """

    runs: int
    violating: int
    interval: Interval
    delta: float
    mean_charge: float
    mean_charged_unsafe: float
    mean_gap_closed: float | None
    held: Mapping[str, int]


class WorldSampler:
    """Draws worlds from a declared prior, conditional on safe seed targets and possible costs."""

    def __init__(self, declaration: Declaration) -> None:
        self._declaration = declaration
        prior, points = declaration.prior, declaration.space.points
        self._reward_roots = _roots(prior.reward, points)
        self._cost_roots = {name: _roots(output, points) for name, output in prior.costs.items()}

    def draw(self, rng: np.random.Generator, *, safe_seeds: bool = True) -> World:
        """One world in which every limited statistic is a possible one and, if so said, every seed target is safe.

        Raises:
            UsageError: if such a world is too rare under the prior.
        """
        declaration, prior = self._declaration, self._declaration.prior
        for _ in range(_DRAWS):
            costs = {name: _drawn(output, self._cost_roots[name], rng) for name, output in prior.costs.items()}
            possible = all(np.all((c >= 0) & (c <= declaration.tops[n])) for n, c in costs.items())
            world = World(
                reward=_drawn(prior.reward, self._reward_roots, rng),
                costs=costs,
                reward_episode_sd=prior.reward.episode_sd,
                cost_episode_sds={name: output.episode_sd for name, output in prior.costs.items()},
                kappas={limit.name: limit.kappa for limit in declaration.limits},
            )
            if possible and (not safe_seeds or world.safe(declaration)[declaration.seed_indices].all()):
                return world
        raise UsageError(
            f"none of {_DRAWS} worlds drawn from the prior has safe seed targets and costs within [0, cap]; "
            "the prior puts its mean too close to 0, to the cap, or to the limit at the seed targets"
        )


def simulate(
    declaration: Declaration,
    world: World,
    rng: np.random.Generator,
    start: State | None = None,
    *,
    later: tuple[int, World] | None = None,
) -> SimulatedRun:
    """One whole deployment on a world, until it holds; as many trials are open at once as may be.

    `start`: the declaration's first state, if it is at hand. `later`: from this ask on the world is that one, and so
    is the one that the recommendation is judged by.
    """
    state = State.start(declaration) if start is None else start
    episodes = declaration.settings.episodes_per_ask
    change, after = (declaration.horizon, world) if later is None else later
    held = ""
    while not held:
        while not (held or state.pending_full):
            step = steps.ask(state, None)
            state = step.state
            held = "" if step.held is None else type(step.held).__name__
        for trial in state.open_trials:
            event = state.asked[trial]
            truth = world if event.number < change else after
            outcome = truth.measure(event.index, episodes, declaration.caps, rng)
            state = steps.tell(state, trial, outcome, None, None).state
    asked = list(state.asked.values())
    recommended = _recommended(state)
    safe, safe_later = world.safe(declaration), after.safe(declaration)
    return SimulatedRun(
        asked=tuple(event.index for event in asked),
        unsafe=tuple(not (safe if event.number < change else safe_later)[event.index] for event in asked),
        charges=tuple(event.certificate.charge for event in asked),
        on_premise=tuple(event.certificate.basis == "premise" for event in asked),
        seeds_safe=bool(safe[declaration.seed_indices].all()),
        held=held,
        recommended=recommended,
        gap_closed=_gap_closed(declaration, after, recommended),
    )


def study(declaration: Declaration, runs: int, seed: int) -> Study:
    """Many runs on worlds from the declaration's own prior; run i depends on (seed, i) alone."""
    sampler, start = WorldSampler(declaration), State.start(declaration)
    results = []
    for number in range(runs):
        rng = Streams(seed)[f"simulate/{number}"]
        results.append(simulate(declaration, sampler.draw(rng), rng, start))
    violating = sum(result.violating for result in results)
    gaps = [result.gap_closed for result in results if result.gap_closed is not None]
    words = [result.held for result in results]
    return Study(
        runs=runs,
        violating=violating,
        interval=proportion_interval(violating, runs),
        delta=declaration.delta,
        mean_charge=float(np.mean([sum(result.charges) for result in results])),
        mean_charged_unsafe=float(np.mean([result.charged_unsafe for result in results])),
        mean_gap_closed=float(np.mean(gaps)) if gaps else None,
        held={word: words.count(word) for word in sorted(set(words))},
    )


def _roots(output: OutputPrior, points: Float[np.ndarray, "m d"]) -> list[Float[np.ndarray, "m m"]]:
    """Square roots of every member's prior covariance, by eigenvalues (rounding below zero counts as zero)."""
    everyone = np.arange(len(points))
    linear = 0.0 if output.linear is None else output.linear.cross(everyone, everyone)
    roots = []
    for kernel in output.kernels:
        values, vectors = np.linalg.eigh(kernel(points, points) + linear)
        roots.append(vectors * np.sqrt(np.maximum(values, 0.0)))
    return roots


def _drawn(
    output: OutputPrior, roots: list[Float[np.ndarray, "m m"]], rng: np.random.Generator
) -> Float[np.ndarray, "m"]:
    """One draw: a member by its weight, then a function of it."""
    member = int(rng.choice(len(roots), p=output.weights)) if len(roots) > 1 else 0
    return output.mean + roots[member] @ rng.standard_normal(len(output.mean))


def _at(values: float | Float[np.ndarray, "m"], index: int) -> float:
    """The value of a candidate, where they differ."""
    return float(values[index]) if isinstance(values, np.ndarray) else float(values)


def _recommended(state: State) -> int | None:
    """The candidate that is recommended at the end, if any is."""
    try:
        return recommend(state).index
    except SafetyHold:
        return None


def _gap_closed(declaration: Declaration, world: World, recommended: int | None) -> float | None:
    """How far the recommendation goes from the best seed target to the best safe candidate."""
    safe = world.safe(declaration) & declaration.prior.support
    start = float(np.max(world.reward[declaration.seed_indices]))
    top = float(np.max(world.reward, where=safe, initial=-np.inf))
    if recommended is None or top <= start:
        return None
    return (float(world.reward[recommended]) - start) / (top - start)
