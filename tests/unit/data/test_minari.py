"""Minari datasets: episodes come in whole, and nothing that the metadata names is opened, imported or made."""

import json
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from logged_episodes import SPEC, dataset_of

from safehold.core.errors import DataError, ResourceError
from safehold.core.spec import Box, Discrete
from safehold.data.dataset import OfflineDataset
from safehold.data.declared import Columns
from safehold.data.layouts import read_any, read_with_findings

BOX = {"type": "Box", "dtype": "float32", "shape": [3], "low": [-9, -9, -9], "high": [9, 9, 9]}
ACTION = {"type": "Box", "dtype": "float32", "shape": [2], "low": [-1, -1], "high": [1, 1]}
ENVIRONMENT = {"id": "test/Line-v0", "entry_point": "hostile_package:Env", "max_episode_steps": 20, "kwargs": {}}
COSTS = Columns(costs={"speed": "infos/speed", "tilt": "infos/more/tilt"})


def arrays_of(dataset: OfflineDataset, *, at_reset: bool = False) -> list[dict[str, Any]]:
    """What Minari stores of each episode, by path; with one more row of infos if that of the reset is recorded."""
    episodes = []
    for episode in dataset:
        last = np.arange(len(episode)) == len(episode) - 1
        costs = np.concatenate([np.zeros((int(at_reset), 2)), episode.costs])
        episodes.append(
            {
                "observations": np.array(episode.observations),
                "actions": np.array(episode.actions),
                "rewards": np.array(episode.rewards),
                "terminations": last & episode.terminated,
                "truncations": last & episode.truncated,
                "infos/speed": costs[:, 0],
                "infos/more/tilt": costs[:, 1],
            }
        )
    return episodes


def metadata_of(episodes: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """As Minari writes it: spaces and environments are JSON texts inside the JSON."""
    said = {
        "total_episodes": len(episodes),
        "total_steps": float(sum(e["rewards"].size for e in episodes)),
        "data_format": "hdf5",
        "observation_space": json.dumps(BOX),
        "action_space": json.dumps(ACTION),
        "env_spec": json.dumps(ENVIRONMENT),
        "dataset_id": "test/line-v0",
        "minari_version": "0.5.3",
    }
    return {name: value for name, value in {**said, **changes}.items() if value is not None}


def save(directory: Path, episodes: list[dict[str, Any]], metadata: dict[str, Any] | str | None = None) -> Path:
    """The directory of a dataset, as Minari lays it out."""
    data = directory / "data"
    data.mkdir(parents=True)
    with h5py.File(data / "main_data.hdf5", "w", track_order=True) as file:
        for i, episode in enumerate(episodes):
            for path, values in episode.items():
                more = {"chunks": True, "maxshape": (None, *values.shape[1:])} if values.ndim else {}
                file.create_dataset(f"episode_{i}/{path}", data=values, **more)
            file[f"episode_{i}"].attrs["id"] = i
            file[f"episode_{i}"].attrs["options"] = "text of varying length"
    said = metadata_of(episodes) if metadata is None else metadata
    (data / "metadata.json").write_text(said if isinstance(said, str) else json.dumps(said))
    return directory


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=12), at_reset=st.booleans())
@settings(max_examples=15, deadline=None)
def test_a_dataset_reads_back_whole_and_in_order(tmp_path_factory, lengths: list[int], at_reset: bool) -> None:
    dataset = dataset_of(lengths)
    place = save(tmp_path_factory.mktemp("minari"), arrays_of(dataset, at_reset=at_reset))
    reading = read_with_findings(place, columns=COSTS)
    assert reading.layout == "minari"
    assert {f.code for f in reading.findings} == {"environment-named"}
    for name in ("observations", "actions", "rewards", "costs", "offsets", "terminated"):
        np.testing.assert_array_equal(getattr(reading.dataset, name), getattr(dataset, name))
    spec = reading.dataset.spec
    assert (spec.env_id, spec.horizon, spec.action) == ("test/Line-v0", 20, Box((-1.0, -1.0), (1.0, 1.0)))
    assert spec.cost_names == ("speed", "tilt")
    assert reading.dataset.provenance["dataset_id"] == "test/line-v0"
    inside = read_any(place / "data", columns=COSTS), read_any(place / "data" / "main_data.hdf5", columns=COSTS)
    assert {data.digest for data in inside} == {reading.dataset.digest}


