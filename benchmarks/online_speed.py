"""Environment steps a second of our PPO-Lagrangian beside OmniSafe's, learning included, on the same core.

    python benchmarks/online_speed.py --omnisafe PYTHON [--out docs/results/online-speed] [--rounds 3]

SafetyHalfCheetahVelocity-v1 and HalfCheetahVelocity, the same world. OmniSafe 0.5.0 with its own settings, two of its
epochs (40,000 steps, one world); ours with the defaults of `safehold explore ppo-lag` (16 worlds in lockstep), 81,920
steps; one thread each, in turn, imports left out. Settings differ as
the packages' defaults do, and most of the ratio is made of that: OmniSafe makes up to 40 passes over 20,000 steps in
minibatches of 64, ours up to 10 over 8,192 in minibatches of 1,024. What each learns from as many steps stands in
docs/results/online-curves.md. Processor time is what other work on the machine disturbs least.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from safehold.workflows.explore import ExploreConfig, explore

sys.path.insert(0, str(Path(__file__).parent))
from offline_speed import machine_now

TASK, PEER_TASK = "HalfCheetahVelocity", "SafetyHalfCheetahVelocity-v1"
STEPS, PEER_STEPS, LIMIT = 81_920, 40_000, 20.0


def ours(seed: int) -> dict[str, Any]:
    """One run."""
    config = ExploreConfig(env_id=TASK, limit=LIMIT, seed=seed, total_steps=STEPS, snapshots=1, evaluation_episodes=1)
    wall, processor = time.perf_counter(), time.process_time()
    explore(config)
    return {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - processor}


def theirs(python: Path, seed: int) -> dict[str, Any]:
    """One run of OmniSafe's."""
    script = Path(__file__).parent / "peers" / "omnisafe_peer.py"
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "found.json"
        options = ("--steps", str(PEER_STEPS), "--seed", str(seed), "--limit", str(LIMIT))
        subprocess.run(
            [python, script, PEER_TASK, out, *options],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **threads},
        )
        found: dict[str, Any] = json.loads(out.read_text())
    return found


def main() -> None:
    """Measures, and writes the page and the readings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--omnisafe", type=Path, required=True, help="a python that has OmniSafe")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    machine, load = machine_now(), os.getloadavg()[0]
    readings = [{"ours": ours(seed), "theirs": theirs(arguments.omnisafe, seed)} for seed in range(arguments.rounds)]
    command = f"python benchmarks/online_speed.py --omnisafe PYTHON --rounds {arguments.rounds}"
    lines = [
        "# Speed of PPO-Lagrangian beside OmniSafe's",
        "",
        f"`{command}` at commit {machine['commit']}, {machine['processor']}, {machine['cores']} cores, "
        f"torch {machine['torch']}; load {load:.1f} to {os.getloadavg()[0]:.1f}. One thread each; medians over rounds.",
        "What is measured, and how, says the head of `benchmarks/online_speed.py`.",
        "",
        "| | OmniSafe, steps/s | safehold, steps/s | ratio |",
        "|---|---|---|---|",
    ]
    for clock, words in (("cpu_seconds", "of processor time"), ("seconds", "by the clock")):
        rates = np.array([[PEER_STEPS / one["theirs"][clock], STEPS / one["ours"][clock]] for one in readings])
        middle = np.median(rates, axis=0)
        ratio = float(np.median(rates[:, 1] / rates[:, 0]))
        lines.append(f"| {words} | {middle[0]:,.0f} | {middle[1]:,.0f} | {ratio:.1f} |")
    text = "\n".join([*lines, ""])
    if arguments.out is not None:
        arguments.out.with_suffix(".md").write_text(text)
        record = {"command": command, "machine": machine, "readings": readings}
        arguments.out.with_suffix(".json").write_text(json.dumps(record) + "\n")
    print(text)


if __name__ == "__main__":
    main()
