"""Deployments of real policies where something is wrong: which promise holds, and which is refused.

    python reproductions/hard_roads.py --learnt-in runs/whole-road-risk-ledger-BallCircle-20 [--seeds 10 11 12 13 14]
                                       [--runs runs/hard-roads] [--out docs/results] [--workers 2]

Takes logs and transformers from a study of reproductions/whole_road.py (bullet/BallCircle, limit 20, delta 5 %), breaks
one thing, and deploys as `safehold deploy run` does. Fixed before it was run: the cases below, all five seeds, every
deployed target judged by 40 fresh episodes in the world that it was deployed in.

* `clean`: nothing is wrong.
* `shaken 0.1`, `shaken 0.3`: transitions are noisy. The world adds a Gaussian of this standard deviation to every
  action entry (of range 2); log and policy know nothing of it.
* `wrong seed`: somebody attests a seed target that is not safe: the supported one that asks for the most cost and
  reward on the dial (1.5 times the limit).
* `wrong seed, verified`: the same, but seed targets must be verified on at most 100 raw episodes first.
* `costs halved`: the log reports half of every cost; trained and planned on that, deployed on the true costs.
* `few safe`: of the episodes that keep the limit, every twentieth is left in the log; trained and planned on that.
* `none safe`: none of them is.

Two to five minutes a seed on two cores for all cases, and the training of two of them; what is done is not done again.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from recorded import commit_here

from safehold.core.errors import Alarm, DataError, NoCertifiedTarget, SafeholdError, SafetyHold
from safehold.core.intervals import proportion_interval
from safehold.core.policy import Actor, Policy, PolicyFamily
from safehold.core.seeding import Streams
from safehold.core.target import Target
from safehold.data import hdf5
from safehold.data.dataset import OfflineDataset
from safehold.data.select import take
from safehold.deploy.optimizer import Deployment
from safehold.learn.checkpoint import load_checkpoint
from safehold.workflows.deploy import DeployConfig, Oversight, Plan, drive, open_or_create, plan, verify_seed
from safehold.workflows.evaluate import evaluate
from safehold.workflows.files import write_text
from safehold.workflows.road import TRAINING_THREADS, lower_bound
from safehold.workflows.train import load, preset, train, training_threads

TASK, LIMIT, JUDGED, SEED_EPISODES = "bullet/BallCircle", 20.0, 40, 100


@dataclass(frozen=True, slots=True)
class Case:
    """What is broken: the log that is learnt and planned from, the world's noise, the seed targets."""

    log: Callable[[OfflineDataset], OfflineDataset] | None = None
    noise: float = 0.0
    wrong_seed: bool = False
    oversight: Oversight = Oversight()  # noqa: RUF009 - frozen


def halved(log: OfflineDataset) -> OfflineDataset:
    """Half of every cost."""
    return dataclasses.replace(log, costs=0.5 * log.costs)


def few_safe(log: OfflineDataset) -> OfflineDataset:
    """Every twentieth of the episodes that keep the limit, and all others."""
    safe = np.flatnonzero(log.cost_returns[:, 0] <= LIMIT)
    return take(log, np.setdiff1d(np.arange(len(log)), np.setdiff1d(safe, safe[::20])), "few safe")


def none_safe(log: OfflineDataset) -> OfflineDataset:
    """No episode that keeps the limit."""
    return take(log, np.flatnonzero(log.cost_returns[:, 0] > LIMIT), "none safe")


CASES: dict[str, Case] = {
    "clean": Case(),
    "shaken 0.1": Case(noise=0.1),
    "shaken 0.3": Case(noise=0.3),
    "wrong seed": Case(wrong_seed=True, oversight=Oversight(seed_by="somebody")),
    "wrong seed, verified": Case(wrong_seed=True, oversight=Oversight(verify_seeds=1)),
    "costs halved": Case(log=halved),
    "few safe": Case(log=few_safe),
    "none safe": Case(log=none_safe),
}


