"""What a command says: results on standard output, progress on standard error, JSON for machines."""

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.panel import Panel
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
            self.out.print(Text(inert_lines(text), style=style), soft_wrap=not self.out.is_terminal)

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

    def box(self, title: str, lines: Sequence[str], style: str) -> None:
        """A few lines in a frame, for what must not be overlooked. Silent under --json."""
        if not self.as_json:
            text = Text(inert_lines("\n".join(lines)))
            self.out.print(Panel(text, title=Text(inert(title), style=f"bold {style}"), border_style=style))

    def line(self, event: str, text: str, **fields: Any) -> None:
        """One line of progress on standard error: an episode, a step, a deployment."""
        if self.quiet:
            return
        if self.log_format == "json":
            record = {"time": round(time.time(), 3), "event": event, "text": text, **fields}
            sys.stderr.write(json.dumps(plain(record), allow_nan=False) + "\n")
            sys.stderr.flush()
        else:
            self.err.print(Text(inert_lines(text)), soft_wrap=not self.err.is_terminal)


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
