"""What the verbs of `safehold deploy` share: which run, which trial, and records of outcomes."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from pydantic import Field

from safehold.cli.arguments import Arguments
from safehold.cli.console import Output
from safehold.core.errors import DataError, UsageError
from safehold.core.measurement import Measurement
from safehold.core.target import Target, TargetSpace
from safehold.ledger.events import Asked
from safehold.report.words import grounds

_LARGEST_OUTCOMES = 16 * 1024 * 1024  # bytes of a file of outcomes: 100,000 episodes take about 5 MB

Name = Annotated[str, Field(min_length=1, max_length=200)]
"""Of a person, a source or a key."""

Reason = Annotated[str, Field(min_length=1, max_length=1000)]
"""Why something was decided, for the ledger."""


class RunArguments(Arguments):
    """What every command on one deployment takes."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Directory of the deployment."""


class TrialArguments(RunArguments):
    """What every command on one trial takes."""

    trial: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TRIAL")]
    """Id of the trial, as `ask` gave it."""


def place(arguments: RunArguments) -> Path:
    """Where the ledger is: in the directory, or one below it where that is a whole road's."""
    below = arguments.run / "deployment"
    return (
        below
        if not (arguments.run / "ledger.sqlite").exists() and (below / "ledger.sqlite").exists()
        else arguments.run
    )


def candidate(space: TargetSpace, words: tuple[float, ...]) -> Target:
    """The candidate that numbers name as they are printed: five digits are enough.

    Raises:
        UsageError: if there is none.
    """
    if len(words) != len(space.names):
        raise UsageError(f"--target takes {len(space.names)} numbers, one for each of {', '.join(space.names)}")
    nearest = [
        min(values, key=lambda value: abs(value - word))
        for values, word in zip(space.axes.values(), words, strict=True)
    ]
    close = [abs(value - word) <= 1e-4 * max(abs(value), 1e-4) for value, word in zip(nearest, words, strict=True)]
    target = tuple(float(value if near else word) for value, near, word in zip(nearest, close, words, strict=True))
    return space.target(space.index(target))


Outcomes = tuple[Measurement, tuple[int, ...] | None, tuple[int, ...] | None]
"""A measurement, with the lengths of its episodes and their reset seeds where they are known."""


def outcomes_of(
    rewards: Sequence[float], costs: Sequence[float], file: Path | None, names: Sequence[str], verb: str
) -> Outcomes:
    """The measurement that a command line gives, in numbers or in a file."""
    if file is not None:
        if rewards or costs:
            raise UsageError("give either --outcomes, or --rewards and --costs")
        return read_outcomes(file, verb)
    if not rewards or not costs:
        raise UsageError("--rewards and --costs are both needed, one value an episode (or --outcomes FILE)")
    if len(names) != 1:
        raise UsageError(f"this run limits {', '.join(names)}; tell them all with --outcomes FILE")
    measurement = Measurement(
        rewards=np.array(rewards, dtype=np.float64),
        costs={names[0]: np.array(costs, dtype=np.float64)},
        failed=np.zeros(len(rewards), dtype=np.bool_),
    )
    return measurement, None, None


def read_outcomes(path: Path, verb: str) -> Outcomes:
    """A measurement from a JSON file.

    Raises:
        DataError: if it is not what `deploy VERB --help` describes.
    """
    plain = parsed(path, verb)
    known = ("rewards", "costs", "failed", "lengths", "seeds")
    unknown = sorted(set(plain) - set(known))
    if unknown:
        raise DataError(f"{path}: unknown key {unknown[0]!r}; known are {', '.join(known)}")
    try:
        rewards = numbers(plain["rewards"])
        costs, failed = costs_and_failed(plain, len(rewards))
        lengths, seeds = (_whole(plain.get(name)) for name in ("lengths", "seeds"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: not a record of outcomes ({error!r}); see `safehold deploy {verb} --help`") from error
    return Measurement(rewards=rewards, costs=costs, failed=failed), lengths, seeds


def read_costs(path: Path, verb: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Costs by name and marks of failed episodes from a JSON file; rewards, where it has them, are not looked at.

    Raises:
        DataError: if it is not what `deploy VERB --help` describes.
    """
    plain = parsed(path, verb)
    try:
        lengths = {len(values) for values in plain["costs"].values()}
        if len(lengths) != 1:
            raise ValueError(f"costs of {sorted(lengths)} episodes; every cost has one value an episode")
        return costs_and_failed(plain, lengths.pop())
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: not a record of costs ({error!r}); see `safehold deploy {verb} --help`") from error


def costs_and_failed(plain: dict[str, Any], episodes: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Costs by name, and marks of failed episodes, none failed if there are no marks."""
    costs = {str(name): numbers(values) for name, values in plain["costs"].items()}
    failed = [_flag(mark) for mark in plain.get("failed", [False] * episodes)]
    return costs, np.array(failed, dtype=np.bool_)


def parsed(path: Path, verb: str) -> dict[str, Any]:
    """The JSON object in a file or on standard input, of bounded size."""
    try:
        if str(path) == "-":
            text = sys.stdin.read(_LARGEST_OUTCOMES + 1) if sys.stdin is not None else ""
        else:
            with path.open(encoding="utf-8") as file:
                text = file.read(_LARGEST_OUTCOMES + 1)
        if len(text) > _LARGEST_OUTCOMES:
            raise DataError(f"{path}: more than {_LARGEST_OUTCOMES} characters; outcomes of one trial are smaller")
        plain = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(plain, dict):
        raise DataError(f"{path} holds no JSON object; see `safehold deploy {verb} --help`")
    return plain


def numbers(values: Any) -> np.ndarray:
    """Float64; null becomes NaN, which a measurement takes from failed episodes alone; text and flags are refused."""
    if not isinstance(values, list) or any(
        isinstance(v, bool) or not isinstance(v, int | float | None) for v in values
    ):
        raise TypeError(f"expected a list of numbers, got {short(str(values))}")
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def short(text: str) -> str:
    """A text of a line at most."""
    return text if len(text) <= 60 else text[:59] + "…"


def _whole(values: Any) -> tuple[int, ...] | None:
    if values is None:
        return None
    if not isinstance(values, list) or any(isinstance(v, bool) or not isinstance(v, int) for v in values):
        raise TypeError(f"expected a list of whole numbers, got {short(str(values))}")
    return tuple(values)


def _flag(mark: Any) -> bool:
    if not isinstance(mark, bool):
        raise TypeError(f"failed must hold true and false, got {short(str(mark))}")
    return mark


def print_bounds(asked: Asked, output: Output) -> None:
    """Predicted and bounded values of an ask beside its limits."""
    rows = []
    for limit in asked.certificate.limits:
        belief = asked.costs[limit.name]
        rows.append((limit.name, f"{belief.mean:.4g}", grounds(asked.certificate, limit.name), f"{limit.value:g}"))
    rows.append(("reward", f"{asked.reward.mean:.4g}", "", ""))
    output.table("", ("expected return", "predicted", "certified", "limit"), rows)


def target_words(target: Sequence[float]) -> str:
    """A target on a line."""
    return "(" + ", ".join(f"{value:.6g}" for value in target) + ")"
