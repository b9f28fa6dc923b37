"""Does the transformer learn the same with its products in bfloat16? Curves, held-out errors, and what it then does.

    python reproductions/precision.py [--runs runs/precision] [--out docs/results] [--shard 0/1]

Fixed before it was run:

* bullet/BallCircle, one log from the zoo (seed 10), preset `small`, training seeds 10, 11, 12, `--precision float32`
  and `bfloat16`; the same weights at the start and the same batches.
* Curves: `action_error` (root mean square, in half ranges), means of 200 updates. Held out: the same of 200 episodes of
  another collection (seed 1010), told what each episode still obtained. Fresh episodes: 20 at (best logged reward at or
  under the limit, limit) for limits 10, 20 and 40, and 5 at each supported target of `safehold evaluate --dial`, on the
  same reset seeds.
* bfloat16 holds if its last curve point and its held-out error are within 3 % of float32's in every seed, and the rank
  correlation of the dial's cost is not lower by more than 0.05 in the mean. Differences of reward and cost are told
  with bootstrap intervals over seeds and episodes.

About six minutes on two cores as two processes; what is done is not done again.
"""

import argparse
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from osrl_beside import difference
from recorded import commit_here

from safehold.core.seeding import Streams
from safehold.data import hdf5
from safehold.data.frontier import frontier
from safehold.learn.hooks import Progress
from safehold.learn.offline.cdt_policy import CDTPolicyFamily
from safehold.learn.offline.held_out import halves, score
from safehold.learn.offline.logged import answering
from safehold.report.figures import palette
from safehold.workflows.collect import collect
from safehold.workflows.deploy import DeployConfig
from safehold.workflows.evaluate import Evaluation, dial_quality, evaluate
from safehold.workflows.files import write_text
from safehold.workflows.road import dial_targets
from safehold.workflows.train import load, preset, train

TASK, LOG_SEED, SEEDS, LIMITS = "bullet/BallCircle", 10, (10, 11, 12), (10.0, 20.0, 40.0)
PRECISIONS = ("float32", "bfloat16")
HELD_OUT, HELD_OUT_SEED, BLOCK = 200, 1010, 200
WITHIN, LOST_RANK = 0.03, 0.05


def run(precision: str, seed: int, place: Path, logs: Mapping[str, Path]) -> None:
    """One training and what came of it; its record is written last."""
    log, held = (hdf5.read(logs[name]) for name in ("log", "held"))
    config = preset("cdt", "small").model_copy(update={"precision": precision})
    errors: list[float] = []

    def keep(progress: Progress) -> None:
        errors.append(progress.metrics["action_error"])

    shutil.rmtree(place, ignore_errors=True)  # of a run that was cut short, whose curve is lost
    begun = time.process_time()
    train(log, "cdt", config, place / "training", seed=seed, hooks=[keep])
    seconds = time.process_time() - begun
    family = load(place / "training" / "policy")
    if not isinstance(family, CDTPolicyFamily):
        raise SystemExit(f"{place} holds no transformer")
    scores = score(held, answering(family), halves(held, Streams(0)["halves"]))
    edge, told = frontier(log), {}
    naive = [(edge.best_reward(limit), limit) for limit in LIMITS]
    for name, targets, episodes in (("naive", naive, 20), ("dial", dial_targets(log, DeployConfig(limit=20.0)), 5)):
        policies = [(family.at(target), target) for target in targets]
        found = evaluate(
            TASK, policies, label="other", cost_name="cost", streams=Streams(seed), stream=name, episodes=episodes
        )
        told[name] = [one.to_json() for one in found]
    record = {
        "precision": precision,
        "seed": seed,
        "curve": np.array(errors).reshape(-1, BLOCK).mean(axis=1).tolist(),
        "held_out": float(np.sqrt(scores.squared_error.mean())),
        "seconds": seconds,
        **told,
    }
    write_text(place / "result.json", json.dumps(record) + "\n")