@dataclass(frozen=True, slots=True)
class Shaken:
    """A policy in a world that adds noise to its actions; it sees what it meant to do, the world what it did."""

    policy: Policy
    sd: float

    def start(self, n: int, rng: np.random.Generator) -> Actor:
        """An actor for n fresh episodes."""
        return ShakenActor(self.policy.start(n, rng), self.sd, rng)


class ShakenActor:
    """n episodes of it."""

    def __init__(self, actor: Actor, sd: float, rng: np.random.Generator) -> None:
        self._actor, self._sd, self._rng = actor, sd, rng
        self._meant: Float[np.ndarray, "n a"] = np.zeros((0, 0))

    def act(self, observations: Float[np.ndarray, "n o"]) -> Float[np.ndarray, "n a"]:
        """What arrives."""
        self._meant = self._actor.act(observations)
        return np.clip(self._meant + self._rng.normal(0.0, self._sd, self._meant.shape), -1.0, 1.0)

    def observe(
        self, actions: Float[np.ndarray, "n a"], rewards: Float[np.ndarray, "n"], costs: Float[np.ndarray, "n k"]
    ) -> None:
        """What was meant, and what came of it."""
        self._actor.observe(self._meant.astype(actions.dtype), rewards, costs)


@dataclass(frozen=True, slots=True)
class ShakenFamily:
    """A family in such a world."""

    family: PolicyFamily
    sd: float

    @property
    def target_names(self) -> tuple[str, ...]:
        """Those of the family."""
        return self.family.target_names

    def at(self, target: Target) -> Policy:
        """The policy at a target."""
        return Shaken(self.family.at(target), self.sd)


def with_wrong_seed(planned: Plan) -> Plan:
    """The plan with one seed target, the supported one that asks for the most cost, then for the most reward."""
    declaration = planned.declaration
    points = declaration.space.points[declaration.prior.support]
    reward, cost = points[np.lexsort((points[:, 0], points[:, 1]))[-1]]
    return dataclasses.replace(
        planned, declaration=dataclasses.replace(declaration, seed_targets=((float(reward), float(cost)),))
    )


def run(name: str, case: Case, learnt: Path, seed: int, place: Path, workers: int) -> dict[str, Any]:
    """One deployment, and what its targets really cost."""
    log, streams = hdf5.read(learnt / "episodes.hdf5"), Streams(seed)
    record: dict[str, Any] = {"case": name, "seed": seed, "targets": [], "held": None, "refused": None}
    policy = learnt / "cdt" / "policy"
    try:
        if case.log is not None:
            log = case.log(log)
        planned = plan(log, DeployConfig(limit=LIMIT), case.oversight)
    except SafeholdError as refusal:
        return {**record, "refused": f"{type(refusal).__name__}: {refusal}"}
    if case.log is not None:
        policy = place / "cdt" / "policy"
        if not policy.exists():
            with training_threads(TRAINING_THREADS):
                weights = streams.integer("train/cdt")
                train(log, "cdt", preset("cdt", "small"), place / "cdt", seed=weights, resume=(place / "cdt").exists())
    found = load(policy)
    if not isinstance(found, PolicyFamily):
        raise DataError(f"{policy} holds no policy with a dial")
    family: PolicyFamily = ShakenFamily(found, case.noise) if case.noise else found
    if case.wrong_seed:
        planned = with_wrong_seed(planned)
    digest = load_checkpoint(policy).digest
    with open_or_create(
        place / "deployment", planned, dataset=log.digest, policy=digest, task=TASK, seed=seed
    ) as deployment:
        try:
            if case.oversight.verify_seeds:
                seeds = deployment.state.declaration.seed_targets
                verify_seed(
                    deployment, seeds[0], TASK, family, episodes=SEED_EPISODES, streams=streams, workers=workers
                )
            drive(deployment, TASK, family, streams=streams, workers=workers)
        except SafetyHold as hold:  # an unverified seed among them
            record["held"] = f"{type(hold).__name__}: {hold}"
        return {**record, **judged(deployment, family, streams, workers)}


