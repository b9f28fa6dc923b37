"""The .npz archives: what goes through, what is refused before it is inflated, and that nothing is ever unpickled."""

import io
import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from logged_episodes import SPEC, dataset_of, flat_rows, save_hdf5

from safehold.core.errors import DataError, IntegrityError, ResourceError
from safehold.data.dataset import DTYPES, OfflineDataset
from safehold.data.declared import Columns
from safehold.data.layouts import read_any, read_with_findings
from safehold.data.npz import opened_npz


def save_npz(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    np.savez_compressed(path, **arrays)
    return path


def ours(dataset: OfflineDataset) -> dict[str, np.ndarray]:
    return {name: getattr(dataset, name) for name in DTYPES}


def members(path: Path, contents: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return path


def npy(header: bytes, content: bytes = b"", version: int = 1) -> bytes:
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H", len(header)) + header + content


def test_flat_rows_read_as_from_hdf5(tmp_path: Path) -> None:
    rows = flat_rows([3, 4, 1])
    reading = read_with_findings(save_npz(tmp_path / "a.npz", rows))
    assert reading.layout == "npz-dsrl"
    assert reading.dataset.digest == read_any(save_hdf5(tmp_path / "a.hdf5", rows)).digest


def test_the_arrays_of_our_layout_read_with_their_task(tmp_path: Path) -> None:
    dataset = dataset_of([3, 4, 1])
    text = np.array(json.dumps(SPEC.to_json()))
    reading = read_with_findings(save_npz(tmp_path / "a.npz", {**ours(dataset), "spec": text}))
    assert (reading.layout, reading.findings) == ("npz-offsets", ())
    assert reading.dataset.digest == dataset.digest
    given = read_any(save_npz(tmp_path / "b.npz", ours(dataset)), spec=SPEC)
    assert given.digest == dataset.digest
    named = read_any(tmp_path / "b.npz", columns=Columns(costs={"speed": "costs", "tilt": "costs"}))
    assert named.spec.cost_names == ("speed", "tilt")
    with pytest.raises(DataError, match="costs has 2 columns, and 1 names: cost; give the task"):
        read_any(tmp_path / "b.npz")


def test_infos_are_found_by_their_path(tmp_path: Path) -> None:
    rows = flat_rows([3, 4])
    rows["infos/cost"] = rows.pop("costs") * 2
    reading = read_with_findings(save_npz(tmp_path / "a.npz", rows))
    assert reading.layout == "npz-d4rl"
    assert reading.dataset.costs.max() == 2


def test_column_major_and_big_endian_arrays_come_in_exactly(tmp_path: Path) -> None:
    rows = flat_rows([3, 4])
    turned = {**rows, "observations": np.asfortranarray(rows["observations"]), "costs": rows["costs"].astype(">i2")}
    assert read_any(save_npz(tmp_path / "a.npz", turned)).digest == read_any(save_npz(tmp_path / "b.npz", rows)).digest


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([None] * 7), "Python objects, which are never unpickled"),
        (np.array(["0"] * 7), "holds '<U1'; expected real numbers"),
        (np.zeros(7, dtype=[("a", "f8")]), "holds 'records'"),
        (np.zeros(7, dtype=complex), "holds '<c16'"),
        (np.zeros(6), "costs has 6 rows, observations has 7"),
        (np.full(7, 1e300, dtype=np.longdouble), "holds '<f16'"),
    ],
)
def test_what_is_no_number_or_does_not_fit_is_refused(tmp_path: Path, values: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_any(save_npz(tmp_path / "a.npz", {**flat_rows([3, 4]), "costs": values}))


def test_float16_that_overflowed_is_named(tmp_path: Path) -> None:
    with np.errstate(over="ignore"):
        rewards = np.linspace(0, 1e6, 7).astype(np.float16)
    with pytest.raises(DataError, match=r"rewards\[1\] is inf"):
        read_any(save_npz(tmp_path / "a.npz", {**flat_rows([3, 4]), "rewards": rewards}))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"{'descr': '<f8', 'fortran_order': False, 'shape': (4000000000,)}", "claims shape .* 32000000000 bytes"),
        (b"{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}", "a header that is none"),
        (b"{'descr': '<f8', 'fortran_order': False, 'shape': 3}", "a header that is none"),
        (b"{'descr': '<f8', 'shape': ()}", "a header that is none"),
        (b"__import__('os').system('true')", "a header that is none"),
        (b"(" * 9000, "a header that is none"),
        (b"-" * 9000 + b"1", "a header that is none"),
        (b" " * 20_000, "a header of 20000 bytes"),
        (b"\xff", "a header that is none"),
    ],
)
def test_headers_are_not_believed(tmp_path: Path, header: bytes, message: str) -> None:
    path = members(tmp_path / "a.npz", {"costs.npy": npy(header, bytes(24))})
    with pytest.raises(DataError, match=message), opened_npz(path) as file:
        file.arrays({"costs": np.dtype(float)})


