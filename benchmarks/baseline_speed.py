"""Updates a second of the offline baselines beside OSRL's own, one batch size and one width, on the same cores.

    python benchmarks/baseline_speed.py --osrl CHECKOUT [--out docs/results/baseline-speed] [--rounds 15]

Needs a checkout of github.com/liuzuxin/OSRL (Apache-2.0; commit 03a4586) and torch, nothing else of OSRL's.

OSRL's learners with the settings of its `examples/configs`, ours with the presets of the same numbers: networks of
256 x 256, autoencoders of 400 x 400, ten actions a state, batches of 512, on 17 observations, 6 actions and noise; as
many networks, and as many actions asked about. CPQ's preset `osrl` does what OSRL's does; in `published` its critics
learn from unknown actions, too, which OSRL's do not. Both are given the same batch, drawn beforehand; ours carries it
into a network's units within what is clocked. Learners take turns, an update each, in an order that turns, too. The
median over rounds of processor time, which other work on the machine disturbs least, and of the clock; their ratios are
medians of the rounds' own.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from safehold.workflows.train import METHODS, preset

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "peers"))
import osrl_peer
from offline_speed import TASK, machine_now, random_log

WAYS = (
    ("bcq-lag", "published"),
    ("bear-lag", "published"),
    ("cpq", "osrl"),
    ("cpq", "published"),
    ("coptidice", "osrl"),
)
"""Methods and presets."""


def updates(checkout: Path, method: str, name: str) -> tuple[Callable[[], object], Callable[[], object]]:
    """One update of OSRL's learner, and one of ours."""
    log = random_log(TASK)
    config = preset(method, name).model_copy(update={"limits": {"cost": 20.0}})
    learner, sampler = METHODS[method].build(log, config, 0)
    batch = sampler.sample(np.random.default_rng(0))
    first = np.random.default_rng(0).random(len(batch.rewards)) < 1.0 / TASK.horizon
    sizes = osrl_peer.Sizes(observations=TASK.observation_size, actions=TASK.action.size, horizon=TASK.horizon)
    trainer = osrl_peer.baseline(checkout, method, osrl_peer.PUBLISHED[method], sizes)
    return lambda: osrl_peer.baseline_step(trainer, batch, first), lambda: learner.update(batch)


def clocked(update: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the processor and by the clock."""
    clock, processor = time.perf_counter(), time.process_time()
    update()
    return time.process_time() - processor, time.perf_counter() - clock


def readings(checkout: Path, method: str, name: str, rounds: int) -> list[list[tuple[float, float]]]:
    """OSRL's and ours, round by round; three rounds before them warm up."""
    pair = updates(checkout, method, name)
    found: list[list[tuple[float, float]]] = [[], []]
    for number in range(rounds + 3):
        for which in (0, 1) if number % 2 == 0 else (1, 0):
            reading = clocked(pair[which])
            if number >= 3:
                found[which].append(reading)
    return found


def main() -> None:
    """Measures, and writes the page and the readings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--osrl", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    machine, load = machine_now(), os.getloadavg()[0]
    found = {" ".join(way): readings(arguments.osrl, *way, arguments.rounds) for way in WAYS}
    command = f"python benchmarks/baseline_speed.py --osrl CHECKOUT --rounds {arguments.rounds}"
    lines = [
        "# Speed of the offline baselines beside OSRL",
        "",
        f"`{command} --threads {arguments.threads}` at commit {machine['commit']}, {machine['processor']}, "
        f"{machine['cores']} cores, torch {machine['torch']}; load {load:.1f} to {os.getloadavg()[0]:.1f}.",
        "What is measured, and how, says the head of `benchmarks/baseline_speed.py`.",
        "",
        "| | OSRL, updates/s | safehold, updates/s | beside OSRL, processor time | beside OSRL, clock |",
        "|---|---|---|---|---|",
    ]
    for method, (theirs, ours) in found.items():
        seconds = np.array([theirs, ours])  # (2, rounds, 2)
        rates = 1.0 / np.median(seconds[:, :, 0], axis=1)
        ratios = np.median(seconds[0] / seconds[1], axis=0)
        lines.append(f"| {method} | {rates[0]:.1f} | {rates[1]:.1f} | {ratios[0]:.2f} | {ratios[1]:.2f} |")
    text = "\n".join([*lines, ""])
    if arguments.out is not None:
        arguments.out.with_suffix(".md").write_text(text)
        record = {"command": command, "machine": machine, "threads": arguments.threads, "seconds": found}
        arguments.out.with_suffix(".json").write_text(json.dumps(record) + "\n")
    print(text)


if __name__ == "__main__":
    main()
