"""OmniSafe's PPO-Lagrangian, run in its own environment: what episodes earned and cost as it learnt, and its time.

    PYTHON_WITH_OMNISAFE benchmarks/peers/omnisafe_peer.py TASK OUT --steps N --seed S --limit D

OmniSafe 0.5.0 (Apache-2.0) with its own defaults for the task, but for the limit, one thread, one world at a time
(its default, too) and no files but its log. TASK is Safety-Gymnasium's name (SafetyHalfCheetahVelocity-v1). Writes one
JSON object to OUT: a point of the curve for each of its epochs, as it logs them (means over its last 100 episodes),
and the wall and processor seconds of `learn` alone, without imports.
"""

import argparse
import copy
import csv
import dataclasses
import inspect
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any


def _with_mutable_defaults(dataclass: Callable[..., Any]) -> Callable[..., Any]:
    """`dataclass`, for classes of the days when any object was allowed as a default; Python 3.11 refuses some."""

    def decorate(cls: Any = None, /, **options: Any) -> Any:
        def build(found: Any) -> Any:
            for name in inspect.get_annotations(found):
                value = found.__dict__.get(name)
                if value is None or isinstance(value, dataclasses.Field) or type(value).__hash__ is not None:
                    continue
                setattr(found, name, dataclasses.field(default_factory=partial(copy.deepcopy, value)))
            return dataclass(found, **options)

        return build if cls is None else build(cls)

    return decorate


def learn(task: str, *, steps: int, seed: int, limit: float) -> dict[str, Any]:
    """One run of it."""
    plain = dataclasses.dataclass
    dataclasses.dataclass = _with_mutable_defaults(plain)
    try:
        import safety_gymnasium  # noqa: F401
    finally:
        dataclasses.dataclass = plain
    import omnisafe

    with tempfile.TemporaryDirectory() as place:
        agent = omnisafe.Agent(
            "PPOLag",
            task,
            custom_cfgs={
                "seed": seed,
                "train_cfgs": {"total_steps": steps, "vector_env_nums": 1, "torch_threads": 1, "device": "cpu"},
                "logger_cfgs": {
                    "use_wandb": False,
                    "use_tensorboard": False,
                    "save_model_freq": 1_000_000,
                    "log_dir": place,
                },
                "lagrange_cfgs": {"cost_limit": limit},
            },
        )
        wall, processor = time.perf_counter(), time.process_time()
        agent.learn()
        seconds = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - processor}
        (progress,) = Path(place).rglob("progress.csv")
        with progress.open(newline="") as rows:
            epochs = list(csv.DictReader(rows))
    curve = [
        {
            "step": float(row["TotalEnvSteps"]),
            "reward": float(row["Metrics/EpRet"]),
            "cost": float(row["Metrics/EpCost"]),
            "multiplier": float(row["Metrics/LagrangeMultiplier"]),
        }
        for row in epochs
    ]
    versions = {name: version(name) for name in ("omnisafe", "safety-gymnasium", "mujoco", "torch", "numpy")}
    return {"task": task, "steps": steps, "seed": seed, "limit": limit, "curve": curve, **seconds, "versions": versions}


def main() -> None:
    """Runs it and writes what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task")
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--limit", type=float, required=True)
    arguments = parser.parse_args()
    found = learn(arguments.task, steps=arguments.steps, seed=arguments.seed, limit=arguments.limit)
    unfinished = arguments.out.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(found) + "\n")
    unfinished.rename(arguments.out)


if __name__ == "__main__":
    main()
