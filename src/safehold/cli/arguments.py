"""From a command line to a checked model: tyro parses, and a refusal is put in our own few words."""

import contextlib
import difflib
import io
import os
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union

import tyro
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from safehold.core.config import Config
from safehold.core.errors import UsageError
from safehold.report.plain_text import inert

Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""A seed of randomness, as core.seeding.Streams takes it."""

CostLimit = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""A cost limit, in the environment's cost units per episode."""

Probability = Annotated[float, Field(gt=0, lt=1)]

_LONGEST_REFUSAL = 8  # lines; with the line that names the help, a refusal stays under ten


class Common(Config):
    """Options of every command."""

    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print one JSON value on standard output and nothing else there."""
    quiet: bool = False
    """Show no progress on standard error."""
    log_format: Literal["text", "json"] = "text"
    """Form of the progress lines on standard error."""
    debug: bool = False
    """Show the traceback of an error, and debug messages."""


class Arguments(Config):
    """What every command takes."""

    common: Annotated[Common, tyro.conf.arg(name="")] = Common()


class Helped(Exception):
    """The help was asked for; `text` is it."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


A = TypeVar("A", bound=BaseModel)


def parse(model: type[A], argv: Sequence[str], program: str, what: str = "") -> A:
    """The arguments of one command; `what` it does heads its help.

    Raises:
        Helped: if `--help` is among them.
        UsageError: naming the flag that is wrong, with the nearest name.
    """
    out, err = io.StringIO(), io.StringIO()
    # tyro writes its refusals itself; they are caught, and said again in our words. It writes colour only to a
    # terminal, so that what is caught here is plain.
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _known_width():
            return tyro.cli(
                model, args=list(argv), prog=program, description=what, config=(tyro.conf.FlagCreatePairsOff,)
            )
    except ValidationError as error:  # settings that fit one by one, and not together
        reason = next(_reasons(model, argv), None) or _of_settings(error)
        raise UsageError(f"{reason}\nSee `{program} --help`.") from error
    except SystemExit as exit_:
        if not exit_.code:
            # "{None}|" only repeats that a flag may be left out; blanks keep the columns in line
            raise Helped(re.sub(r"\{None\}\|(\S+)", r"\1       ", out.getvalue())) from None
    reason = next(_reasons(model, argv), None) or _plain(err.getvalue())
    raise UsageError(f"{reason}\nSee `{program} --help`.")


@contextlib.contextmanager
def _known_width() -> Iterator[None]:
    """Keeps tyro's help legible where the terminal says that it has no columns at all."""
    columns = os.environ.get("COLUMNS")
    if columns is not None and not columns.isdigit():
        os.environ["COLUMNS"] = "80"
    try:
        yield
    finally:
        if columns is not None:
            os.environ["COLUMNS"] = columns


@dataclass(frozen=True, slots=True)
class _Flag:
    """One leaf of the model: how it is spelt, and what it takes."""

    name: str
    validated: Callable[[Any], Any]
    positional: bool
    switch: bool
    several: bool
    required: bool


def _flags(model: type[BaseModel], prefix: str = "") -> Iterator[_Flag]:
    """Every leaf of the model, nested models' after a dot, in the order of the help."""
    for field_name, field in model.model_fields.items():
        renamed = next((name for m in field.metadata if isinstance(name := getattr(m, "name", None), str)), field_name)
        name = prefix + renamed.replace("_", "-")
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _flags(field.annotation, f"{name}." if renamed else prefix)
        else:
            yield _leaf(name, field)


