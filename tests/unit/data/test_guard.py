"""Hostile and broken files: each ends in a typed error that says what was wrong; nothing outside is opened."""

import os
import resource
import subprocess
import sys
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from safehold.core.errors import DataError, IntegrityError, ResourceError
from safehold.data import guard
from safehold.data.guard import convert, opened

FLOAT64 = np.dtype(np.float64)


def costs_of(path: Path, budget: int = guard.BUDGET) -> np.ndarray:
    with opened(path, budget) as file:
        return file.arrays({"costs": FLOAT64})[0]["costs"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"empty \(0 bytes\)"),
        (b"hello, world\n", r"begins with b'hello, world\\n'"),
        (b"\x89PNG\r\n\x1a\n" + bytes(8), "a PNG image"),
        (b"PK\x03\x04" + bytes(30), "a ZIP archive"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"<!DOCTYPE html>", "error page of a download"),
        (b"\x80\x04\x95", "pickle, which is never opened"),
        (b"\x89HDF\r\n\x1a\n", "begins like an HDF5 file but cannot be opened"),
        (b"\x89HDF\r\n\x1a\n" + bytes(5000), "begins like an HDF5 file but cannot be opened"),
    ],
)
def test_what_is_no_hdf5_file_is_named_by_its_first_bytes(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "data.hdf5"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        costs_of(path)


def test_a_truncated_file_is_refused_at_every_length(tmp_path: Path) -> None:
    path = tmp_path / "data.hdf5"
    with h5py.File(path, "w") as file:
        file["costs"] = np.arange(1000.0)
    content = path.read_bytes()
    for length in range(1, len(content), 97):
        path.write_bytes(content[:length])
        with pytest.raises((DataError, IntegrityError)):
            costs_of(path)


def test_directories_devices_and_missing_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, message in (
        (tmp_path, "not a plain file"),
        (tmp_path / "pipe", "not a plain file"),
        (tmp_path / "x", "No such file"),
        (Path("/dev/zero"), "not a plain file"),
    ):
        with pytest.raises(DataError, match=message):
            costs_of(path)


def test_links_are_refused_with_their_targets(tmp_path: Path) -> None:
    def soft(file: h5py.File) -> None:
        file["rewards"] = h5py.SoftLink("/elsewhere")

    def loop(file: h5py.File) -> None:
        file["rewards"] = h5py.SoftLink("/rewards")

    def external(file: h5py.File) -> None:
        file["rewards"] = h5py.ExternalLink("/etc/passwd", "/root")

    def nested(file: h5py.File) -> None:
        file.create_group("a/b/c")["rewards"] = h5py.ExternalLink("secret.h5", "/x")

    def cycle(file: h5py.File) -> None:
        inner = file.create_group("a/b")
        inner["again"] = file["a"]

    def root_cycle(file: h5py.File) -> None:
        file.create_group("a")["root"] = file["/"]

    def alias(file: h5py.File) -> None:
        file["rewards"] = file["costs"]

    for make, message in (
        (soft, "/rewards is a soft link to '/elsewhere'"),
        (loop, "/rewards is a soft link to '/rewards'"),
        (external, "/rewards is an external link to '/root' in the file '/etc/passwd'"),
        (nested, "/a/b/c/rewards is an external link to '/x' in the file 'secret.h5'"),
        (cycle, "/a/b/again is the same object as /a "),
        (root_cycle, "/a/root is the same object as / "),
        (alias, "is the same object as /"),
    ):
        path = tmp_path / f"{make.__name__}.h5"
        with h5py.File(path, "w") as file:
            file["costs"] = np.zeros(3)
            make(file)
        with pytest.raises(DataError, match=message):
            costs_of(path)


def test_external_storage_is_refused_and_never_opened(tmp_path: Path) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(24))
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("costs", shape=(3,), dtype="f8", external=[(str(secret), 0, 24)])
    with pytest.raises(DataError, match=r"keeps its bytes in another file, '.*secret\.bin'"):
        costs_of(path)