def judged(deployment: Deployment, family: PolicyFamily, streams: Streams, workers: int) -> dict[str, Any]:
    """What was deployed, each target by fresh episodes, and what is recommended."""
    state = deployment.state
    targets = list(dict.fromkeys(asked.target for asked in state.asked.values()))
    told = np.concatenate([np.zeros(0), *(event.measurement.costs["cost"] for event in state.told.values())])
    try:
        final: Target | None = deployment.recommend().target
    except (NoCertifiedTarget, Alarm):
        final = None
    found = (
        evaluate(
            TASK,
            [(family.at(z), z) for z in targets],
            label="deployed",
            cost_name="cost",
            streams=streams,
            stream="judge",
            episodes=JUDGED,
            workers=workers,
        )
        if targets
        else []
    )
    return {
        "targets": [one.to_json() for one in found],
        "final": None if final is None else list(final),
        "asks": len(state.asked),
        "charged": state.spent,
        "episodes": len(told),
        "episodes_over": int(np.sum(~(told <= LIMIT))),
    }


def table(records: list[dict[str, Any]]) -> str:
    """One row a case."""
    lines = [
        "| case | runs | deployed targets above the limit, of all | surely above (95 %) | runs with one | asks a run | "
        "final reward | final cost | held or refused |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in CASES:
        of_case = [record for record in records if record["case"] == name]
        costs = [[np.array(one["costs"]) for one in record["targets"]] for record in of_case]
        over = [sum(not c.mean() <= LIMIT for c in run) for run in costs]
        surely = sum(not lower_bound(c) <= LIMIT for run in costs for c in run)
        every = sum(len(run) for run in costs)
        runs = proportion_interval(sum(count > 0 for count in over), len(of_case))
        finals = [
            one for r in of_case for one in r["targets"] if r.get("final") is not None and one["target"] == r["final"]
        ]
        means = [
            f"{np.mean([np.mean(one[what]) for one in finals]):.1f}" if finals else "-" for what in ("rewards", "costs")
        ]
        why = sorted({(r["refused"] or r["held"]).split(":")[0] for r in of_case if r["refused"] or r["held"]})
        held = sum(bool(r["refused"] or r["held"]) for r in of_case)
        asks = np.mean([r.get("asks", 0) for r in of_case])
        lines.append(
            f"| {name} | {len(of_case)} | {sum(over)} of {every} | {surely} | {round(runs.estimate * runs.n)} "
            f"[{runs.low:.2f}, {runs.high:.2f}] | {asks:.1f} | {means[0]} | {means[1]} | {held} {', '.join(why)} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs what is missing, writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--learnt-in", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12, 13, 14])
    parser.add_argument("--runs", type=Path, default=Path("runs/hard-roads"))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    commit = commit_here()
    records = []
    for seed in arguments.seeds:
        for name, case in CASES.items():
            place = arguments.runs / name.replace(" ", "-").replace(",", "") / f"seed-{seed}"
            path = place / "result.json"
            if not path.exists():
                place.mkdir(parents=True, exist_ok=True)
                learnt = arguments.learnt_in / f"seed-{seed}"
                found = run(name, case, learnt, seed, place, arguments.workers)
                write_text(path, json.dumps(found) + "\n")
                print(seed, name, found["refused"] or found["held"] or "ran to its end", flush=True)
            records.append(json.loads(path.read_text()))
    command = "python reproductions/hard_roads.py --learnt-in RUNS"
    made = {"command": command, "commit": commit, "seeds": arguments.seeds}
    (arguments.out / "hard-roads.json").write_text(json.dumps({**made, "runs": records}) + "\n")
    text = f"`{command}`; commit {commit}; seeds {arguments.seeds}.\n\n{table(records)}"
    (arguments.out / "hard-roads.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
