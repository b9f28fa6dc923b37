"""A world behind a process: what is asked arrives, and a process that dies, hangs or lies is an error that says so."""

import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from safehold.core.errors import EnvironmentFault, UsageError
from safehold.envs.bridge import Bridge
from safehold.envs.suites import metadrive

CHILD = Path(metadrive.__file__).with_name("metadrive_child.py")


def played_by(lines: str) -> tuple[str, ...]:
    """The command of a process that runs these lines, with `frames.read` and `frames.write` at hand."""
    script = f"import os, sys, time\nsys.path.insert(0, {str(CHILD.parent)!r})\nimport metadrive_child as frames\n"
    ends = "asks, answers = sys.stdin.buffer, sys.stdout.buffer\n"
    return (sys.executable, "-I", "-c", script + ends + textwrap.dedent(lines))


def bridge(lines: str) -> Bridge:
    return Bridge("a/world", played_by(lines))


ECHO = """
    while (asked := frames.read(asks)) is not None:
        frames.write(answers, *asked)
"""


def test_a_question_arrives_and_its_answer_comes_back_bit_for_bit() -> None:
    said = bridge(ECHO)
    sent = np.array([0.1, -1e-30, np.inf, 3.4e38], dtype=np.float32)
    for number in range(3):
        answer = said.ask({"do": "step", "seed": 2**61 + number, "reward": 0.1}, sent, seconds=20.0)
        assert answer.head == {"do": "step", "seed": 2**61 + number, "reward": 0.1}
        np.testing.assert_array_equal(answer.values, sent)
    said.close()


def test_a_number_that_is_none_travels_as_it_is() -> None:
    said = bridge(ECHO)
    answer = said.ask({"cost": float("nan")}, np.array([np.nan], dtype=np.float32), seconds=20.0)
    assert np.isnan(answer.head["cost"])
    assert np.isnan(answer.values[0])
    said.close()


SLEEPS = "answers.flush(); time.sleep(60)"
HEAD = "answers.write(frames.LENGTHS.pack"


@pytest.mark.parametrize(
    ("lines", "seconds", "message"),
    [
        ("frames.read(asks); sys.exit('no licence')", 20.0, "ended with exit code 1; .*build a new world.*no licence"),
        ("os.kill(os.getpid(), 9)", 20.0, "exit code -9 .killed, perhaps out of memory"),
        (SLEEPS, 0.3, "did not answer within 0.3 s; the machine is overloaded, or the simulator hangs"),
        (f"{HEAD}(2, 4) + b'{{}}' + bytes(15)); {SLEEPS}", 0.3, "did not answer within"),
        (f"{HEAD}(2, 4) + b'{{}}' + bytes(15))", 20.0, "ended with exit code 0"),
        ("os.close(1); time.sleep(60)", 20.0, "closed its pipes but runs on"),
        (f"print('Registered: 14 worlds', flush=True); {SLEEPS}", 20.0, "does not speak this protocol"),
        (f"{HEAD}(2, 2**31)); {SLEEPS}", 20.0, "2147483648 values, more than any answer has"),
        (f"{HEAD}(9, 0) + b'{{\"did\": 1'); {SLEEPS}", 20.0, "is not JSON"),
        (f"{HEAD}(2, 0) + b'[]'); {SLEEPS}", 20.0, "expected a JSON object"),
        ("frames.write(answers, {'broken': 'KeyError: velocity'}, ())", 20.0, "says that KeyError: velocity"),
    ],
)
def test_a_process_that_breaks_its_word_is_ended_and_the_error_says_how(
    lines: str, seconds: float, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("safehold.envs.bridge._GOODBYE", 0.2)
    said = bridge(lines)
    with pytest.raises(EnvironmentFault, match=message):
        said.ask({"do": "reset"}, seconds=seconds)
    assert said._process.poll() is not None
    with pytest.raises(EnvironmentFault, match="a/world: its process was ended before; build a new world"):
        said.ask({"do": "reset"}, seconds=seconds)


def test_what_is_not_installed_is_the_users_to_mend() -> None:
    with pytest.raises(UsageError, match="run `make driving`"):
        bridge("frames.write(answers, {'missing': 'run `make driving`'}, ())").ask({}, seconds=20.0)


def test_an_interpreter_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match=r"/no/python cannot be started .*name a Python interpreter"):
        Bridge("a/world", ("/no/python", "-I", str(CHILD)))


def test_the_process_ends_with_the_bridge() -> None:
    said = bridge(ECHO)
    process = said._process
    del said
    assert process.wait(10) is not None
