"""A finished benchmark as it is kept in docs/results: table, picture, and the returns of every episode of every run.

    python reproductions/benchmark_record.py FILE RUNS --commit COMMIT [--out docs/results]

FILE and RUNS are those of `safehold benchmark FILE --out RUNS`, COMMIT is what it ran from. Nothing is run.
"""

import argparse
import json
from pathlib import Path

from safehold.cli.benchmark import read_config
from safehold.report.figures import benchmark, palette
from safehold.workflows.benchmark import RESULT, cells, overall, read_result, scores, table


def main() -> None:
    """Writes NAME.md, NAME.json and NAME.svg, NAME being that of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--commit", required=True)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    arguments = parser.parse_args()
    config, name = read_config(arguments.file), arguments.file.stem
    found = scores(config, arguments.runs)
    over_tasks = overall(config, arguments.runs) if len(config.tasks) > 1 else []
    command = f"safehold benchmark reproductions/{arguments.file.name} --out RUNS"
    head = (
        f"`{command}`; commit {arguments.commit}; training seeds {', '.join(map(str, config.seeds))}, logs collected "
        f"with seed {config.log_seed}; {config.episodes} episodes a seed; intervals by bootstrap over seeds and "
        "episodes."
    )
    (arguments.out / f"{name}.md").write_text(f"{head}\n\n{table(found, over_tasks)}", encoding="utf-8")
    raw = {str(cell.place): read_result(arguments.runs / cell.place / RESULT) for cell in cells(config)}
    record = {"command": command, "commit": arguments.commit, "runs": raw}
    (arguments.out / f"{name}.json").write_text(json.dumps(record) + "\n", encoding="utf-8")
    standings = [
        benchmark.Standing(task=one.task, method=one.method, limit=one.limit, reward=one.reward, cost=one.cost)
        for one in found
    ]
    palette.save(benchmark.draw(benchmark.info(standings)), arguments.out / f"{name}.svg")


if __name__ == "__main__":
    main()
