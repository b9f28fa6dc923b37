import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safehold.core.errors import DataError, IntegrityError, ResourceError, UsageError
from safehold.learn.checkpoint import (
    Checkpoint,
    _json_bytes,
    _manifest,
    load_checkpoint,
    module_tensors,
    restore_module,
    save_checkpoint,
)

TENSORS = {
    "model.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "model.scale": torch.tensor(0.1, dtype=torch.float64),
    "generator.torch": torch.arange(5, dtype=torch.uint8),
    "empty": torch.zeros(0, 4),
}
META = {"config": {"lr": 1e-3, "name": "a"}, "numpy": {"state": 2**120 + 1}}
FILES = ("tensors.safetensors", "meta.json", "manifest.json")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "c", kind="bc", tensors=TENSORS, meta=META)
    return tmp_path / "c"


def reseal(directory: Path, tensors: bytes) -> None:
    """What a forger would do: other tensors, sums recomputed."""
    (directory / "tensors.safetensors").write_bytes(tensors)
    contents = {name: (directory / name).read_bytes() for name in FILES[:2]}
    (directory / "manifest.json").write_bytes(_json_bytes(_manifest(contents), directory))


def test_round_trip_keeps_every_value_type_and_the_digest(tmp_path: Path) -> None:
    digest = save_checkpoint(tmp_path / "c", kind="bc", tensors=TENSORS, meta=META)
    checkpoint = load_checkpoint(tmp_path / "c", expected_digest=digest)
    assert isinstance(checkpoint, Checkpoint)
    assert checkpoint.kind == "bc"
    assert checkpoint.meta == META
    assert checkpoint.digest == digest
    assert checkpoint.tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert checkpoint.tensors[name].dtype == tensor.dtype
        assert torch.equal(checkpoint.tensors[name], tensor)


