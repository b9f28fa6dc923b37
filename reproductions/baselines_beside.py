"""OSRL's own baselines beside ours: identical logs, sizes, updates and limit, the same fresh episodes.

    python reproductions/baselines_beside.py --osrl CHECKOUT --velocity runs/baselines-velocity
                                             --bullet runs/baselines-bullet [--runs runs/baselines-beside]
                                             [--out docs/results] [--shard 0/1]

Needs a checkout of github.com/liuzuxin/OSRL (Apache-2.0; commit 03a4586) and `make bullet`. What OSRL imports for
logging alone is stood in for; its sampler of transitions, networks and training steps are its own, untouched. Ours are
the runs of reproductions/baselines-velocity.toml and baselines-bullet.toml, with their logs.

Fixed before it was run:

* HalfCheetahVelocity at a limit of 40 and bullet/BallCircle at 20; BCQ-Lag, BEAR-Lag, CPQ and COptiDICE; training
  seeds 10, 11, 12; 10,000 updates.
* OSRL is told all that the table's settings say and OSRL knows too (layers, batch, candidates, networks of a critic,
  step sizes); the rest is its own: rewards times 0.1, timeouts terminal, observations as they are, no patience with
  BEAR's actor.
* 20 episodes each, on the reset seeds that all methods of the table met; OSRL's policies act in our loop, several
  episodes at a time, as they act in its own `rollout`.
* Rewards normalised by the extremes of the log, costs by the limit; differences paired by seed and episode, intervals
  by bootstrap over both. No bar was set: the methods are not the same where docs/offline-baselines.md says so.

One to three minutes for each of the 24 runs on one core; what is done is not done again.
"""

import argparse
import importlib
import json
import sys
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from osrl_beside import REWARD_SCALE, difference, flat
from recorded import commit_here

from safehold.core.intervals import bootstrap_interval
from safehold.core.policy import Actor, Memoryless
from safehold.core.seeding import Streams
from safehold.data import hdf5
from safehold.data.dataset import OfflineDataset
from safehold.learn.offline.bcq_lag import BCQLagConfig
from safehold.learn.offline.bear_lag import BEARLagConfig
from safehold.learn.offline.coptidice import COptiDICEConfig
from safehold.learn.offline.cpq import CPQConfig
from safehold.workflows.benchmark import RESULT, BenchmarkConfig, Cell, read_result
from safehold.workflows.evaluate import Evaluation, evaluate
from safehold.workflows.files import write_text

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks" / "peers"))
from osrl_peer import BASELINES, BaselineSettings, Sizes, baseline, osrl

TASKS = {"HalfCheetahVelocity": ("velocity", 40.0), "bullet/BallCircle": ("bullet", 20.0)}
SEEDS = (10, 11, 12)


def settings_of(config: object, limit: float) -> BaselineSettings:
    """What OSRL knows of our settings."""
    if isinstance(config, COptiDICEConfig):
        return BaselineSettings(
            hidden=config.hidden,
            critics=config.value_networks,
            actor_rate=config.actor_learning_rate,
            critic_rate=config.value_learning_rate,
            scalar_rate=config.scalar_learning_rate,
            limit=limit,
        )
    if not isinstance(config, BCQLagConfig | BEARLagConfig | CPQConfig):
        raise TypeError(f"OSRL has no learner with the settings {type(config).__name__}")
    return BaselineSettings(
        hidden=config.hidden,
        coded=config.autoencoder_hidden[0],
        candidates=config.candidates,
        matched=config.matched if isinstance(config, BEARLagConfig) else config.candidates,
        critics=config.critics,
        actor_rate=config.actor_learning_rate,
        critic_rate=config.critic_learning_rate,
        autoencoder_rate=config.autoencoder_learning_rate,
        limit=limit,
    )


@dataclass(frozen=True, slots=True)
class OsrlPolicy:
    """What one of OSRL's learners does at observations, as its `rollout` has it."""

    acts: Callable[[torch.Tensor], torch.Tensor]

    def start(self, n: int, rng: np.random.Generator) -> Actor:
        """An actor for any number of episodes."""

        def act(observations: Float[np.ndarray, "n o"]) -> Float[np.ndarray, "n a"]:
            with torch.no_grad():
                found = self.acts(torch.as_tensor(observations, dtype=torch.float32))
            return found.clamp(-1.0, 1.0).numpy()

        return Memoryless(act)


def acting(method: str, model: Any) -> OsrlPolicy:
    """The policy of a trained model."""
    if method == "bcq-lag":
        return OsrlPolicy(lambda observations: model.actor(observations, model.vae.decode(observations)))
    if method == "coptidice":
        return OsrlPolicy(lambda observations: model.actor.forward(observations, True, True)[0])
    return OsrlPolicy(lambda observations: model._actor_forward(observations, True, True)[0])


