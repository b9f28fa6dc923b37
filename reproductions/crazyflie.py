"""Offline training on 162 real flights of a Crazyflie, judged without an environment: there is none to fly in.

    python reproductions/crazyflie.py FLIGHTS [--seeds 0 1 2] [--out docs/results]

FLIGHTS is a log in the DSRL layout: 54 learnt policies, three flights each, tracking a circle of 0.25 m at 1 m, logged
on board at 100 Hz (phoenix-drone-simulation, commit c5d6907, MIT); a step costs 1 where roll or pitch passes 20
degrees.

Written down before the study was run; all of it is reported:

* What `safehold data check` says of the file is obeyed. Early ends look safe and good, and lengths differ: every
  flight is cut to its first 3 s (300 steps); a second cost, "lost", charges the steps of them that were not flown at
  the end of a flight that ended early; and every step that was flown pays 1 more. The observation repeats the last
  command: every method is trained with these four columns, and without. Flights of one policy are alike: parts are
  split by policy.
* A seed splits the policies (three quarters to train on), and seeds weights, batches and draws. Methods: `cdt` and
  `rvs` (preset small; 1500 steps, batches of 128 and 512), `bc` (preset small, 3000 steps); `cdt` foretells costs by
  value, because one of them is large and comes at the end alone. The last weights count. Intervals are over seeds.
* Held out: log density of the logged commands (a policy with a dial is told the returns that the flight still
  obtained) and root mean square error, beside the mean command and the last command.
* Fitted Q evaluation (4 members, 2500 updates, discount 1, copies follow by 0.3) of `cdt` and `rvs` (all columns) on
  the training part: tilt is asked for in five steps with nothing lost, lost in six steps with the tilt and the reward
  a step of flights that lasted. Counted: rank correlation of what is asked and what is foreseen, and steps that fall.
* Nothing here says what these policies would do in the air: no policy was flown.
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from safehold.core.episode import Episode
from safehold.core.intervals import Interval, mean_interval
from safehold.core.policy import Policy, PolicyFamily
from safehold.core.seeding import Streams
from safehold.core.spec import TaskSpec
from safehold.core.target import Target
from safehold.data.dataset import OfflineDataset
from safehold.data.layouts import read_any
from safehold.data.select import split_by_group
from safehold.learn.offline.fqe import FittedReturns, FQEConfig
from safehold.report.figures import palette
from safehold.workflows.evaluate import rank_correlation
from safehold.workflows.files import write_text
from safehold.workflows.selection import Foretold, foresee, foretell
from safehold.workflows.train import load, preset, train

WINDOW = 300
"""Steps of a flight that count: 3 s."""
LAST_COMMAND = slice(16, 20)
"""Columns of the observation that repeat the last command."""
METHODS: Mapping[str, Mapping[str, Any]] = {
    "cdt": {"steps": 1500, "batch_size": 128, "cost_loss": "value"},
    "rvs": {"steps": 1500, "batch_size": 512},
    "bc": {"steps": 3000},
}
FQE = FQEConfig(members=4, batch_size=128, steps=2500, discount=1.0, target_rate=0.3)
ASKED_TILT = (0.0, 5.0, 10.0, 20.0, 40.0)
ASKED_LOST = (0.0, 50.0, 100.0, 150.0, 200.0, 250.0)
BLIND = ", last command unseen"
"""What a method is called that was trained without those columns."""

HEADING = """`reproductions/crazyflie.py` wrote this, and says what was fixed beforehand. Numbers are means over seeds
with 95 % intervals over seeds where there are several; of a single seed the first table's intervals are over behaviour
policies.
Densities are in nats, of the whole command in units of half its range. No policy was flown.

![asked and foreseen](crazyflie.svg)

"""
READING = """

What to take from it (written after the study):

* Every method foretells the held-out flights far better than the mean command, and better than the last command, but
  only while it sees the last command. Without those four columns the error is that of repeating the command before (a
  transformer still sees it in its window): in 10 ms a motor command hardly changes, and that is most of what is learnt.
* Plain cloning foretells best; a dial does not help to say what these policies did. They were flown without one, and
  what a flight still obtained says more of how it ended than of the next command.
* The foreseen time lost rises with what is asked in every seed (rank correlation 0.94 and more), the foreseen tilt does
  not (1, 1 and 0 for the transformer, 1, 0.7 and -1 for the perceptron); both rise far more slowly than asked, and the
  fits disagree by as much as they foresee. No foreseen number may be used as a limit that is kept. Flights that tilt
  for long and still last are hardly in the log, so there it is extrapolation.
* What cannot be said without flying: whether any of this flies. Imitation errors add up over a flight, which held-out
  likelihood does not show, and fitted Q evaluation knows no state that nobody reached. The end of a flight is
  taken for a loss because it was short; a pilot's stop and a crash are not told apart.
