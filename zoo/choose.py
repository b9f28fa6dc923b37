"""Chooses the snapshots that are shipped.

    python zoo/choose.py RUNS OUT

RUNS is what zoo/train.py left (OUT/runs there). Prints the table of docs/zoo.md. Kept are, all of one seed: of the
careful run (RELAY_LIMIT of workflows/collect.py) the careful snapshots that act alike from episode to episode
(`steady_sd` of zoo/runs.toml) and earn at least LEAST of what the best of them does; of the reckless run (no limit) the
reckless ones up to `reckless_steps`; of every other run the last LAST snapshots. Runs of one seed share their first
steps and move more alike than runs of two seeds.
"""

import argparse
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from safehold.learn.online.zoo import ZooPolicy, load_zoo, save_zoo
from safehold.workflows.collect import CAREFUL_COST, RELAY_LIMIT, reckless_of

RUNS = Path(__file__).parent / "runs.toml"
LAST = 3
LEAST = 0.15
SEED = 0


def kept(run: Sequence[ZooPolicy], reckless: Sequence[ZooPolicy], plan: Mapping[str, float]) -> Sequence[ZooPolicy]:
    """The snapshots of one run, by step, that are shipped."""
    if run[0].seed != SEED:
        return ()
    if run[0].limit == RELAY_LIMIT:
        steady = plan.get("steady_sd", math.inf)
        quiet = [(entry, entry.evaluations[0]) for entry in run if entry.evaluations[0].cost <= CAREFUL_COST]
        best = max((judged.reward for _, judged in quiet), default=0.0)
        return [entry for entry, judged in quiet if judged.reward_sd < steady and judged.reward >= LEAST * best]
    if run[0].limit is None:
        return [entry for entry in run if entry in reckless and entry.step <= plan.get("reckless_steps", math.inf)]
    return run[-LAST:]


def rows(chosen: Sequence[ZooPolicy]) -> Iterator[str]:
    """What was kept of each run: how many, after how many steps, least and largest mean returns; the last, noisy."""
    limits = sorted({entry.limit for entry in chosen}, key=lambda limit: math.inf if limit is None else limit)
    for limit in limits:
        run = sorted((entry for entry in chosen if entry.limit == limit), key=lambda entry: entry.step)
        quiet, noisy = [entry.evaluations[0] for entry in run], run[-1].evaluations[1]
        reward, cost = ([getattr(one, what) for one in quiet] for what in ("reward", "cost"))
        yield (
            f"| {'none' if limit is None else f'{limit:g}'} | {len(run)} | {run[0].step / 1e6:.2f} to "
            f"{run[-1].step / 1e6:.2f} | {min(reward):,.0f} to {max(reward):,.0f} | {min(cost):.0f} to {max(cost):.0f} "
            f"| {noisy.reward:,.0f} | {noisy.cost:.0f} |"
        )


def main() -> None:
    """Reads all snapshots, writes the chosen ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    zoo = load_zoo(arguments.runs)
    plan = tomllib.loads(RUNS.read_text())[zoo.env_id]
    reckless = reckless_of(zoo.policies)
    runs: dict[str, list[ZooPolicy]] = {}
    for entry in zoo.policies:
        runs.setdefault(entry.run, []).append(entry)
    chosen = [entry for run in runs.values() for entry in kept(sorted(run, key=lambda e: e.step), reckless, plan)]
    provenance = {**zoo.provenance, "chosen": f"{len(chosen)} of {len(zoo.policies)} snapshots by zoo/choose.py"}
    for row in rows(chosen):
        print(row)
    save_zoo(arguments.out, env_id=zoo.env_id, policies=chosen, provenance=provenance)


if __name__ == "__main__":
    main()
