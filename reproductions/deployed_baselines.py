"""PLS beside the offline baselines, on their logs; LSPC over its box, and deployed over it.

    python reproductions/deployed_baselines.py --velocity runs/baselines-velocity --bullet runs/baselines-bullet
                                               [--runs runs/deployed-baselines] [--out docs/results] [--workers 2]

Takes logs and policies from the runs of reproductions/baselines-velocity.toml and baselines-bullet.toml, whose tables
want a row for PLS. Fixed before it was run; all seeds are reported:

* `pls`: the table's transformer, deployed as `safehold deploy run` does by default (20 asks of 20 episodes, delta 5 %,
  the log's word for the seed targets), at each limit and seed. What it recommends is judged by the 20 fresh episodes
  that all methods of the table met. A deployment that ends without a recommendation is counted as held.
* `lspc-o, boxes deployed`: LSPC-O's box in the place of a target: 39 boxes from 0.1 to 2, the smallest to be verified
  first, on at most 400 raw episodes; the rest as above. Beside it the table's row of the box that the paper trains in.
* Every deployed target or box by the episodes that it ran for, all of which were drawn after it was chosen: how many
  means are above the limit, and in how many runs.
* Reward against cost over nine boxes from 0.05 to 3, both variants, 20 episodes each.
* Demonstrations, held out: 200 episodes of the zoo, seed 1010. A step is unsafe if it or one of the next nine costs.
  The probability that an unsafe one lies further out (largest entry of its mean code) than a safe one, and the shares
  inside boxes of 0.5 and 1.
* Worse logs, on BallCircle, LSPC-O with the table's settings: a tenth of the episodes; a tenth of the steps with their
  costs exchanged; only episodes of cost at most 20; only the costlier half. Boxes 0.1, 0.25, 1; 20 episodes each.
* Intervals: bootstrap over seeds and episodes.

What is done is not done again.
"""

import argparse
import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from matplotlib.figure import Figure
from recorded import commit_here
from scipy.stats import mannwhitneyu

from safehold.core.errors import Alarm, DataError, NoCertifiedTarget, SafeholdError, SafetyHold
from safehold.core.intervals import bootstrap_interval, proportion_interval
from safehold.core.policy import Policy, PolicyFamily
from safehold.core.seeding import Streams
from safehold.core.target import Target
from safehold.data import hdf5
from safehold.data.dataset import OfflineDataset
from safehold.data.select import take
from safehold.learn.checkpoint import load_checkpoint
from safehold.learn.offline.lspc import LSPCFamily
from safehold.report.figures import palette
from safehold.workflows.benchmark import RESULT, BenchmarkConfig, Cell, read_result
from safehold.workflows.collect import collect
from safehold.workflows.deploy import (
    DeployConfig,
    Oversight,
    Plan,
    declare_boxes,
    drive,
    open_or_create,
    plan,
    raw_episodes,
    verify_seed,
)
from safehold.workflows.evaluate import Evaluation, evaluate
from safehold.workflows.files import write_text
from safehold.workflows.train import load, train_once, training_threads

BOXES = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
FEW_BOXES = (0.1, 0.25, 1.0)
TUNED = tuple(np.linspace(0.1, 2.0, 39).tolist())
HELD_OUT, HELD_OUT_SEED, AHEAD, INSIDE = 200, 1010, 10, (0.5, 1.0)
VERIFYING = 400
WORSE_ON, CHEAP = "bullet/BallCircle", 20.0
VARIANTS = ("o", "s")


