"""`safehold report`: a run on one HTML page, or its figures as files."""

from pathlib import Path
from typing import Annotated

import tyro

from safehold.cli.arguments import Arguments
from safehold.cli.console import Output
from safehold.cli.main import Command
from safehold.cli.outputs import free_file
from safehold.core.errors import UsageError


class ReportArguments(Arguments):
    """Arguments of `report`."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Directory of a run."""
    out: Path | None = None
    """HTML file to write; `report.html` in the run's directory if not said. A finished demo has its report already."""
    data: Path | None = None
    """File of logged episodes to show beside the run, if it is not in the run's directory."""
    overwrite: bool = False
    """Replace the report if it exists."""


def report(arguments: ReportArguments, output: Output) -> int:
    """Writes the page; what the run was worth is said in it, the exit code tells only whether it was written."""
    from safehold.report.run import read_run
    from safehold.report.run_page import run_page, verdict

    run = read_run(arguments.run, episodes=arguments.data)
    target = arguments.out or arguments.run / "report.html"
    sealed = (arguments.run / "manifest.json").is_file()
    if sealed:
        _check_seal(arguments, target)
    if not sealed or arguments.out is not None:
        free_file(target, overwrite=arguments.overwrite)
        partial = target.with_name(f".{target.name}.partial")
        partial.write_text(run_page(run), encoding="utf-8")
        partial.replace(target)
    said = verdict(run)
    output.result({"report": target, "standing": said.standing, "headline": said.headline, "lines": said.lines})
    output.say(said.headline)
    for line in said.lines:
        output.say(line)
    output.say(f"Report: {target}")
    return 0


def _check_seal(arguments: ReportArguments, target: Path) -> None:
    """A finished run is sealed by sums of its files, its report among them: a new page goes elsewhere.

    Raises:
        UsageError: if the page would come to lie in the run, or is missing there.
    """
    if arguments.out is None and not arguments.overwrite and arguments.data is None and target.is_file():
        return
    if arguments.out is None or arguments.run.resolve() in target.resolve().parents:
        raise UsageError(
            f"{arguments.run} is a finished run, sealed with the sums of its files; choose --out elsewhere"
        )


COMMANDS = {"": Command(ReportArguments, report)}
