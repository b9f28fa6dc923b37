"""Learn a policy from a file of logged episodes: data, method and seed in, a sealed checkpoint out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from safehold.core.errors import DataError, UsageError
from safehold.core.policy import Policy, PolicyFamily
from safehold.core.seeding import Streams
from safehold.core.spec import TaskSpec
from safehold.data.batches import Sampler, TransitionSampler
from safehold.data.dataset import OfflineDataset
from safehold.data.layouts import read_any
from safehold.data.normalise import Normaliser
from safehold.learn.checkpoint import load_checkpoint
from safehold.learn.fit import OfflineRun, fit
from safehold.learn.hooks import Hook, checkpoint, every
from safehold.learn.learner import Learner, State
from safehold.learn.offline import (
    bc,
    bcq_lag,
    bear_lag,
    caps,
    ccac,
    cdt,
    cdt_network,
    cdt_policy,
    coptidice,
    cpq,
    iql,
    lspc,
    rvs,
)
from safehold.learn.offline.actor_critic import ActorCriticConfig, ActorCriticLearner
from safehold.learn.offline.dial import DialConfig, augmented, scales_of, windows
from safehold.learn.offline.learnt import Learnt
from safehold.learn.place import HERE, Place

OfflineConfig = bc.BCConfig | DialConfig | ActorCriticConfig
"""The configurations of the offline methods."""

TRAINING = "training"
"""What a checkpoint calls itself that training can be resumed from."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What training left behind. `policy` and `digest` are None if a hook stopped it before its last update, and in
    processes that are not the first of several."""  # noqa: D205, D209

    updates: int
    policy: Path | None
    digest: str | None


@dataclass(frozen=True, slots=True)
class _Method:
    """How one method is configured, built, built again from what a learner's state says, saved and loaded."""

    config: type[OfflineConfig]
    presets: Mapping[str, OfflineConfig]
    build: Callable[..., tuple[Learner[Any, Any], Sampler[Any]]]
    rebuild: Callable[[Mapping[str, Any], TaskSpec, Any], Learner[Any, Any]]
    save: Callable[[Path, Any, OfflineDataset, Mapping[str, Any]], str]
    load: Callable[..., Policy | PolicyFamily]


def train(
    dataset: OfflineDataset | Path,
    method: str,
    config: OfflineConfig,
    directory: Path,
    *,
    seed: int,
    resume: bool = False,
    checkpoint_every: int = 1000,
    hooks: Sequence[Hook] = (),
    place: Place = HERE,
) -> Trained:
    """Trains one method and writes `directory/policy`; `directory/checkpoints` holds what resuming needs.

    With `resume`, training goes on from the newest checkpoint, and ends where it would have ended without the
    interruption, bit for bit on one machine. Of several processes (`place`) the first one writes.

    Raises:
        UsageError: if the method is unknown, the configuration is of another method, the directory exists without
            `resume`, or training in it is finished.
        DataError: if the checkpoint is of another dataset, configuration or seed.
    """
    chosen = _method(method)
    if not isinstance(config, chosen.config):
        raise UsageError(f"method {method!r} takes a {chosen.config.__name__}, got a {type(config).__name__}")
    if (directory / "policy").exists():
        raise UsageError(f"{directory / 'policy'} exists: this training is finished; choose another directory")
    if directory.exists() and not resume:
        raise UsageError(f"{directory} exists; resume the training in it, or choose another directory")
    data = dataset if isinstance(dataset, OfflineDataset) else read_any(dataset)
    provenance = {"method": method, "config": config.to_json(), "seed": seed, "dataset": data.digest}
    streams = Streams(seed)
    learner, sampler = chosen.build(data, config, streams.integer("weights"), place)
    run = _ProvenRun(OfflineRun(learner, sampler, streams["batches"]), provenance)
    place.wait()  # all have seen what was there
    directory.mkdir(parents=True, exist_ok=True)
    newest = newest_checkpoint(directory / "checkpoints") if resume else None
    if newest is not None:
        run.restore(newest)
    save = every(checkpoint_every, checkpoint(run, directory / "checkpoints", TRAINING))
    fit(run.run, steps=config.steps, hooks=[save, *hooks] if place.first else [])
    if run.run.updates < config.steps or not place.first:
        return Trained(run.run.updates, None, None)
    digest = chosen.save(directory / "policy", learner.policy(), data, provenance)
    return Trained(run.run.updates, directory / "policy", digest)


def train_once(
    dataset: OfflineDataset,
    method: str,
    config: OfflineConfig,
    directory: Path,
    *,
    seed: int,
) -> Policy | PolicyFamily:
    """The policy of the training in a directory: begun, gone on with, or, if it is finished, read.

    Raises:
        UsageError: if the method is unknown, or the configuration of another method.
        DataError: if what lies there was made from another dataset, configuration or seed.
        IntegrityError: if bytes of it changed.
    """
    place = directory / "policy"
    if not place.exists():
        train(dataset, method, config, directory, seed=seed, resume=directory.exists())
    own = {"method": method, "config": config.to_json(), "seed": seed, "dataset": dataset.digest}
    _require_provenance(place, load_checkpoint(place).meta, own)
    return load(place)