@dataclass(frozen=True, slots=True)
class Learnt:
    """One seed on one task of a benchmark that is there: its log, and where its policies lie."""

    config: BenchmarkConfig
    runs: Path
    task: str
    seed: int
    workers: int

    @property
    def streams(self) -> Streams:
        """Those that the benchmark evaluated with."""
        return Streams(self.seed)

    def log(self) -> OfflineDataset:
        """What was learnt from."""
        return hdf5.read(self.runs / "logs" / f"{self.task.replace('/', '-')}-{self.config.log_seed}.hdf5")

    def checkpoint(self, method: str) -> Path:
        """Where the policy of a method lies."""
        return self.runs / Cell(self.task, method, self.seed, None).place / "training" / "policy"

    def family(self, method: str) -> PolicyFamily:
        """The policy of a method, with its dial."""
        found = load(self.checkpoint(method))
        if not isinstance(found, PolicyFamily):
            raise DataError(f"{self.checkpoint(method)} holds no policy with a dial")
        return found

    def lspc(self, variant: str) -> LSPCFamily:
        """LSPC with its box."""
        found = self.family(f"lspc-{variant}")
        if not isinstance(found, LSPCFamily):
            raise DataError(f"{self.checkpoint(f'lspc-{variant}')} holds no LSPC")
        return found

    def row(self, method: str, limit: float) -> Evaluation:
        """What the benchmark found of a method at a limit."""
        record = read_result(self.runs / Cell(self.task, method, self.seed, None).place / RESULT)
        (found,) = (entry for entry in record["limits"] if entry["limit"] == limit)
        return Evaluation.from_json(found)

    def evaluated(self, policies: Sequence[tuple[Policy, Target]], stream: str) -> list[dict[str, Any]]:
        """Fresh episodes of each."""
        found = evaluate(
            self.task,
            policies,
            label="other",
            cost_name=self.log().spec.cost_names[0],
            streams=self.streams,
            stream=stream,
            episodes=self.config.episodes,
            workers=self.workers,
        )
        return [one.to_json() for one in found]


def over_boxes(learnt: Learnt) -> dict[str, Any]:
    """Reward and cost at every box, both variants."""
    found = {}
    for variant in VARIANTS:
        family = learnt.lspc(variant)
        found[variant] = learnt.evaluated([(family.at((box,)), (box,)) for box in BOXES], "boxes")
    return found


def costs_soon(log: OfflineDataset) -> Bool[np.ndarray, "n"]:
    """Whether a step, or one of the nine after it in its episode, costs."""
    soon = np.zeros(log.n_steps, dtype=np.bool_)
    for first, end in zip(log.offsets[:-1], log.offsets[1:], strict=True):
        costly = np.flatnonzero(log.costs[first:end, 0] > 0.0)
        for back in range(AHEAD):
            soon[first + costly[costly >= back] - back] = True
    return soon


def demonstrations(learnt: Learnt, held: OfflineDataset) -> dict[str, float]:
    """Where held-out safe and unsafe steps lie."""
    rows = np.arange(held.n_steps) + np.repeat(np.arange(len(held)), held.lengths)
    codes = learnt.lspc("o").codes_of(held.observations[rows], held.actions)
    width, soon = np.abs(codes).max(axis=1), costs_soon(held)
    safe, unsafe = width[~soon], width[soon]
    further = float(mannwhitneyu(unsafe, safe).statistic) / (len(safe) * len(unsafe))
    inside = {
        f"{name} inside {box:g}": float((values <= box).mean())
        for box in INSIDE
        for name, values in (("safe", safe), ("unsafe", unsafe))
    }
    return {"safe steps": len(safe), "unsafe steps": len(unsafe), "unsafe further out": further, **inside}


