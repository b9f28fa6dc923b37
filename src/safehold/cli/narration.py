"""Tells an operator how long work goes: stages, lines, and a bar on a terminal."""

from collections.abc import Sequence
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from safehold.cli.console import Output
from safehold.report.plain_text import inert


class Narration:
    """Speaks to `output`: what matters on standard output, progress on standard error.

    Progress is a bar on a terminal and a line at every tenth of the way elsewhere. Under --json all of it goes to
    standard error. Use as a context manager, so that no bar is left behind.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        self._what = ""
        self._tenths = 0
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> "Narration":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._settle()

    def stage(self, title: str) -> None:
        """A new part begins."""
        self._settle()
        if self._output.as_json:
            self._output.line("stage", title)
        else:
            self._output.say("")
            self._output.say(title, "bold")

    def line(self, text: str) -> None:
        """Something worth a line."""
        self._settle()
        if self._output.as_json:
            self._output.line("line", text)
        else:
            self._output.say(text)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Numbers side by side."""
        self._settle()
        self._output.table(title, columns, rows)

    def progress(self, what: str, done: int, total: int) -> None:
        """A piece of work stands at `done` of `total`."""
        what = what.strip()
        if what != self._what or self._is_over(done):
            self._settle()
            self._what = what
        if self._output.quiet:
            return
        if self._output.err.is_terminal and self._output.log_format == "text":
            self._draw(done, total)
        elif total > 0 and done * 10 // total > self._tenths:
            self._tenths = done * 10 // total
            self._output.line("progress", f"{what} {done}/{total}", what=what, done=done, total=total)

    def _is_over(self, done: int) -> bool:
        """Whether work of the same name begins anew."""
        return self._bar is None and self._tenths == 10 and done <= 1

    def _draw(self, done: int, total: int) -> None:
        if self._bar is None:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self._output.err, transient=True)
            self._bar.start()
            self._task = self._bar.add_task(inert(self._what, 40), total=total)
        if self._task is not None:
            self._bar.update(self._task, completed=done)
        if done >= total:
            self._settle()

    def _settle(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.stop()
        self._bar, self._task, self._what, self._tenths = None, None, "", 0