@contextmanager
def training_threads(count: int) -> Iterator[None]:
    """PyTorch on this many threads, and on as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def load(directory: Path, *, expected_digest: str | None = None) -> Policy | PolicyFamily:
    """The policy, or the family of policies, that `train` wrote to `directory`.

    Raises:
        IntegrityError: if bytes changed, or the checkpoint is not the pinned one.
        DataError: if it holds no policy.
    """
    kind = load_checkpoint(directory, expected_digest=expected_digest).kind
    if kind not in METHODS:
        raise DataError(f"{directory} holds a {kind!r}, not a policy of one of {sorted(METHODS)}")
    return METHODS[kind].load(directory, expected_digest=expected_digest)


def preset(method: str, name: str) -> OfflineConfig:
    """A method's configuration by name.

    Raises:
        UsageError: if there is no such method or preset.
    """
    presets = _method(method).presets
    if name not in presets:
        raise UsageError(f"method {method!r} has no preset {name!r}; it has {sorted(presets)}")
    return presets[name]


@dataclass(frozen=True, slots=True)
class _ProvenRun:
    """A run whose saved state says which data, configuration and seed it belongs to."""

    run: OfflineRun[Any]
    provenance: Mapping[str, Any]

    def state(self) -> State:
        return State.merge(self.run.state(), State(meta={"provenance": dict(self.provenance)}))

    def restore(self, directory: Path) -> None:
        saved = load_checkpoint(directory)
        if saved.kind != TRAINING:
            raise DataError(f"{directory} holds a {saved.kind!r}, not a training to go on with")
        _require_provenance(directory, saved.meta, self.provenance)
        self.run.restore(State(saved.tensors, saved.meta))


def _require_provenance(directory: Path, meta: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuses a checkpoint that does not say that it comes from just this.

    Raises:
        DataError: if it says nothing, or something else.
    """
    theirs = meta.get("provenance")
    if not isinstance(theirs, Mapping):
        raise DataError(f"{directory}: the checkpoint does not say what it was trained on")
    for name, own in wanted.items():
        if theirs.get(name) != own:
            raise DataError(
                f"{directory}: trained with {name} {theirs.get(name)!r}, this run has {own!r}; resume with what it "
                "was started with, or start anew in another directory"
            )


def newest_checkpoint(directory: Path) -> Path | None:
    """The checkpoint with the most updates that training left there; None if there is none, unfinished writes aside."""
    numbered = [path for path in directory.glob("[0-9]*") if path.name.isdigit()] if directory.is_dir() else []
    return max(numbered, key=lambda path: int(path.name), default=None)


def _build_bc(
    dataset: OfflineDataset, config: bc.BCConfig, seed: int, place: Place = HERE
) -> tuple[Learner[Any, Any], Sampler[Any]]:
    _refuse_elsewhere(bc.KIND, place)
    kept = bc.cloned_episodes(dataset, config)
    learner = bc.BCLearner(dataset.spec, Normaliser.fit(kept.observations), config, seed)
    return learner, TransitionSampler(kept, config.batch_size)


def _build_cdt(
    dataset: OfflineDataset, config: cdt_network.CDTConfig, seed: int, place: Place = HERE
) -> tuple[Learner[Any, Any], Sampler[Any]]:
    return _build_dial(cdt.CDTLearner, config.context, dataset, config, seed, place)


def _build_rvs(
    dataset: OfflineDataset, config: rvs.RvSConfig, seed: int, place: Place = HERE
) -> tuple[Learner[Any, Any], Sampler[Any]]:
    _refuse_elsewhere(rvs.KIND, place)
    return _build_dial(rvs.RvSLearner, 1, dataset, config, seed, place)


def _build_dial(
    learner: Callable[..., Learner[Any, Any]],
    context: int,
    dataset: OfflineDataset,
    config: DialConfig,
    seed: int,
    place: Place,
) -> tuple[Learner[Any, Any], Sampler[Any]]:
    """A learner of policies with a dial, its scales and windows from one and the same augmented log."""
    more = augmented(dataset, config, Streams(seed)["augmentation"])
    scales = scales_of(dataset, config, more)
    return learner(dataset.spec, scales, config, seed, place), windows(dataset, config, context, more)


def _refuse_elsewhere(method: str, place: Place) -> None:
    if place != HERE:
        raise UsageError(f"{method!r} trains in one process on the processor, {place} was asked for; only 'cdt' is big")


def _rebuild_bc(meta: Mapping[str, Any], spec: TaskSpec, config: bc.BCConfig) -> Learner[Any, Any]:
    return bc.BCLearner(spec, Normaliser.of_json(meta["observations"], spec.observation_size), config, seed=0)