def worsened(log: OfflineDataset, seed: int) -> Mapping[str, OfflineDataset]:
    """The same log with less, or something worse, in it."""
    rng = np.random.default_rng(seed)
    costs, total = log.costs.copy(), log.cost_returns[:, 0]
    moved = rng.permutation(log.n_steps)[: log.n_steps // 10]
    costs[moved] = costs[rng.permutation(moved)]
    return {
        "a tenth of the episodes": take(log, np.sort(rng.permutation(len(log))[: len(log) // 10]), "few"),
        "a tenth of the costs elsewhere": replace(log, costs=costs),
        f"only cost <= {CHEAP:g}": take(log, np.flatnonzero(total <= CHEAP), "cheap"),
        "only the costlier half": take(log, np.flatnonzero(total >= np.median(total)), "costly"),
    }


def worse(learnt: Learnt, place: Path) -> dict[str, Any]:
    """LSPC-O from worse logs."""
    settings = learnt.config.methods["lspc-o"].config({})
    found = {}
    for number, (name, log) in enumerate(worsened(learnt.log(), learnt.seed).items()):
        directory = place / f"worse-{number}"
        with training_threads(1):
            family = train_once(log, "lspc", settings, directory, seed=learnt.seed)
        if not isinstance(family, PolicyFamily):
            raise DataError(f"{directory} holds no policy with a dial")
        found[name] = learnt.evaluated([(family.at((box,)), (box,)) for box in FEW_BOXES], "boxes")
    return found


def deployed(learnt: Learnt, place: Path, *, boxes: bool, limit: float) -> dict[str, Any]:
    """One deployment: what it recommends, judged as the table judges, and what it ran on the way."""
    log, streams = learnt.log(), learnt.streams
    method = "lspc-o" if boxes else "cdt"
    family, config = learnt.family(method), DeployConfig(limit=limit)
    record: dict[str, Any] = {"limit": limit, "held": None, "final": None, "asks": 0, "targets": []}
    try:
        if boxes:
            oversight = Oversight(verify_seeds=1)
            declared = Plan(declare_boxes(log, TUNED, config, oversight), None, None)
        else:
            declared = plan(log, config)
    except SafeholdError as refusal:
        return {**record, "held": f"{type(refusal).__name__}: {refusal}"}
    directory = place / f"{'boxes' if boxes else 'targets'}-{limit:g}"
    digest = load_checkpoint(learnt.checkpoint(method)).digest
    with open_or_create(
        directory, declared, dataset=log.digest, policy=digest, task=learnt.task, seed=learnt.seed
    ) as deployment:
        try:
            if boxes:
                (seed_target,) = deployment.state.declaration.seed_targets
                left = VERIFYING - raw_episodes(deployment, seed_target)
                verify_seed(
                    deployment, seed_target, learnt.task, family, episodes=left, streams=streams,
                    workers=learnt.workers,
                )  # fmt: skip
            drive(deployment, learnt.task, family, streams=streams, workers=learnt.workers)
        except SafetyHold as hold:
            record["held"] = f"{type(hold).__name__}: {hold}"
        state = deployment.state
        try:
            final: Target | None = deployment.recommend().target
        except (NoCertifiedTarget, Alarm):
            final = None
        ran: dict[Target, list[Any]] = {}
        for name, told in state.told.items():
            ran.setdefault(state.asked[name].target, []).append(told.measurement.costs[log.spec.cost_names[0]])
    record |= {
        "asks": len(state.asked),
        "targets": [[list(target), float(np.concatenate(costs).mean())] for target, costs in ran.items()],
    }
    if final is not None:
        (record["final"],) = learnt.evaluated([(family.at(final), final)], f"benchmark/{limit:g}")
    return record


def run(learnt: Learnt, place: Path) -> dict[str, Any]:
    """All parts of one task and seed."""
    parts: dict[str, Callable[[], Any]] = {
        f"{name}-{limit:g}": partial(deployed, learnt, place, boxes=name == "boxes", limit=limit)
        for name in ("targets", "boxes")
        for limit in learnt.config.limits
    }
    parts["over_boxes"] = partial(over_boxes, learnt)
    parts["demonstrations"] = lambda: demonstrations(
        learnt, collect(learnt.task, seed=HELD_OUT_SEED, episodes=HELD_OUT, workers=learnt.workers)
    )
    if learnt.task == WORSE_ON:
        parts["worse"] = partial(worse, learnt, place)
    returns = learnt.log().reward_returns
    record: dict[str, Any] = {
        "task": learnt.task,
        "seed": learnt.seed,
        "logged_rewards": [float(returns.min()), float(returns.max())],
    }
    for name, part in parts.items():
        path = place / f"{name}.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps(part()) + "\n")
            print(path, flush=True)
        record[name] = json.loads(path.read_text(encoding="utf-8"))
    record["rows"] = {
        f"{method}-{limit:g}": learnt.row(method, limit).to_json()
        for method in ("cdt", "lspc-o")
        for limit in learnt.config.limits
    }
    return record


ROWS = (
    ("cdt", "cdt, asked for the limit", None),
    (None, "pls", "targets"),
    ("lspc-o", "lspc-o, the box it was trained in", None),
    (None, "lspc-o, boxes deployed", "boxes"),
)


def table(records: Sequence[Mapping[str, Any]], limits: Mapping[str, tuple[float, ...]]) -> str:
    """What deployments recommend beside what is fixed, then what they ran, then LSPC over its box."""
    lines = [
        "| task | limit | method | normalised reward | normalised cost | seeds above the limit | held |",
        "|---|---|---|---|---|---|---|",
    ]
    for task, of_task in limits.items():
        here = [record for record in records if record["task"] == task]
        low, high = here[0]["logged_rewards"]
        for limit in of_task:
            for method, words, part in ROWS:
                plain = [
                    r["rows"][f"{method}-{limit:g}"] if part is None else r[f"{part}-{limit:g}"]["final"] for r in here
                ]
                found = [Evaluation.from_json(one) for one in plain if one is not None]
                start = f"| {task} | {limit:g} | {words} |"
                if not found:
                    lines.append(f"{start} - | - | - | {len(here)} of {len(here)} |")
                    continue
                reward = bootstrap_interval([(f.rewards - low) / (high - low) for f in found], Streams(0)["bootstrap"])
                cost = bootstrap_interval([f.costs / limit for f in found], Streams(0)["bootstrap"])
                over = sum(not f.costs.mean() <= limit for f in found)
                held = "" if part is None else f"{len(here) - len(found)} of {len(here)}"
                lines.append(f"{start} {reward} | {cost} | {over} of {len(found)} | {held} |")
    columns = ("deployed", "runs", "above the limit by its mean, of all that ran", "runs with one", "asks a run")
    lines += ["", f"| {' | '.join(columns)} |", "|---|---|---|---|---|"]
    for part, words in (("targets", "targets of cdt (pls)"), ("boxes", "boxes of lspc-o")):
        for task, of_task in limits.items():
            runs = [record[f"{part}-{limit:g}"] for record in records if record["task"] == task for limit in of_task]
            over_by_run = [sum(not mean <= one["limit"] for _, mean in one["targets"]) for one in runs]
            every, asks = sum(len(one["targets"]) for one in runs), np.mean([one["asks"] for one in runs])
            share = proportion_interval(sum(count > 0 for count in over_by_run), len(runs))
            lines.append(
                f"| {words}, {task} | {len(runs)} | {sum(over_by_run)} of {every} "
                f"| {round(share.estimate * share.n)} [{share.low:.2f}, {share.high:.2f}] | {asks:.1f} |"
            )
    lines += ["", "| task | box | LSPC-O: reward | cost | LSPC-S: reward | cost |", "|---|---|---|---|---|---|"]
    for task in limits:
        here = [record for record in records if record["task"] == task]
        for place, box in enumerate(BOXES):
            of_box = [
                [np.array(r["over_boxes"][variant][place][what]) for r in here]
                for variant in VARIANTS
                for what in ("rewards", "costs")
            ]
            cells = [str(bootstrap_interval(groups, Streams(0)["bootstrap"])) for groups in of_box]
            lines.append(f"| {task} | {box:g} | {' | '.join(cells)} |")
    names = list(records[0]["demonstrations"])
    lines += ["", f"| task, held-out steps, each seed | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for task in limits:
        here = [record["demonstrations"] for record in records if record["task"] == task]
        lines.append(f"| {task} | {' | '.join(', '.join(f'{one[n]:.3g}' for one in here) for n in names)} |")
    lines += ["", f"| log of {WORSE_ON} | box | reward | cost |", "|---|---|---|---|"]
    here = [record["worse"] for record in records if record["task"] == WORSE_ON]
    for name in here[0] if here else ():
        for place, box in enumerate(FEW_BOXES):
            reward, cost = (
                bootstrap_interval([np.array(r[name][place][what]) for r in here], Streams(0)["bootstrap"])
                for what in ("rewards", "costs")
            )
            lines.append(f"| {name} | {box:g} | {reward} | {cost} |")
    return "\n".join(lines) + "\n"


def draw(records: Sequence[Mapping[str, Any]], limits: Mapping[str, tuple[float, ...]]) -> Figure:
    """Reward against cost over the box, and what the deployments recommend."""
    with palette.house_style():
        figure, axes = palette.new_figure(3.2 * len(limits), 3.4, columns=len(limits))
        for ax, (task, of_task) in zip(axes, limits.items(), strict=True):
            here = [record for record in records if record["task"] == task]
            for variant, colour in zip(VARIANTS, (palette.OURS, palette.SEED), strict=True):
                for number, record in enumerate(here):
                    of_boxes = record["over_boxes"][variant]
                    points = np.array([[np.mean(one[what]) for what in ("costs", "rewards")] for one in of_boxes])
                    label = f"LSPC-{variant.upper()}, nine boxes" if number == 0 else None
                    ax.plot(*points.T, "o-", color=colour, markersize=3.5, linewidth=0.8, alpha=0.6, label=label)
            for part, mark, words in (("targets", "*", "pls recommends"), ("boxes", "D", "box deployed")):
                finals = [r[f"{part}-{limit:g}"]["final"] for r in here for limit in of_task]
                points = np.array([[np.mean(f["costs"]), np.mean(f["rewards"])] for f in finals if f is not None])
                if len(points):
                    ax.plot(*points.T, mark, color=palette.TUNED, markersize=7, linestyle="none", label=words)
            for limit in of_task:
                ax.axvline(limit, color=palette.FAINT, linewidth=1.0, linestyle="--")
            ax.set_xscale("symlog", linthresh=10.0)
            ax.set_title(task)
            ax.set_xlabel("cost return")
        axes[0].set_ylabel("reward return")
        axes[0].legend()
        return figure


def main() -> None:
    """Runs what is missing, then writes the tables and the drawing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--velocity", type=Path, required=True)
    parser.add_argument("--bullet", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/deployed-baselines"))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    commit, records, limits = commit_here(), [], {}
    for name, runs in (("velocity", arguments.velocity), ("bullet", arguments.bullet)):
        text = (Path(__file__).parent / f"baselines-{name}.toml").read_text(encoding="utf-8")
        config = BenchmarkConfig.model_validate(tomllib.loads(text))
        for task in config.tasks:
            limits[task] = config.limits
            for seed in config.seeds:
                learnt = Learnt(config, runs, task, seed, arguments.workers)
                records.append(run(learnt, arguments.runs / task.replace("/", "-") / f"seed-{seed}"))
    command = "python reproductions/deployed_baselines.py --velocity RUNS --bullet RUNS"
    document = {"command": command, "commit": commit, "runs": records}
    (arguments.out / "deployed-baselines.json").write_text(json.dumps(document) + "\n", encoding="utf-8")
    text = f"`{command}`; commit {commit}; seeds {config.seeds}.\n\n{table(records, limits)}"
    (arguments.out / "deployed-baselines.md").write_text(text, encoding="utf-8")
    draw(records, limits).savefig(arguments.out / "deployed-baselines.svg")
    print(text)


if __name__ == "__main__":
    main()
