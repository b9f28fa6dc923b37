import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from safehold.cli import main as front_door
from safehold.cli.main import NOUNS, main
from safehold.core.errors import (
    Conflict,
    DataError,
    EnvironmentFault,
    IntegrityError,
    NoCertifiedTarget,
    ResourceError,
    UsageError,
)

EVERY_VERB = [tuple(f"{noun} {verb}".split()) for noun, (_, verbs) in NOUNS.items() for verb in verbs]


def tidy(text: str) -> bool:
    return "Traceback" not in text and len(text.splitlines()) <= 10


@pytest.mark.parametrize("words", EVERY_VERB, ids=" ".join)
def test_every_verb_has_help(safehold, words):
    ran = safehold(*words, "--help")
    assert ran.code == 0
    assert ran.out.startswith(f"usage: safehold {' '.join(words)}")
    assert "--json" in ran.out


@pytest.mark.parametrize("words", EVERY_VERB, ids=" ".join)
def test_every_verb_names_the_nearest_flag(safehold, words):
    ran = safehold(*words, "--jsno")
    assert ran.code == 2
    assert "There is no flag --jsno. Did you mean `--json`?" in ran.err
    assert ran.out == ""
    assert tidy(ran.err)


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",), ("help",), ("data",), ("data", "--help")])
def test_without_a_verb_the_verbs_are_shown(safehold, words):
    ran = safehold(*words)
    assert ran.code == 0
    assert "data check" in ran.out
    assert "Exit codes: 0 ok, 2 usage" in ran.out


def test_version(safehold):
    assert safehold("--version").out == "safehold 0.1.0\n"


@pytest.mark.parametrize(
    ("words", "nearest"),
    [
        (("doctr",), "safehold doctor"),
        (("dat", "check"), "safehold data"),
        (("data", "chek"), "safehold data check"),
        (("deploy", "recomend"), "safehold deploy recommend"),
        (("env",), "safehold envs"),
    ],
)
def test_a_mistyped_verb_gets_the_nearest_one(safehold, words, nearest):
    ran = safehold(*words)
    assert ran.code == 2
    assert f"Did you mean `{nearest}`?" in ran.err
    assert tidy(ran.err)


def test_a_word_like_nothing_gets_the_known_ones(safehold):
    ran = safehold("qqqqqq")
    assert ran.code == 2
    assert "Did you mean" not in ran.err
    assert "Known: data, " in ran.err


@pytest.mark.parametrize(
    ("limit", "why"),
    [
        ("nan", "finite number"),
        ("inf", "finite number"),
        ("-inf", "finite number"),
        ("-1", "greater than or equal to 0"),
        ("ten", "valid number"),
        ("", "valid number"),
    ],
)
def test_an_impossible_limit_is_refused_by_name(safehold, limit, why):
    ran = safehold("data", "check", "x.hdf5", "--limit", limit)
    assert ran.code == 2
    assert "--limit" in ran.err
    assert why in ran.err
    assert tidy(ran.err)


@pytest.mark.parametrize("limit", ["nan", "-1", "ten"])
def test_a_limit_after_an_equals_sign_is_refused_as_well(safehold, limit):
    ran = safehold("data", "check", "x.hdf5", f"--limit={limit}")
    assert ran.code == 2
    assert f"--limit {limit}" in ran.err


@pytest.mark.parametrize("seed", ["-1", str(2**64), str(2**63), "1.5", "one"])
def test_an_impossible_seed_is_refused_by_name(safehold, seed):
    ran = safehold("envs", "check", "toy/Corridor", "--seed", seed)
    assert ran.code == 2
    assert f"--seed {seed}" in ran.err
    assert tidy(ran.err)


def test_a_missing_value_is_named(safehold):
    ran = safehold("data", "check", "x.hdf5", "--limit")
    assert ran.code == 2
    assert "--limit needs a value" in ran.err


def test_a_missing_argument_is_named(safehold):
    assert "Missing: FILE." in safehold("data", "check").err
    assert "Missing: TARGET." in safehold("data", "convert", "x").err
    assert "Missing: --reason." in safehold("deploy", "abandon", "run", "trial-0000").err


def test_one_argument_too_many_is_named(safehold):
    ran = safehold("data", "check", "one", "two")
    assert ran.code == 2
    assert "Not understood: two" in ran.err


