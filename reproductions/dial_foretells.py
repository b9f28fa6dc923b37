"""Does the report on a dial, made before a deployment, foretell whether the deployment's promise was kept?

    python reproductions/dial_foretells.py RUNS [RUNS ...] [--out docs/results]

Takes finished runs of reproductions/whole_road.py, which do not look at the report, and sets beside each other what
`safehold evaluate --dial` says of the dial table that every run begins with, and what came of its deployment: targets
whose mean over fresh episodes was above the limit, and surely above (one-sided 95 % bound). All runs of all studies are
in the table. The warnings and their thresholds are those of workflows/dial.py, which were not fitted to these runs;
counted are the one that says that the declared prior is wrong, "obtained costs miss what is asked by more than the dial
error that would be declared", and any warning at all. To count the two was decided with the table in sight.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recorded import commit_here
from whole_road import dial_table

from safehold.core.intervals import proportion_interval
from safehold.workflows.deploy import DeployConfig
from safehold.workflows.dial import DialReport, judge_dial
from safehold.workflows.files import write_text


@dataclass(frozen=True, slots=True)
class Run:
    """One run: the report on its dial, what was declared, what came of it."""

    study: str
    seed: str
    limit: float
    report: DialReport
    declared_error: float
    targets: int
    over: int
    surely: int
    held: bool

    @property
    def misses(self) -> bool:
        """Whether the report says that the dial errs by more than was declared."""
        return self.report.dial_error is None or not self.report.dial_error <= self.declared_error * self.limit


def read(directory: Path) -> list[Run]:
    """The finished runs of one study."""
    found = []
    for place in sorted(directory.glob("seed-*/summary.json")):
        summary = json.loads(place.read_text())
        plain = json.loads((place.parent / "config.json").read_text())
        config = DeployConfig.model_validate(plain["deploy"])
        found.append(
            Run(
                study=f"{summary['task']}, limit {config.limit:g}",
                seed=place.parent.name.removeprefix("seed-"),
                limit=config.limit,
                report=judge_dial(dial_table(place.parent, config.limit), config),
                declared_error=config.dial_error,
                targets=summary["distinct_targets"],
                over=summary["raw_unsafe_targets"],
                surely=summary["unsafe_targets"],
                held=summary["held"] is not None,
            )
        )
    return found


def counted(words: str, runs: Sequence[Run]) -> str:
    """How many of these runs had a target over the limit."""
    cells = [words, str(len(runs)), str(sum(run.targets for run in runs))]
    for count in (sum(run.over > 0 for run in runs), sum(run.surely > 0 for run in runs)):
        interval = proportion_interval(count, len(runs))
        cells.append(f"{count} [{interval.low:.2f}, {interval.high:.2f}]")
    return f"| {' | '.join(cells)} |"


def tables(runs: Sequence[Run]) -> str:
    """The question's answer, and every run."""
    lines = [
        "| the report says | runs | targets | runs with a target over the limit by its mean | surely over |",
        "|---|---|---|---|---|",
        counted("the dial errs by no more than was declared", [run for run in runs if not run.misses]),
        counted("it errs by more", [run for run in runs if run.misses]),
        counted("nothing (no warning at all)", [run for run in runs if not run.report.warnings]),
        counted("anything", [run for run in runs if run.report.warnings]),
        "",
        "| study | seed | rank of cost | dial error, limits (declared) | scatter, limits | warnings | targets | over | "
        "surely | held |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        rank, error, scatter = run.report.rank_cost, run.report.dial_error, run.report.episode_sd
        cells = (
            run.study,
            run.seed,
            "-" if rank is None else f"{rank:.2f}",
            f"{'-' if error is None else format(error / run.limit, '.2f')} ({run.declared_error:g})",
            "-" if scatter is None else f"{scatter / run.limit:.2f}",
            str(len(run.report.warnings)),
            str(run.targets),
            str(run.over),
            str(run.surely),
            "yes" if run.held else "",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Reads, and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    arguments = parser.parse_args()
    runs = [run for study in arguments.studies for run in read(study)]
    head = (
        f"`python reproductions/dial_foretells.py RUNS`, commit {commit_here()}; RUNS: reproductions/whole_road.py's."
    )
    write_text(arguments.out / "dial-foretells.md", f"{head}\n\n{tables(runs)}")
    print(tables(runs))


if __name__ == "__main__":
    main()
