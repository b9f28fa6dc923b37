"""Files that are hostile, broken or cut, of every format, through the command line: a reason, an exit code, no output.

Kinds of fault that one format alone can have are tested beside its reader; here is what all have in common.
"""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from logged_episodes import dataset_of, flat_rows, one_cost, save_hdf5
from test_d4rl import d4rl_rows
from test_minari import COSTS, arrays_of, save
from test_npz import ours, save_npz
from test_tables import rows_of
from test_tables import save as save_table

from safehold.cli.main import main
from safehold.core.errors import DataError, IntegrityError, ResourceError, SafeholdError
from safehold.data import hdf5
from safehold.data.declared import Columns
from safehold.data.layouts import read_with_findings

DATASET = dataset_of([3, 4])
TABLE = Columns(costs={"speed": "speed", "tilt": "tilt"})


def _ours(place: Path) -> Path:
    hdf5.write(place / "a.hdf5", DATASET)
    return place / "a.hdf5"


def _minari(place: Path) -> Path:
    save(place / "d", arrays_of(DATASET))
    return place / "d" / "data" / "main_data.hdf5"


FORMATS: dict[str, tuple[Callable[[Path], Path], Columns | None]] = {
    "safehold": (_ours, None),
    "dsrl": (lambda place: save_hdf5(place / "a.hdf5", flat_rows([3, 4])), None),
    "d4rl": (lambda place: save_hdf5(place / "a.hdf5", d4rl_rows([3, 4])), None),
    "minari": (_minari, COSTS),
    "npz-flat": (lambda place: save_npz(place / "a.npz", flat_rows([3, 4])), None),
    "npz-offsets": (lambda place: save_npz(place / "a.npz", ours(one_cost(DATASET))), None),
    "csv": (lambda place: save_table(place / "a.csv", rows_of(DATASET)), TABLE),
    "parquet": (lambda place: save_table(place / "a.parquet", rows_of(DATASET)), TABLE),
}
"""How a small sound file of each format is made, and what must be said to read it."""

IN_PROCESS = [name for name in FORMATS if name != "parquet"]
"""Formats that are decoded in this process; a parquet file costs half a second for a process of its own."""


def refused(path: Path, code: int, capsys: pytest.CaptureFixture[str]) -> str:
    """What `data convert` says; it must fail with the code, quickly, and write nothing."""
    before = sorted(path.parent.rglob("*"))
    started = time.process_time()
    assert main(["data", "convert", str(path), str(path.parent / "out.hdf5"), "--quiet"]) == code
    assert time.process_time() - started < 5.0
    assert sorted(path.parent.rglob("*")) == before
    said = capsys.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err
    return said.err


@pytest.mark.parametrize("name", FORMATS)
def test_a_sound_file_of_each_format_reads(tmp_path: Path, name: str) -> None:
    make, columns = FORMATS[name]
    reading = read_with_findings(make(tmp_path), columns=columns)
    np.testing.assert_array_equal(reading.dataset.lengths, [3, 4])


@pytest.mark.parametrize("suffix", ["hdf5", "h5", "npz", "csv", "tsv", "parquet", "xyz"])
@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "the file is empty (0 bytes)"),
        (b"hello\n", "begins with b'hello|is one column, 'hello'"),
        (b"\x89PNG\r\n\x1a\n\xff", "a PNG image"),
        (b"\x80\x04\x95\x00", "a Python pickle, which is never opened here"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull|is one column"),
        (b"\0" * 4096, "begins with b'|must name each column"),
    ],
)
def test_what_is_no_data_is_refused_by_its_first_bytes(tmp_path: Path, capsys, suffix: str, content, why: str) -> None:
    path = tmp_path / f"data.{suffix}"
    path.write_bytes(content)
    said = refused(path, 3, capsys)
    assert any(part in said for part in why.split("|"))


def test_missing_files_and_empty_directories_are_refused(tmp_path: Path, capsys) -> None:
    (tmp_path / "in").mkdir()
    assert "No such file" in refused(tmp_path / "in" / "nothing.csv", 3, capsys)
    (tmp_path / "in" / "empty").mkdir()
    assert "without main_data.hdf5" in refused(tmp_path / "in" / "empty", 3, capsys)