def test_a_value_that_is_no_choice_is_told_the_choices(safehold):
    ran = safehold("data", "convert", "x", "y", "--layout", "minari")
    assert ran.code == 2
    assert "'safehold' or 'dsrl'" in ran.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError, 2),
        (DataError, 3),
        (IntegrityError, 4),
        (Conflict, 4),
        (EnvironmentFault, 5),
        (NoCertifiedTarget, 6),
        (ResourceError, 7),
        (MemoryError, 7),
        (ZeroDivisionError, 1),
        (KeyboardInterrupt, 130),
        (BrokenPipeError, 141),
    ],
)
def test_every_way_to_end_has_its_exit_code_and_no_traceback(monkeypatch, capsys, error, code):
    def fails(_argv):
        raise error("the reason \x1b[31m\u202e")

    monkeypatch.setattr(front_door, "_dispatch", fails)
    monkeypatch.setattr(front_door, "_silence_stdout", lambda: None)
    assert main(["doctor"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert tidy(captured.err)
    assert "\x1b" not in captured.err
    assert "\u202e" not in captured.err


def test_a_fault_of_ours_names_the_way_to_its_traceback(monkeypatch, capsys):
    def fails(_argv):
        raise ZeroDivisionError("1 / 0")

    monkeypatch.setattr(front_door, "_dispatch", fails)
    main(["doctor"])
    assert "--debug" in capsys.readouterr().err
    main(["doctor", "--debug"])
    assert "Traceback" in capsys.readouterr().err


def test_doctor_says_what_is_here_and_how_many_threads(safehold):
    ran = safehold("doctor", "--json")
    assert ran.code == 0
    assert ran.json["ok"]
    assert ran.json["torch_threads"] == 1
    assert {p["name"] for p in ran.json["packages"]} >= {"torch", "h5py", "mujoco", "pybullet"}
    assert "torch threads" in safehold("doctor").out


def in_a_shell(line: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    program = f"{sys.executable} -m safehold.cli.main"
    return subprocess.run(
        ["bash", "-c", line.replace("safehold", program)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def test_a_closed_pipe_ends_without_a_traceback(finished, tmp_path):
    ran = in_a_shell(f"safehold deploy status {finished} | true; echo ${{PIPESTATUS[0]}}", tmp_path)
    assert ran.stderr == ""
    assert ran.stdout.strip() in ("141", "0")


def test_closed_streams_end_without_a_traceback(finished, tmp_path):
    ran = in_a_shell(f"safehold deploy status {finished} >&- <&-; echo $?", tmp_path)
    assert (ran.stdout.strip(), ran.stderr) == ("0", "")
    ran = in_a_shell("safehold doctr 2>&- <&-; echo $?", tmp_path)
    assert (ran.stdout.strip(), ran.stderr) == ("2", "")


def test_a_narrow_ascii_terminal_without_colour_shows_everything(finished, tmp_path):
    ran = in_a_shell(
        f"safehold deploy status {finished}", tmp_path, PYTHONIOENCODING="ascii", COLUMNS="40", NO_COLOR="1", LC_ALL="C"
    )
    assert ran.returncode == 0
    assert ran.stderr == ""
    assert ran.stdout.isascii()
    assert "\x1b" not in ran.stdout
    assert "3 of at most 3" in ran.stdout


def test_checks_stay_when_python_drops_assertions(tmp_path):
    ran = in_a_shell("safehold data check x --limit -1", tmp_path, PYTHONOPTIMIZE="2")
    assert ran.returncode == 2
    assert "--limit -1" in ran.stderr


def test_help_and_data_check_stay_away_from_torch(tmp_path):
    lines = [
        "import sys",
        "from safehold.cli.main import main",
        "main(sys.argv[1:])",
        "print([m for m in ('torch', 'gymnasium', 'matplotlib') if m in sys.modules])",
    ]
    for words in (["--help"], ["data", "check", "nothing.hdf5"], ["deploy", "status", "nothing"]):
        ran = subprocess.run(
            [sys.executable, "-c", "\n".join(lines), *words], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert ran.stdout.splitlines()[-1] == "[]", ran.stderr


def test_json_output_is_one_value_and_nothing_else(safehold, finished):
    for words in (("deploy", "status", finished), ("data", "check", finished / "episodes.hdf5"), ("envs", "list")):
        ran = safehold(*words, "--json")
        assert json.loads(ran.out)
        assert "NaN" not in ran.out