def test_a_bomb_is_refused_before_it_is_inflated(tmp_path: Path) -> None:
    zeros = io.BytesIO()
    np.lib.format.write_array(zeros, np.zeros(2_000_000))
    path = members(tmp_path / "a.npz", {"costs.npy": zeros.getvalue()})
    assert path.stat().st_size < 20_000
    with opened_npz(path, budget=10**6) as file, pytest.raises(ResourceError, match=r"takes 0\.0447 GiB of memory"):
        file.arrays({"costs": np.dtype(float)})
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02")  # the directory's entry: claim 1 GB from 16 kB, and a header that agrees
    struct.pack_into("<L", content, entry + 24, 10**9)
    path.write_bytes(content)
    with opened_npz(path) as file, pytest.raises(DataError, match="the archive holds"):
        file.arrays({"costs": np.dtype(float)})


def test_more_than_deflate_can_hold_is_refused(tmp_path: Path) -> None:
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (999999920,)}".ljust(70)
    path = members(tmp_path / "a.npz", {"costs.npy": npy(header, bytes(1000))})
    content = bytearray(path.read_bytes())
    struct.pack_into("<L", content, content.rindex(b"PK\x01\x02") + 24, 10**9)
    path.write_bytes(content)
    with opened_npz(path) as file, pytest.raises(ResourceError, match="cannot hold the 1000000000"):
        file.arrays({"costs": np.dtype(float)})


def test_a_flipped_bit_fails_its_checksum(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **flat_rows([30, 40]))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[content.index(b"costs.npy") + 200] ^= 1
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(IntegrityError, match="costs: stored bytes are damaged"):
        read_any(tmp_path / "a.npz")


def test_archives_that_are_no_npz_are_refused(tmp_path: Path) -> None:
    for name, message in (("notes.txt", r"holds 'notes.txt'"), ("\x1b[2J.npy", "cannot be printed")):
        with pytest.raises(DataError, match=message):
            read_any(members(tmp_path / "a.npz", {name: b"text"}))
    with pytest.raises(DataError, match="no NumPy array of version 1 to 3"):
        read_any(members(tmp_path / "a.npz", {"offsets.npy": b"text", "costs.npy": b"text"}))
    members(tmp_path / "b.npz", {"costs.npy": b"1", "cosst.npy": b"2"}, zipfile.ZIP_STORED)
    (tmp_path / "b.npz").write_bytes((tmp_path / "b.npz").read_bytes().replace(b"cosst", b"costs"))
    with pytest.raises(DataError, match="costs twice"):
        read_any(tmp_path / "b.npz")
    with pytest.raises(DataError, match="another method than deflate"):
        read_any(members(tmp_path / "c.npz", {"costs.npy": b"1" * 99}, zipfile.ZIP_BZIP2))
    (tmp_path / "d.npz").write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(DataError, match="no directory at its end"):
        read_any(tmp_path / "d.npz")


def test_a_directory_of_many_members_is_refused(tmp_path: Path) -> None:
    path = members(tmp_path / "a.npz", {f"{i}.npy": b"" for i in range(10_001)}, zipfile.ZIP_STORED)
    with pytest.raises(ResourceError, match="lists 10001 members"):
        read_any(path)


def test_an_archive_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = save_npz(tmp_path / "a.npz", flat_rows([3]))

    def read_while_it_changes() -> None:
        with opened_npz(path) as file:
            file.arrays({"costs": np.dtype(float)})
            with path.open("ab") as other:
                other.write(b"\0")

    with pytest.raises(DataError, match="changed while it was read"):
        read_while_it_changes()