@pytest.mark.parametrize(
    ("link", "why"),
    [
        (h5py.SoftLink("/episode_0/rewards"), "is a soft link to '/episode_0/rewards'"),
        (h5py.SoftLink("/episode_0/infos/speed"), "is a soft link to '/episode_0/infos/speed'"),
        (h5py.ExternalLink("/etc/hostname", "/secret"), "is an external link to '/secret' in the file '/etc/hostname'"),
    ],
)
def test_links_inside_an_episode_are_refused_and_printed(tmp_path: Path, capsys, link, why: str) -> None:
    path = _minari(tmp_path)
    with h5py.File(path, "r+") as file:
        del file["episode_0/infos/speed"]
        file["episode_0/infos/speed"] = link
    assert why in refused(path, 3, capsys)


def test_bytes_elsewhere_are_refused_inside_an_episode(tmp_path: Path) -> None:
    for name, why in (("external", "keeps its bytes in another file"), ("virtual", "is a virtual dataset over")):
        (tmp_path / name).mkdir()
        path = _minari(tmp_path / name)
        with h5py.File(path, "r+") as file:
            group = file["episode_0/infos"]
            del group["speed"]
            if name == "external":
                (path.parent / "secret.bin").write_bytes(bytes(24))
                group.create_dataset("speed", (3,), "f8", external=[(str(path.parent / "secret.bin"), 0, 24)])
            else:
                layout = h5py.VirtualLayout((3,), dtype="f8")
                layout[:] = h5py.VirtualSource(str(path.parent / "source.h5"), "x", (3,))
                group.create_virtual_dataset("speed", layout)
        with pytest.raises(SafeholdError, match=why):
            read_with_findings(path, columns=COSTS)


def test_a_small_file_that_claims_much_exits_with_7(tmp_path: Path, capsys) -> None:
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w") as file:
        for name in ("observations", "next_observations", "actions"):
            file.create_dataset(name, (4_000_000_000, 1), "f4", chunks=(1000, 1))
        for name in ("rewards", "costs", "terminals", "timeouts"):
            file.create_dataset(name, (4_000_000_000,), "f4", chunks=(1000,))
    assert path.stat().st_size < 20_000
    assert "the budget is 8 GiB" in refused(path, 7, capsys)


@pytest.mark.parametrize("name", ["dsrl", "d4rl", "npz-flat"])
def test_numbers_of_every_kind_are_read_exactly_or_refused(tmp_path: Path, name: str) -> None:
    key = "infos/cost" if name == "d4rl" else "costs"
    rows = d4rl_rows([3, 4]) if name == "d4rl" else flat_rows([3, 4])

    def costs(values: np.ndarray) -> np.ndarray:
        path = tmp_path / ("a.npz" if name == "npz-flat" else "a.hdf5")
        write = save_npz if name == "npz-flat" else save_hdf5
        return read_with_findings(write(path, {**rows, key: values})).dataset.costs[:, 0]

    for dtype in ("?", "i1", "u8", ">i4", "f2", ">f8"):
        np.testing.assert_array_equal(costs(np.array([0, 1, 0, 1, 1, 0, 0], dtype=dtype)), [0, 1, 0, 1, 1, 0, 0])
    with np.errstate(over="ignore"):
        overflown = np.full(7, 1e6).astype(np.float16)
    for values, why in (
        (overflown, "is inf"),
        (np.full(7, 2**60 + 1), "expected what float64 holds exactly"),
        (np.array([b"0"] * 7), "expected real numbers"),
        (np.zeros(7, dtype=complex), "expected real numbers"),
        (np.full(7, -1.0), "is negative"),
    ):
        with pytest.raises(SafeholdError, match=why):
            costs(values)


