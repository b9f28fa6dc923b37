"""OSRL's decision transformer beside ours: identical logs, identical sizes, 2,000 updates, the same fresh episodes.

    python reproductions/osrl_beside.py --osrl CHECKOUT [--runs runs/osrl-beside] [--out docs/results] [--shard 0/1]

Needs a checkout of github.com/liuzuxin/OSRL (Apache-2.0; commit 03a4586), `pip install OApackage tqdm`, and
`make bullet`. What OSRL imports for logging alone is stood in for; its data set, sampler, augmentation, network and
training step are its own, untouched.

Fixed before it was run:

* Tasks HalfCheetahVelocity (limits 20, 40, 80) and bullet/BallCircle (limits 10, 20, 40); one log a task, collected
  from the zoo with seed 10; training seeds 10, 11, 12, which nothing was tuned on.
* `safehold`: the preset `small` with 2,000 updates. `osrl`: OSRL with all settings of that preset that it knows too
  (width, layers, heads, context, dropout, head, batch, step size, warm-up, weight decay, gradient clip), the rest its
  own defaults and those of the task (scales, sampling, augmentation). `osrl-own`: the same sizes, batch and updates,
  and everything else OSRL's own (Gaussian head with entropy constraint, step size 1e-4, dropout 0.1).
* Every policy is asked for (best logged reward at or under the limit, limit), 20 episodes at each limit; and for the
  supported targets of `safehold evaluate --dial` at the middle limit, 5 episodes each. All meet the same reset seeds.
  OSRL's policies act in our loop, several episodes at a time, on what its own `rollout` would give the network.
* Rewards normalised by the extremes of the log, costs by the limit. `safehold` is not inferior at a task and limit if
  the 95 % bootstrap interval (over seeds and episodes, paired by seed) of reward less OSRL's ends above -0.05, and its
  mean cost is at or under the limit or OSRL's. The dial is calibrated if the rank correlation of cost is at least 0.9.

A few minutes for each of the 18 runs on one core; what is done is not done again.
"""

import argparse
import importlib
import json
import sys
import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from recorded import commit_here

from safehold.core.intervals import Interval, bootstrap_interval, mean_interval
from safehold.core.policy import Actor, Policy
from safehold.core.seeding import Streams
from safehold.core.target import Target
from safehold.data import hdf5
from safehold.data.dataset import OfflineDataset
from safehold.data.frontier import frontier
from safehold.learn.offline.cdt_network import CDTConfig
from safehold.workflows.collect import collect
from safehold.workflows.deploy import DeployConfig
from safehold.workflows.evaluate import Evaluation, dial_quality, evaluate
from safehold.workflows.files import write_text
from safehold.workflows.road import dial_targets
from safehold.workflows.train import load, preset, train

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks" / "peers"))
from osrl_peer import Log, osrl

TASKS: Mapping[str, tuple[float, ...]] = {
    "HalfCheetahVelocity": (20.0, 40.0, 80.0),
    "bullet/BallCircle": (10.0, 20.0, 40.0),
}
SEEDS, LOG_SEED, UPDATES, EPISODES, DIAL_EPISODES = (10, 11, 12), 10, 2_000, 20, 5
CONTESTANTS = ("safehold", "osrl", "osrl-own")
REWARD_SCALE, COST_SCALE = 0.1, 1.0
"""OSRL's."""
MARGIN = 0.05


def small() -> CDTConfig:
    """The configuration that both share where both know a setting."""
    chosen = preset("cdt", "small")
    if not isinstance(chosen, CDTConfig):
        raise TypeError("the preset is not that of a transformer")
    return chosen.model_copy(update={"steps": UPDATES})


def flat(log: OfflineDataset) -> dict[str, np.ndarray]:
    """The log as OSRL reads it."""
    last = np.zeros(len(log.rewards), dtype=np.bool_)
    last[log.offsets[1:] - 1] = True
    terminal = np.zeros(len(last), dtype=np.bool_)
    terminal[log.offsets[1:][log.terminated] - 1] = True
    seen = np.delete(log.observations, log.offsets[1:] + np.arange(len(log)), axis=0)
    return {
        "observations": seen,
        "actions": log.actions,
        "rewards": log.rewards,
        "costs": log.costs[:, 0],
        "terminals": terminal,
        "timeouts": last & ~terminal,
    }


@dataclass(frozen=True, slots=True)
class OsrlPolicy:
    """OSRL's network at a target, as its `rollout` runs it, for several episodes at a time."""

    model: Any
    target: Target

    def start(self, n: int, rng: np.random.Generator) -> Actor:
        """An actor for n fresh episodes."""
        return OsrlActor(self.model, self.target, n)