def _leaf(name: str, field: FieldInfo) -> _Flag:
    """The flag of one field; alternatives such as `float | None` count by what is not None."""
    annotation: Any = field.annotation
    choices = [annotation]
    if typing.get_origin(annotation) in (Union, types.UnionType):
        choices = [choice for choice in typing.get_args(annotation) if choice is not type(None)]
    bounds = [m for m in field.metadata if type(m).__module__.startswith(("annotated_types", "pydantic"))]
    keyed = any(typing.get_origin(choice) is dict for choice in choices)
    checked: Any = Annotated[annotation, *bounds] if bounds else annotation
    adapter = TypeAdapter(checked, config=ConfigDict(allow_inf_nan=False))
    return _Flag(
        name=name,
        # pairs of a name and a value are put together by tyro; only it can say what is wrong with them
        validated=list if keyed else adapter.validate_python,
        positional=any("Positional" in repr(m) for m in field.metadata),
        switch=annotation is bool,
        several=keyed or any(typing.get_origin(choice) in (tuple, list) for choice in choices),
        required=field.is_required(),
    )


def _reasons(model: type[BaseModel], argv: Sequence[str]) -> Iterator[str]:
    """What is wrong with these arguments, worst first, a sentence each."""
    flags = list(_flags(model))
    named = {flag.name: flag for flag in flags if not flag.positional}
    places = [flag for flag in flags if flag.positional]
    given: list[str] = []
    seen: set[str] = set()
    position = 0
    while position < len(argv):
        token = argv[position]
        position += 1
        if not token.startswith("--"):
            given.append(token)
            continue
        spelt, equals, inline = token[2:].partition("=")
        flag = named.get(spelt.replace("_", "-"))
        if flag is None:
            yield f"There is no flag --{inert(spelt)}.{nearest(spelt, named, '--')}"
            continue
        seen.add(flag.name)
        values = [inline] if equals else []
        while not equals and not flag.switch and position < len(argv) and not argv[position].startswith("--"):
            if values and not flag.several:
                break
            values.append(argv[position])
            position += 1
        yield from _refused_values(flag, f"--{flag.name}", values)
    yield from _refused_places(places, given)
    missing = [f"--{flag.name}" for flag in named.values() if flag.required and flag.name not in seen]
    if missing:
        yield f"Missing: {', '.join(missing)}."


def _refused_places(places: Sequence[_Flag], given: Sequence[str]) -> Iterator[str]:
    """What is wrong with the arguments that have no flag."""
    for place, token in zip(places, given, strict=False):
        yield from _refused_values(place, place.name.upper(), [token])
    wanted = [place.name.upper() for place in places[len(given) :] if place.required]
    if wanted:
        yield f"Missing: {', '.join(wanted)}."
    if len(given) > len(places) and not any(place.several for place in places):
        yield f"Not understood: {inert(given[len(places)])}"


def _refused_values(flag: _Flag, shown: str, values: Sequence[str]) -> Iterator[str]:
    """Why the values do not fit the flag, if they do not."""
    if flag.switch:
        return
    if not values:
        yield f"{shown} needs a value."
    elif values != ["None"]:
        try:
            flag.validated(list(values) if flag.several else values[0])
        except ValidationError as error:
            problem = error.errors()[0]["msg"].removeprefix("Input ").removeprefix("Value error, ")
            yield f"{shown} {' '.join(inert(value) for value in values)}: {problem}."


def _of_settings(error: ValidationError) -> str:
    """The first thing that a model as a whole refuses."""
    problem = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"]).replace("_", "-")
    said = problem["msg"].removeprefix("Value error, ")
    return f"--{inert(place)} {inert(str(problem['input']), 60)}: {said}" if place else f"{error.title}: {said}"


def nearest(word: str, known: Iterable[str], prefix: str = "") -> str:
    """A question after the nearest known word, with a space before it; empty if none is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean `{prefix}{near[0]}`?" if near else ""


def _plain(boxed: str) -> str:
    """Tyro's refusal without its box, for the few that `_reasons` does not foresee."""
    lines = [line.strip(" │╭╮╰╯─|+-") for line in boxed.splitlines()]
    kept = [line for line in lines if line and "helptext" not in line and "pydantic.dev" not in line]
    kept = [line for line in kept if not line.startswith("For further information")]
    return "\n".join(inert(line) for line in kept[:_LONGEST_REFUSAL])
