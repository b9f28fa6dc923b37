"""`safehold benchmark`: methods x tasks x seeds from one file, resumable, with a table at the end."""

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import Field, ValidationError

from safehold.cli.arguments import Arguments
from safehold.cli.console import Output
from safehold.cli.main import Command
from safehold.cli.narration import Narration
from safehold.cli.outputs import free_picture, no_file
from safehold.cli.settings import read_toml
from safehold.cli.threads import one_torch_thread
from safehold.core.errors import UsageError
from safehold.report.plain_text import inert
from safehold.workflows.benchmark import Backend, BenchmarkConfig, Cell, Score, overall, run_benchmark, run_share, table
from safehold.workflows.files import write_text

_COUNT = re.compile(r"[0-9]{1,6}")

TABLE = "table.md"
"""The scores, beside the runs."""


class BenchmarkArguments(Arguments):
    """Arguments of `benchmark`."""

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    """TOML file: tasks, methods, limits, seeds, episodes (docs/benchmark.md)."""
    out: Path
    """Directory of the runs; what is there already is not run again."""
    workers: Annotated[int, Field(ge=1)] = 1
    """Runs at a time; the results do not depend on it."""
    backend: Backend = "loky"
    """Where they run: in processes of this machine, or on the Ray cluster that it belongs to."""
    share: str = "0/1"
    """Run only share i/n, every n-th run from the i-th on, and score nothing: for job arrays."""
    picture: Path | None = None
    """Draw reward against cost, a panel a task, into this .png, .svg or .pdf file."""
    overwrite: bool = False
    """Replace the picture if it exists."""


def run(arguments: BenchmarkArguments, output: Output) -> int:
    """Runs what is missing, writes OUT/table.md and prints it."""
    config = read_config(arguments.file)
    if arguments.picture is not None:
        free_picture(arguments.picture, overwrite=arguments.overwrite)
    no_file(arguments.out)
    one_torch_thread()
    with Narration(output) as narration:

        def done(number: int, of: int, cell: Cell) -> None:
            narration.line(f"{number} of {of}: {cell.place}")

        share, workers, backend = read_share(arguments.share), arguments.workers, arguments.backend
        if share == (0, 1):
            found = run_benchmark(config, arguments.out, workers=workers, backend=backend, on_cell=done)
        else:
            run_share(config, arguments.out, share=share, workers=workers, backend=backend, on_cell=done)
    if share != (0, 1):
        output.result({"share": arguments.share})
        output.say(f"Share {arguments.share} is done; without --share, the same command scores the whole.")
        return 0
    over_tasks = overall(config, arguments.out) if len(config.tasks) > 1 else []
    write_text(arguments.out / TABLE, table(found, over_tasks))
    output.result({"scores": [asdict(score) for score in found], "overall": [asdict(one) for one in over_tasks]})
    output.table(
        f"over {len(config.seeds)} seeds of {config.episodes} episodes",
        ("task", "limit", "method", "normalised reward", "normalised cost", "seeds above the limit"),
        [
            (
                score.task,
                f"{score.limit:g}",
                score.method,
                str(score.reward),
                str(score.cost),
                f"{round(score.unsafe.estimate * score.unsafe.n)} of {score.unsafe.n}",
            )
            for score in found
        ],
    )
    output.say(f"{arguments.out / TABLE}")
    if arguments.picture is not None:
        _draw(found, arguments.picture)
        output.say(f"Picture: {arguments.picture}")
    return 0


def _draw(found: Sequence[Score], path: Path) -> None:
    """Normalised reward against normalised cost."""
    from safehold.report.figures import benchmark, palette

    standings = [
        benchmark.Standing(task=one.task, method=one.method, limit=one.limit, reward=one.reward, cost=one.cost)
        for one in found
    ]
    palette.save(benchmark.draw(benchmark.info(standings)), path)


def read_share(said: str) -> tuple[int, int]:
    """Two numbers of "i/n".

    Raises:
        UsageError: if they are none.
    """
    first, slash, last = said.partition("/")
    if not (slash and _COUNT.fullmatch(first) and _COUNT.fullmatch(last)):
        raise UsageError(f"--share {inert(said)}: say i/n, such as 0/16")
    return int(first), int(last)


def read_config(path: Path) -> BenchmarkConfig:
    """What a TOML file asks for; logs are named relative to it.

    Raises:
        UsageError: if the file cannot be read, is no TOML, or asks for what does not exist.
    """
    said = read_toml(path)
    try:
        config = BenchmarkConfig.model_validate(said)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise UsageError(f"{path}: {inert(place)}: {problem['msg']}") from error
    return config.model_copy(update={"logs": {task: path.parent / log for task, log in config.logs.items()}})


COMMANDS = {"": Command(BenchmarkArguments, run)}