@pytest.mark.parametrize("present", [True, False])
def test_virtual_datasets_are_refused(tmp_path: Path, present: bool) -> None:
    if present:
        with h5py.File(tmp_path / "source.h5", "w") as file:
            file["x"] = np.ones(3)
    layout = h5py.VirtualLayout((3,), dtype="f8")
    layout[:] = h5py.VirtualSource(str(tmp_path / "source.h5"), "x", (3,))
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file.create_virtual_dataset("costs", layout)
    with pytest.raises(DataError, match=r"virtual dataset over .*source\.h5"):
        costs_of(tmp_path / "data.h5")


def test_costs_that_were_never_written_are_not_zeros(tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("costs", shape=(1000,), dtype="f8", chunks=(100,))[:950] = 1.0
        file.create_dataset("whole", shape=(1000,), dtype="f8")
    with opened(path) as file:
        file.arrays({"costs": FLOAT64})
        with pytest.raises(DataError, match="whole was never fully written"):
            file.arrays({"whole": FLOAT64})
    with h5py.File(path, "w") as file:
        file.create_dataset("costs", shape=(1000,), dtype="f8", chunks=(100,))[:900] = 1.0
    with pytest.raises(DataError, match=r"never fully written \(9 of 10 pieces.*look like safety"):
        costs_of(path)


def test_space_set_aside_before_writing_is_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        h5py.h5d.create(file.id, b"costs", h5py.h5t.IEEE_F64LE, h5py.h5s.create_simple((5,)), properties)
    with opened(path) as file:
        (finding,) = file.arrays({"costs": FLOAT64})[1]
    assert (finding.severity, finding.code) == ("warn", "allocated-early")


def test_a_small_file_that_claims_much_is_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("costs", shape=(4_000_000_000,), dtype="f8", chunks=(100_000,), compression="gzip")
    assert path.stat().st_size < 5000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ResourceError, match=r"claim 29.8 GiB .* largest is costs .*4000000000"):
        costs_of(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_a_piece_that_would_inflate_beyond_its_content_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    compressor = zlib.compressobj(9)
    bomb = b"".join(compressor.compress(bytes(2**20)) for _ in range(100)) + compressor.flush()
    with h5py.File(path, "w") as file:
        costs = file.create_dataset("costs", shape=(1000,), dtype="f8", chunks=(1000,), compression="gzip")
        costs.id.write_direct_chunk((0,), bomb)
    with pytest.raises(ResourceError, match="could inflate to"):
        costs_of(path)


def test_names_that_cannot_be_printed_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["costs"] = np.zeros(3)
        file["\x1b[2Jcosts"] = np.zeros(3)
    with pytest.raises(DataError, match="cannot be printed"):
        costs_of(tmp_path / "data.h5")


def test_many_objects_are_refused_in_bounded_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MOST_OBJECTS", 50)
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        for i in range(60):
            file.create_group(str(i))
    with pytest.raises(ResourceError, match="more than 50 objects"):
        costs_of(path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array(["0", "1"], dtype="S1"), "holds text"),
        (np.array([(0.0, 1.0)], dtype=[("a", "f8"), ("b", "f8")]), "holds compound records"),
        (np.zeros(3, dtype=np.complex128), "holds compound records|holds complex|HDF5 type class"),
        (np.zeros(3, dtype=np.longdouble), "expected real numbers"),
        (np.zeros(3, dtype="V4"), "holds opaque bytes"),
    ],
)
def test_what_is_no_number_is_refused(tmp_path: Path, values: np.ndarray, message: str) -> None:
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        file["costs"] = values
    with pytest.raises(DataError, match=message):
        costs_of(path)


@pytest.mark.parametrize(
    "dtype",
    [
        h5py.string_dtype(),
        h5py.ref_dtype,
        h5py.regionref_dtype,
        h5py.vlen_dtype(np.float64),
        h5py.enum_dtype({"low": 0, "high": 1}),
    ],
)
def test_special_types_are_refused(tmp_path: Path, dtype: np.dtype) -> None:
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("costs", shape=(3,), dtype=dtype)
    with pytest.raises(DataError, match="expected real numbers"):
        costs_of(path)


