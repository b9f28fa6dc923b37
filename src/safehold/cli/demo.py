"""`safehold demo`: the whole road in one command."""

from pathlib import Path
from typing import Annotated

import tyro

from safehold.cli.arguments import Arguments
from safehold.cli.console import Output
from safehold.cli.main import Command
from safehold.cli.narration import Narration
from safehold.cli.outputs import clear_run
from safehold.cli.threads import one_torch_thread
from safehold.core.errors import SafetyHold
from safehold.ledger.encoding import to_plain
from safehold.report.figures.certificate import SIGNS
from safehold.report.premises import premises
from safehold.report.run import RunView, deployment_in, read_run
from safehold.report.run_page import next_commands, verdict
from safehold.workflows.road import REPORT, RoadConfig, finished, run_road, verify_road


class DemoArguments(Arguments):
    """Arguments of `demo`."""

    out: Path = Path("runs/demo")
    """Directory of the run. A run that was interrupted goes on; a finished one is verified and shown again."""
    overwrite: bool = False
    """Start anew: removes the run in the directory."""
    road: Annotated[RoadConfig, tyro.conf.arg(name="")] = RoadConfig()


def run(arguments: DemoArguments, output: Output) -> int:
    """Walks the road, or verifies one that was walked; then the verdict, and what to do next."""
    if arguments.overwrite:
        clear_run(arguments.out)
    one_torch_thread()
    with Narration(output) as narration:
        if finished(arguments.out):
            summary = verify_road(arguments.out, arguments.road)
            narration.line(f"{arguments.out} holds a finished run; every sum, the chain and every ask were checked.")
        else:
            summary = run_road(arguments.out, arguments.road, narration)
    view = read_run(arguments.out)
    said = verdict(view)
    output.result({"summary": to_plain(summary), "standing": said.standing, "headline": said.headline})
    print_verdict(view, output)
    return SafetyHold.exit_code if summary.final_target is None else 0


def print_verdict(view: RunView, output: Output) -> None:
    """The verdict in a box, premises with their signs, where things are, and three commands."""
    said = verdict(view)
    styles = {"good": "green", "caution": "yellow", "bad": "red"}
    words = {"good": "SAFE", "caution": "CAUTION", "bad": "NOT SAFE"}
    lines = [said.headline, *said.lines]
    if view.state is not None:
        lines += [
            "",
            *(f"{SIGNS[p.standing][0]} {p.id}: {p.text} ({SIGNS[p.standing][2]})" for p in premises(view.state)),
        ]
    lines += ["", f"Report: {view.directory / REPORT}"]
    deployment = deployment_in(view.directory)
    if deployment is not None:
        lines.append(f"Ledger: {deployment.ledger_path}")
    output.box(words[said.standing], lines, styles[said.standing])
    output.say("Next:")
    for command in next_commands(view):
        output.say(f"  {command}")


COMMANDS = {"": Command(DemoArguments, run)}
