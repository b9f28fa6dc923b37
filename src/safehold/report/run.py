"""A run as its directory tells it: ledger, evaluations, logged episodes; read once, then frozen."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from safehold.core.errors import DataError, UsageError
from safehold.core.target import Target
from safehold.data.layouts import read_any
from safehold.deploy.declaration import Declaration
from safehold.deploy.replay import State
from safehold.deploy.watch import Reading
from safehold.ledger.events import Asked, Evaluated, Event, Observed, Resumed, Started, Told
from safehold.ledger.run import RunDirectory
from safehold.ledger.store import Record

EVALUATIONS = "evaluations.json"
"""Beside the ledger: returns of targets that were run outside the certified loop."""

MOMENTS = 5
"""Asks before which the whole state is kept, for pictures of how it grew."""

_LEDGERS = (".", "deployment")
_EPISODES = "episodes.hdf5"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Returns of one target, one entry an episode: `costs` of the limited cost. `target` is None without a dial."""

    label: str
    target: Target | None
    rewards: Float[np.ndarray, "n"]
    costs: Float[np.ndarray, "n"]


@dataclass(frozen=True, kw_only=True)
class LoggedReturns:
    """Returns of the logged episodes, and what a unit of each cost means."""

    rewards: Float[np.ndarray, "E"]
    costs: Mapping[str, Float[np.ndarray, "E"]]
    terminated: Bool[np.ndarray, "E"]
    units: Mapping[str, str]
    env_id: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class RunView:
    """Everything a report says is a function of this.

    `state` is None, and `events` empty, for a directory without a deployment. `before` holds, by trial, the state just
    before a few of the asks; `readings` what the monitors had come to after each measurement, with the number of asks
    by then. `written` are the wall times of the events (ISO 8601, not covered by the hash chain);
    `head` is the hash of the last event.
    """

    name: str
    directory: Path
    events: tuple[Event, ...]
    state: State | None
    before: Mapping[str, State]
    readings: tuple[tuple[int, tuple[Reading, ...]], ...]
    written: tuple[str, ...]
    head: str
    task: str
    evaluations: tuple[Evaluation, ...]
    logged: LoggedReturns | None

    @property
    def declaration(self) -> Declaration | None:
        """What was declared before the first ask."""
        return None if self.state is None else self.state.declaration

    @property
    def started(self) -> Started | None:
        """The first event of the deployment."""
        return next((event for event in self.events if isinstance(event, Started)), None)

    def unit(self, cost: str) -> str:
        """What one unit of this cost means."""
        return self.logged.units.get(cost, "cost units") if self.logged is not None else "cost units"

    def evaluation(self, label: str) -> Evaluation | None:
        """The first evaluation with this label."""
        return next((found for found in self.evaluations if found.label == label), None)


def read_run(directory: Path, *, episodes: Path | None = None) -> RunView:
    """Reads what is there; writes and locks nothing. `episodes` is the log, if it lies elsewhere.

    Raises:
        UsageError: if the directory holds neither a deployment nor evaluations.
        IntegrityError: if the ledger is damaged or altered.
        DataError: if the evaluations or the episodes cannot be read.
    """
    if not directory.is_dir():
        raise UsageError(f"{directory} is not a directory; name the directory of a run")
    ledger = deployment_in(directory)
    record = _read_evaluations(directory / EVALUATIONS)
    if ledger is None and record is None:
        raise UsageError(f"{directory} holds neither a deployment (ledger.sqlite) nor {EVALUATIONS}; nothing to report")
    records = () if ledger is None else _records(ledger)
    events = tuple(record.event for record in records)
    replayed = _replayed(events)
    logged = _logged(directory, episodes)
    from_file = () if record is None else tuple(_evaluation(entry, directory) for entry in record["targets"])
    task = (record or {}).get("task") or (logged.env_id if logged is not None else "") or _provided_task(events)
    return RunView(
        name=directory.resolve().name,
        directory=directory,
        events=events,
        state=replayed.state,
        before=replayed.before,
        readings=replayed.readings,
        written=tuple(record.wall_time for record in records),
        head=records[-1].hash if records else "",
        task=str(task),
        evaluations=(*from_file, *_evaluated(events, replayed.state)),
        logged=logged,
    )


def deployment_in(directory: Path) -> RunDirectory | None:
    """The deployment in a directory, or in the one below it that a whole road uses; None if there is none."""
    return next((run for name in _LEDGERS if (run := RunDirectory(directory / name)).started), None)


def _records(run: RunDirectory) -> tuple[Record, ...]:
    """Every record of the ledger but its genesis row; nothing is locked or written."""
    with run.open(read_only=True) as ledger:
        return tuple(ledger.read(after=0))


