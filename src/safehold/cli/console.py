"""What a command says: results on standard output, progress on standard error, JSON for machines."""

import json
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from safehold.cli.arguments import Common
from safehold.report.plain_text import inert, inert_lines

_PIPE_WIDTH = 100  # columns of a table that goes into a file or a pipe


@dataclass(frozen=True, slots=True)
class Output:
    """Where the words of one command go.

    `as_json`: standard output carries one JSON value, and everything else stays silent there. `log_format`: what
    a line of progress looks like where there is no terminal.
    """

    as_json: bool = False
    quiet: bool = False
    log_format: str = "text"
    out: Console = field(default_factory=lambda: console(sys.stdout))
    err: Console = field(default_factory=lambda: console(sys.stderr))

    @staticmethod
    def of(common: Common) -> "Output":
        """The output that the options ask for."""
        return Output(as_json=common.as_json, quiet=common.quiet, log_format=common.log_format)

    def say(self, text: str, style: str = "") -> None:
        """A line for a person; silent under --json."""
        if not self.as_json:
            self.out.print(Text(inert_lines(text), style=style))

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table for a person; a column whose every cell is a number is set to the right. Silent under --json."""
        if self.as_json:
            return
        table = Table(
            title=Text(inert(title)) if title else None, title_justify="left", show_edge=False, pad_edge=False
        )
        for number, column in enumerate(columns):
            right = bool(rows) and all(_numeric(row[number]) for row in rows)
            table.add_column(Text(column), justify="right" if right else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(inert_lines(cell)) for cell in row))
        self.out.print(table)

    def result(self, value: Any) -> None:
        """The result for a machine: printed under --json alone."""
        if self.as_json:
            sys.stdout.write(json.dumps(plain(value), allow_nan=False, indent=2) + "\n")

    def line(self, event: str, text: str, **fields: Any) -> None:
        """One line of progress on standard error: an episode, a step, a deployment."""
        if self.quiet:
            return
        if self.log_format == "json":
            record = {"time": round(time.time(), 3), "event": event, "text": text, **fields}
            sys.stderr.write(json.dumps(plain(record), allow_nan=False) + "\n")
            sys.stderr.flush()
        else:
            self.err.print(Text(inert_lines(text)))

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator["Counter"]:
        """A bar on a terminal; elsewhere one line at every tenth of the way."""
        counter = Counter(self, what, total)
        if self.err.is_terminal and not self.quiet and self.log_format == "text":
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            with Progress(*columns, console=self.err, transient=False) as bar:
                counter.bar, counter.task = bar, bar.add_task(inert(what), total=total)
                yield counter
        else:
            yield counter


@dataclass(slots=True)
class Counter:
    """How far a piece of work has come."""

    output: Output
    what: str
    total: int
    done: int = 0
    bar: Progress | None = None
    task: Any = None

    def reach(self, done: int, note: str = "") -> None:
        """The work stands at `done` of `total`."""
        previous, self.done = self.done, done
        if self.bar is not None:
            description = inert(f"{self.what} {note}".strip())
            self.bar.update(self.task, completed=done, description=description)
        elif self.total and (done * 10 // self.total > previous * 10 // self.total):
            text = f"{self.what} {done}/{self.total} {note}".strip()
            self.output.line("progress", text, what=self.what, done=done, total=self.total)


class _Console(Console):
    """A rich console that leaves a closed pipe to `main`, whatever rich's own exit code for it is."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def console(stream: Any) -> Console:
    """A rich console on a stream: as wide as the terminal, or of one fixed width where there is none."""
    terminal = bool(getattr(stream, "isatty", lambda: False)())
    return _Console(file=stream, width=None if terminal else _PIPE_WIDTH, markup=False, highlight=False, emoji=False)


def plain(value: Any) -> Any:
    """JSON values: paths and dates as text, non-finite numbers as text, because JSON has no word for them."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if hasattr(value, "__dataclass_fields__"):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
    return str(value)


def _numeric(cell: str) -> bool:
    try:
        float(cell.replace(",", "").replace("%", "").strip() or "0")
    except ValueError:
        return False
    return True