def test_same_content_same_digest_and_different_content_another(tmp_path: Path) -> None:
    first = save_checkpoint(tmp_path / "a", kind="bc", tensors=TENSORS, meta=META)
    second = save_checkpoint(tmp_path / "b", kind="bc", tensors=dict(reversed(TENSORS.items())), meta=META)
    third = save_checkpoint(tmp_path / "c", kind="cdt", tensors=TENSORS, meta=META)
    assert first == second != third


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(name=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_every_flipped_bit_is_refused(saved: Path, name: str, place: float, bit: int) -> None:
    path = saved / name
    original = path.read_bytes()
    changed = bytearray(original)
    changed[int(place * len(changed))] ^= 1 << bit
    path.write_bytes(bytes(changed))
    try:
        with pytest.raises((IntegrityError, DataError), match=r"checkpoint|written"):
            load_checkpoint(saved)
    finally:
        path.write_bytes(original)


def test_a_flipped_weight_is_an_integrity_error(saved: Path) -> None:
    path = saved / "tensors.safetensors"
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(IntegrityError, match="cut or changed"):
        load_checkpoint(saved)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_cut_or_empty_file_is_refused(saved: Path, name: str) -> None:
    path = saved / name
    content = path.read_bytes()
    for rest in (content[:-1], content[: len(content) // 2], b""):
        path.write_bytes(rest)
        with pytest.raises((IntegrityError, DataError)):
            load_checkpoint(saved)
    path.unlink()
    with pytest.raises(IntegrityError, match="missing"):
        load_checkpoint(saved)


def test_a_link_is_not_followed(saved: Path, tmp_path: Path) -> None:
    (saved / "meta.json").rename(tmp_path / "elsewhere.json")
    (saved / "meta.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(IntegrityError, match="not a regular file"):
        load_checkpoint(saved)


def test_a_giant_header_is_refused_before_anything_is_allocated(saved: Path) -> None:
    reseal(saved, struct.pack("<Q", 2**62) + b"{}")
    with pytest.raises(DataError, match="claims a header of"):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
          "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, 12, "overlap or gap"),
        ({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 8]}}, 8, "cannot fill"),
        ({"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, -8]}}, 0, "cannot fill"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, 16, "tensors end at"),
        ({"a": {"dtype": "PICKLE", "shape": [2], "data_offsets": [0, 8]}}, 8, "PICKLE"),
        ({"a": {"shape": [2]}}, 8, "data_offsets"),
        ([], 8, "items"),
    ],
)  # fmt: skip
def test_a_forged_header_with_matching_sums_is_refused(saved: Path, header: object, data: int, message: str) -> None:
    text = json.dumps(header).encode()
    reseal(saved, struct.pack("<Q", len(text)) + text + bytes(data))
    with pytest.raises(DataError, match=message):
        load_checkpoint(saved)


def test_a_pickle_in_place_of_tensors_is_refused_unread(saved: Path) -> None:
    reseal(saved, b"\x80\x04cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(DataError, match="header"):
        load_checkpoint(saved)


def test_an_enormous_manifest_is_refused_by_its_size(saved: Path) -> None:
    with open(saved / "manifest.json", "r+b") as file:
        file.truncate(1 << 20)
    with pytest.raises(ResourceError, match="bytes"):
        load_checkpoint(saved)


def test_another_checkpoint_under_a_pinned_name_is_refused(saved: Path) -> None:
    with pytest.raises(IntegrityError, match="pinned"):
        load_checkpoint(saved, expected_digest=hashlib.sha256(b"older").hexdigest())


def test_an_existing_directory_is_never_overwritten(saved: Path) -> None:
    before = {name: (saved / name).read_bytes() for name in FILES}
    with pytest.raises(UsageError, match="never overwritten"):
        save_checkpoint(saved, kind="bc", tensors={}, meta={})
    (saved.parent / "empty").mkdir()
    with pytest.raises(UsageError, match="never overwritten"):
        save_checkpoint(saved.parent / "empty", kind="bc", tensors={}, meta={})
    assert before == {name: (saved / name).read_bytes() for name in FILES}


def test_a_failed_save_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="plain JSON"):
        save_checkpoint(tmp_path / "c", kind="bc", tensors={}, meta={"std": float("nan")})
    with pytest.raises(DataError, match="plain JSON"):
        save_checkpoint(tmp_path / "c", kind="bc", tensors={}, meta={"array": np.zeros(2)})
    assert list(tmp_path.iterdir()) == []


def test_views_and_shared_tensors_are_saved_as_they_look(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    save_checkpoint(tmp_path / "c", kind="bc", tensors={"a": base, "b": base.T, "c": base[1]}, meta={})
    tensors = load_checkpoint(tmp_path / "c").tensors
    assert torch.equal(tensors["b"], base.T)
    assert torch.equal(tensors["c"], base[1])


class TestRestoreModule:
    def test_restores_what_was_saved(self) -> None:
        source, copy = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
        restore_module(copy, module_tensors(source, "model"), "model")
        assert torch.equal(copy.weight, source.weight)

    def test_refuses_missing_and_unknown_tensors(self) -> None:
        tensors = module_tensors(torch.nn.Linear(3, 2), "model")
        weight = tensors.pop("model.weight")
        with pytest.raises(DataError, match=r"missing: \['weight'\]"):
            restore_module(torch.nn.Linear(3, 2), tensors, "model")
        with pytest.raises(DataError, match=r"unknown: \['extra'\]"):
            restore_module(torch.nn.Linear(3, 2), {**tensors, "model.weight": weight, "model.extra": weight}, "model")

    def test_refuses_another_shape_or_type(self) -> None:
        with pytest.raises(DataError, match=r"expected \(2, 3\) .* has \(2, 4\)"):
            restore_module(torch.nn.Linear(3, 2), module_tensors(torch.nn.Linear(4, 2), "model"), "model")
        with pytest.raises(DataError, match="float64"):
            restore_module(torch.nn.Linear(3, 2), module_tensors(torch.nn.Linear(3, 2).double(), "model"), "model")

    def test_refuses_weights_that_are_not_finite_and_leaves_the_module_alone(self) -> None:
        module = torch.nn.Linear(3, 2)
        before = module.weight.detach().clone()
        tensors = module_tensors(torch.nn.Linear(3, 2), "model")
        tensors["model.bias"][1] = torch.nan
        with pytest.raises(DataError, match="not finite"):
            restore_module(module, tensors, "model")
        assert torch.equal(module.weight, before)
