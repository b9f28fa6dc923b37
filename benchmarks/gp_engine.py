"""Milliseconds a tell and an ask of the Gaussian-process engine.

    OMP_NUM_THREADS=1 python benchmarks/gp_engine.py [--quick]

A tell conditions on one measurement at a random candidate: of two processes (a reward and a cost), on the grid engine
and on the one for all kernels, and of a mixture of sixteen. An ask is the mixture's risk, mean and spread over the
whole grid. Every figure is the median of tells n + 1 to n + 10 of a run, and the quickest of them, over several runs.
--quick leaves out the grid of a million candidates.
"""

import argparse
import time

import numpy as np

from safehold.core.target import TargetSpace
from safehold.gp.confidence import envelope
from safehold.gp.exact import GaussianProcess
from safehold.gp.kernels import Product
from safehold.gp.mixture import Mixture
from safehold.gp.process import Process, process_for

TELLS = 10
SCALES = (0.1, 0.2, 0.3, 0.5)


def grid(size: int) -> TargetSpace:
    """A unit dial of two axes with so many values each."""
    axis = tuple(np.linspace(0.0, 1.0, size))
    return TargetSpace({"R": axis, "G": axis})


def sixteen(space: TargetSpace) -> Mixture:
    """Four lengthscales an axis."""
    zero = np.zeros(len(space))
    kernels = [Product.of("matern52", 1.0, (a, b)) for a in SCALES for b in SCALES]
    return Mixture(tuple(process_for(kernel, space, zero) for kernel in kernels), (0.0,) * len(kernels))


def measurements(space: TargetSpace, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """At random candidates, with noise of a tenth of the prior's spread."""
    rng = np.random.default_rng(n)
    return rng.integers(0, len(space), n), rng.normal(size=n), np.full(n, 0.01)


def processes_tell(prior: Process, space: TargetSpace, n: int, runs: int) -> list[float]:
    """Milliseconds a tell of two processes."""
    indices, values, noise = measurements(space, n + TELLS)
    start = prior.condition(indices[:n], values[:n], noise[:n])
    times = []
    for _ in range(runs):
        reward = cost = start
        for t in range(n, n + TELLS):
            told = (indices[t : t + 1], values[t : t + 1], noise[t : t + 1])
            begun = time.perf_counter()
            reward, cost = reward.condition(*told), cost.condition(*told)
            times.append(1e3 * (time.perf_counter() - begun))
    return times


def mixture_tells_and_asks(space: TargetSpace, n: int, runs: int) -> tuple[list[float], list[float]]:
    """Milliseconds a tell, and an ask, of sixteen members."""
    indices, values, noise = measurements(space, n + TELLS)
    start = sixteen(space).condition(indices[:n], values[:n], noise[:n])
    tells, asks = [], []
    for _ in range(runs):
        mixture = start
        for t in range(n, n + TELLS):
            begun = time.perf_counter()
            mixture = mixture.condition(indices[t : t + 1], values[t : t + 1], noise[t : t + 1])
            told = time.perf_counter()
            mixture.risk(0.5)
            _ = (mixture.mean, mixture.sd)
            tells.append(1e3 * (told - begun))
            asks.append(1e3 * (time.perf_counter() - told))
    return tells, asks


def envelopes(space: TargetSpace, runs: int) -> list[float]:
    """Milliseconds a Lipschitz envelope."""
    upper, times = np.random.default_rng(0).normal(size=len(space)), []
    for _ in range(runs):
        begun = time.perf_counter()
        envelope(space, upper, (1.0, 2.0))
        times.append(1e3 * (time.perf_counter() - begun))
    return times


def show(what: str, times: list[float]) -> None:
    """One line."""
    print(f"{what:<58} {np.median(times):9.3f} ms (min {min(times):.3f})", flush=True)


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    kernel = Product.of("matern52", 1.0, (0.3, 0.3))
    for size in (12, 100) if arguments.quick else (12, 100, 1000):
        space, runs = grid(size), 20 if size < 1000 else 1
        engines: dict[str, Process] = {"grid": process_for(kernel, space, np.zeros(len(space)))}
        if size < 1000:
            engines["general"] = GaussianProcess.over(kernel, space.points, np.zeros(len(space)))
        for n in (10, 100, 500):
            where = f"{size}x{size}, n={n}"
            for name, prior in engines.items():
                times = processes_tell(prior, space, n, runs if name == "grid" else max(1, runs // 4))
                show(f"{where}: tell, two processes, {name} engine", times)
            if size < 1000:
                tells, asks = mixture_tells_and_asks(space, n, runs)
                both = [tell + ask for tell, ask in zip(tells, asks, strict=True)]
                for name, times in (("tell", tells), ("ask", asks), ("tell and ask", both)):
                    show(f"{where}: {name}, mixture of 16", times)
        show(f"{size}x{size}: Lipschitz envelope", envelopes(space, runs))


if __name__ == "__main__":
    main()