def _of_learnt(
    learnt: type[Learnt[Any, Any, Any]],
    learner: Callable[..., Learner[Any, Any]],
    presets: Mapping[str, OfflineConfig],
    build: Callable[..., tuple[Learner[Any, Any], Sampler[Any]]],
) -> _Method:
    """A method whose result saves itself."""

    def rebuild(meta: Mapping[str, Any], spec: TaskSpec, config: Any) -> Learner[Any, Any]:
        return learner(spec, learnt.scales_of(meta["scales"], spec, config), config, 0)

    return _Method(
        config=learnt.config_type,  # type: ignore[arg-type]
        presets=presets,
        build=build,
        rebuild=rebuild,
        save=lambda directory, result, data, provenance: result.save(directory, provenance),  # noqa: ARG005
        load=learnt.load,  # type: ignore[arg-type]
    )


def _actor_critic(
    learnt: type[Learnt[Any, Any, Any]],
    learner: type[ActorCriticLearner[Any, Any]],
    presets: Mapping[str, ActorCriticConfig],
) -> _Method:
    """A method on single steps, all of the log."""

    def build(
        dataset: OfflineDataset, config: ActorCriticConfig, seed: int, place: Place = HERE
    ) -> tuple[Learner[Any, Any], Sampler[Any]]:
        _refuse_elsewhere(learnt.kind, place)
        made = learner(dataset.spec, Normaliser.fit(dataset.observations), config, seed)
        return made, TransitionSampler(dataset, config.batch_size)

    return _of_learnt(learnt, learner, presets, build)


def _build_ccac(
    dataset: OfflineDataset, config: ccac.CCACConfig, seed: int, place: Place = HERE
) -> tuple[Learner[Any, Any], Sampler[Any]]:
    """As all methods on single steps, of a log with thresholds."""
    _refuse_elsewhere(ccac.KIND, place)
    log = ccac.with_thresholds(dataset, config)
    made = ccac.CCACLearner(dataset.spec, Normaliser.fit(log.observations), config, seed)
    return made, TransitionSampler(log, config.batch_size)


def _build_coptidice(
    dataset: OfflineDataset, config: coptidice.COptiDICEConfig, seed: int, place: Place = HERE
) -> tuple[Learner[Any, Any], Sampler[Any]]:
    """As all methods on single steps, with the first states of the log."""
    _refuse_elsewhere(coptidice.KIND, place)
    first = dataset.offsets[:-1] + np.arange(len(dataset))
    made = coptidice.COptiDICELearner(
        dataset.spec, Normaliser.fit(dataset.observations), config, seed, dataset.observations[first]
    )
    return made, TransitionSampler(dataset, config.batch_size)


def _coptidice_without_a_log(
    spec: TaskSpec, observations: Normaliser, config: coptidice.COptiDICEConfig, seed: int
) -> Learner[Any, Any]:
    """A learner that is restored for its policy alone; it has no first states to go on with."""
    return coptidice.COptiDICELearner(spec, observations, config, seed, observations.mean[None])


METHODS: Mapping[str, _Method] = {
    bc.KIND: _Method(
        config=bc.BCConfig,
        presets=bc.PRESETS,
        build=_build_bc,
        rebuild=_rebuild_bc,
        save=lambda directory, policy, data, provenance: bc.save_policy(directory, policy, data.spec, provenance),
        load=bc.load_policy,
    ),
    cdt_policy.KIND: _of_learnt(cdt_policy.CDTPolicyFamily, cdt.CDTLearner, cdt.PRESETS, _build_cdt),
    rvs.KIND: _of_learnt(rvs.RvSPolicyFamily, rvs.RvSLearner, rvs.PRESETS, _build_rvs),
    iql.KIND: _actor_critic(iql.IQLPolicy, iql.IQLLearner, iql.PRESETS),
    caps.KIND: _actor_critic(caps.CAPSFamily, caps.CAPSLearner, caps.PRESETS),
    ccac.KIND: _of_learnt(ccac.CCACFamily, ccac.CCACLearner, ccac.PRESETS, _build_ccac),
    lspc.KIND: _actor_critic(lspc.LSPCFamily, lspc.LSPCLearner, lspc.PRESETS),
    bcq_lag.KIND: _actor_critic(bcq_lag.BCQLagPolicy, bcq_lag.BCQLagLearner, bcq_lag.PRESETS),
    bear_lag.KIND: _actor_critic(bear_lag.BEARLagPolicy, bear_lag.BEARLagLearner, bear_lag.PRESETS),
    cpq.KIND: _actor_critic(cpq.CPQPolicy, cpq.CPQLearner, cpq.PRESETS),
    coptidice.KIND: _of_learnt(
        coptidice.COptiDICEPolicy, _coptidice_without_a_log, coptidice.PRESETS, _build_coptidice
    ),
}
"""The offline methods, by the name that their checkpoints carry."""


def _method(name: str) -> _Method:
    if name not in METHODS:
        raise UsageError(f"no method {name!r}; there are {sorted(METHODS)}")
    return METHODS[name]