class OsrlActor:
    """The last K steps of n episodes; the present action is a zero, as in OSRL."""

    def __init__(self, model: Any, target: Target, n: int) -> None:
        self._model, self._n, self._step = model, n, 0
        self._reward = torch.full((n,), target[0] * REWARD_SCALE)
        self._cost = torch.full((n,), target[1] * COST_SCALE)
        self._asked = self._cost.clone()
        self._history: list[tuple[torch.Tensor, ...]] = []

    @torch.no_grad()
    def act(self, observations: Float[np.ndarray, "n o"]) -> Float[np.ndarray, "n a"]:
        """The mean action at the last step of the window."""
        nothing = torch.zeros(self._n, self._model.action_dim)
        seen = torch.as_tensor(observations, dtype=torch.float32)
        self._history.append((seen, nothing, self._reward, self._cost, torch.full((self._n,), self._step)))
        self._history = self._history[-self._model.seq_len :]
        states, actions, rewards, costs, steps = (torch.stack(part, 1) for part in zip(*self._history, strict=True))
        found, _, _ = self._model(states, actions, rewards, costs, steps, None, self._asked)
        mean = found.mean if self._model.stochastic else found
        return mean[:, -1].clamp(-1.0, 1.0).numpy()

    def observe(
        self, actions: Float[np.ndarray, "n a"], rewards: Float[np.ndarray, "n"], costs: Float[np.ndarray, "n k"]
    ) -> None:
        """What was done, and what it earned and cost."""
        seen, _, *rest = self._history[-1]
        self._history[-1] = (seen, torch.as_tensor(actions, dtype=torch.float32), *rest)
        self._reward = self._reward - torch.as_tensor(rewards, dtype=torch.float32) * REWARD_SCALE
        self._cost = self._cost - torch.as_tensor(costs[:, 0], dtype=torch.float32) * COST_SCALE
        self._step += 1


def train_osrl(modules: tuple[Any, Any], log: OfflineDataset, seed: int, *, own: bool, place: Path) -> Any:
    """OSRL's training, its own steps from its own sampler."""
    transformer, data = modules
    shared, spec = small(), log.spec
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - what OSRL draws with
    data.random.seed(seed)
    model = transformer.CDT(
        state_dim=spec.observation_size,
        action_dim=spec.action.size,
        max_action=1.0,
        seq_len=shared.context,
        episode_len=spec.horizon,
        embedding_dim=shared.width,
        num_layers=shared.layers,
        num_heads=shared.heads,
        attention_dropout=0.1 if own else shared.dropout,
        residual_dropout=0.1 if own else shared.dropout,
        embedding_dropout=0.1 if own else shared.dropout,
        use_rew=True,
        use_cost=True,
        cost_transform=True,
        stochastic=own,
        target_entropy=-spec.action.size,
    )
    trainer = transformer.CDTTrainer(
        model,
        None,
        logger=Log(),
        learning_rate=1e-4 if own else shared.learning_rate,
        weight_decay=shared.weight_decay,
        betas=(0.9, 0.999),
        clip_grad=0.25 if own else shared.gradient_clip,
        lr_warmup_steps=500 if own else shared.warm_up,
        reward_scale=REWARD_SCALE,
        cost_scale=COST_SCALE,
        loss_cost_weight=0.02,
        loss_state_weight=0.0,
    )
    settings = Path(__file__).parents[1] / "presets" / "osrl" / f"{spec.env_id.split('/')[-1]}.toml"
    task = tomllib.loads(settings.read_text())
    sampler = data.SequenceDataset(
        flat(log),
        seq_len=shared.context,
        reward_scale=REWARD_SCALE,
        cost_scale=COST_SCALE,
        deg=task["frontier_degree"],
        max_rew_decrease=task["frontier_slack"],
        augment_percent=0.2,
        max_reward=task["frontier_top"],
        min_reward=task["frontier_margin"],
        cost_sample=True,
        cost_transform=lambda x: 70 - x,
    )
    batches = iter(torch.utils.data.DataLoader(sampler, batch_size=shared.batch_size, num_workers=0))
    model.train()
    for _ in range(UPDATES):
        trainer.train_one_step(*next(batches))
    model.eval()
    torch.save(model.state_dict(), place / "osrl.pt")
    return model


def run(task: str, seed: int, contestant: str, log: OfflineDataset, place: Path, modules: tuple[Any, Any]) -> None:
    """One contestant: trained and asked; its record is written last."""
    begun, limits = time.monotonic(), TASKS[task]
    place.mkdir(parents=True, exist_ok=True)
    if contestant == "safehold":
        directory = place / "training"
        if not (directory / "policy").exists():
            train(log, "cdt", small(), directory, seed=seed, resume=directory.exists())
        family: Any = load(directory / "policy")
        at = family.at
    else:
        model = train_osrl(modules, log, seed, own=contestant == "osrl-own", place=place)

        def at(target: Target) -> Policy:
            return OsrlPolicy(model, target)

    trained = time.monotonic()
    edge, streams = frontier(log), Streams(seed)
    naive = [(edge.best_reward(limit), limit) for limit in limits]
    dial = dial_targets(log, DeployConfig(limit=limits[1]))
    told: dict[str, list[Evaluation]] = {}
    for name, targets, episodes in (("naive", naive, EPISODES), ("dial", list(dial), DIAL_EPISODES)):
        policies = [(at(z), z) for z in targets]
        told[name] = evaluate(
            task, policies, label="other", cost_name=log.spec.cost_names[0], streams=streams, stream=name,
            episodes=episodes,
        )  # fmt: skip
    record = {
        "task": task,
        "seed": seed,
        "contestant": contestant,
        "log": log.digest,
        "logged_rewards": [float(log.reward_returns.min()), float(log.reward_returns.max())],
        **{name: [one.to_json() for one in found] for name, found in told.items()},
        "seconds": {"training": trained - begun, "evaluation": time.monotonic() - trained},
    }
    write_text(place / "result.json", json.dumps(record) + "\n")


