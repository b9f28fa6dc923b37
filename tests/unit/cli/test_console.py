import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from safehold.cli.console import Output, plain
from safehold.cli.demo import print_verdict
from safehold.cli.narration import Narration
from safehold.report.run import read_run

HOSTILE = "[red]\x1b[31m\u202ename[/red] :smile:"


def terminal(width: int = 60) -> tuple[Output, io.StringIO, io.StringIO]:
    out, err = io.StringIO(), io.StringIO()
    consoles = [
        Console(file=stream, force_terminal=True, width=width, markup=False, highlight=False, emoji=False)
        for stream in (out, err)
    ]
    return Output(out=consoles[0], err=consoles[1]), out, err


def test_names_of_strangers_are_shown_inert(capsys):
    output = Output()
    output.say(HOSTILE)
    output.table(HOSTILE, ("column",), [(HOSTILE,)])
    output.box("title", [HOSTILE], "red")
    output.line("event", HOSTILE)
    captured = capsys.readouterr()
    for text in (captured.out, captured.err):
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "[red]\\u001b[31m\\u202ename[/red] :smile:" in text


def test_under_json_only_the_result_is_on_standard_output(capsys):
    output = Output(as_json=True)
    output.say("words")
    output.table("title", ("column",), [("cell",)])
    output.box("title", ["line"], "red")
    output.result({"value": math.inf, "path": Path("a"), "array": np.array([1.0, math.nan])})
    assert json.loads(capsys.readouterr().out) == {"value": "inf", "path": "a", "array": [1.0, "nan"]}


def test_plain_values_are_what_json_knows():
    assert plain({1: (np.float64(2.5), np.int64(3), True, None)}) == {"1": [2.5, 3, True, None]}


@pytest.mark.parametrize("as_json", [False, True])
def test_without_a_terminal_progress_is_a_line_at_every_tenth(capsys, as_json):
    with Narration(Output(as_json=as_json)) as narration:
        narration.stage("begin")
        for done in range(1, 101):
            narration.progress("episodes", done, 100)
    captured = capsys.readouterr()
    assert captured.err.count("episodes") == 10
    assert "episodes 100/100" in captured.err
    assert "episodes" not in captured.out


def test_work_of_the_same_name_is_counted_anew(capsys):
    with Narration(Output()) as narration:
        for _ in range(2):
            for done in range(1, 11):
                narration.progress("episodes", done, 10)
    assert capsys.readouterr().err.count("10/10") == 2


def test_lines_for_machines_are_json(capsys):
    with Narration(Output(log_format="json")) as narration:
        narration.progress("episodes", 5, 10)
    record = json.loads(capsys.readouterr().err)
    assert (record["event"], record["done"], record["total"]) == ("progress", 5, 10)


def test_quiet_says_nothing_on_standard_error(capsys):
    with Narration(Output(quiet=True)) as narration:
        narration.progress("episodes", 10, 10)
    assert capsys.readouterr().err == ""


def test_on_a_terminal_progress_is_a_bar_that_goes_away():
    output, _, err = terminal()
    with Narration(output) as narration:
        narration.progress("episodes", 1, 2)
        narration.line("in between")
        narration.progress("episodes", 2, 2)
    assert "episodes" in err.getvalue()
    assert "1/2" in err.getvalue()


@pytest.mark.parametrize("width", [40, 100])
def test_the_verdict_fits_its_terminal(finished, width):
    output, out, _ = terminal(width)
    print_verdict(read_run(finished), output)
    text = out.getvalue()
    assert "SAFE" in text
    assert "A1-prior" in text
    assert "safehold deploy verify" in text
