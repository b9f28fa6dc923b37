"""A small deployment in a directory, for tests of reports and commands: a policy whose dial is off in a known way."""

import json
from pathlib import Path

import numpy as np

from safehold.core.constraint import Limit
from safehold.core.episode import Episode
from safehold.core.errors import SafetyHold
from safehold.core.measurement import Measurement
from safehold.core.spec import Box, TaskSpec
from safehold.core.target import Target, TargetSpace
from safehold.data import hdf5
from safehold.data.dataset import OfflineDataset
from safehold.deploy.certificates.paper import Paper
from safehold.deploy.certificates.rule import Rule
from safehold.deploy.declaration import Declaration
from safehold.deploy.optimizer import Deployment
from safehold.deploy.prior import Prior

LIMIT = 25.0


def declaration(
    horizon: int = 8, limit: float = LIMIT, rules: tuple[Rule, ...] = (Paper(),), dial_error: float = 8.0
) -> Declaration:
    space = TargetSpace({"reward": tuple(np.linspace(500, 2900, 13)), "cost": tuple(np.linspace(0, 60, 16))})
    support = space.points[:, 1] < (space.points[:, 0] / 2900) ** 2 * 90 + 15
    limits = (Limit("cost", limit),)
    prior = Prior.asked(
        space, limits, support, lengthscales={"reward": 900.0, "cost": 25.0}, dial_error={"cost": dial_error}
    )
    return Declaration(
        prior=prior,
        limits=limits,
        caps={"cost": 1000.0},
        seed_targets=((900.0, 4.0), (1100.0, 4.0)),
        delta=0.05,
        horizon=horizon,
        seed_rule="log",
        rules=rules,
    )


def measure(target: Target, number: int, episodes: int = 20) -> Measurement:
    """Costs are a little over what is asked, rewards a little under."""
    rng = np.random.default_rng(number)
    reward, cost = target
    return Measurement(
        rewards=rng.normal(200 + 0.85 * reward, 60, episodes),
        costs={"cost": np.maximum(0, rng.normal(2 + 1.1 * cost, 5, episodes).round())},
        failed=np.zeros(episodes, dtype=np.bool_),
    )


def deploy(directory: Path, horizon: int = 8, tells: int = 8) -> Deployment:
    """A deployment with some tells; seeds of episodes are told too."""
    deployment = Deployment.create(
        directory, declaration(horizon), policy_digest="ab" * 32, provenance={"task": "HalfCheetahVelocity"}
    )
    for number in range(tells):
        try:
            trial = deployment.ask()
        except SafetyHold:
            break
        deployment.deployed(trial.id)
        outcome = measure(trial.target, number)
        deployment.tell(trial.id, outcome, seeds=tuple(range(20 * number, 20 * number + len(outcome))))
    return deployment


def log(path: Path, episodes: int = 300) -> OfflineDataset:
    """Logged episodes of ten steps, most of them over the limit."""
    rng = np.random.default_rng(0)
    spec = TaskSpec(
        env_id="HalfCheetahVelocity",
        observation_size=3,
        action=Box((-1.0,), (1.0,)),
        horizon=10,
        cost_units=("steps above 3.21 m/s",),
    )
    made = []
    for _ in range(episodes):
        wanted = rng.uniform(200, 2900)
        cost = max(0.0, round((wanted / 2900) ** 2 * 90 + rng.normal(0, 18)))
        made.append(
            Episode(
                observations=rng.normal(size=(11, 3)).astype(np.float32),
                actions=rng.uniform(-1, 1, size=(10, 1)).astype(np.float32),
                rewards=np.full(10, wanted / 10),
                costs=np.full((10, 1), cost / 10),
                terminated=False,
                truncated=True,
            )
        )
    dataset = OfflineDataset.of(made, spec)
    hdf5.write(path, dataset)
    return dataset


def evaluate(path: Path) -> None:
    """Targets that were run outside the certified loop."""
    rng = np.random.default_rng(1)
    asked: list[tuple[str, Target]] = [("dial", (float(r), float(g))) for r in (700, 1500, 2300) for g in (5, 20, 50)]
    asked += [("naive", (2900.0, 25.0)), ("final", (2100.0, 12.0))]
    targets = []
    for label, target in asked:
        outcome = measure(target, int(rng.integers(1000)))
        extra = 18 if label == "naive" else 0
        costs = (outcome.costs["cost"] + extra).tolist()
        targets.append({"label": label, "target": list(target), "rewards": outcome.rewards.tolist(), "costs": costs})
    path.write_text(
        json.dumps({"task": "HalfCheetahVelocity", "limit": LIMIT, "cost_name": "cost", "targets": targets})
    )


def whole_run(directory: Path, **options: int) -> Path:
    """Everything that a report can show."""
    directory.mkdir(parents=True, exist_ok=True)
    deploy(directory, **options).close()
    log(directory / "episodes.hdf5")
    evaluate(directory / "evaluations.json")
    return directory