def test_the_environment_that_is_named_is_neither_imported_nor_made(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "hostile_package.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    reading = read_with_findings(save(tmp_path / "d", arrays_of(dataset_of([3]))), columns=COSTS)
    assert "hostile_package" not in sys.modules
    assert not {name for name in set(sys.modules) - before if name.startswith(("gymnasium", "minari"))}
    (named,) = [f for f in reading.findings if f.code == "environment-named"]
    assert "'test/Line-v0', which was neither imported nor made" in named.what


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"env_spec": {**ENVIRONMENT, "entry_point": "os:system"}}, "names 'os' of Python's own library"),
        ({"env_spec": {**ENVIRONMENT, "entry_point": "builtins:exec"}}, "names 'builtins'"),
        ({"env_spec": {**ENVIRONMENT, "id": "subprocess:Popen-v0"}}, "names 'subprocess'"),
        ({"eval_env_spec": {**ENVIRONMENT, "vector_entry_point": "shutil:rmtree"}}, "names 'shutil'"),
        (
            {"env_spec": {**ENVIRONMENT, "additional_wrappers": [{"name": "x", "entry_point": "runpy:run_path"}]}},
            "names 'runpy'",
        ),
        ({"env_spec": {**ENVIRONMENT, "entry_point": "__import__('os')"}}, "as an entry point, which is none"),
        ({"env_spec": {**ENVIRONMENT, "entry_point": ["a"]}}, "as an entry point, which is none"),
        ({"env_spec": {**ENVIRONMENT, "id": "x; rm -rf /"}}, "which is no name of an environment"),
        ({"env_spec": {**ENVIRONMENT, "additional_wrappers": "x"}}, "additional_wrappers that are no list"),
        ({"env_spec": {**ENVIRONMENT, "max_episode_steps": 0}}, "ends episodes after 0 steps"),
        ({"env_spec": {**ENVIRONMENT, "max_episode_steps": 10**12}}, "expected a number from 1 to"),
        ({"env_spec": {**ENVIRONMENT, "max_episode_steps": "x"}}, "expected a whole number"),
        ({"env_spec": {"entry_point": "os:system"}}, "no description of an environment"),
        ({"env_spec": [1]}, "no description of an environment|must be a JSON object"),
        ({"env_spec": "{"}, "env_spec is not JSON"),
        ({"observation_space": None}, "no observation_space; Minari would make the environment 'test/Line-v0'"),
        ({"action_space": None}, "no action_space; Minari would make"),
        ({"observation_space": 3}, "observation_space is no description of a space"),
        ({"observation_space": {"type": "Text"}}, "are of the space 'Text'"),
        ({"observation_space": {"type": "Dict", "subspaces": {}}}, "has no subspaces"),
        ({"observation_space": {"type": "Dict", "subspaces": {"../a": BOX}}}, "has the entry '../a'"),
        ({"observation_space": {**BOX, "shape": [4], "low": 0, "high": 1}}, "have 3 values, their space 4"),
        ({"observation_space": {**BOX, "shape": [2**40]}}, "has the shape"),
        ({"observation_space": {**BOX, "shape": [10**4] * 9}}, "has the shape"),
        ({"observation_space": {**BOX, "low": [1, 2]}}, "bounds that do not fit its shape"),
        ({"observation_space": {**BOX, "low": "x"}}, "bounds that do not fit its shape"),
        ({"action_space": {**ACTION, "low": [-1.0]}}, "bounds that do not fit its shape"),
        ({"action_space": {**ACTION, "low": [float("nan"), -1.0]}}, "bounds that do not fit its shape"),
        ({"action_space": {"type": "MultiDiscrete", "nvec": [2]}}, "are of the space 'MultiDiscrete'"),
        ({"action_space": {"type": "Dict", "subspaces": {"a": ACTION}}}, "one Box or Discrete is read"),
        ({"action_space": {"type": "Discrete", "n": -1}}, "has n=-1"),
        ({"action_space": {"type": "Discrete", "n": 4, "start": 0.5}}, "start=0.5"),
        ({"data_format": "arrow"}, "data_format is 'arrow'; datasets in hdf5 are read"),
        ({"data_format": ["hdf5"]}, "data_format is"),
        ({"dataset_id": "../../secret"}, "which leads out of the dataset"),
        ({"dataset_id": "/etc/secret"}, "which leads out of the dataset"),
        ({"data_path": "a/../../secret"}, "which leads out of the dataset"),
        ({"total_episodes": 7}, "holds 1 episodes, its metadata says 7"),
        ({"total_episodes": "many"}, "expected a whole number"),
        ({"total_steps": 99}, "holds 3 steps, its metadata says 99"),
        ({"total_steps": float("nan")}, "expected a whole number"),
    ],
)
def test_hostile_or_broken_metadata_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    before = set(sys.modules)
    episodes = arrays_of(dataset_of([3]))
    as_texts = {
        name: json.dumps(v) if name.endswith(("spec", "space")) and isinstance(v, (dict, list)) else v
        for name, v in changes.items()
    }
    for i, said in enumerate((changes, as_texts)):
        place = save(tmp_path / str(i), episodes, metadata_of(episodes) | said)
        if None in changes.values():
            place = save(tmp_path / f"{i}-none", episodes, metadata_of(episodes, **said))
        with pytest.raises(DataError, match=message):
            read_any(place, columns=COSTS)
    assert set(sys.modules) == before


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ('{"description": "' + "x" * 10_000_000 + '"}', ResourceError, "more than 1048576 bytes"),
        ("[" * 100_000, DataError, "is not JSON"),
        ('{"a": ' * 40 + "1" + "}" * 40, DataError, "more than 32 levels deep"),
        ('{"env_spec": ' + json.dumps('{"id": ' * 900 + "1" + "}" * 900) + "}", DataError, "is not JSON|levels deep"),
        ("[]", DataError, "must be a JSON object"),
        ('{"total_episodes": 1' + "0" * 5000 + "}", DataError, "is not JSON"),
        ('{"dataset_id": "\\ud800"}', DataError, "is not JSON"),
        ("", DataError, r"empty \(0 bytes\)"),
    ],
)
def test_metadata_that_is_long_deep_or_none_is_refused(tmp_path: Path, text: str, error, message: str) -> None:
    with pytest.raises(error, match=message):
        read_any(save(tmp_path / "d", arrays_of(dataset_of([3])), text), columns=COSTS)


