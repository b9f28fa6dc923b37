"""Selects the snapshots that are shipped: those that together cover the plane of reward and cost returns best.

    python zoo/choose.py RUNS OUT [--count 110]

RUNS is what zoo/train.py left (OUT/runs there). Greedy: begins with the snapshots of the largest reward return, at a
mean cost within 20 and at any, then adds the one that is farthest from all that were chosen, by the mean returns of
its episodes with noise and without. Costs count by their square roots: low limits want close cover.
"""

import argparse
from pathlib import Path

import numpy as np

from safehold.learn.online.zoo import ZooPolicy, load_zoo, save_zoo

LIMIT = 20.0
"""The limit of the benchmark, in cost units per episode."""
REWARD_UNIT = 100.0
"""Rewards that differ by this are as far apart as costs whose square roots differ by 1."""
LARGEST_REWARD, LARGEST_COST = 4_000.0, 300.0
"""Returns above these count as these: what is reckless far beyond the benchmark's limits needs less cover."""


def place(entry: ZooPolicy) -> np.ndarray:
    """Where a snapshot lies in the plane, without and with its own noise."""
    rows = [
        (min(judged.reward, LARGEST_REWARD) / REWARD_UNIT, np.sqrt(min(judged.cost, LARGEST_COST)))
        for judged in entry.evaluations
    ]
    return np.array(rows).ravel()


def select(entries: tuple[ZooPolicy, ...], count: int) -> list[int]:
    """Numbers of the chosen snapshots, in the order of the runs."""
    places = np.array([place(entry) for entry in entries])
    within = [entry.evaluations[0].reward if entry.evaluations[0].cost <= LIMIT else -np.inf for entry in entries]
    chosen = [int(np.argmax(within)), int(np.argmax([entry.evaluations[0].reward for entry in entries]))]
    distance = np.min([np.linalg.norm(places - places[number], axis=1) for number in chosen], axis=0)
    while len(chosen) < min(count, len(entries)):
        chosen.append(int(np.argmax(distance)))
        distance = np.minimum(distance, np.linalg.norm(places - places[chosen[-1]], axis=1))
    return sorted(chosen)


def main() -> None:
    """Reads all snapshots, writes the chosen ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=110, help="snapshots to ship")
    arguments = parser.parse_args()
    zoo = load_zoo(arguments.runs)
    chosen = [zoo.policies[number] for number in select(zoo.policies, arguments.count)]
    provenance = {**zoo.provenance, "selected": f"{len(chosen)} of {len(zoo.policies)} by zoo/choose.py"}
    save_zoo(arguments.out, env_id=zoo.env_id, policies=chosen, provenance=provenance)


if __name__ == "__main__":
    main()