def difference(ours: list[np.ndarray], theirs: list[np.ndarray]) -> Interval:
    """Ours less theirs, episode by episode of the same reset seeds; bootstrap over seeds and episodes."""
    paired = [mine - other for mine, other in zip(ours, theirs, strict=True)]
    return bootstrap_interval(paired, Streams(0)["bootstrap"])


def report(records: list[dict[str, Any]]) -> str:
    """The tables."""
    lines = [
        "| task | limit | method | normalised reward | normalised cost | reward of safehold less this | not inferior |",
        "|---|---|---|---|---|---|---|",
    ]
    for task, limits in TASKS.items():
        of_task = {name: [r for r in records if r["task"] == task and r["contestant"] == name] for name in CONTESTANTS}
        low, high = of_task["safehold"][0]["logged_rewards"]
        for place, limit in enumerate(limits):
            rewards, costs = (
                {
                    name: [np.array(r["naive"][place][what]) for r in sorted(found, key=lambda r: int(r["seed"]))]
                    for name, found in of_task.items()
                }
                for what in ("rewards", "costs")
            )
            for name in CONTESTANTS:
                scaled = {key: [(x - low) / (high - low) for x in values] for key, values in rewards.items()}
                reward = bootstrap_interval(scaled[name], Streams(0)["bootstrap"])
                cost = bootstrap_interval([x / limit for x in costs[name]], Streams(0)["bootstrap"])
                less, verdict = "", ""
                if name != "safehold":
                    apart = difference(scaled["safehold"], scaled[name])
                    mine, other = (float(np.mean(np.concatenate(costs[key]))) for key in ("safehold", name))
                    good = apart.low > -MARGIN and mine <= max(limit, other)
                    less, verdict = str(apart), "yes" if good else "no"
                lines.append(f"| {task} | {limit:g} | {name} | {reward} | {cost} | {less} | {verdict} |")
    lines += [
        "",
        "| task | method | rank correlation of cost, each seed | of reward | training, seconds |",
        "|---|---|---|---|---|",
    ]
    for task in TASKS:
        for name in CONTESTANTS:
            found = [r for r in records if r["task"] == task and r["contestant"] == name]
            qualities = [dial_quality([Evaluation.from_json(one) for one in r["dial"]]) for r in found]
            words = [
                ", ".join("-" if value is None else f"{value:.2f}" for value in values)
                for values in ([q.cost for q in qualities], [q.reward for q in qualities])
            ]
            seconds = mean_interval(np.array([r["seconds"]["training"] for r in found]))
            lines.append(f"| {task} | {name} | {words[0]} | {words[1]} | {seconds.estimate:.0f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs what is missing of this shard; with everything there, writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--osrl", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/osrl-beside"))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--shard", default="0/1", help="i/n: every n-th run, from the i-th on")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    modules = osrl(arguments.osrl), importlib.import_module("osrl.common.dataset")
    commit = commit_here()
    shard, shards = (int(part) for part in arguments.shard.split("/"))
    cells = [(seed, task, name) for seed in SEEDS for task in TASKS for name in CONTESTANTS]
    for seed, task, name in cells[shard::shards]:
        place = arguments.runs / task.replace("/", "-") / name / f"seed-{seed}"
        if (place / "result.json").exists():
            continue
        path = arguments.runs / f"{task.replace('/', '-')}.hdf5"
        if not path.exists():
            arguments.runs.mkdir(parents=True, exist_ok=True)
            hdf5.write(path, collect(task, seed=LOG_SEED))
        run(task, seed, name, hdf5.read(path), place, modules)
        print(place, flush=True)
    paths = [arguments.runs / t.replace("/", "-") / n / f"seed-{s}" / "result.json" for s, t, n in cells]
    if not all(path.exists() for path in paths):
        return
    records = [json.loads(path.read_text()) for path in paths]
    made = {"command": "python reproductions/osrl_beside.py --osrl CHECKOUT", "commit": commit, "seeds": SEEDS}
    (arguments.out / "osrl-beside.json").write_text(json.dumps({**made, "runs": records}) + "\n")
    text = f"`{made['command']}`; commit {commit}; training seeds {SEEDS}.\n\n{report(records)}"
    (arguments.out / "osrl-beside.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