@pytest.mark.parametrize("dtype", ["?", "i1", "u1", ">i2", "i4", "<i8", "u8", "f2", ">f4", "f4", ">f8", "f8"])
def test_every_kind_of_number_comes_in_exactly(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "data.h5"
    values = np.array([0, 1, 1, 0], dtype=dtype)
    with h5py.File(path, "w") as file:
        file["costs"] = values
    got = costs_of(path)
    assert got.dtype == FLOAT64
    np.testing.assert_array_equal(got, [0, 1, 1, 0])


def test_keys_of_the_wrong_kind_and_null_shapes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        file.create_group("group")
        file["named_type"] = np.dtype("f8")
        file["empty"] = h5py.Empty("f8")
    with opened(path) as file:
        for name, message in (
            ("group", "group is a group"),
            ("named_type", "no array named_type; the file has empty"),
            ("missing", "no array missing"),
            ("empty", "empty has no shape"),
        ):
            with pytest.raises(DataError, match=message):
                file.arrays({name: FLOAT64})


@pytest.mark.parametrize("compression", ["lzf", "szip"])
def test_other_filters_are_refused_with_the_command_that_helps(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        try:
            file.create_dataset("costs", data=np.zeros(100), compression=compression)
        except ValueError:
            pytest.skip(f"this HDF5 was built without {compression}")
    with pytest.raises(DataError, match="h5repack -f GZIP=4"):
        costs_of(path)


def test_a_filter_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((5,))
        properties.set_filter(31999, h5py.h5z.FLAG_OPTIONAL)
        h5py.h5d.create(file.id, b"costs", h5py.h5t.IEEE_F64LE, h5py.h5s.create_simple((5,)), properties)
    with pytest.raises(DataError, match=r"HDF5 filters \[31999\]"):
        costs_of(path)


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        file["costs"] = np.zeros(3)
    content = bytearray(path.read_bytes())

    def read_while_it_changes() -> None:
        with opened(path) as file:
            file.arrays({"costs": FLOAT64})
            content[-1] ^= 1
            path.write_bytes(content)

    with pytest.raises(DataError, match="changed while it was read"):
        read_while_it_changes()


def test_a_file_that_another_process_writes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    program = (
        "import h5py, sys\n"
        "file = h5py.File(sys.argv[1], 'w', locking=True)\n"
        "file['costs'] = [0.0]\n"
        "file.flush()\n"
        "print(flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        with pytest.raises(DataError, match=r"another process is writing|cannot be opened"):
            costs_of(path)
        writer.communicate()


@pytest.mark.parametrize(
    ("values", "dtype", "message"),
    [
        (np.array([0, 2**24 + 1]), np.float32, r"\[1\] is 16777217"),
        (np.array([0, -(2**60)]), np.float64, r"\[1\] is -11529"),
        (np.array([0.0, 1e39]), np.float32, r"\[1\] is 1e\+39"),
        (np.array([0.0, 0.5]), np.bool_, r"\[1\] is 0.5 .*expected 0 or 1"),
        (np.array([0.0, np.nan]), np.bool_, r"\[1\] is nan"),
        (np.array([0.0, 0.5]), np.int64, "whole numbers"),
        (np.array([0, 2**40]), np.int32, "whole numbers that int32 holds"),
        (np.array([0, 2**63], dtype=np.uint64), np.int64, "whole numbers that int64 holds"),
        (np.array([[0.0, 0.0], [np.nan, 1.0]]), np.int64, r"\[1, 0\] is nan"),
    ],
)
def test_a_conversion_that_loses_something_is_refused(values: np.ndarray, dtype: type, message: str) -> None:
    with pytest.raises(DataError, match=message):
        convert("costs", values, np.dtype(dtype))


def test_nan_and_infinity_survive_conversion_so_that_their_row_can_be_named() -> None:
    got = convert("costs", np.array([np.nan, np.inf, -np.inf]), np.dtype(np.float32))
    np.testing.assert_array_equal(got, [np.nan, np.inf, -np.inf])
