"""kill -9 at random moments: what was acknowledged is never lost, and a resumed run equals an unbroken one."""

import multiprocessing
import os
import signal
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import config

from safehold.core.certificate import TrialState
from safehold.core.constraint import Limit
from safehold.core.measurement import Measurement
from safehold.core.target import Target, TargetSpace
from safehold.deploy.declaration import Declaration
from safehold.deploy.optimizer import Deployment
from safehold.deploy.prior import Prior
from safehold.deploy.verify import verify
from safehold.gp.kernels import Matern52, Product
from safehold.ledger.run import RunDirectory

HORIZON = 10
FORK = multiprocessing.get_context("fork")


def declaration(correlation: float | None = None) -> Declaration:
    space = TargetSpace(
        {"reward": tuple(np.linspace(0.0, 160.0, 9).tolist()), "cost": tuple(np.linspace(0.0, 40.0, 9).tolist())}
    )
    limit = Limit("cost", 20.0)
    support = np.ones(len(space), dtype=np.bool_)
    return Declaration(
        prior=Prior.asked(
            space,
            [limit],
            support,
            lengthscales={"reward": 80.0, "cost": 20.0},
            kernel=Matern52 if correlation is None else partial(Product.of, "matern52"),
            correlation=None if correlation is None else {"cost": (correlation,)},
            reward_dial_error=40.0,
            reward_episode_sd=8.0,
        ),
        limits=(limit,),
        caps={"cost": 200.0},
        seed_targets=((40.0, 0.0), (40.0, 5.0)),
        delta=0.1,
        horizon=HORIZON,
    )


def episodes(target: Target) -> Measurement:
    """The same outcomes whenever the same target runs again."""
    reward, cost = target
    offsets = np.linspace(-2.0, 2.0, 20)
    return Measurement(
        rewards=0.9 * reward + offsets,
        costs={"cost": 0.6 * cost + 0.05 * reward + 3.0 + offsets},
        failed=np.zeros(20, dtype=np.bool_),
    )


def drive(path: Path, acknowledged: Path, declared: Declaration) -> None:
    """What a runner does: resumes or starts, and writes down outside the ledger what it was told is done."""
    config.update("jaxtyping_disable", True)
    notes = os.open(acknowledged, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_SYNC)
    run = RunDirectory(path)
    with (
        Deployment.open(path) if run.started else Deployment.create(path, declared) as deployment,
        run.runner_lock(),
    ):
        for number in range(HORIZON):
            trial = deployment.ask(f"ask {number}")
            os.write(notes, f"asked {trial.id} {trial.target}\n".encode())
            if trial.state is not TrialState.DONE:
                deployment.deployed(trial.id)
                deployment.tell(trial.id, episodes(trial.target))
            os.write(notes, f"told {trial.id}\n".encode())
        deployment.stop("done")  # nothing if it was recorded before
    os.close(notes)


def child(path: Path, acknowledged: Path, declared: Declaration):
    process = FORK.Process(target=drive, args=(path, acknowledged, declared))
    process.start()
    return process


def finish(path: Path, acknowledged: Path, declared: Declaration) -> list[str]:
    """Runs to the end undisturbed; the chain of hashes, which covers everything but timestamps."""
    process = child(path, acknowledged, declared)
    process.join(60)
    assert process.exitcode == 0
    with RunDirectory(path).open(read_only=True) as ledger:
        return [record.hash for record in ledger.read()]


def check_acknowledged(path: Path, acknowledged: Path) -> None:
    """Everything that the runner was told is done is in the ledger."""
    with Deployment.open(path, read_only=True) as deployment:
        state = deployment.state
    for line in acknowledged.read_text().splitlines():
        word, trial, *target = line.split(" ", 2)
        if word == "asked":
            assert str(state.asked[trial].target) == target[0]
        else:
            assert state.states[trial] is TrialState.DONE


def kill_and_resume(tmp_path: Path, kills: int, seed: int, correlation: float | None = None) -> None:
    declared = declaration(correlation)
    rng = np.random.default_rng(seed)
    started = time.monotonic()
    unbroken = finish(tmp_path / "unbroken", tmp_path / "unbroken.txt", declared)
    longest = time.monotonic() - started
    done, run, began_in_vain = 0, 0, 0
    while done < kills:
        run += 1
        path, acknowledged = tmp_path / f"run {run}", tmp_path / f"run {run}.txt"
        for _ in range(10):
            process = child(path, acknowledged, declared)
            time.sleep(rng.uniform(0.0, longest / 2))
            os.kill(process.pid, signal.SIGKILL)
            process.join(60)
            if process.exitcode != -signal.SIGKILL:
                assert process.exitcode == 0
                break
            done += 1
            if RunDirectory(path).started:
                check_acknowledged(path, acknowledged)
            else:
                began_in_vain += 1
        assert finish(path, acknowledged, declared) == unbroken
        check_acknowledged(path, acknowledged)
        assert verify(path) == []
    assert began_in_vain < done / 2


def test_ten_kills_lose_nothing_and_change_nothing(tmp_path):
    kill_and_resume(tmp_path, kills=10, seed=0)


def test_kills_lose_nothing_where_a_cost_goes_with_the_reward(tmp_path):
    kill_and_resume(tmp_path, kills=4, seed=2, correlation=0.8)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_hundred_kills_lose_nothing_and_change_nothing(tmp_path):
    kill_and_resume(tmp_path, kills=200, seed=1)