"""


def main() -> None:
    """Runs the seeds that are missing, then writes table and numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("flights", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    log = prepared(read_any(arguments.flights))
    records = []
    for seed in arguments.seeds:
        path = arguments.out / "crazyflie-raw" / f"seed-{seed}.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps(one_seed(log, seed), indent=1) + "\n")
        records.append(json.loads(path.read_text(encoding="utf-8")))
    numbers = {"log": log.digest, "machine": platform.machine(), "torch": torch.__version__, "seeds": records}
    write_text(arguments.out / "crazyflie.json", json.dumps(numbers, indent=1) + "\n")
    palette.save(draw(records), arguments.out / "crazyflie.svg")
    write_text(arguments.out / "crazyflie.md", HEADING + report(records) + READING)


def prepared(flights: OfflineDataset) -> OfflineDataset:
    """The first seconds of every flight, with what was not flown of them charged, and lasting rewarded."""
    spec = TaskSpec(
        env_id="Crazyflie circle, first 3 s",
        observation_size=flights.spec.observation_size,
        action=flights.spec.action,
        horizon=WINDOW,
        cost_names=("tilt", "lost"),
        cost_units=("steps of 10 ms above 20 degrees of roll or pitch", "steps of 10 ms of 3 s that were not flown"),
    )
    return OfflineDataset.of(
        [_cut(flight) for flight in flights],
        spec,
        {"cut": WINDOW, "of": flights.digest},
        flights.group,
    )


def _cut(flight: Episode) -> Episode:
    steps = min(len(flight), WINDOW)
    over = flight.terminated and len(flight) <= WINDOW
    lost = np.zeros(steps)
    lost[-1] = WINDOW - steps if over else 0.0
    return Episode(
        observations=flight.observations[: steps + 1],
        actions=flight.actions[:steps],
        rewards=flight.rewards[:steps] + 1.0,
        costs=np.column_stack([flight.costs[:steps, 0], lost]),
        terminated=over,
        truncated=not over,
    )


def blind(log: OfflineDataset) -> OfflineDataset:
    """The same without the columns of the last command."""
    kept = np.delete(log.observations, LAST_COMMAND, axis=1)
    return replace(log, spec=replace(log.spec, observation_size=kept.shape[1]), observations=kept)


def one_seed(log: OfflineDataset, seed: int) -> dict[str, Any]:
    """Trains every method twice, and judges them by the held-out flights and by fitted Q evaluation."""
    begin = time.monotonic()
    part, held = split_by_group(log, 0.75, Streams(seed)["split"])
    seeing = {name: trained(name, part, seed) for name in METHODS}
    unseeing = {name + BLIND: trained(name, blind(part), seed) for name in METHODS}
    foretold = foretell(seeing, held, seed=seed)
    foretold_blind = foretell(unseeing, blind(held), seed=seed)[: len(METHODS)]
    targets = asked(part)
    foreseen = {name: foresee(seeing[name], part, targets, FQE, seed=seed) for name in ("cdt", "rvs")}
    return {
        "seed": seed,
        "flights": [len(part), len(held)],
        "steps": [part.n_steps, held.n_steps],
        "foretold": [_plain(one) for one in (*foretold, *foretold_blind)],
        "asked": [list(target) for target in targets],
        "foreseen": {name: [one.members.tolist() for one in found] for name, found in foreseen.items()},
        "logged": [part.reward_returns.mean(), *part.cost_returns.mean(axis=0)],
        "seconds": time.monotonic() - begin,
    }


def trained(method: str, part: OfflineDataset, seed: int) -> Policy | PolicyFamily:
    """The last weights of one training."""
    config = preset(method, "small").model_copy(update=dict(METHODS[method]))
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory) / "run"
        train(part, method, config, place, seed=seed, checkpoint_every=config.steps)
        return load(place / "policy")


def asked(part: OfflineDataset) -> list[Target]:
    """Tilt in steps with nothing lost, then lost in steps with the median tilt of flights that lasted."""
    lasted = part.cost_returns[:, 1] == 0.0
    reward, tilt = np.median(part.reward_returns[lasted]), np.median(part.cost_returns[lasted, 0])
    return [
        *((float(reward), asked_tilt, 0.0) for asked_tilt in ASKED_TILT),
        *((float(reward) * (1.0 - lost / WINDOW), float(tilt), lost) for lost in ASKED_LOST),
    ]


