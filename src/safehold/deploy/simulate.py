"""Whole deployments on worlds drawn from the declared prior: what would have happened, and how often it went wrong."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from jaxtyping import Float

from safehold.core.errors import SafetyHold, UsageError
from safehold.core.intervals import Interval, proportion_interval
from safehold.core.measurement import Measurement
from safehold.core.seeding import Streams
from safehold.core.target import TargetSpace
from safehold.deploy import steps
from safehold.deploy.declaration import Declaration
from safehold.deploy.prior import OutputPrior, Prior
from safehold.deploy.replay import State
from safehold.deploy.status import recommend
from safehold.gp.kernels import SeparableKernel

_DRAWS = 1000

SeedTruth = Literal["safe", "any", "unsafe"]
"""Which worlds are drawn: all seed targets safe, as they come, or at least one of them unsafe."""

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
    they all were. `certified`: how many candidates the rules would keep certified for what was told by the end, had
    they been paid for. `held` names the refusal the run ended with. `gap`: by how much the reward of the best safe
    candidate beats that of the best seed target; `gained`: by how much the recommended target's does, 0 without one.
    """

    asked: tuple[int, ...]
    unsafe: tuple[bool, ...]
    charges: tuple[float, ...]
    on_premise: tuple[bool, ...]
    seeds_safe: bool
    held: str
    recommended: int | None
    gap: float
    gained: float
    certified: int

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

    `unsafe_asks`: share of all asks that were of unsafe targets. `mean_charge`: what a run was charged in all, on
    average; `mean_charged_unsafe`: how many distinct targets that it paid for turned out unsafe. `gap_closed`: what all
    runs together gained in reward over their best seed targets, as a share of what there was to gain (None if there
    was nothing); `mean_regret`: what a run missed of it, in units of reward. `held`: what the runs ended with.
    """

    runs: int
    violating: int
    interval: Interval
    delta: float
    unsafe_asks: float
    mean_charge: float
    mean_charged_unsafe: float
    gap_closed: float | None
    mean_regret: float
    held: Mapping[str, int]

    @property
    def broken(self) -> bool:
        """Whether the one-sided 99 % lower bound on the share of violating runs is above delta."""
        return not proportion_interval(self.violating, self.runs, 0.98).low <= self.delta

    @staticmethod
    def of(delta: float, results: Sequence[SimulatedRun]) -> "Study":
        """What some runs, at least one, came to."""
        violating = sum(result.violating for result in results)
        asks = sum(len(result.asked) for result in results)
        gap, gained = sum(result.gap for result in results), sum(result.gained for result in results)
        words = [result.held for result in results]
        return Study(
            runs=len(results),
            violating=violating,
            interval=proportion_interval(violating, len(results)),
            delta=delta,
            unsafe_asks=sum(sum(result.unsafe) for result in results) / max(asks, 1),
            mean_charge=float(np.mean([sum(result.charges) for result in results])),
            mean_charged_unsafe=float(np.mean([result.charged_unsafe for result in results])),
            gap_closed=gained / gap if gap > 0 else None,
            mean_regret=(gap - gained) / len(results),
            held={word: words.count(word) for word in sorted(set(words))},
        )


class WorldSampler:
    """Draws worlds from a declared prior, or from another one, conditional on possible costs.

    `truth`: draw from this one. `moved`: a value outside [0, top] is moved to the nearest possible one, instead of the
    world being drawn again; no limit is passed by that, or kept.
    """

    def __init__(self, declaration: Declaration, *, truth: Prior | None = None, moved: bool = False) -> None:
        self._declaration = declaration
        self._moved = moved
        self._prior = declaration.prior if truth is None else truth
        space = declaration.space
        self._reward = _Surfaces.of(self._prior.reward, space)
        self._coupled = self._prior.coupled
        self._costs = {name: _Surfaces.of(output, space) for name, output in self._prior.costs.items()}

    def draw(self, rng: np.random.Generator, seeds: SeedTruth = "safe") -> World:
        """One world in which every limited statistic is a possible one, and the seed targets are as is said.

        Raises:
            UsageError: if such a world is too rare under the prior.
        """
        declaration, prior = self._declaration, self._prior
        for _ in range(_DRAWS):
            beside = None
            costs = {}
            for name, surfaces in self._costs.items():
                if name == self._coupled:
                    costs[name], beside = surfaces.draw_pair(prior.reward, rng)
                else:
                    costs[name] = surfaces.draw(rng)
            if self._moved:
                costs = {name: np.clip(values, 0.0, declaration.tops[name]) for name, values in costs.items()}
            possible = all(np.all((c >= 0) & (c <= declaration.tops[n])) for n, c in costs.items())
            world = World(
                reward=self._reward.draw(rng) if beside is None else beside,
                costs=costs,
                reward_episode_sd=prior.reward.episode_sd,
                cost_episode_sds={name: output.episode_sd for name, output in prior.costs.items()},
                kappas={limit.name: limit.kappa for limit in declaration.limits},
            )
            safe = bool(world.safe(declaration)[declaration.seed_indices].all())
            if possible and (seeds == "any" or safe == (seeds == "safe")):
                return world
        raise UsageError(
            f"none of {_DRAWS} worlds drawn from the prior has {seeds} seed targets and costs within [0, cap]; "
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
    is the one that the recommendation is judged by. A roll-out in stages spends as many asks in each.
    """
    state = State.start(declaration) if start is None else start
    change, after = (declaration.horizon, world) if later is None else later
    held = ""
    while not held:
        state = _next_stage(state)
        episodes = state.episodes_per_ask
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
    gap, gained = _gap(declaration, after, recommended)
    safe, safe_later = world.safe(declaration), after.safe(declaration)
    return SimulatedRun(
        asked=tuple(event.index for event in asked),
        unsafe=tuple(not (safe if event.number < change else safe_later)[event.index] for event in asked),
        charges=tuple(event.certificate.charge for event in asked),
        on_premise=tuple(event.certificate.basis == "premise" for event in asked),
        seeds_safe=bool(safe[declaration.seed_indices].all()),
        held=held,
        recommended=recommended,
        gap=gap,
        gained=gained,
        certified=int(np.sum(state.verdict().evident)),
    )


