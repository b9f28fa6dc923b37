"""`safehold demo`: the whole road in one command."""

import json
import shutil
from pathlib import Path
from typing import Annotated

import tyro

from safehold.cli.arguments import Arguments
from safehold.cli.console import Output
from safehold.cli.main import Command
from safehold.cli.narration import Narration
from safehold.cli.outputs import no_file
from safehold.cli.threads import one_torch_thread
from safehold.core.errors import SafetyHold, UsageError
from safehold.envs import registry
from safehold.ledger.encoding import to_plain
from safehold.ledger.run import RunDirectory
from safehold.report.figures.certificate import SIGNS
from safehold.report.premises import premises
from safehold.report.run import RunView, deployment_in, read_run
from safehold.report.run_page import next_commands, verdict
from safehold.workflows.road import (
    BC_SAFE,
    DEPLOYMENT,
    EPISODES,
    EVALUATIONS,
    MANIFEST,
    POLICY,
    REPORT,
    SUMMARY,
    RoadConfig,
    finished,
    run_road,
    verify_road,
)
from safehold.workflows.train import preset

_CONFIG = "config.json"
_MADE = (
    _CONFIG,
    "clock.json",
    EPISODES,
    POLICY,
    BC_SAFE,
    DEPLOYMENT,
    EVALUATIONS,
    REPORT,
    SUMMARY,
    MANIFEST,
    "runner.lock",
)
"""What a road leaves in its directory."""
_IDENTITY = {"task", "deploy", "seed", "preset"}
"""Keys that tell a road's config.json from others of that name."""
_LARGEST = 1024 * 1024  # bytes of a config.json; a road's has about one thousand


class DemoArguments(Arguments):
    """Arguments of `demo`."""

    out: Path = Path("runs/demo")
    """Directory of the run. A run that was interrupted goes on; a finished one is verified and shown again."""
    overwrite: bool = False
    """Start anew: removes the run in the directory."""
    road: Annotated[RoadConfig, tyro.conf.arg(name="")] = RoadConfig()


def run(arguments: DemoArguments, output: Output) -> int:
    """Walks the road, or verifies one that was walked; then the verdict, and what to do next."""
    registry.task(arguments.road.task)
    for method in ("bc", "cdt"):
        preset(method, arguments.road.preset)
    no_file(arguments.out)
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


def clear_run(directory: Path) -> None:
    """Removes a road's run, so that another can be made in its place; nothing is done where there is nothing.

    Raises:
        UsageError: if the directory is no road's, or holds anything that a road does not make; nothing is removed.
        IntegrityError: if a process is still at it.
    """
    if directory.is_symlink():
        raise UsageError(f"{directory} is a link; --overwrite removes runs only, name the run itself")
    if not directory.exists() or not any(directory.iterdir()):
        return
    if not _is_road(directory / _CONFIG):
        raise UsageError(f"{directory} holds no run that this command made; --overwrite removes runs only")
    partial = tuple(f".{name}" for name in _MADE)
    foreign = sorted(
        path.name for path in directory.iterdir() if path.name not in _MADE and not path.name.startswith(partial)
    )
    if foreign:
        raise UsageError(
            f"{directory} holds {foreign[0]!r}, which no run makes; move it away, or choose another directory"
        )
    with RunDirectory(directory).alone():
        shutil.rmtree(directory)


def _is_road(path: Path) -> bool:
    """Whether a file is the config.json of a road."""
    try:
        if path.stat().st_size > _LARGEST:
            return False
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(said, dict) and said.keys() >= _IDENTITY


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