def report(records: Sequence[Mapping[str, Any]]) -> str:
    """Both tables as Markdown."""
    names = [one["name"] for one in records[0]["foretold"]]
    lines = ["| predictor | log density a step | of a flight's mean | action error | ahead of the last command |"]
    lines.append("|---|---|---|---|---|")
    for name in names:
        cells = [_over(records, name, key) for key in ("per_step", "per_episode", "action_error")]
        ahead = _ahead(records, name)
        lines.append(f"| {name} | {' | '.join(str(cell) for cell in cells)} | {ahead} |")
    lines += ["", "| method | asked | rank correlation with what is foreseen | steps that fall |", "|---|---|---|---|"]
    series = {"tilt": (slice(0, len(ASKED_TILT)), 1), "lost": (slice(len(ASKED_TILT), None), 2)}
    for method in records[0]["foreseen"]:
        for name, (rows, signal) in series.items():
            ranks, falls, steps = [], 0, 0
            for record in records:
                wanted = np.array(record["asked"])[rows, signal]
                found = estimates(record, method)[rows, signal]
                ranks.append(rank_correlation(wanted, found) or 0.0)
                falls += int(np.sum(np.diff(found) < 0.0))
                steps += len(found) - 1
            lines.append(f"| {method} | {name} | {', '.join(f'{r:.2f}' for r in ranks)} | {falls} of {steps} |")
    lines += [
        "",
        "| method | asked reward, tilt, lost | foreseen reward | foreseen tilt | foreseen lost |",
        "|---|---|---|---|---|",
    ]
    for method in records[0]["foreseen"]:
        for place in range(len(records[0]["asked"])):
            wanted = np.mean([record["asked"][place] for record in records], axis=0)
            found = np.array([estimates(record, method)[place] for record in records])
            shown = " | ".join(str(mean_interval(column)) for column in found.T)
            lines.append(f"| {method} | {', '.join(f'{w:.4g}' for w in wanted)} | {shown} |")
    return "\n".join(lines)


def estimates(record: Mapping[str, Any], method: str) -> np.ndarray:
    """What is foreseen at every target: reward, tilt, lost."""
    found = [FittedReturns(target=None, members=np.array(members)) for members in record["foreseen"][method]]
    return np.array([[one.interval(i).estimate for i in range(3)] for one in found])


def draw(records: Sequence[Mapping[str, Any]]) -> Figure:
    """What is asked of each cost and what is foreseen of it: thin lines are seeds, the thick one is their mean."""
    series = (("tilt", slice(0, len(ASKED_TILT)), 1), ("lost", slice(len(ASKED_TILT), None), 2))
    with palette.house_style():
        figure, axes = palette.new_figure(7.6, 3.6, columns=2)
        for ax, (name, rows, signal) in zip(axes, series, strict=True):
            wanted = np.array(records[0]["asked"])[rows, signal]
            ax.plot(wanted, wanted, color=palette.DATA, linestyle=(0, (5, 3)), linewidth=1.0, label="foreseen = asked")
            marks = {"cdt": ("o", palette.OURS), "rvs": ("s", palette.NAIVE)}
            for method, (mark, colour) in marks.items():
                found = np.array([estimates(record, method)[rows, signal] for record in records])
                ax.plot(wanted, found.T, color=colour, linewidth=0.7, alpha=0.5)
                ax.plot(wanted, found.mean(axis=0), color=colour, marker=mark, linewidth=1.8, label=method)
            ax.set_title(f"{name}, steps of 10 ms in 3 s")
            ax.set_xlabel("asked")
        axes[0].set_ylabel("foreseen by fitted Q evaluation")
        axes[0].legend()
        return figure


def _of(record: Mapping[str, Any], name: str, key: str) -> float:
    (found,) = (one for one in record["foretold"] if one["name"] == name)
    return float(found[key]["estimate"])


def _over(records: Sequence[Mapping[str, Any]], name: str, key: str) -> Interval:
    """Mean over seeds; a single one with its own interval, over behaviour policies."""
    if len(records) == 1:
        (own,) = (one[key] for one in records[0]["foretold"] if one["name"] == name)
        return Interval(estimate=own["estimate"], low=own["low"], high=own["high"], level=0.95, n=own["n"])
    return mean_interval(np.array([_of(record, name, key) for record in records]))


def _ahead(records: Sequence[Mapping[str, Any]], name: str) -> Interval:
    """By how much a step's log density is above that of the last command, seed by seed."""
    return mean_interval(
        np.array([_of(record, name, "per_step") - _of(record, "last action", "per_step") for record in records])
    )


def _plain(found: Foretold) -> dict[str, Any]:
    def interval(one: Interval | None) -> dict[str, Any] | None:
        return None if one is None else {"estimate": one.estimate, "low": one.low, "high": one.high, "n": one.n}

    names = ("per_step", "per_episode", "own_per_step", "action_error", "behind")
    return {"name": found.name, **{name: interval(getattr(found, name)) for name in names}}


if __name__ == "__main__":
    main()