@dataclass(frozen=True, kw_only=True)
class _Replayed:
    """What a report keeps of the way from the first event to the last."""

    state: State | None
    before: Mapping[str, State]
    readings: tuple[tuple[int, tuple[Reading, ...]], ...]


def _replayed(events: tuple[Event, ...]) -> _Replayed:
    """The deployment's state after all its events, that before each of `shown_asks`, and its monitors' readings."""
    if not events:
        return _Replayed(state=None, before={}, readings=())
    first = events[0]
    if not isinstance(first, Started):
        raise DataError("the ledger does not begin with a started deployment; this report reads deployments")
    state = State.start(Declaration.from_json(first.declaration))
    shown, before, readings = shown_asks(events), {}, []
    for event in events[1:]:
        if isinstance(event, Asked) and event.trial in shown:
            before[event.trial] = state
        state = state.apply(event)
        if isinstance(event, Told | Observed):
            readings.append((len(state.asked), state.watch.readings()))
    return _Replayed(state=state, before=before, readings=tuple(readings))


def shown_asks(events: Sequence[Event], most: int = MOMENTS) -> frozenset[str]:
    """Trials whose asks are shown: the first of each epoch, then others evenly spread, at most `most`.

    Of more epochs than that, the last ones.
    """
    trials: list[str] = []
    firsts: list[int] = []
    fresh = True
    for event in events:
        if isinstance(event, Asked):
            if fresh:
                firsts.append(len(trials))
            trials.append(event.trial)
            fresh = False
        fresh = fresh or isinstance(event, Resumed)
    chosen = set(firsts[-most:])
    for place in np.linspace(0, len(trials) - 1, most).round().astype(int) if trials else ():
        if len(chosen) < most:
            chosen.add(int(place))
    return frozenset(trials[place] for place in chosen)


def _provided_task(events: tuple[Event, ...]) -> str:
    """What the provenance of the run calls its task."""
    first = events[0] if events else None
    return str(first.provenance.get("task", "")) if isinstance(first, Started) else ""


def _read_evaluations(path: Path) -> dict[str, Any] | None:
    """The record, or None if there is none."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {error}; evaluate again") from error
    if not isinstance(record, dict) or not isinstance(record.get("targets"), list):
        raise DataError(f"{path} is not a record of evaluations: it needs a list of targets; evaluate again")
    return record


def _evaluation(entry: Any, where: Path) -> Evaluation:
    """One target of the record; of several costs, the first."""
    try:
        rewards = np.array(entry["rewards"], dtype=np.float64)
        costs = np.array(entry["costs"], dtype=np.float64)
        costs = costs[:, 0] if costs.ndim == 2 else costs
        target = entry["target"]
        read = Evaluation(
            label=str(entry["label"]),
            target=None if target is None else tuple(float(value) for value in target),
            rewards=rewards,
            costs=costs,
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(f"{where / EVALUATIONS}: a target is broken ({error!r}); evaluate again") from error
    if rewards.ndim != 1 or costs.shape != rewards.shape:
        raise DataError(
            f"{where / EVALUATIONS}: target {read.label!r} has rewards {rewards.shape} and costs {costs.shape}; "
            "one of each an episode"
        )
    return read


def _evaluated(events: tuple[Event, ...], state: State | None) -> tuple[Evaluation, ...]:
    """Evaluations in the ledger; a failed episode's cost is NaN, which no table and no verdict takes for small."""
    if state is None:
        return ()
    name = state.declaration.limits[0].name
    found = []
    for event in events:
        if isinstance(event, Evaluated) and name in event.costs:
            measured = event.measurement
            costs = np.where(measured.failed, np.nan, measured.costs[name])
            label = {"recommended": "final", "baseline": "bc_safe"}.get(event.purpose, event.purpose)
            found.append(Evaluation(label=label, target=event.target, rewards=measured.rewards, costs=costs))
    return tuple(found)


def _logged(directory: Path, episodes: Path | None) -> LoggedReturns | None:
    """Returns of the episodes in this file, or of those that lie in the run directory."""
    beside = directory / _EPISODES
    path = episodes if episodes is not None else beside if beside.is_file() else None
    if path is None:
        return None
    dataset = read_any(path)
    names = dataset.spec.cost_names
    return LoggedReturns(
        rewards=dataset.reward_returns,
        costs={name: dataset.cost_returns[:, column] for column, name in enumerate(names)},
        terminated=dataset.terminated,
        units=dict(zip(names, dataset.spec.cost_units, strict=True)),
        env_id=dataset.spec.env_id,
        digest=dataset.digest,
    )
