"""Our file layout: round trips, same bytes twice, whole or not at all, and damage that is noticed."""

import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from logged_episodes import dataset_of, episodes_of

from safehold.core.errors import DataError, IntegrityError, ResourceError, UsageError
from safehold.core.spec import Discrete, TaskSpec
from safehold.data import hdf5
from safehold.data.dataset import DTYPES, OfflineDataset


def assert_same(one: OfflineDataset, other: OfflineDataset) -> None:
    assert one.spec == other.spec
    assert one.provenance == other.provenance
    for name in DTYPES:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert one.digest == other.digest


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=8), st.integers(0, 2**32 - 1), st.booleans())
def test_what_is_written_is_read(tmp_path_factory, lengths: list[int], seed: int, grouped: bool) -> None:
    dataset = dataset_of(lengths, seed)
    if not grouped:
        dataset = OfflineDataset.of(list(dataset), dataset.spec, {"note": "ohne Gruppe, ü"})
    path = tmp_path_factory.mktemp("round") / "episodes.h5"
    hdf5.write(path, dataset)
    assert_same(hdf5.read(path), dataset)


def test_discrete_actions_round_trip(tmp_path: Path) -> None:
    spec = TaskSpec(
        env_id="test/Switch",
        observation_size=3,
        action=Discrete(3),
        horizon=20,
        cost_names=("a", "b"),
        cost_units=("u", "v"),
    )
    (episode,) = episodes_of([4])
    fields = {name: getattr(episode, name) for name in ("observations", "rewards", "costs", "terminated", "truncated")}
    dataset = OfflineDataset.of([type(episode)(actions=np.array([[0.0], [1], [2], [0]]), **fields)], spec)
    hdf5.write(tmp_path / "episodes.h5", dataset)
    assert_same(hdf5.read(tmp_path / "episodes.h5"), dataset)


def test_the_same_dataset_gives_the_same_bytes(tmp_path: Path) -> None:
    hdf5.write(tmp_path / "one.h5", dataset_of([3, 20, 7]))
    time.sleep(1.1)  # HDF5's own time stamps have seconds
    hdf5.write(tmp_path / "two.h5", dataset_of([3, 20, 7]))
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "two.h5").read_bytes()


def test_every_array_is_compressed_and_checksummed(tmp_path: Path) -> None:
    hdf5.write(tmp_path / "episodes.h5", dataset_of([3, 4]))
    with h5py.File(tmp_path / "episodes.h5") as file:
        assert set(file) == set(DTYPES)
        assert all(values.compression == "gzip" and values.fletcher32 for values in file.values())


def test_a_long_provenance_is_kept(tmp_path: Path) -> None:
    dataset = OfflineDataset.of(episodes_of([3]), dataset_of([3]).spec, {"notes": ["wind, gusts ü"] * 20_000})
    hdf5.write(tmp_path / "episodes.h5", dataset)
    assert_same(hdf5.read(tmp_path / "episodes.h5"), dataset)


def test_header_texts_of_variable_length_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "episodes.h5"
    hdf5.write(path, dataset_of([3]))
    with h5py.File(path, "r+") as file:
        file.attrs["spec"] = "{}"  # h5py stores a str with variable length
    with pytest.raises(DataError, match="attribute 'spec' is missing, or no text of fixed length"):
        hdf5.read(path)


def test_an_existing_file_is_kept_unless_told_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "episodes.h5"
    hdf5.write(path, dataset_of([3]))
    before = path.read_bytes()
    with pytest.raises(UsageError, match="exists already"):
        hdf5.write(path, dataset_of([4]))
    assert path.read_bytes() == before
    hdf5.write(path, dataset_of([4]), overwrite=True)
    assert_same(hdf5.read(path), dataset_of([4]))


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no directory .*nowhere"):
        hdf5.write(tmp_path / "nowhere" / "episodes.h5", dataset_of([3]))


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), hdf5.replacing(tmp_path / "episodes.h5", overwrite=False) as file:
        file["x"] = [1 / 0]
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "episodes.h5"
    hdf5.write(path, dataset_of([3]))
    with pytest.raises(ZeroDivisionError), hdf5.replacing(path, overwrite=True) as file:
        file["x"] = [1 / 0]
    assert list(tmp_path.iterdir()) == [path]
    assert_same(hdf5.read(path), dataset_of([3]))


def test_one_changed_cost_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "episodes.h5"
    hdf5.write(path, dataset_of([3, 4]))
    with h5py.File(path, "r+") as file:
        file["costs"][2, 0] = 0.0
    with pytest.raises(IntegrityError, match="content hashes to"):
        hdf5.read(path)


def test_a_changed_provenance_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "episodes.h5"
    hdf5.write(path, dataset_of([3, 4]))
    with h5py.File(path, "r+") as file:
        file.attrs["provenance"] = np.bytes_('{"source": "the real robot"}')
    with pytest.raises(IntegrityError, match="provenance is not what was written"):
        hdf5.read(path)


def test_a_flipped_bit_in_a_stored_array_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "episodes.h5"
    hdf5.write(path, dataset_of([20] * 5))
    with h5py.File(path) as file:
        chunk = file["costs"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + chunk.size // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="stored bytes of costs are damaged"):
        hdf5.read(path)


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("format", b"other", "attribute 'format' is 'other'"),
        ("format", None, "attribute 'format' is None"),
        ("format_version", b"2", "version '2' of safehold-episodes"),
        ("format_version", 1, "version None of safehold-episodes"),
        ("spec", b"\xff\xfe", "attribute 'spec'.*cannot be read"),
        ("spec", b'{"env_id": "\\ud800"}', "surrogates not allowed"),
        ("spec", None, "attribute 'spec' is missing"),
        ("spec", b"[]", "'spec' must be a JSON object"),
        ("spec", b"{", "'spec' is not JSON"),
        ("spec", b"[" * 100_000, "'spec' is not JSON"),
        ("spec", b"{}", "not the description of a task"),
        ("digest", [b"a", b"b"], "attribute 'digest' is missing, or no text of fixed length"),
    ],
)
def test_a_header_that_is_not_ours_is_refused(tmp_path: Path, attribute: str, value, message: str) -> None:
    path = tmp_path / "episodes.h5"
    hdf5.write(path, dataset_of([3, 4]))
    with h5py.File(path, "r+") as file:
        del file.attrs[attribute]
        if value is not None:
            file.attrs[attribute] = np.bytes_(value) if isinstance(value, bytes) else value
    with pytest.raises(DataError, match=message):
        hdf5.read(path)


def test_a_missing_array_is_named_beside_those_that_are_there(tmp_path: Path) -> None:
    path = tmp_path / "episodes.h5"
    hdf5.write(path, dataset_of([3, 4]))
    with h5py.File(path, "r+") as file:
        del file["costs"]
    with pytest.raises(DataError, match="no array costs; the file has actions, group, observations"):
        hdf5.read(path)


def test_memory_beyond_the_budget_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "episodes.h5"
    hdf5.write(path, dataset_of([20] * 20))
    with pytest.raises(ResourceError, match="the budget is"):
        hdf5.read(path, budget=1000)
