"""What would have happened had the declared model been wrong: whole deployments on worlds that it does not describe."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float

from safehold.core.seeding import Streams
from safehold.deploy.declaration import Declaration
from safehold.deploy.prior import OutputPrior, Prior
from safehold.deploy.replay import State
from safehold.deploy.simulate import Noise, SeedTruth, Study, World, WorldSampler, gaussian, simulate
from safehold.gp.kernels import Factor, FactorKind, Kernel, Matern52, Product, SquaredExponential

CATASTROPHE_CHANCE = 0.01
"""Chance that an episode is a catastrophe, where there are any."""

CATASTROPHE_SIZE = 10.0
"""What a catastrophe costs more than another episode, in limits, unless that is above the cap."""

T3_SD = math.sqrt(3.0)
"""Standard deviation of Student's t with 3 degrees of freedom."""

Law = Literal["normal", "heavy tails", "catastrophes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What is wrong with the declared model of the costs; by default nothing.

    `length`, `signal`, `noise`: the truth's length-scales, dial error and episode scatter, as multiples of those
    declared. `kind`: correlation function along every dial axis of the truth. `law`: of an episode's costs around
    their expectation; "heavy tails" is Student's t with 3 degrees, of the same standard deviation, "catastrophes" are
    one episode in a hundred that costs ten limits more. `drift`: by how much every expected cost rises after half of
    the asks, in limits. `correlation`: of cost and reward in the truth, as a multiple of a declared one. `reward`: by
    how many declared dial errors every expected reward is off, to the side that makes costs look lower. `seeds`:
    whether the seed targets are safe.
    """

    name: str
    length: float = 1.0
    signal: float = 1.0
    noise: float = 1.0
    kind: FactorKind | None = None
    law: Law = "normal"
    drift: float = 0.0
    correlation: float = 1.0
    reward: float = 0.0
    seeds: SeedTruth = "safe"

    def __post_init__(self) -> None:
        if not all(0.0 < factor < math.inf for factor in (self.length, self.signal, self.noise)):
            raise ValueError(f"factors of fault {self.name!r} are {self.length, self.signal, self.noise}; all positive")


NOTHING = Fault(name="nothing is wrong")

FAULTS = (
    NOTHING,
    *(Fault(name=f"length-scales {factor:g} x", length=factor) for factor in (0.33, 0.5, 0.67, 0.8, 1.25, 1.5)),
    *(Fault(name=f"dial error {factor:g} x", signal=factor) for factor in (2.0, 3.0)),
    *(Fault(name=f"noise {factor:g} x", noise=factor) for factor in (2.0, 4.0)),
    Fault(name="rougher surface (Matern 3/2)", kind="matern32"),
    Fault(name="heavy-tailed episodes (t with 3 degrees)", law="heavy tails"),
    Fault(name="rare catastrophes (1 episode in 100, 10 limits)", law="catastrophes"),
    *(Fault(name=f"costs drift up by {drift:g} of the limit", drift=drift) for drift in (0.1, 0.2)),
    Fault(name="a seed target is unsafe", seeds="unsafe"),
)
"""What `safehold deploy stress` tries, one fault at a time."""

COUPLED_FAULTS = (
    Fault(name="the reward says nothing of costs", correlation=0.0),
    *(Fault(name=f"rewards off by {reward:g} dial errors", reward=reward) for reward in (1.0, 3.0, 10.0)),
)
"""Besides, where a correlation is declared."""


def faults_of(declaration: Declaration) -> tuple[Fault, ...]:
    """What can be wrong with a declaration."""
    return FAULTS if declaration.prior.coupled is None else (*FAULTS, *COUPLED_FAULTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stress:
    """What runs on worlds with one fault came to."""

    fault: Fault
    study: Study


class FaultyWorlds:
    """Draws worlds that differ from the declared model, or from another `truth`, in one fault."""

    def __init__(
        self, declaration: Declaration, fault: Fault, *, truth: Prior | None = None, moved: bool = True
    ) -> None:
        self._declaration, self._fault = declaration, fault
        prior = faulty(declaration.prior if truth is None else truth, fault)
        self._sampler = WorldSampler(declaration, truth=prior, moved=moved)

    def draw(self, rng: np.random.Generator) -> tuple[World, tuple[int, World] | None]:
        """A world, and the later one with the ask from which it is so, where costs drift.

        Raises:
            UsageError: if such a world is too rare.
        """
        declaration, fault = self._declaration, self._fault
        world = self._sampler.draw(rng, fault.seeds)
        limit = max(limit.value for limit in declaration.limits)
        sizes = [declaration.caps[limit.name] - limit.value for limit in declaration.limits]
        world = replace(world, noise=law_of(fault.law, min(CATASTROPHE_SIZE * limit, *sizes, math.inf)))
        if fault.drift == 0.0:
            return world, None
        risen = {
            limit.name: np.minimum(world.costs[limit.name] + fault.drift * limit.value, declaration.tops[limit.name])
            for limit in declaration.limits
        }
        return world, (declaration.horizon // 2, replace(world, costs=risen))


def stress(
    declaration: Declaration,
    runs: int,
    seed: int,
    faults: Sequence[Fault] = FAULTS,
    *,
    on_run: Callable[[str, int], None] | None = None,
) -> list[Stress]:
    """Many runs with each fault; run i with a fault depends on (seed, the fault's name, i) alone.

    `on_run` is told the fault's name and how many of its runs are done.
    """
    start = State.start(declaration)
    rows = []
    for fault in faults:
        worlds = FaultyWorlds(declaration, fault)
        results = []
        for number in range(runs):
            rng = Streams(seed)[f"stress/{fault.name}/{number}"]
            world, later = worlds.draw(rng)
            results.append(simulate(declaration, world, rng, start, later=later))
            if on_run is not None:
                on_run(fault.name, number + 1)
        rows.append(Stress(fault=fault, study=Study.of(declaration.delta, results)))
    return rows


def faulty(prior: Prior, fault: Fault) -> Prior:
    """The prior that worlds are drawn from instead of the declared one."""
    reward = prior.reward
    if fault.reward != 0.0 and prior.coupled is not None:
        lower = -1.0 if max(prior.costs[prior.coupled].correlation) > 0.0 else 1.0
        reward = replace(reward, mean=reward.mean + lower * fault.reward * reward.dial_sd)
    return replace(prior, reward=reward, costs={name: _faulty(output, fault) for name, output in prior.costs.items()})


def _faulty(output: OutputPrior, fault: Fault) -> OutputPrior:
    """One cost's."""
    return replace(
        output,
        kernels=tuple(scaled(kernel, fault) for kernel in output.kernels),
        episode_sd=output.episode_sd * fault.noise,
        correlation=tuple(fault.correlation * rho for rho in output.correlation),
    )


def scaled(kernel: Kernel, fault: Fault) -> Kernel:
    """The kernel with other scales; a correlation between the values of a context stays."""
    if isinstance(kernel, Product):
        factors = (
            factor if factor.kind == "categorical" else Factor(fault.kind or factor.kind, fault.length * factor.scale)
            for factor in kernel.factors
        )
        return Product(fault.signal * kernel.sd, tuple(factors))
    scales = tuple(fault.length * scale for scale in kernel.lengthscales)
    if fault.kind is not None:
        return Product.of(fault.kind, fault.signal * kernel.sd, scales)
    kind = SquaredExponential if isinstance(kernel, SquaredExponential) else Matern52
    return kind(fault.signal * kernel.sd, scales)


def law_of(law: Law, size: float) -> Noise:
    """How episodes scatter; `size` is that of a catastrophe."""

    def heavy(sd: float, episodes: int, rng: np.random.Generator) -> Float[np.ndarray, "_"]:
        return sd / T3_SD * rng.standard_t(3, episodes)

    def rare(sd: float, episodes: int, rng: np.random.Generator) -> Float[np.ndarray, "_"]:
        struck = rng.random(episodes) < CATASTROPHE_CHANCE
        return gaussian(sd, episodes, rng) + size * (struck - CATASTROPHE_CHANCE)

    return {"normal": gaussian, "heavy tails": heavy, "catastrophes": rare}[law]