def of(records: Sequence[Mapping[str, Any]], precision: str) -> list[Mapping[str, Any]]:
    """Those of one precision, seed by seed."""
    return sorted((one for one in records if one["precision"] == precision), key=lambda one: int(one["seed"]))


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """All that is counted, and the verdict."""
    plain, half = (of(records, name) for name in PRECISIONS)
    ranks = {
        name: [dial_quality([Evaluation.from_json(one) for one in record["dial"]]).cost or np.nan for record in found]
        for name, found in (("float32", plain), ("bfloat16", half))
    }
    rows = {
        "training error, last 200 updates": [[one["curve"][-1] for one in found] for found in (plain, half)],
        "held-out error": [[one["held_out"] for one in found] for found in (plain, half)],
        "rank correlation of the dial's cost": [ranks["float32"], ranks["bfloat16"]],
        "training, seconds of the processor": [[one["seconds"] for one in found] for found in (plain, half)],
    }
    lines = ["| | float32, each seed | bfloat16, each seed |", "|---|---|---|"]
    for name, (left, right) in rows.items():
        cells = [", ".join(f"{value:.4g}" for value in values) for values in (left, right)]
        lines.append(f"| {name} | {cells[0]} | {cells[1]} |")
    lines += ["", "| limit | reward, bfloat16 less float32 | cost |", "|---|---|---|"]
    for place, limit in enumerate(LIMITS):
        apart = [
            difference(*([np.array(one["naive"][place][what]) for one in found] for found in (half, plain)))
            for what in ("rewards", "costs")
        ]
        lines.append(f"| {limit:g} | {apart[0]} | {apart[1]} |")
    near = all(
        abs(right / left - 1.0) <= WITHIN
        for name in ("training error, last 200 updates", "held-out error")
        for left, right in zip(*rows[name], strict=True)
    )
    kept = float(np.mean(ranks["float32"]) - np.mean(ranks["bfloat16"])) <= LOST_RANK
    return "\n".join([*lines, "", f"bfloat16 {'holds' if near and kept else 'does not hold'}, by the bar."]) + "\n"


def draw(records: Sequence[Mapping[str, Any]]) -> Figure:
    """The curves."""
    with palette.house_style():
        figure, (ax,) = palette.new_figure(5.6, 3.4, columns=1)
        looks = ((palette.FAINT, 5.0), (palette.OURS, 1.2))  # the wide ones beneath: they lie on one another
        for precision, (colour, width) in zip(PRECISIONS, looks, strict=True):
            for number, record in enumerate(of(records, precision)):
                updates = BLOCK * (np.arange(len(record["curve"])) + 1)
                label = precision if number == 0 else None
                ax.plot(updates, record["curve"], color=colour, linewidth=width, label=label)
        ax.set_xlabel("updates")
        ax.set_ylabel("error of the action, half ranges")
        ax.set_yscale("log")
        ax.legend()
        return figure


def main() -> None:
    """Runs what is missing of this shard; with everything there, writes table and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/precision"))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--shard", type=int, nargs=2, default=(0, 1), help="which, and of how many")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    commit, logs = commit_here(), {name: arguments.runs / f"{name}.hdf5" for name in ("log", "held")}
    arguments.runs.mkdir(parents=True, exist_ok=True)
    for path, seed, episodes in ((logs["log"], LOG_SEED, 640), (logs["held"], HELD_OUT_SEED, HELD_OUT)):
        if not path.exists():
            hdf5.write(path, collect(TASK, seed=seed, episodes=episodes))
    places = {(p, s): arguments.runs / p / f"seed-{s}" for s in SEEDS for p in PRECISIONS}
    which, count = arguments.shard
    for (precision, seed), place in list(places.items())[which::count]:
        if not (place / "result.json").exists():
            run(precision, seed, place, logs)
            print(place, flush=True)
    if not all((place / "result.json").exists() for place in places.values()):
        return
    records = [json.loads((place / "result.json").read_text(encoding="utf-8")) for place in places.values()]
    made = {"command": "python reproductions/precision.py", "commit": commit, "seeds": SEEDS}
    (arguments.out / "precision.json").write_text(json.dumps({**made, "runs": records}) + "\n")
    text = f"`{made['command']}`; commit {commit}; training seeds {SEEDS}.\n\n{table(records)}"
    (arguments.out / "precision.md").write_text(text)
    draw(records).savefig(arguments.out / "precision.svg")
    print(text)


if __name__ == "__main__":
    main()