def rehearsed(declaration: Declaration) -> Declaration:
    """The same deployment with nobody to wait for: seed targets are taken as attested, and every trial is approved."""
    return replace(declaration, seed_rule="attested", settings=replace(declaration.settings, approval=False))


def study(
    declaration: Declaration,
    runs: int,
    seed: int,
    *,
    sampler: WorldSampler | None = None,
    on_run: Callable[[int], None] | None = None,
) -> Study:
    """Many runs on worlds with safe seed targets, from the declaration's own prior or another sampler.

    Run i depends on (seed, i) alone. `on_run` is told how many are done.
    """
    sampler, start = sampler or WorldSampler(declaration), State.start(declaration)
    results = []
    for number in range(runs):
        rng = Streams(seed)[f"simulate/{number}"]
        results.append(simulate(declaration, sampler.draw(rng), rng, start))
        if on_run is not None:
            on_run(number + 1)
    return Study.of(declaration.delta, results)


@dataclass(frozen=True)
class _Surfaces:
    """Draws one output: a member of its prior by its weight, then a function of it around the mean."""

    output: OutputPrior
    shape: tuple[int, ...]
    roots: tuple[tuple[Float[np.ndarray, "_ _"], ...], ...]
    linear: Float[np.ndarray, "m q"] | None

    @staticmethod
    def of(output: OutputPrior, space: TargetSpace) -> "_Surfaces":
        """Square roots of all covariances: by axis where they are products over the axes, whole where not."""
        separable = all(isinstance(kernel, SeparableKernel) and kernel.separable for kernel in output.kernels)
        roots = []
        for kernel in output.kernels:
            if separable and isinstance(kernel, SeparableKernel):
                axes = enumerate(space.axes.values())
                by_axis = [_root(kernel.axis_matrix(axis, np.array(values))) for axis, values in axes]
                roots.append((kernel.sd * by_axis[0], *by_axis[1:]))
            else:
                roots.append((_root(kernel(space.points, space.points)),))
        terms = output.linear
        linear = None if terms is None else terms.features @ _root(terms.covariance)
        return _Surfaces(output, space.shape if separable else (len(space),), tuple(roots), linear)

    def draw(self, rng: np.random.Generator) -> Float[np.ndarray, "m"]:
        """One function."""
        drawn = self.output.mean + self._error(self._member(rng), rng)
        if self.linear is not None:
            drawn = drawn + self.linear @ rng.standard_normal(self.linear.shape[1])
        return drawn

    def draw_pair(
        self, reward: OutputPrior, rng: np.random.Generator
    ) -> tuple[Float[np.ndarray, "m"], Float[np.ndarray, "m"]]:
        """A cost and a reward that goes with it, as is declared of the cost (`OutputPrior.correlation`)."""
        member = self._member(rng)
        error, rho = self._error(member, rng), self.output.correlation[member]
        other = rho * error + math.sqrt(1.0 - rho**2) * self._error(member, rng)
        return self.output.mean + error, reward.mean + reward.dial_sd / self.output.dial_sd * other

    def _member(self, rng: np.random.Generator) -> int:
        """The number of a member of the mixture."""
        return int(rng.choice(len(self.roots), p=self.output.weights)) if len(self.roots) > 1 else 0

    def _error(self, member: int, rng: np.random.Generator) -> Float[np.ndarray, "m"]:
        """A function of a member around 0."""
        values = rng.standard_normal(self.shape)
        for axis, root in enumerate(self.roots[member]):
            values = np.moveaxis(np.tensordot(root, values, axes=(1, axis)), 0, axis)
        return values.ravel()


def _root(covariance: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    """A square root, by eigenvalues; rounding below zero counts as zero."""
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.maximum(values, 0.0))


def _next_stage(state: State) -> State:
    """The state in the next stage of its roll-out, once this one's part of the asks is spent."""
    stages, number = state.declaration.stages, state.stage_number + 1
    if number >= len(stages) or state.alarm is not None or state.stopped is not None or state.open_trials:
        return state
    if state.n_spent * len(stages) < state.declaration.horizon * number:
        return state
    return steps.advance(state, "the simulation", "its part of the asks is spent").state


def _at(values: float | Float[np.ndarray, "m"], index: int) -> float:
    """The value of a candidate, where they differ."""
    return float(values[index]) if isinstance(values, np.ndarray) else float(values)


def _recommended(state: State) -> int | None:
    """The candidate that is recommended at the end, if any is."""
    try:
        return recommend(state).index
    except SafetyHold:
        return None


def _gap(declaration: Declaration, world: World, recommended: int | None) -> tuple[float, float]:
    """From the best seed target to the best safe candidate, and to the recommendation, in reward."""
    safe = world.safe(declaration) & declaration.prior.support
    start = float(np.max(world.reward[declaration.seed_indices]))
    top = float(np.max(world.reward, where=safe, initial=start))
    return top - start, 0.0 if recommended is None else float(world.reward[recommended]) - start