def test_metadata_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    place = save(tmp_path / "d", arrays_of(dataset_of([3])))
    (place / "data" / "metadata.json").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="no UTF-8 text"):
        read_any(place, columns=COSTS)


def test_without_metadata_the_task_must_be_given(tmp_path: Path) -> None:
    place = save(tmp_path / "d", arrays_of(dataset_of([3])))
    (place / "data" / "metadata.json").unlink()
    with pytest.raises(DataError, match="no such file; it says what observations and actions are"):
        read_any(place, columns=COSTS)
    assert read_any(place, spec=SPEC, columns=COSTS).spec == SPEC


def test_links_out_of_the_directory_are_not_opened(tmp_path: Path) -> None:
    place = save(tmp_path / "d", arrays_of(dataset_of([3])))
    for name in ("main_data.hdf5", "metadata.json"):
        outside, inside = tmp_path / name, place / "data" / name
        inside.rename(outside)
        inside.symlink_to(outside)
        with pytest.raises(DataError, match=f"{name} is a link to .*outside its directory"):
            read_any(place, columns=COSTS)
        inside.unlink()
        outside.rename(inside)
    read_any(place, columns=COSTS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"a directory without main_data\.hdf5"):
        read_any(tmp_path / "empty")


def changed(**changes: Any) -> list[dict[str, Any]]:
    """Two episodes, the second with some arrays replaced, or left out where None."""
    first, second = arrays_of(dataset_of([4, 3]))
    renamed = {name.replace("__", "/"): values for name, values in changes.items()}
    return [first, {name: values for name, values in {**second, **renamed}.items() if values is not None}]


@pytest.mark.parametrize(
    ("episodes", "message"),
    [
        (changed(actions=np.zeros((4, 2))), "actions of episode_1 has 4 rows, rewards 3; expected 3"),
        (changed(observations=np.zeros((3, 3))), "observations of episode_1 has 3 rows, rewards 3; expected 4"),
        (changed(rewards=np.zeros(4)), "observations of episode_1 has 4 rows, rewards 4; expected 5"),
        (changed(infos__speed=np.zeros(5)), "infos/speed of episode_1 has 5 rows, rewards 3; expected 3 or 4"),
        (changed(infos__speed=np.zeros((3, 2))), r"infos/speed of episode_1 has shape \(3, 2\), expected one value"),
        (changed(infos__speed=None), "episode_1 has no array infos/speed; .* No cost is no zero"),
        (changed(infos__speed=None, infos__spede=np.zeros(3)), "did you mean 'infos/spede'"),
        (changed(infos__speed=np.array([0, -1, 0])), r"costs\[5, 0\] \(speed\) = -1.0 is negative"),
        (changed(infos__speed=np.array([0, np.nan, 0])), r"speed\[5\] is nan"),
        (
            changed(terminations=np.array([True, False, True])),
            "episode_1 is marked as ended at step 0, and has 3 steps",
        ),
        (changed(terminations=None), "no array episode_1/terminations; the group episode_1 has actions"),
        (changed(rewards=np.zeros(0)), "episode_1 has rewards of shape .* at least a step"),
        (changed(rewards=np.array(1.0)), "episode_1 has rewards of shape .* at least a step"),
        (changed(observations=np.zeros((4, 2))), r"observations of episode_1 have \(2,\) values a row"),
        (changed(observations=np.full((4, 3), np.inf)), r"observations\[5, 0\] is inf"),
        (changed(actions=np.array([b"a"] * 3)), "actions holds text"),
    ],
)
def test_episodes_that_do_not_fit_are_refused(tmp_path: Path, episodes, message: str) -> None:
    said = metadata_of(episodes, total_steps=None)
    with pytest.raises(DataError, match=message):
        read_any(save(tmp_path / "d", episodes, said), columns=COSTS)


