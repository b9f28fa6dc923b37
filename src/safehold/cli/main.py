"""The command line's front door: finds the verb, runs it, and turns every way it can end into an exit code."""

import importlib
import io
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from safehold import __version__
from safehold.core.errors import SafeholdError, UsageError

# Heavy imports (tyro, rich, h5py, torch, matplotlib) happen inside the verbs: `safehold --help` answers at once.

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT, as shells expect."""

READER_GONE = 141
"""Exit code when standard output was closed (`| head`): 128 + SIGPIPE, so that a lost verdict is not a success."""


@dataclass(frozen=True, slots=True)
class Command:
    """One verb: the model of its arguments, and what it does with them; returns the exit code.

    `adapted` makes another model of the raw words where defaults depend on them: a preset, a file of settings.
    """

    arguments: type[Any]
    run: Callable[[Any, Any], int]
    adapted: Callable[[Sequence[str]], type[Any]] | None = None


# Noun -> (module, {verb: what it does}); a noun that is its own verb has the verb "".
NOUNS: dict[str, tuple[str, dict[str, str]]] = {
    "data": (
        "safehold.cli.data",
        {
            "check": "judge a file of logged episodes: verdict, findings with places, numbers",
            "convert": "write logged episodes in another layout, or with a task and a unit of cost",
            "filter": "make logged episodes worse in stated ways, for tests of robustness",
            "split": "part logged episodes in two, to train on one and to judge on the other",
            "collect": "run behaviour policies, and log their episodes",
            "summary": "the numbers of a file of logged episodes",
        },
    ),
    "train": (
        "safehold.cli.train",
        {
            "cdt": "a constrained decision transformer: policies with a dial for reward and cost",
            "rvs": "a perceptron with the same dial, in a fraction of the time",
            "bc": "behaviour cloning, of all episodes or of those that keep limits",
            "lspc": "latent safety-prioritised constraints: reward within a box of safe actions, a dial for the box",
            "caps": "constraint-adaptive policy switching: a few policies, and a dial for the limit they are chosen by",
            "ccac": "actor and critics that are told what may still be spent: a dial for the limit",
            "iql": "implicit Q-learning: reward alone, no limit; what a limit costs is seen beside it",
            "bcq-lag": "batch-constrained Q-learning with multipliers: near the log's actions, for stated limits",
            "bear-lag": "BEAR with multipliers: within the support of the log's actions, for stated limits",
            "cpq": "constraints penalised Q-learning: what breaks a limit is worth nothing",
            "coptidice": "COptiDICE: the best reweighting of the log that keeps stated limits, cloned",
        },
    ),
    "evaluate": ("safehold.cli.evaluate", {"": "run a policy for fresh episodes, and print its returns"}),
    "select": ("safehold.cli.select", {"": "compare policies on logged episodes alone, and run none of them"}),
    "benchmark": ("safehold.cli.benchmark", {"": "compare methods over tasks and seeds, resumably"}),
    "finetune": (
        "safehold.cli.finetune",
        {"": "let a trained policy learn on in its world, uncertified: what tuning targets is compared with"},
    ),
    "explore": (
        "safehold.cli.explore",
        {
            "ppo-lag": "learn online under a cost limit: proximal policy optimisation with a multiplier",
            "sac-lag": "learn online from a replay buffer, with a damped multiplier",
            "statewise-lag": "the same with a multiplier for every state",
            "trpo-lag": "trust region policy optimisation with a multiplier",
            "cpo": "constrained policy optimisation: the limit inside the trust region",
            "scpo": "the same with a limit on the dearest step of an episode",
            "guide": "learn to move about safely where there is no task, for students and for guards",
            "sagui": "learn a task as the student of such a guide, which takes over when an episode costs",
        },
    ),
    "deploy": (
        "safehold.cli.deploy",
        {
            "init": "declare a deployment from a log, and run nothing",
            "seed": "verify a seed target by its raw episodes",
            "run": "declare a deployment from a log, and drive it to its end",
            "status": "where a deployment stands",
            "ask": "the next certified target",
            "tell": "record what a trial did",
            "approve": "let a trial run that waits for an operator",
            "reject": "do not let it run",
            "abandon": "give a trial up",
            "observe": "tell episodes that were run elsewhere",
            "lower-limit": "lower a limit from now on",
            "advance": "take a roll-out to its next stage",
            "resume": "begin a new epoch after an alarm",
            "stop": "end a deployment: nothing is handed out any more",
            "recommend": "the best told target that is certified",
            "simulate": "what would have happened, on worlds from the declared prior",
            "stress": "what would have happened, had the declared model been wrong",
            "verify": "check the ledger's chain, and derive every certificate and every ask anew",
            "replay": "what was certified, spent and next as of any event",
            "export": "the ledger as JSON lines",
            "explain": "why a trial was allowed to run",
            "recover": "save what is valid of a damaged ledger into a new directory",
            "backup": "copy a run that may be in use",
        },
    ),
    "report": ("safehold.cli.report", {"": "a run on one self-contained HTML page"}),
    "demo": ("safehold.cli.demo", {"": "the whole road: data, training, certified deployment, report"}),
    "envs": (
        "safehold.cli.envs",
        {"list": "the environments, with what one unit of their cost means", "check": "whether one keeps its contract"},
    ),
    "doctor": ("safehold.cli.doctor", {"": "versions, devices, threads, extras, and what is missing"}),
}

# Verbs that live in another module than their noun's.
ELSEWHERE: dict[tuple[str, str], str] = {
    **{
        ("deploy", verb): "safehold.cli.deploy_operate"
        for verb in ("init", "seed", "approve", "reject", "observe", "lower-limit", "advance", "resume")
    },
    ("deploy", "simulate"): "safehold.cli.deploy_study",
    ("deploy", "stress"): "safehold.cli.deploy_study",
    **{
        ("deploy", verb): "safehold.cli.deploy_audit"
        for verb in ("verify", "replay", "export", "explain", "recover", "backup")
    },
}

_EXIT_CODES = """Exit codes: 0 ok, 2 usage, 3 bad input, 4 integrity, 5 environment fault, 6 safety hold,
7 resource, 130 interrupted, 141 the reader of the output went away."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line; returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    try:
        _ready_streams()
        code = _dispatch(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        _silence_stdout()
        return READER_GONE
    except KeyboardInterrupt:
        _complain("Interrupted.")
        return INTERRUPTED
    except SafeholdError as error:
        if debug:
            traceback.print_exc()
        _complain(f"{_kind(error)}: {error}")
        return error.exit_code
    except MemoryError:
        _complain("ResourceError: out of memory")
        return 7
    except Exception as error:
        if debug:
            traceback.print_exc()
        _complain(
            f"{type(error).__name__}: {error}\n"
            "This is a fault of safehold, not of your input. Run again with --debug for the traceback."
        )
        return 1
    return code


def _dispatch(argv: list[str]) -> int:
    """Finds the verb and hands it the rest of the line."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        sys.stdout.write(_overview())
        return 0
    if argv[0] in ("--version", "-V"):
        sys.stdout.write(f"safehold {__version__}\n")
        return 0
    noun, rest = argv[0], argv[1:]
    if noun not in NOUNS:
        raise _unknown(noun, list(NOUNS), "safehold")
    module, verbs = NOUNS[noun]
    verb = ""
    if "" not in verbs:
        if not rest or rest[0] in ("-h", "--help"):
            sys.stdout.write(_overview(noun))
            return 0
        verb, rest = rest[0], rest[1:]
        if verb not in verbs:
            raise _unknown(verb, list(verbs), f"safehold {noun}")
    module = ELSEWHERE.get((noun, verb), module)
    return _run(module, verb, rest, f"safehold {noun} {verb}".strip(), verbs[verb])


def _run(module: str, verb: str, argv: list[str], program: str, what: str) -> int:
    """Imports the verb's module, checks its arguments, runs it."""
    from safehold.cli.arguments import Helped, parse
    from safehold.cli.console import Output

    commands: dict[str, Command] = importlib.import_module(module).COMMANDS
    command = commands[verb]
    try:
        asked_help = "-h" in argv or "--help" in argv
        model = command.arguments if command.adapted is None or asked_help else command.adapted(argv)
        arguments = parse(model, argv, program, f"{what[0].upper()}{what[1:]}.")
    except Helped as helped:
        sys.stdout.write(helped.text)
        return 0
    _set_up_logging(debug=arguments.common.debug)
    return command.run(arguments, Output.of(arguments.common))


def _overview(noun: str = "") -> str:
    """What can be run: all of it, or one noun's verbs."""
    names = [noun] if noun else list(NOUNS)
    lines = [f"usage: safehold {noun or 'COMMAND'} ...", ""]
    if not noun:
        lines += ["Safe reinforcement learning from logged episodes to certified operation.", ""]
    for name in names:
        for verb, what in NOUNS[name][1].items():
            lines.append(f"  {f'{name} {verb}'.strip():<18} {what}")
    lines += ["", "`safehold COMMAND --help` shows the arguments of one.", _EXIT_CODES, ""]
    return "\n".join(lines)


def _unknown(word: str, known: list[str], program: str) -> UsageError:
    """The refusal of a word that is no command, with the nearest that is."""
    from safehold.cli.arguments import nearest
    from safehold.report.plain_text import inert

    hint = nearest(word, known, f"{program} ")
    return UsageError(f"There is no `{program} {inert(word)}`.{hint}\nKnown: {', '.join(known)}.")


def _kind(error: SafeholdError) -> str:
    """What stands before the message; usage errors speak for themselves."""
    return "safehold" if isinstance(error, UsageError) else f"safehold: {type(error).__name__}"


def _complain(message: str) -> None:
    """A message on standard error, inert whatever it quotes."""
    from safehold.report.plain_text import inert_lines

    try:
        sys.stderr.write(inert_lines(message) + "\n")
        sys.stderr.flush()
    except OSError:
        pass  # standard error is closed: nobody is left to tell, the exit code stays


def _ready_streams() -> None:
    """Streams that are closed or that cannot say every character must not end a run half-way."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (lives as long as the process)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _silence_stdout() -> None:
    """Points standard output at nothing, so that the interpreter's last flush does not fail again."""
    try:
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, sys.stdout.fileno())
    except (OSError, ValueError):
        pass  # not a real file (a test's buffer): there is nothing to flush


def _set_up_logging(*, debug: bool) -> None:
    """Messages of safehold's own loggers on standard error: warnings, or everything under --debug."""
    logger = logging.getLogger("safehold")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if debug else logging.WARNING)


if __name__ == "__main__":
    sys.exit(main())
