"""`safehold deploy`: ask for a certified target, tell what it did, and see why."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from pydantic import Field

from safehold.cli.arguments import Arguments
from safehold.cli.console import Output
from safehold.cli.driving import DriveArguments, run
from safehold.cli.main import Command
from safehold.cli.outputs import free_file
from safehold.core.certificate import Trial
from safehold.core.errors import DataError, IntegrityError, UsageError
from safehold.core.measurement import Measurement
from safehold.deploy.optimizer import Deployment
from safehold.deploy.status import Recommendation
from safehold.deploy.verify import verify
from safehold.ledger.encoding import to_plain
from safehold.ledger.events import Asked, Bound
from safehold.report.run import read_run
from safehold.report.words import grounds

_LARGEST_OUTCOMES = 16 * 1024 * 1024  # bytes of a file of outcomes: 100,000 episodes take about 5 MB


class RunArguments(Arguments):
    """What every command on one deployment takes."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Directory of the deployment."""


class AskArguments(RunArguments):
    """Arguments of `deploy ask`."""

    key: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """Name of this ask: asking again with the same key gives the same trial again."""


class TrialArguments(RunArguments):
    """What every command on one trial takes."""

    trial: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TRIAL")]
    """Id of the trial, as `ask` gave it."""


class TellArguments(TrialArguments):
    """Arguments of `deploy tell`."""

    rewards: tuple[float, ...] = ()
    """Reward return of every episode."""
    costs: tuple[float, ...] = ()
    """Cost of every episode, in the limited cost's units; for several limits use --outcomes."""
    outcomes: Path | None = None
    """JSON file instead, or - for standard input: {"rewards": [], "costs": {"NAME": []}, "failed": [], "seeds": []};
    null is a value that a failed episode left without a number."""


class AbandonArguments(TrialArguments):
    """Arguments of `deploy abandon`."""

    reason: Annotated[str, Field(min_length=1, max_length=1000)]
    """Why the trial will not be told."""
    never_deployed: bool = False
    """Attest that no action of this trial was ever taken; otherwise its target is revoked."""


class StopArguments(RunArguments):
    """Arguments of `deploy stop`."""

    reason: Annotated[str, Field(min_length=1, max_length=1000)]
    """Why nothing more is to be handed out."""


class ExportArguments(RunArguments):
    """Arguments of `deploy export`."""

    out: Path | None = None
    """File to write; standard output if not said."""
    overwrite: bool = False
    """Replace the file if it exists."""


class ExplainArguments(RunArguments):
    """Arguments of `deploy explain`."""

    trial: str | None = None
    """Trial to explain; the last one if not said."""
    picture: Path | None = None
    """Draw the certificate into this .png, .svg or .pdf file."""
    overwrite: bool = False
    """Replace the picture if it exists."""


def status(arguments: RunArguments, output: Output) -> int:
    """Prints where a deployment stands."""
    with Deployment.open(_place(arguments), read_only=True) as deployment:
        now = deployment.status()
    output.result(to_plain(now))
    rows = [
        ("state", now.state),
        ("asks", f"{now.asks} of at most {now.horizon}, {now.told} told"),
        ("open trials", ", ".join(now.open_trials) or "none"),
        ("certified targets", f"{now.safe_count} of {now.candidates}"),
        ("revoked targets", ", ".join(_target(target) for target in now.revoked) or "none"),
        ("delta", f"{now.delta:g}"),
        ("fallback", "none is left: stop" if now.fallback is None else _target(now.fallback)),
        ("recommended", "none yet" if now.recommendation is None else _target(now.recommendation.target)),
    ]
    output.table("", ("what", "value"), rows)
    if now.reason is not None:
        output.say(now.reason)
    return 0


