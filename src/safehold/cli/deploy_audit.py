"""`safehold deploy` after the fact: verify a run, replay it up to any event, export, explain, recover."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import Field, NonNegativeInt

from safehold.cli.console import Output
from safehold.cli.deploy_runs import RunArguments, place, print_bounds, short, target_words
from safehold.cli.main import Command
from safehold.cli.outputs import free_file
from safehold.core.certificate import Trial
from safehold.core.errors import DataError, IntegrityError, SafetyHold, UsageError
from safehold.deploy.audit import Audit, audit
from safehold.deploy.choose import next_ask
from safehold.deploy.optimizer import Deployment
from safehold.deploy.replay import State
from safehold.deploy.status import status
from safehold.deploy.verify import Difference, replayed, verify
from safehold.ledger.encoding import to_plain
from safehold.ledger.events import Asked
from safehold.ledger.run import RunDirectory
from safehold.report.run import read_run

_SHOWN = 20  # findings and differences in a table; --json has them all


class VerifyArguments(RunArguments):
    """Arguments of `deploy verify`."""

    head: Annotated[str, Field(pattern=r"^\d+:[0-9a-f]{64}$")] | None = None
    """NUMBER:HASH of an event, as an earlier verify printed it and you kept it elsewhere: it must still be there."""


class ReplayArguments(RunArguments):
    """Arguments of `deploy replay`."""

    until: NonNegativeInt | None = None
    """Number of the last event to replay; all of them if not said."""


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


class RecoverArguments(RunArguments):
    """Arguments of `deploy recover`."""

    into: Annotated[Path, tyro.conf.arg(metavar="NEW")]
    """New directory for what can be saved; the damaged run (or its export in JSON lines) is left as it is."""


class BackupArguments(RunArguments):
    """Arguments of `deploy backup`."""

    to: Annotated[Path, tyro.conf.arg(metavar="NEW")]
    """New directory for the copy."""


def check(arguments: VerifyArguments, output: Output) -> int:
    """Derives every certificate anew, twice: with code of its own, and with the optimiser's; 4 if anything differs."""
    path = place(arguments)
    number, _, hash_ = (arguments.head or "").partition(":")
    differences = verify(path)
    audited = audit(path, None if arguments.head is None else (int(number), hash_))
    ok = audited.ok and not differences
    output.result({"ok": ok, "differences": to_plain(differences), "audit": to_plain(audited)})
    _print_asks(audited, output)
    _print_wrong(audited, differences, output)
    if not ok:
        wrong, unchecked = len(audited.findings) + len(differences), len(audited.not_checked)
        output.say(
            f"{wrong} difference(s), {unchecked} thing(s) not checked: this ledger does not follow from its own events."
        )
        return IntegrityError.exit_code
    which = "every candidate" if audited.complete else "seed targets and those asked"
    output.say(
        f"The chain is whole, and every ask follows from what was known before it (looked at: {which}). "
        f"Charged in all {audited.charged:.4g} of the rules' {audited.share:g}; delta {audited.delta:g}."
    )
    if audited.backwards:
        output.say(
            f"The clock ran backwards before event {', '.join(map(str, audited.backwards))}; order is by number."
        )
    output.say(f"Head {audited.head[0]}:{audited.head[1]}; kept elsewhere, `--head` shows later that nothing was lost.")
    return 0


def replay(arguments: ReplayArguments, output: Output) -> int:
    """Prints what was certified, spent and next as of an event; nothing is written."""
    record, state = replayed(place(arguments), arguments.until)
    now = status(state)
    following, why = _next(state)
    output.result(
        {
            "event": {"seq": record.seq, "kind": record.kind, "trial": record.trial, "wall_time": record.wall_time},
            "status": to_plain(now),
            "next": None if following is None else to_plain(following),
            "refusal": why,
        }
    )
    of_trial = "" if record.trial is None else f" of {record.trial}"
    rows = [
        ("after event", f"{record.seq}, {record.kind}{of_trial}, {record.wall_time}"),
        ("state", f"{now.state}, level {now.level}, epoch {now.epoch}"),
        ("asks", f"{now.asks} of at most {now.horizon}, {now.told} told"),
        ("open trials", ", ".join(now.open_trials) or "none"),
        ("certified targets", f"{now.safe_count} of {now.candidates}"),
        ("revoked targets", ", ".join(target_words(target) for target in now.revoked) or "none"),
        ("spent of the rules' share", f"{now.spent:.4g}, left {now.left:.4g}"),
        ("fallback", "none is left: stop" if now.fallback is None else target_words(now.fallback)),
        ("recommended", "none yet" if now.recommendation is None else target_words(now.recommendation.target)),
        ("next ask", _next_words(following) if following is not None else "none"),
    ]
    output.table("", ("what", "value"), rows)
    if why is not None:
        output.say(why)
    return 0


def export(arguments: ExportArguments, output: Output) -> int:
    """Writes the ledger as JSON lines, one record a line."""
    target = None if arguments.out is None else free_file(arguments.out, overwrite=arguments.overwrite)
    with Deployment.open(place(arguments), read_only=True) as deployment:
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
    with Deployment.open(place(arguments), read_only=True) as deployment:
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
        _draw_certificate(arguments.run, name, arguments.picture)
        output.say(f"Picture: {arguments.picture}")
    return 0


