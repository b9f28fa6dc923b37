"""The whole road over five seeds: how often a deployed target was unsafe, and what the tuned policy earns.

    python reproductions/whole_road.py [--task HalfCheetahVelocity] [--limit 20] [--certificate risk_ledger|paper]
                                       [--seeds 10 11 12 13 14] [--judged 100] [--out docs/results]
                                       [--runs runs/whole-road-NAME] [--learnt-in RUNS] [--heed-dial]
                                       [--preset small]

Every seed draws its own dataset from the zoo, its own weights, its own deployment. Fixed before the study was run:
the configuration below (that of `safehold demo`, except that every deployed target is judged by `--judged` episodes),
five seeds, the statistics of `table`, all seeds reported. The plan of the log and the training settings were chosen
by looking at seeds 0, 1 and 2; so that choosing does not flatter the result, the study uses none of them. About eight
minutes a seed on two cores; interrupted runs go on where they stopped.

HalfCheetahVelocity is studied once with the default certificate and once with the paper's rule. `--learnt-in` takes
logs and transformers from the runs of another certificate or limit, so that the two differ in the deployment alone
(and in what is cloned beside, if in the limit), and evaluates everything anew. With `--heed-dial` a deployment declares
what `safehold evaluate --dial` advises of the dial table in that run of RUNS, which is of the same limit: the dial's
error and scatter, where they are more than the defaults. `--preset long` trains three times as long.
"""

import argparse
import json
import platform
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from recorded import commit_here

from safehold.core.intervals import mean_interval, proportion_interval
from safehold.workflows.deploy import DeployConfig
from safehold.workflows.dial import heeded, judge_dial
from safehold.workflows.evaluate import Evaluation
from safehold.workflows.road import RoadConfig, RoadSummary, finished, run_road, verify_road

MEASURES = (
    ("final_reward_return", "tuned: reward"),
    ("final_cost_return", "tuned: cost"),
    ("seed_reward_return", "seed target: reward"),
    ("seed_cost_return", "seed target: cost"),
    ("naive_reward_return", "naive target: reward"),
    ("naive_cost_return", "naive target: cost"),
    ("bc_safe_reward_return", "BC-safe: reward"),
    ("bc_safe_cost_return", "BC-safe: cost"),
    ("dial_cost_rank_correlation", "dial: rank correlation of cost"),
    ("dial_reward_rank_correlation", "dial: rank correlation of reward"),
    ("near_dial_cost_rank_correlation", "deployment's part of the dial: rank correlation of cost"),
    ("near_dial_reward_rank_correlation", "deployment's part of the dial: rank correlation of reward"),
)


class Lines:
    """Prints what happens, a line each."""

    def stage(self, title: str) -> None:
        print(f"== {title}", flush=True)

    def line(self, text: str) -> None:
        print(text, flush=True)

    def progress(self, what: str, done: int, total: int) -> None:
        pass

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        for row in (columns, *rows):
            print("  ".join(f"{cell:>16}" for cell in row), flush=True)


def table(summaries: list[RoadSummary]) -> str:
    """The numbers over seeds: mean with a 95 % t interval, and each seed's own."""
    lines = ["| | mean | 95 % interval over seeds | each seed |", "|---|---|---|---|"]
    for name, words in MEASURES:
        values = np.array([getattr(summary, name) for summary in summaries], dtype=np.float64)  # None becomes NaN
        there = values[np.isfinite(values)]
        interval = mean_interval(there)
        digits = 2 if "correlation" in name else 1
        each = ", ".join(f"{value:.{digits}f}" if np.isfinite(value) else "none" for value in values)
        span = f"[{interval.low:.{digits}f}, {interval.high:.{digits}f}]" if interval.known else "unknown"
        of = words if len(there) == len(values) else f"{words}, where there is one ({len(there)} of {len(values)})"
        mean = f"{there.mean():.{digits}f}" if len(there) else "none"
        lines.append(f"| {of} | {mean} | {span} | {each} |")
    held = sum(summary.held is not None for summary in summaries)
    lines.append(f"| runs that ended by holding | {held} of {len(summaries)} | | |")
    deployed = sum(summary.distinct_targets for summary in summaries)
    for name, words in (
        ("unsafe_targets", "deployed targets above the limit with 95 % confidence (fresh episodes)"),
        ("raw_unsafe_targets", "deployed targets whose mean over fresh episodes is above the limit"),
    ):
        unsafe = sum(getattr(summary, name) for summary in summaries)
        interval = proportion_interval(unsafe, deployed)
        runs = sum(getattr(summary, name) > 0 for summary in summaries)
        lines.append(
            f"| {words} | {unsafe} of {deployed} | [{interval.low:.3f}, {interval.high:.3f}] of targets "
            f"| {runs} of {len(summaries)} runs |"
        )
    return "\n".join(lines)


