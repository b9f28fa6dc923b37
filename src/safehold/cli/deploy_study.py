"""`safehold deploy simulate` and `stress`: what would have happened, before the first real deployment."""

from pathlib import Path
from typing import Annotated

import tyro
from pydantic import Field

from safehold.cli.arguments import Arguments, Seed
from safehold.cli.console import Output
from safehold.cli.main import Command
from safehold.cli.narration import Narration
from safehold.core.errors import SafetyHold, UsageError
from safehold.data.layouts import read_any
from safehold.deploy.declaration import Declaration
from safehold.deploy.optimizer import Deployment
from safehold.deploy.simulate import Study, WorldSampler, rehearsed, study
from safehold.deploy.stress import NOTHING, faults_of, stress
from safehold.ledger.encoding import to_plain
from safehold.workflows.deploy import DeployConfig, plan


class StudyArguments(Arguments):
    """What both commands take."""

    run: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="[RUN]")] = None
    """Directory of a deployment, whose declaration is tried (seed targets taken as safe, every trial as approved);
    otherwise say --data."""
    data: Path | None = None
    """File of logged episodes; what `deploy run` would declare from it is tried."""
    seed: Seed = 0
    """Seed of the worlds that are drawn."""
    deploy: Annotated[DeployConfig, tyro.conf.arg(name="")] = DeployConfig()


class SimulateArguments(StudyArguments):
    """Arguments of `deploy simulate`."""

    runs: Annotated[int, Field(ge=1, le=100_000)] = 200
    """Whole deployments to simulate, each on a world of its own, drawn from the declared prior."""


class StressArguments(StudyArguments):
    """Arguments of `deploy stress`."""

    runs: Annotated[int, Field(ge=1, le=100_000)] = 50
    """Whole deployments to simulate with each fault of the model."""


def simulate(arguments: SimulateArguments, output: Output) -> int:
    """Runs a declaration on worlds from its own prior; 6 if it is shown not to keep its delta even there."""
    declaration = _declaration(arguments)
    with Narration(output) as narration:
        found = study(
            declaration,
            arguments.runs,
            arguments.seed,
            sampler=WorldSampler(declaration, moved=True),
            on_run=lambda done: narration.progress("simulated deployments", done, arguments.runs),
        )
    output.result({**to_plain(found), "keeps_delta": not found.broken})
    asks = f"{declaration.horizon} asks of {declaration.settings.episodes_per_ask} episodes"
    output.table(
        "",
        ("what", "value"),
        [
            ("simulated deployments", f"{found.runs}, at most {asks} each, on worlds from the declared prior"),
            ("with an unsafe target", f"{found.violating}: {_share(found)} of them (95 %), delta {found.delta:g}"),
            ("asks of unsafe targets", f"{found.unsafe_asks:.4f} of all"),
            ("charged of delta", f"{found.mean_charge:.4g} a deployment, on average"),
            ("unsafe targets paid for", f"{found.mean_charged_unsafe:.4g} a deployment, on average"),
            ("gained in reward", f"{_gain(found)} of what was to gain over the seed targets"),
            ("reward missed", f"{found.mean_regret:.4g} a deployment, on average"),
            ("ended with", _ends(found)),
        ],
    )
    output.say(
        f"The share of deployments with an unsafe target is above delta = {found.delta:g}, with 99 % confidence: hold."
        if found.broken
        else "If the prior is right, nothing here shows a broken promise; `deploy stress` shows what if it is not."
    )
    return SafetyHold.exit_code if found.broken else 0


def stressed(arguments: StressArguments, output: Output) -> int:
    """Runs a declaration on worlds that it does not describe; 6 if delta is not kept where nothing is wrong."""
    declaration = _declaration(arguments)
    with Narration(output) as narration:
        rows = stress(
            declaration,
            arguments.runs,
            arguments.seed,
            faults_of(declaration),
            on_run=lambda name, done: narration.progress(name, done, arguments.runs),
        )
    output.result(
        {
            "delta": declaration.delta,
            "rows": [
                {"fault": to_plain(row.fault), **to_plain(row.study), "keeps_delta": not row.study.broken}
                for row in rows
            ],
        }
    )
    output.table(
        f"Deployments with an unsafe target, {arguments.runs} a row; delta {declaration.delta:g}",
        ("what is wrong", "share [95 %]", "unsafe asks", "gained", "ended with"),
        [
            (
                row.fault.name,
                _share(row.study) + (" ABOVE" if row.study.broken else ""),
                f"{row.study.unsafe_asks:.4f}",
                _gain(row.study),
                _ends(row.study),
            )
            for row in rows
        ],
    )
    output.say(
        "gained: of the reward that the best safe target has over the seed targets. ABOVE: above delta, with 99 % "
        "confidence; what that row says must not be wrong. A certificate promises nothing where its premises fail. "
        "Shorter length-scales, a larger dial error or a smaller delta make it more forgiving."
    )
    return SafetyHold.exit_code if any(row.study.broken and row.fault == NOTHING for row in rows) else 0


def _declaration(arguments: StudyArguments) -> Declaration:
    """The declaration of a run, or that which a log leads to.

    Raises:
        UsageError: if not exactly one of them is given.
    """
    if (arguments.run is None) == (arguments.data is None):
        raise UsageError("give the directory of a deployment, or --data with a file of logged episodes")
    if arguments.data is not None:
        return rehearsed(plan(read_any(arguments.data), arguments.deploy).declaration)
    run = arguments.run or Path()
    below = run / "deployment"
    place = below if not (run / "ledger.sqlite").exists() and (below / "ledger.sqlite").exists() else run
    with Deployment.open(place, read_only=True) as deployment:
        return rehearsed(deployment.state.declaration)


def _share(found: Study) -> str:
    return f"{found.interval.estimate:.3f} [{found.interval.low:.3f}, {found.interval.high:.3f}]"


def _gain(found: Study) -> str:
    if found.gap_closed is None:
        return "nothing"
    return f"{100 * found.gap_closed:.0f} %"


def _ends(found: Study) -> str:
    return ", ".join(f"{word} {count}" for word, count in found.held.items())


COMMANDS = {"simulate": Command(SimulateArguments, simulate), "stress": Command(StressArguments, stressed)}