def test_infos_as_text_are_refused_and_not_read_as_no_cost(tmp_path: Path) -> None:
    episodes = [{n: v for n, v in e.items() if not n.startswith("infos")} for e in arrays_of(dataset_of([3]))]
    episodes[0]["infos"] = np.array([b"{}"] * 3)
    with pytest.raises(DataError, match="keeps its infos as text, which is not read"):
        read_any(save(tmp_path / "d", episodes), columns=COSTS)


def test_an_episode_that_is_missing_in_the_middle_is_named(tmp_path: Path) -> None:
    place = save(tmp_path / "d", arrays_of(dataset_of([3, 3, 3])))
    with h5py.File(place / "data" / "main_data.hdf5", "r+") as file:
        del file["episode_1"]
    with pytest.raises(DataError, match="no group episode_1, but episode_2; episodes are missing"):
        read_any(place, columns=COSTS)


def test_more_memory_than_the_budget_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="its episodes claim"):
        read_any(save(tmp_path / "d", arrays_of(dataset_of([9] * 9))), columns=COSTS, budget=2000)


def test_oddities_are_said(tmp_path: Path) -> None:
    def codes(name: str, episodes: list[dict[str, Any]]) -> set[str]:
        reading = read_with_findings(save(tmp_path / name, episodes), columns=COSTS)
        return {f.code for f in reading.findings} - {"environment-named", "rounded"}

    last = np.array([False, False, True])
    assert codes("both", changed(terminations=last, truncations=last)) == {"ends-twice"}
    assert codes("none", changed(terminations=last & False, truncations=last & False)) == {"unfinished"}
    short = {"env_spec": {**ENVIRONMENT, "max_episode_steps": 2}}
    outlasted = read_with_findings(save(tmp_path / "long", changed(), metadata_of(changed(), **short)), columns=COSTS)
    assert "horizon-outlasted" in {f.code for f in outlasted.findings}
    assert outlasted.dataset.spec.horizon == 4
    assert codes("reset", changed(infos__speed=np.array([5.0, 0, 0, 0]))) == {"cost-at-reset"}
    place = save(tmp_path / "more", arrays_of(dataset_of([3])))
    with h5py.File(place / "data" / "main_data.hdf5", "r+") as file:
        file["notes"] = np.zeros(3)
    assert "unknown-keys" in {f.code for f in read_with_findings(place, columns=COSTS).findings}


def test_dictionaries_of_observations_are_joined_in_the_order_of_their_space(tmp_path: Path) -> None:
    episodes = arrays_of(dataset_of([3, 2]))
    for episode in episodes:
        seen = episode.pop("observations")
        episode |= {
            "observations/goal/x": seen[:, 2].astype(np.int64),
            "observations/body": seen[:, :2].reshape(-1, 2, 1),
        }
    space = {
        "type": "Dict",
        "subspaces": {
            "goal": {"type": "Dict", "subspaces": {"x": {"type": "Discrete", "n": 3}}},
            "body": {"type": "Box", "shape": [2, 1], "low": [[0], [0]], "high": [[1], [1]]},
        },
    }
    data = read_any(save(tmp_path / "d", episodes, metadata_of(episodes, observation_space=space)), columns=COSTS)
    assert data.provenance["observations"] == ["observations/goal/x", "observations/body"]
    expected = dataset_of([3, 2]).observations
    np.testing.assert_array_equal(data.observations, np.stack([expected[:, 2].astype(int), *expected[:, :2].T], axis=1))


def test_discrete_actions_start_at_zero_whatever_the_space_says(tmp_path: Path) -> None:
    episodes = arrays_of(dataset_of([3, 2]))
    for episode in episodes:
        episode["actions"] = np.arange(len(episode["rewards"])) + 5
    space = {"type": "Discrete", "n": 3, "start": 5}
    data = read_any(save(tmp_path / "d", episodes, metadata_of(episodes, action_space=space)), columns=COSTS)
    assert data.spec.action == Discrete(3)
    np.testing.assert_array_equal(data.actions[:, 0], [0, 1, 2, 0, 1])


def test_bounds_that_are_not_finite_come_from_the_data(tmp_path: Path) -> None:
    episodes = arrays_of(dataset_of([3, 2]))
    space = {**ACTION, "low": [-np.inf, -1], "high": [np.inf, 1]}
    said = metadata_of(episodes, action_space=json.dumps(space))
    reading = read_with_findings(save(tmp_path / "d", episodes, said), columns=COSTS)
    assert reading.dataset.spec.action == Box((-1.0, -1.0), (1.0, 1.0))
    assert "task-derived" in {f.code for f in reading.findings}