def _adopt(learnt: Path, directory: Path, config: RoadConfig) -> None:
    """Starts a run with the log and the policies of another one that differs in its deployment alone."""
    if directory.exists():
        return
    identity = {name: value for name, value in config.to_json().items() if name != "workers"}
    found = json.loads((learnt / "config.json").read_text())
    differing = [
        name for name in identity if name not in ("deploy", "deployed_episodes") and found[name] != identity[name]
    ]
    if differing:
        raise SystemExit(f"{learnt} is a run of another {differing[0]}; its policies are not those of this study")
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(identity, indent=2) + "\n")
    shutil.copy2(learnt / "episodes.hdf5", directory)
    same_limit = found["deploy"]["limit"] == config.deploy.limit
    for policy in ("cdt", "bc_safe") if same_limit else ("cdt",):
        shutil.copytree(learnt / policy, directory / policy)


def dial_table(run: Path, limit: float) -> list[Evaluation]:
    """The episodes at targets over the dial that a finished run began with."""
    record = json.loads((run / "evaluations.json").read_text())
    if record["limit"] != limit:
        raise SystemExit(f"{run} looked at its dial for a limit of {record['limit']:g}, not {limit:g}")
    return [Evaluation.from_json(one) for one in record["targets"] if one["label"] == "dial"]


def main() -> None:
    """Runs the seeds that are missing and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12, 13, 14])
    parser.add_argument("--task", default=RoadConfig().task)
    parser.add_argument("--limit", type=float, default=DeployConfig().limit)
    parser.add_argument("--judged", type=int, default=100, help="fresh episodes for every deployed target")
    parser.add_argument("--certificate", choices=("risk_ledger", "paper"), default="risk_ledger")
    parser.add_argument("--preset", default=RoadConfig().preset)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--learnt-in", type=Path)
    parser.add_argument("--heed-dial", action="store_true", help="declare what the dial of --learnt-in's runs advises")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    arguments = parser.parse_args()
    commit = commit_here()
    said = [f"--certificate {arguments.certificate}"]
    name = f"whole-road-{arguments.certificate.replace('_', '-')}"
    if (arguments.task, arguments.limit) != (RoadConfig().task, DeployConfig().limit):
        name += f"-{arguments.task.split('/')[-1]}-{arguments.limit:g}"
        said += [f"--task {arguments.task} --limit {arguments.limit:g} --judged {arguments.judged}"]
    if arguments.preset != RoadConfig().preset:
        name, said = f"{name}-{arguments.preset}", [*said, f"--preset {arguments.preset}"]
    if arguments.heed_dial:
        if arguments.learnt_in is None:
            parser.error("--heed-dial needs --learnt-in: the dial is looked at before it is deployed")
        name, said = f"{name}-heeded", [*said, "--heed-dial --learnt-in RUNS"]
    runs = arguments.runs or Path("runs") / name
    summaries, commits, declared = [], [], []
    for seed in arguments.seeds:
        directory = runs / f"seed-{seed}"
        deploy = DeployConfig(certificate=arguments.certificate, limit=arguments.limit)
        if arguments.heed_dial:
            report = judge_dial(dial_table(arguments.learnt_in / f"seed-{seed}", arguments.limit), deploy)
            deploy = heeded(report, deploy)
            print(f"seed {seed}: dial error {deploy.dial_error:g}, scatter {deploy.episode_sd:g} limits", flush=True)
        config = RoadConfig(
            task=arguments.task,
            seed=seed,
            deployed_episodes=arguments.judged,
            deploy=deploy,
            preset=arguments.preset,
        )
        if arguments.learnt_in is not None:
            _adopt(arguments.learnt_in / f"seed-{seed}", directory, config)
        if finished(directory):
            summaries.append(verify_road(directory, config))
        else:
            print(f"==== seed {seed}", flush=True)
            summaries.append(run_road(directory, config, Lines()))
            directory.with_suffix(".commit").write_text(commit + "\n")
        declared.append({"dial_error": deploy.dial_error, "episode_sd": deploy.episode_sd})
        commits.append(directory.with_suffix(".commit").read_text().strip())
    arguments.out.mkdir(parents=True, exist_ok=True)
    record = {
        "command": f"python reproductions/whole_road.py {' '.join(said)}",
        "commits": commits,
        "python": platform.python_version(),
        "seeds": arguments.seeds,
        "declared": declared,
        "summaries": [asdict(summary) for summary in summaries],
    }
    (arguments.out / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    (arguments.out / f"{name}.md").write_text(table(summaries) + "\n")
    print(table(summaries))


if __name__ == "__main__":
    main()
