"""How long the navigation tasks take to reset and to step, one world in one thread.

    make navigation
    python benchmarks/navigation_speed.py [--out docs/results/navigation-speed] [--resets 30] [--steps 1500]

Every registered `navigation/` task in turn: resets with the seeds 0, 1, ..., of which the median and the largest are
told, then steps with random actions, held for ten steps each, with the resets that the clock asks for. Through the
checks of `envs.adapter`, as learners and evaluations step them. Processor time, which other work on the machine
disturbs least.
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
from offline_speed import machine_now

from safehold.envs import registry

HELD = 10


def measured(env_id: str, resets: int, steps: int) -> tuple[list[float], float]:
    """Seconds of each reset, and steps a second."""
    environment = registry.make(env_id)
    environment.reset(seed=0)  # builds the world
    seconds = []
    for seed in range(resets):
        begun = time.process_time()
        environment.reset(seed=seed)
        seconds.append(time.process_time() - begun)
    rng = np.random.default_rng(0)
    actions = np.repeat(rng.uniform(-1.0, 1.0, (steps // HELD, 2)), HELD, axis=0).astype(np.float32)
    begun, seed = time.process_time(), resets
    for action in actions:
        _, _, terminated, truncated, _ = environment.step(action)
        if terminated or truncated:
            seed += 1
            environment.reset(seed=seed)
    return seconds, len(actions) / (time.process_time() - begun)


def main() -> None:
    """Measures, and writes the page and the readings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--resets", type=int, default=30)
    parser.add_argument("--steps", type=int, default=1500)
    arguments = parser.parse_args()
    machine, load = machine_now(), os.getloadavg()[0]
    names = [name for name in registry.list_envs() if name.startswith("navigation/")]
    found = {name: measured(name, arguments.resets, arguments.steps) for name in names}
    command = f"python benchmarks/navigation_speed.py --resets {arguments.resets} --steps {arguments.steps}"
    lines = [
        "# Speed of the navigation tasks",
        "",
        f"`{command}` at commit {machine['commit']}, {machine['processor']}, {machine['cores']} cores; load {load:.1f} "
        f"to {os.getloadavg()[0]:.1f}.",
        "What is measured, and how, says the head of `benchmarks/navigation_speed.py`.",
        "",
        "| | reset, ms | largest | steps/s |",
        "|---|---|---|---|",
    ]
    for name, (seconds, rate) in found.items():
        lines.append(f"| {name} | {1e3 * np.median(seconds):.1f} | {1e3 * max(seconds):.1f} | {rate:,.0f} |")
    text = "\n".join([*lines, ""])
    if arguments.out is not None:
        arguments.out.with_suffix(".md").write_text(text)
        readings = {name: {"reset_seconds": seconds, "steps_a_second": rate} for name, (seconds, rate) in found.items()}
        record = {"command": command, "machine": machine, "readings": readings}
        arguments.out.with_suffix(".json").write_text(json.dumps(record) + "\n")
    print(text)


if __name__ == "__main__":
    main()