def recover(arguments: RecoverArguments, output: Output) -> int:
    """Saves the valid beginning of a damaged ledger into a new directory; 6 if the new run holds for what was lost."""
    saved = RunDirectory(place(arguments)).recover(arguments.into)
    output.result({**to_plain(saved), "into": arguments.into})
    if saved.fault is None:
        output.say(f"Nothing is wrong: all {saved.kept} events were copied to {arguments.into}, which can go on.")
        return 0
    lost = "nobody can tell how many" if saved.lost is None else str(saved.lost)
    output.table(
        "",
        ("what", "value"),
        [
            ("kept", f"events 1 to {saved.kept}, in {arguments.into}"),
            ("lost after them", lost),
            ("what was wrong", saved.fault),
            ("trials of unknown outcome", ", ".join(saved.unknown) or "none"),
        ],
    )
    output.say(
        "What is lost may have revoked a target or spent delta. So the new run is stopped: it can be verified and "
        f"reported, and hands out nothing. {arguments.run} is as it was. Declare a new run to go on."
    )
    return SafetyHold.exit_code


def backup(arguments: BackupArguments, output: Output) -> int:
    """Copies a run that may be in use; copying its files one by one can lose events."""
    copy = RunDirectory(arguments.to)
    with RunDirectory(place(arguments)).open(read_only=True) as ledger:
        ledger.backup(copy.ledger_path)
    with copy.open(read_only=True) as ledger:
        last = ledger.read()[-1]
    output.result({"into": arguments.to, "events": last.seq, "head": [last.seq, last.hash]})
    output.say(f"{arguments.to}: {last.seq} events, head {last.seq}:{last.hash}")
    return 0


def _print_asks(audited: Audit, output: Output) -> None:
    """Every ask as it was derived with code of its own."""
    if not audited.asks:
        return
    rows = []
    for ask in audited.asks:
        risk = "" if ask.risk is None else f"{ask.risk:.3g}"
        upper = ", ".join(f"{name} <= {bound:.4g}" for name, bound in (ask.upper or {}).items())
        rows.append(
            (ask.trial, target_words(ask.target), ask.basis, risk, upper, f"{ask.charge:.3g}", f"{ask.spent_after:.4g}")
        )
    columns = ("trial", "target", "certified by", "risk", "bound", "charged", "delta spent")
    empty = [place for place in range(len(columns)) if not any(row[place] for row in rows)]
    kept = [place for place in range(len(columns)) if place not in empty]
    output.table(
        "Derived from the ledger alone",
        [columns[place] for place in kept],
        [[row[place] for place in kept] for row in rows],
    )


def _print_wrong(audited: Audit, differences: Sequence[Difference], output: Output) -> None:
    """Whatever does not follow, and whatever was not checked."""
    found = [(str(f.seq), f.what, short(f.recorded), short(f.derived)) for f in audited.findings]
    found += [(str(d.seq), d.field, short(d.recorded), short(d.derived)) for d in differences]
    if found:
        rows = found[:_SHOWN]
        output.table("What the ledger says and what follows", ("event", "field", "recorded", "derived"), rows)
    if len(found) > _SHOWN:
        output.say(f"... and {len(found) - _SHOWN} more (--json shows all).")
    for what in audited.not_checked[:_SHOWN]:
        output.say(f"NOT CHECKED, because it is not understood: {what}")


def _next(state: State) -> tuple[Asked | None, str | None]:
    """The ask that this state answers with, or why it refuses."""
    try:
        return next_ask(state, None), None
    except SafetyHold as hold:
        return None, f"{type(hold).__name__}: {hold}"


def _next_words(following: Asked) -> str:
    """A next ask in a line."""
    certificate = following.certificate
    return f"{target_words(following.target)}, on {certificate.basis}, charged {certificate.charge:.3g}"


def _draw_certificate(run: Path, trial: str, picture: Path) -> None:
    from safehold.report.certified import certificate_page
    from safehold.report.figures import certificate, palette

    view = certificate_page(read_run(run), trial)
    if view is not None:
        palette.save(certificate.draw(view), picture)


def _print_explanation(asked: Asked, trial: Trial, output: Output) -> None:
    """One ask in sentences."""
    why = {
        "seed": "the first ask is always a seed target",
        "explore": "its outcome is uncertain and could certify more targets",
        "maximise": f"of all certified targets its reward could be the highest, up to {asked.reward.upper:.4g}",
    }[asked.phase]
    output.say(f"{trial.id} asked for target {target_words(asked.target)}: {why}.")
    print_bounds(asked, output)
    certificate = trial.certificate
    output.say(f"Certificate {certificate.kind!r}: {certificate.promise}")
    output.say(
        f"delta {certificate.delta:g}, charged {certificate.charge:.3g}, spent in all {certificate.spent_after:.4g}; "
        f"{asked.n_told} measurements told before it, {asked.safe_count} targets certified then."
    )
    output.say(f"Premises (docs/guarantees.md): {', '.join(certificate.premises)}.")


COMMANDS = {
    "verify": Command(VerifyArguments, check),
    "replay": Command(ReplayArguments, replay),
    "export": Command(ExportArguments, export),
    "explain": Command(ExplainArguments, explain),
    "recover": Command(RecoverArguments, recover),
    "backup": Command(BackupArguments, backup),
}
