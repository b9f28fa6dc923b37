"""A policy with a dial that goes on learning in the world: act at the target, log, learn on, act again.

What deployment by safehold does not do. Weights change while the policy acts, nothing is certified, and every episode
over the limit is the price; [PLS, Table 8] counts them, and so does this.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from pydantic import PositiveInt

from safehold.core.config import Config
from safehold.core.errors import DataError, UsageError
from safehold.core.policy import PolicyFamily
from safehold.core.seeding import Streams
from safehold.core.target import Target
from safehold.data import hdf5
from safehold.data.dataset import OfflineDataset
from safehold.data.select import merge, take
from safehold.learn.checkpoint import load_checkpoint, save_checkpoint
from safehold.learn.fit import OfflineRun, fit
from safehold.learn.learner import Learner, State
from safehold.rollout.episodes import rollout
from safehold.workflows.train import METHODS, TRAINING, newest_checkpoint

ROUND = "fine-tuned"
"""What a round's checkpoint calls itself."""


class FineTuneConfig(Config):
    """How long a policy learns on."""

    episodes: PositiveInt = 400
    """Episodes in the world; 400 is what a deployment of 20 targets takes.   [PLS, Table 8]"""
    episodes_per_round: PositiveInt = 20
    """Episodes between two rounds of learning; the last round may have fewer."""
    updates_per_round: PositiveInt = 200
    """Gradient steps of a round."""


@dataclass(frozen=True, slots=True)
class Round:
    """Returns of the episodes of one round, acted before its learning."""

    number: int
    rewards: Float[np.ndarray, "n"]
    costs: Float[np.ndarray, "n k"]


@dataclass(frozen=True, slots=True)
class FineTuned:
    """What learning on left behind."""

    rounds: tuple[Round, ...]
    policy: Path
    digest: str


def fine_tune(
    log: OfflineDataset,
    trained: Path,
    target: Target,
    config: FineTuneConfig,
    directory: Path,
    *,
    seed: int,
    workers: int = 1,
    on_round: Callable[[Round], None] = lambda _: None,
) -> FineTuned:
    """Rounds of acting at one target and learning from a buffer as long as the log, the newest episodes in it.

    Weights and moments are those of the last update, the schedule of the learning rate begins again. After every
    round its episodes and the learner's state are kept; called again with the same arguments, learning goes on after
    the last whole round and ends where it would have ended. The world is the log's task.

    Args:
        log: what the policy was trained on.
        trained: directory that `train` left, whose last checkpoint is that of its last update.
        target: asked for in every episode.
        config: how long.
        directory: made, with rounds/NN and, at the end, policy.
        seed: of episodes and batches.
        workers: processes that run episodes; the result does not depend on it.
        on_round: told of every round, those done before included.

    Raises:
        UsageError: if `trained` holds no whole training of a method with a dial, or learning on is finished.
        DataError: if it was trained on another log, or what the directory holds was left by other arguments.
    """
    if (directory / "policy").exists():
        raise UsageError(f"{directory / 'policy'} exists: this fine-tuning is finished; choose another directory")
    learner, settings = _whole_training(trained, log)
    provenance = {"trained": settings, "target": list(target), "config": config.to_json(), "seed": seed}
    method = METHODS[settings["method"]]
    offline = method.config.model_validate(settings["config"])
    streams, rounds, met = Streams(seed), list[Round](), list[OfflineDataset]()
    count = -(-config.episodes // config.episodes_per_round)
    for number in range(count):
        place = directory / "rounds" / f"{number:03d}"
        first = number * config.episodes_per_round
        if not (place / "state").exists():
            policy = learner.policy().at(target)
            seeds = streams.episode_seeds("episodes", first, min(config.episodes_per_round, config.episodes - first))
            noise = streams.integer(f"noise/{number}")
            episodes = rollout(log.spec.env_id, policy, seeds, rng_seed=noise, workers=workers)
            met.append(OfflineDataset.of(episodes, log.spec, provenance={"round": number, **provenance}))
            place.mkdir(parents=True, exist_ok=True)
            hdf5.write(place / "episodes.hdf5", met[-1], overwrite=True)
            _, sampler = method.build(_newest([log, *met], len(log)), offline, streams.integer("unused weights"))
            fit(OfflineRun(learner, sampler, streams[f"batches/{number}"]), steps=config.updates_per_round)
            state = State.merge(learner.state(), State(meta={"provenance": provenance}))
            save_checkpoint(place / "state", kind=ROUND, tensors=state.tensors, meta=state.meta)
        else:
            met.append(hdf5.read(place / "episodes.hdf5"))
            _restore(learner, place / "state", provenance)
        rounds.append(Round(number, met[-1].reward_returns, met[-1].cost_returns))
        on_round(rounds[-1])
    digest = method.save(directory / "policy", learner.policy(), log, provenance)
    return FineTuned(tuple(rounds), directory / "policy", digest)


def _whole_training(trained: Path, log: OfflineDataset) -> tuple[Learner[Any, Any], dict[str, Any]]:
    """The learner as it stood after its last update, and what it was trained with."""
    newest = newest_checkpoint(trained / "checkpoints")
    if newest is None:
        raise UsageError(f"{trained} holds no checkpoints of a training; fine-tuning goes on from the last of them")
    saved = load_checkpoint(newest)
    settings = saved.meta.get("provenance")
    if saved.kind != TRAINING or not isinstance(settings, dict) or settings.get("method") not in METHODS:
        raise UsageError(f"{newest} is no checkpoint of a training")
    method = METHODS[settings["method"]]
    config = method.config.model_validate(settings["config"])
    if settings.get("dataset") != log.digest:
        raise DataError(f"{trained} was trained on another log than the one given: {settings.get('dataset')}")
    learner, _ = method.build(log, config, Streams(int(settings["seed"])).integer("weights"))
    family = learner.policy()
    if not isinstance(family, PolicyFamily) or "reward" not in family.target_names:
        raise UsageError(f"{trained}: method {settings['method']!r} has no dial of returns, so no target to act at")
    state = State(saved.tensors, saved.meta)
    if int(state.part("run").meta["updates"]) != config.steps:
        raise UsageError(
            f"{newest} is not of the last of {config.steps} updates; finish the training, or train with a "
            "--checkpoint-every that divides them"
        )
    learnt = state.part("learner")
    learner.restore(State(learnt.tensors, {**learnt.meta, "updates": 0}))  # or the rate would stay where it ended
    return learner, dict(settings)


def _restore(learner: Learner[Any, Any], directory: Path, provenance: dict[str, Any]) -> None:
    """The learner as it stood after a round.

    Raises:
        DataError: if the round was left by other arguments.
    """
    saved = load_checkpoint(directory)
    found = saved.meta.get("provenance") if saved.kind == ROUND else None
    if found != provenance:
        raise DataError(f"{directory} is of a fine-tuning with other arguments; choose another directory")
    learner.restore(State(saved.tensors, saved.meta))


def _newest(datasets: Sequence[OfflineDataset], count: int) -> OfflineDataset:
    """The last `count` episodes."""
    together = merge(datasets)
    return take(together, np.arange(len(together) - count, len(together)), f"the newest {count}")