def ask(arguments: AskArguments, output: Output) -> int:
    """Prints the next certified target; a refusal ends in exit code 6 and is recorded."""
    with Deployment.open(_place(arguments)) as deployment:
        trial = deployment.ask(arguments.key)
        asked = deployment.state.asked[trial.id]
    output.result({**to_plain(trial), "bounds": to_plain(asked.costs), "reward": to_plain(asked.reward)})
    output.say(f"{trial.id}: target {_target(trial.target)}")
    _print_bounds(asked, output)
    return 0


def tell(arguments: TellArguments, output: Output) -> int:
    """Records the outcomes of a trial."""
    with Deployment.open(_place(arguments)) as deployment:
        names = [limit.name for limit in deployment.state.declaration.limits]
        measurement, lengths, seeds = _outcomes(arguments, names)
        trial = deployment.tell(arguments.trial, measurement, lengths=lengths, seeds=seeds)
        now = deployment.status()
    output.result({**to_plain(trial), "status": to_plain(now)})
    output.say(f"{trial.id} told: {len(measurement)} episodes at {_target(trial.target)}")
    output.say(f"{now.safe_count} of {now.candidates} targets are certified now; state {now.state}.")
    if now.reason is not None:
        output.say(now.reason)
    return 0


def abandon(arguments: AbandonArguments, output: Output) -> int:
    """Gives a trial up."""
    with Deployment.open(_place(arguments)) as deployment:
        trial = deployment.abandon(arguments.trial, arguments.reason, deployed=not arguments.never_deployed)
    output.result(to_plain(trial))
    consequence = "" if arguments.never_deployed else "; its target is revoked, because its outcome is unknown"
    output.say(f"{trial.id} is {trial.state.value}{consequence}.")
    return 0


def stop(arguments: StopArguments, output: Output) -> int:
    """Ends a deployment: nothing is handed out any more."""
    with Deployment.open(_place(arguments)) as deployment:
        deployment.stop(arguments.reason)
        now = deployment.status()
    output.result(to_plain(now))
    open_trials = f"; still to be told or abandoned: {', '.join(now.open_trials)}" if now.open_trials else ""
    output.say(f"{arguments.run} is stopped{open_trials}.")
    return 0


def recommend(arguments: RunArguments, output: Output) -> int:
    """Prints the best told target that is certified; exit code 6 if there is none."""
    with Deployment.open(_place(arguments), read_only=True) as deployment:
        best = deployment.recommend()
    output.result(to_plain(best))
    output.say(f"Recommended target: {_target(best.target)}, told over {best.episodes} episodes")
    _print_recommendation(best, output)
    return 0


def check(arguments: RunArguments, output: Output) -> int:
    """Verifies the chain, and derives every ask anew; 4 if anything differs."""
    differences = verify(_place(arguments))
    output.result({"differences": to_plain(differences), "ok": not differences})
    if differences:
        rows = [(str(d.seq), d.field, _short(d.recorded), _short(d.derived)) for d in differences]
        output.table("What the ledger says and what follows", ("event", "field", "recorded", "derived"), rows)
        output.say(f"{len(differences)} difference(s): this ledger does not follow from its own events.")
        return IntegrityError.exit_code
    output.say("The chain is whole, and every ask follows from what was known before it.")
    return 0