def trained(checkout: Path, method: str, config: Any, log: OfflineDataset, limit: float, seed: int) -> Any:
    """OSRL's training, its own steps from its own sampler."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - what OSRL draws with
    osrl(checkout)
    data = importlib.import_module("osrl.common.dataset")
    following = np.delete(log.observations, log.offsets[:-1] + np.arange(len(log)), axis=0)
    sampler = data.TransitionDataset(
        {**flat(log), "next_observations": following}, reward_scale=REWARD_SCALE, state_init=method == "coptidice"
    )
    sizes: dict[str, Any] = {
        "observations": log.spec.observation_size,
        "actions": log.spec.action.size,
        "horizon": log.spec.horizon,
    }
    if method == "coptidice":
        share, observation_sd, action_sd = sampler.get_dataset_states()
        sizes |= {"first_share": share, "observation_sd": observation_sd, "action_sd": action_sd}
    trainer = baseline(checkout, method, settings_of(config, limit), Sizes(**sizes))
    batches = iter(torch.utils.data.DataLoader(sampler, batch_size=config.batch_size, num_workers=0))
    trainer.model.train()
    for _ in range(config.steps):
        batch = [values.float() for values in next(batches)]
        if method == "coptidice":
            trainer.train_one_step(batch)
        else:
            trainer.train_one_step(*batch)
    trainer.model.eval()
    return trainer.model


def run(checkout: Path, place: Path, method: str, task: str, seed: int, learnt: Path, config: BenchmarkConfig) -> None:
    """One of OSRL's learners: trained and evaluated; its record is written last."""
    begun, limit = time.monotonic(), TASKS[task][1]
    log = hdf5.read(learnt / "logs" / f"{task.replace('/', '-')}-{config.log_seed}.hdf5")
    ours = config.methods[method].config({log.spec.cost_names[0]: limit})
    model = trained(checkout, method, ours, log, limit, seed)
    middle = time.monotonic()
    (found,) = evaluate(
        task,
        [(acting(method, model), None)],
        label="other",
        cost_name=log.spec.cost_names[0],
        streams=Streams(seed),
        stream=f"benchmark/{limit:g}",
        episodes=config.episodes,
    )
    record = {
        "task": task,
        "method": method,
        "seed": seed,
        "limit": limit,
        "log": log.digest,
        "osrl": found.to_json(),
        "seconds": {"training": middle - begun, "evaluation": time.monotonic() - middle},
    }
    place.mkdir(parents=True, exist_ok=True)
    write_text(place / "result.json", json.dumps(record) + "\n")


def of_table(learnt: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Our run of the same method, task, seed and limit."""
    place = Cell(record["task"], record["method"], record["seed"], record["limit"]).place
    found = read_result(learnt / place / RESULT)
    if found["log"] != record["log"]:
        raise SystemExit(f"{learnt / place} learnt from another log; run the study anew in an empty directory")
    (entry,) = (one for one in found["limits"] if one["limit"] == record["limit"])
    return {"safehold": entry, "logged_rewards": found["logged_rewards"], "seconds_safehold": found["seconds"]}


def table(records: list[dict[str, Any]]) -> str:
    """A row a task, method and implementation."""
    lines = [
        "| task, limit | method | of | normalised reward | normalised cost | seeds above the limit "
        "| reward of safehold less OSRL's | cost | training, seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for task, (_, limit) in TASKS.items():
        for method in BASELINES:
            here = [r for r in records if r["task"] == task and r["method"] == method]
            low, high = here[0]["logged_rewards"]
            rewards, costs = {}, {}
            for name in ("safehold", "osrl"):
                found = [Evaluation.from_json(r[name]) for r in here]
                rewards[name] = [(one.rewards - low) / (high - low) for one in found]
                costs[name] = [one.costs / limit for one in found]
            apart = [difference(of["safehold"], of["osrl"]) for of in (rewards, costs)]
            for name, seconds in (("safehold", "seconds_safehold"), ("osrl", "seconds")):
                reward, cost = (bootstrap_interval(of[name], Streams(0)["bootstrap"]) for of in (rewards, costs))
                over = sum(not one.mean() <= 1.0 for one in costs[name])
                words = f"{apart[0]} | {apart[1]}" if name == "osrl" else " | "
                spent = np.mean([r[seconds]["training"] for r in here])
                lines.append(
                    f"| {task}, {limit:g} | {method} | {name} | {reward} | {cost} | {over} of {len(here)} | {words} "
                    f"| {spent:.0f} |"
                )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs what is missing of this shard; with everything there, writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--osrl", type=Path, required=True)
    parser.add_argument("--velocity", type=Path, required=True)
    parser.add_argument("--bullet", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/baselines-beside"))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--shard", default="0/1", help="i/n: every n-th run, from the i-th on")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    commit, learnt = commit_here(), {"velocity": arguments.velocity, "bullet": arguments.bullet}
    shard, shards = (int(part) for part in arguments.shard.split("/"))
    if not 0 <= shard < shards:
        parser.error(f"--shard {arguments.shard}: of {shards} the first is 0, the last {shards - 1}")
    cells = [(seed, task, method) for seed in SEEDS for task in TASKS for method in BASELINES]
    places = [arguments.runs / task.replace("/", "-") / method / f"seed-{seed}" for seed, task, method in cells]
    for (seed, task, method), place in list(zip(cells, places, strict=True))[shard::shards]:
        if (place / "result.json").exists():
            continue
        suite = TASKS[task][0]
        text = (Path(__file__).parent / f"baselines-{suite}.toml").read_text(encoding="utf-8")
        config = BenchmarkConfig.model_validate(tomllib.loads(text))
        run(arguments.osrl, place, method, task, seed, learnt[suite], config)
        print(place, flush=True)
    if not all((place / "result.json").exists() for place in places):
        return
    records = [json.loads((place / "result.json").read_text(encoding="utf-8")) for place in places]
    records = [record | of_table(learnt[TASKS[record["task"]][0]], record) for record in records]
    command = "python reproductions/baselines_beside.py --osrl CHECKOUT --velocity RUNS --bullet RUNS"
    document = {"command": command, "commit": commit, "seeds": SEEDS, "runs": records}
    (arguments.out / "baselines-beside.json").write_text(json.dumps(document) + "\n", encoding="utf-8")
    text = f"`{command}`; commit {commit}; training seeds {SEEDS}.\n\n{table(records)}"
    (arguments.out / "baselines-beside.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