@pytest.mark.parametrize("name", ["npz-flat", "npz-offsets", "csv"])
def test_many_episodes_of_one_step_are_handled(tmp_path: Path, name: str) -> None:
    n = 20_000
    wide, flat = np.zeros((n, 1), dtype=np.float32), np.zeros(n)
    if name == "npz-flat":
        rows = dict.fromkeys(("observations", "next_observations", "actions"), wide)
        path = save_npz(
            tmp_path / "a.npz", rows | {"rewards": flat, "costs": flat, "terminals": flat + 1, "timeouts": flat}
        )
    elif name == "npz-offsets":
        rows = {"observations": np.zeros((2 * n, 1)), "actions": wide, "rewards": flat, "costs": wide}
        rows |= {"offsets": np.arange(n + 1), "terminated": np.ones(n, dtype=bool)}
        path = save_npz(tmp_path / "a.npz", rows)
    else:
        lines = "".join(f"{i},0,0,0,0,1\n" for i in range(n))
        path = tmp_path / "a.csv"
        path.write_text("episode,observation_0,action_0,reward,cost,terminated\n" + lines)
    assert len(read_with_findings(path).dataset) == n


# What chance does to a file ---------------------------------------------------------------------------------------

damage = st.lists(
    st.tuples(st.sampled_from(["flip", "set", "cut", "copy", "drop"]), st.floats(0, 1), st.integers(0, 255)),
    min_size=1,
    max_size=6,
)


def damaged(whole: bytes, changes: list[tuple[str, float, int]]) -> bytes:
    """A file with bits flipped, bytes set, copied or left out, or its end cut off."""
    content = bytearray(whole)
    for how, where, value in changes:
        place = min(int(where * len(content)), max(0, len(content) - 1))
        if not content or how == "cut":
            del content[place:]
        elif how == "flip":
            content[place] ^= 1 << value % 8
        elif how == "set":
            content[place] = value
        elif how == "copy":
            content[place : place + 8] = content[value : value + 8]
        else:
            del content[place : place + 1 + value % 8]
    return bytes(content)


def assert_ends_well(path: Path, columns: Columns | None) -> None:
    """A result or a typed error; anything else fails the test."""
    with contextlib.suppress(DataError, IntegrityError, ResourceError):
        read_with_findings(path, columns=columns, budget=2**24)


@pytest.mark.parametrize("name", IN_PROCESS)
@given(changes=damage)
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_file_ends_in_a_result_or_a_typed_error(tmp_path: Path, name: str, changes) -> None:
    make, columns = FORMATS[name]
    kept = tmp_path / "whole"
    if not kept.exists():
        kept.write_bytes(make(tmp_path).read_bytes())
    path = next(p for p in sorted(tmp_path.rglob("*")) if p.suffix in (".hdf5", ".npz", ".csv"))
    path.write_bytes(damaged(kept.read_bytes(), changes))
    assert_ends_well(path, columns)


@given(changes=damage)
@settings(
    max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_damaged_metadata_ends_in_a_result_or_a_typed_error(tmp_path: Path, changes) -> None:
    kept = tmp_path / "whole"
    if not kept.exists():
        kept.write_bytes(_minari(tmp_path).with_name("metadata.json").read_bytes())
    data = tmp_path / "d" / "data"
    (data / "metadata.json").write_bytes(damaged(kept.read_bytes(), changes))
    assert_ends_well(data / "main_data.hdf5", COSTS)


@pytest.mark.slow
@given(changes=damage)
@settings(
    max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_damaged_parquet_file_ends_in_a_result_or_a_typed_error(tmp_path: Path, changes) -> None:
    kept = tmp_path / "whole"
    if not kept.exists():
        kept.write_bytes(FORMATS["parquet"][0](tmp_path).read_bytes())
    (tmp_path / "a.parquet").write_bytes(damaged(kept.read_bytes(), changes))
    assert_ends_well(tmp_path / "a.parquet", TABLE)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_parquet_file_that_was_cut_is_refused(tmp_path: Path, share: float) -> None:
    path = FORMATS["parquet"][0](tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(SafeholdError, match="Parquet"):
        read_with_findings(path, columns=TABLE)