def export(arguments: ExportArguments, output: Output) -> int:
    """Writes the ledger as JSON lines, one record a line."""
    target = None if arguments.out is None else free_file(arguments.out, overwrite=arguments.overwrite)
    with Deployment.open(_place(arguments), read_only=True) as deployment:
        lines = deployment.ledger.export()
    text = "".join(f"{line}\n" for line in lines)
    if target is None:
        sys.stdout.write(text)
        return 0
    partial = target.with_name(f".{target.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(target)
    output.result({"file": target, "records": len(lines)})
    output.say(f"{target}: {len(lines)} records")
    return 0


def explain(arguments: ExplainArguments, output: Output) -> int:
    """Says why a trial was allowed to run: bound, limit, promise, premises, and what came."""
    if arguments.picture is not None:
        if arguments.picture.suffix.lower() not in (".png", ".svg", ".pdf"):
            raise UsageError(f"--picture {arguments.picture}: a picture ends in .png, .svg or .pdf")
        free_file(arguments.picture, overwrite=arguments.overwrite)
    with Deployment.open(_place(arguments), read_only=True) as deployment:
        state = deployment.state
    if not state.asked:
        raise UsageError(f"{arguments.run}: nothing was asked yet, so there is nothing to explain")
    name = next(reversed(list(state.asked))) if arguments.trial is None else arguments.trial
    if name not in state.asked:
        raise DataError(f"unknown trial {name!r}; this run has {', '.join(list(state.asked)[:5])} and so on")
    _print_explanation(state.asked[name], state.trial(name), output)
    told = state.told.get(name)
    outcome = None if told is None else to_plain(told)
    output.result({"asked": to_plain(state.asked[name]), "told": outcome, "state": state.states[name].value})
    if told is None:
        output.say(f"It is {state.states[name].value}.")
    else:
        for limit in state.declaration.limits:
            output.say(f"Told: mean {limit.name} {told.measurement.mean_cost(limit.name):.4g}, limit {limit.value:g}.")
    if arguments.picture is not None:
        _draw_certificate(arguments.run, arguments.picture)
        output.say(f"Picture: {arguments.picture}")
    return 0


def _place(arguments: RunArguments) -> Path:
    """Where the ledger is: in the directory, or one below it where that is a whole road's."""
    below = arguments.run / "deployment"
    return (
        below
        if not (arguments.run / "ledger.sqlite").exists() and (below / "ledger.sqlite").exists()
        else arguments.run
    )


def _draw_certificate(run: Path, picture: Path) -> None:
    from safehold.report.figures import certificate, palette
    from safehold.report.run_page import certificate_info

    view = certificate_info(read_run(run))
    if view is not None:
        palette.save(certificate.draw(view), picture)


def _print_explanation(asked: Asked, trial: Trial, output: Output) -> None:
    """One ask in sentences."""
    why = {
        "seed": "the first ask is always a seed target",
        "explore": "its outcome is uncertain and could certify more targets",
        "maximise": "of all certified targets it promises the highest reward",
    }[asked.phase]
    output.say(f"{trial.id} asked for target {_target(asked.target)}: {why}.")
    _print_bounds(asked, output)
    certificate = trial.certificate
    output.say(f"Certificate {certificate.kind!r}: {certificate.promise}")
    output.say(
        f"delta {certificate.delta:g}, charged {certificate.charge:.3g}, spent in all {certificate.spent_after:.4g}; "
        f"{asked.n_told} measurements told before it, {asked.safe_count} targets certified then."
    )
    output.say(f"Premises (docs/guarantees.md): {', '.join(certificate.premises)}.")


def _print_bounds(asked: Asked, output: Output) -> None:
    """Predicted and bounded values of an ask beside its limits."""
    rows = []
    for limit in asked.certificate.limits:
        belief = asked.costs[limit.name]
        rows.append((limit.name, f"{belief.mean:.4g}", grounds(asked.certificate, limit.name), f"{limit.value:g}"))
    rows.append(("reward", f"{asked.reward.mean:.4g}", "", ""))
    output.table("", ("expected return", "predicted", "certified", "limit"), rows)


def _print_recommendation(best: Recommendation, output: Output) -> None:
    """Beliefs about the recommended target."""
    limits = {limit.name: f"{limit.value:g}" for limit in best.certificate.limits}
    beliefs: list[tuple[str, Bound]] = [*best.costs.items(), ("reward", best.reward)]
    rows = [(name, f"{b.mean:.4g}", f"{b.lower:.4g} to {b.upper:.4g}", limits.get(name, "")) for name, b in beliefs]
    output.table("", ("expected return", "believed", "interval", "limit"), rows)


def _outcomes(
    arguments: TellArguments, names: Sequence[str]
) -> tuple[Measurement, tuple[int, ...] | None, tuple[int, ...] | None]:
    """The measurement that the arguments give, with lengths and seeds where they are known."""
    if arguments.outcomes is not None:
        if arguments.rewards or arguments.costs:
            raise UsageError("give either --outcomes, or --rewards and --costs")
        return _read_outcomes(arguments.outcomes)
    if not arguments.rewards or not arguments.costs:
        raise UsageError("--rewards and --costs are both needed, one value an episode (or --outcomes FILE)")
    if len(names) != 1:
        raise UsageError(f"this run limits {', '.join(names)}; tell them all with --outcomes FILE")
    measurement = Measurement(
        rewards=np.array(arguments.rewards, dtype=np.float64),
        costs={names[0]: np.array(arguments.costs, dtype=np.float64)},
        failed=np.zeros(len(arguments.rewards), dtype=np.bool_),
    )
    return measurement, None, None


def _read_outcomes(path: Path) -> tuple[Measurement, tuple[int, ...] | None, tuple[int, ...] | None]:
    """A measurement from a JSON file.

    Raises:
        DataError: if it is not what `deploy tell --help` describes.
    """
    plain = _parsed(path)
    unknown = sorted(set(plain) - {"rewards", "costs", "failed", "lengths", "seeds"})
    if unknown:
        raise DataError(f"{path}: unknown key {unknown[0]!r}; known are rewards, costs, failed, lengths, seeds")
    try:
        rewards = _numbers(plain["rewards"])
        costs = {str(name): _numbers(values) for name, values in plain["costs"].items()}
        failed = [_flag(mark) for mark in plain.get("failed", [False] * len(rewards))]
        lengths, seeds = (_whole(plain.get(name)) for name in ("lengths", "seeds"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: not a record of outcomes ({error!r}); see `safehold deploy tell --help`") from error
    return Measurement(rewards=rewards, costs=costs, failed=np.array(failed, dtype=np.bool_)), lengths, seeds


def _parsed(path: Path) -> dict[str, Any]:
    """The JSON object in a file or on standard input, of bounded size."""
    try:
        if str(path) == "-":
            text = sys.stdin.read(_LARGEST_OUTCOMES + 1) if sys.stdin is not None else ""
        else:
            with path.open(encoding="utf-8") as file:
                text = file.read(_LARGEST_OUTCOMES + 1)
        if len(text) > _LARGEST_OUTCOMES:
            raise DataError(f"{path}: more than {_LARGEST_OUTCOMES} characters; outcomes of one trial are smaller")
        plain = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(plain, dict):
        raise DataError(f"{path} holds no JSON object; see `safehold deploy tell --help`")
    return plain


def _numbers(values: Any) -> np.ndarray:
    """Float64; null becomes NaN, which a measurement takes from failed episodes alone; text and flags are refused."""
    if not isinstance(values, list) or any(
        isinstance(v, bool) or not isinstance(v, int | float | None) for v in values
    ):
        raise TypeError(f"expected a list of numbers, got {_short(str(values))}")
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _whole(values: Any) -> tuple[int, ...] | None:
    if values is None:
        return None
    if not isinstance(values, list) or any(isinstance(v, bool) or not isinstance(v, int) for v in values):
        raise TypeError(f"expected a list of whole numbers, got {_short(str(values))}")
    return tuple(values)


def _flag(mark: Any) -> bool:
    if not isinstance(mark, bool):
        raise TypeError(f"failed must hold true and false, got {_short(str(mark))}")
    return mark


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"


def _target(target: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in target) + ")"


COMMANDS = {
    "run": Command(DriveArguments, run),
    "status": Command(RunArguments, status),
    "ask": Command(AskArguments, ask),
    "tell": Command(TellArguments, tell),
    "abandon": Command(AbandonArguments, abandon),
    "stop": Command(StopArguments, stop),
    "recommend": Command(RunArguments, recommend),
    "verify": Command(RunArguments, check),
    "export": Command(ExportArguments, export),
    "explain": Command(ExplainArguments, explain),
}
