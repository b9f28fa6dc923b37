"""Deployments of real policies where something is wrong: which promise holds, and which is refused.

    python reproductions/hard_roads.py --learnt-in runs/whole-road-risk-ledger-BallCircle-20 [--task bullet/BallCircle]
                                       [--seeds 10 11 12 13 14] [--runs runs/hard-roads-BallCircle] [--out docs/results]
                                       [--workers 2]
    python reproductions/hard_roads.py --learnt-in runs/whole-road --task HalfCheetahVelocity

Takes logs and transformers from a study of reproductions/whole_road.py of that task (limit 20, delta 5 %), breaks one
thing, and deploys as `safehold deploy run` does. Fixed before it was run: the cases below, all five seeds, every
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
* `mass 1.2`, `mass 0.8`, `friction 0.7`, `late 1`, `all three` (HalfCheetahVelocity): from the simulator to a machine
  that is not quite it. All masses and inertias, or frictions, times this; actions that arrive one step late; mass 1.2,
  friction 0.7 and one step late. Log, policy and prior know nothing of it; seed targets are verified first, on at most
  400 raw episodes in the new world: what may cost 1000 an episode cannot be shown to cost 20 by 100. Beside it, in
  the new world, what the deployment of RUNS recommended in the old one, and the naive target.
* `all three, unverified`: the same with the log's word for the seed targets, which is of the old world.

On one busy core about seven minutes a seed of BallCircle, training included, and five a case of HalfCheetahVelocity;
what is done is not done again.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable, Sequence
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
from safehold.learn.checkpoint import load_checkpoint
from safehold.workflows.deploy import (
    DeployConfig,
    Oversight,
    Plan,
    drive,
    open_or_create,
    plan,
    raw_episodes,
    verify_seed,
)
from safehold.workflows.evaluate import evaluate
from safehold.workflows.files import write_text
from safehold.workflows.road import TRAINING_THREADS, lower_bound
from safehold.workflows.train import load, preset, train_once, training_threads

LIMIT, JUDGED = 20.0, 40
SEED_EPISODES = {"bullet/BallCircle": 100, "HalfCheetahVelocity": 400}


@dataclass(frozen=True, slots=True)
class Case:
    """What is broken: the log that is learnt and planned from, the world and its noise, the seed targets."""

    log: Callable[[OfflineDataset], OfflineDataset] | None = None
    noise: float = 0.0
    world: str = ""
    """Of a perturbed world, what stands in brackets after its name (`envs.perturbed`)."""
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


CLEAN: dict[str, Case] = {"clean": Case(), "shaken 0.1": Case(noise=0.1), "shaken 0.3": Case(noise=0.3)}
VERIFIED = Oversight(verify_seeds=1)
CASES: dict[str, dict[str, Case]] = {
    "bullet/BallCircle": {
        **CLEAN,
        "wrong seed": Case(wrong_seed=True, oversight=Oversight(seed_by="somebody")),
        "wrong seed, verified": Case(wrong_seed=True, oversight=VERIFIED),
        "costs halved": Case(log=halved),
        "few safe": Case(log=few_safe),
        "none safe": Case(log=none_safe),
    },
    "HalfCheetahVelocity": {
        **CLEAN,
        "mass 1.2": Case(world="[mass=1.2]", oversight=VERIFIED),
        "mass 0.8": Case(world="[mass=0.8]", oversight=VERIFIED),
        "friction 0.7": Case(world="[friction=0.7]", oversight=VERIFIED),
        "late 1": Case(world="[delay=1]", oversight=VERIFIED),
        "all three": Case(world="[mass=1.2,friction=0.7,delay=1]", oversight=VERIFIED),
        "all three, unverified": Case(world="[mass=1.2,friction=0.7,delay=1]"),
    },
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


def run(name: str, case: Case, task: str, learnt: Path, seed: int, place: Path, workers: int) -> dict[str, Any]:
    """One deployment, and what its targets really cost."""
    log, streams, world = hdf5.read(learnt / "episodes.hdf5"), Streams(seed), task + case.world
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
        with training_threads(TRAINING_THREADS):
            train_once(log, "cdt", preset("cdt", "small"), place / "cdt", seed=streams.integer("train/cdt"))
    found = load(policy)
    if not isinstance(found, PolicyFamily):
        raise DataError(f"{policy} holds no policy with a dial")
    family: PolicyFamily = ShakenFamily(found, case.noise) if case.noise else found
    if case.wrong_seed:
        planned = with_wrong_seed(planned)
    digest = load_checkpoint(policy).digest
    with open_or_create(
        place / "deployment", planned, dataset=log.digest, policy=digest, task=world, seed=seed
    ) as deployment:
        try:
            if case.oversight.verify_seeds:
                seeds = deployment.state.declaration.seed_targets
                allowed = SEED_EPISODES[task] - raw_episodes(deployment, seeds[0])
                verify_seed(deployment, seeds[0], world, family, episodes=allowed, streams=streams, workers=workers)
            drive(deployment, world, family, streams=streams, workers=workers)
        except SafetyHold as hold:  # an unverified seed among them
            record["held"] = f"{type(hold).__name__}: {hold}"
        state = deployment.state
        told = np.concatenate([np.zeros(0), *(event.measurement.costs["cost"] for event in state.told.values())])
        try:
            final: Target | None = deployment.recommend().target
        except (NoCertifiedTarget, Alarm):
            final = None
        targets = list(dict.fromkeys(asked.target for asked in state.asked.values()))
        record |= {
            "targets": judged(world, family, targets, streams, workers),
            "final": None if final is None else list(final),
            "asks": len(state.asked),
            "charged": state.spent,
            "episodes": len(told),
            "episodes_over": int(np.sum(~(told <= LIMIT))),
        }
    if case.world:
        before = json.loads((learnt / "summary.json").read_text())
        wanted = [tuple(before[which]) for which in ("final_target", "naive_target")]
        record["from_before"] = judged(world, family, wanted, streams, workers)
    return record


def judged(
    world: str, family: PolicyFamily, targets: Sequence[Target], streams: Streams, workers: int
) -> list[dict[str, Any]]:
    """Each of these targets by fresh episodes."""
    if not targets:
        return []
    found = evaluate(
        world,
        [(family.at(z), z) for z in targets],
        label="deployed",
        cost_name="cost",
        streams=streams,
        stream="judge",
        episodes=JUDGED,
        workers=workers,
    )
    return [one.to_json() for one in found]


def table(records: Sequence[dict[str, Any]], cases: Sequence[str]) -> str:
    """One row a case."""
    lines = [
        "| case | runs | deployed targets above the limit, of all | surely above (95 %) | runs with one | asks a run | "
        "final reward | final cost | held or refused | recommended in the old world | naive target |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in cases:
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
            f"[{runs.low:.2f}, {runs.high:.2f}] | {asks:.1f} | {means[0]} | {means[1]} | {held} {', '.join(why)} "
            f"| {_before(of_case, 0)} | {_before(of_case, 1)} |"
        )
    return "\n".join(lines) + "\n"


def _before(records: Sequence[dict[str, Any]], which: int) -> str:
    """What a target from before earns and costs in the new world, and in how many runs it is over the limit."""
    found = [record["from_before"][which] for record in records if "from_before" in record]
    if not found:
        return ""
    costs = np.array([np.mean(one["costs"]) for one in found])
    reward = np.mean([np.mean(one["rewards"]) for one in found])
    return f"{reward:.0f} at {costs.mean():.1f}, over in {int(np.sum(~(costs <= LIMIT)))} of {len(costs)}"


def main() -> None:
    """Runs what is missing, writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--learnt-in", type=Path, required=True)
    parser.add_argument("--task", choices=tuple(CASES), default="bullet/BallCircle")
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12, 13, 14])
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    commit, cases = commit_here(), CASES[arguments.task]
    study = f"hard-roads-{arguments.task.split('/')[-1]}"
    runs = arguments.runs or Path("runs") / study
    records = []
    for seed in arguments.seeds:
        for name, case in cases.items():
            place = runs / name.replace(" ", "-").replace(",", "") / f"seed-{seed}"
            path = place / "result.json"
            if not path.exists():
                place.mkdir(parents=True, exist_ok=True)
                learnt = arguments.learnt_in / f"seed-{seed}"
                found = run(name, case, arguments.task, learnt, seed, place, arguments.workers)
                write_text(path, json.dumps(found) + "\n")
                print(seed, name, found["refused"] or found["held"] or "ran to its end", flush=True)
            records.append(json.loads(path.read_text()))
    command = f"python reproductions/hard_roads.py --task {arguments.task} --learnt-in RUNS"
    made = {"command": command, "commit": commit, "seeds": arguments.seeds}
    (arguments.out / f"{study}.json").write_text(json.dumps({**made, "runs": records}) + "\n")
    text = f"`{command}`; commit {commit}; seeds {arguments.seeds}.\n\n{table(records, tuple(cases))}"
    (arguments.out / f"{study}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
