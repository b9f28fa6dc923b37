"""D4RL's flat rows: costs come from where they are declared to be, and no step is lost at the end of an episode."""

from pathlib import Path

import numpy as np
import pytest
from logged_episodes import flat_rows, save_hdf5

from safehold.core.errors import DataError, UsageError
from safehold.core.spec import Box, Discrete, TaskSpec
from safehold.data.declared import Columns
from safehold.data.layouts import read_any, read_with_findings


def d4rl_rows(lengths: list[int], *, following: bool = False) -> dict[str, np.ndarray]:
    rows = flat_rows(lengths)
    steps = sum(lengths)
    del rows["costs"]
    if not following:
        del rows["next_observations"]
    return {
        **rows,
        "infos/cost": np.arange(steps) % 3,
        "infos/qpos": np.zeros((steps, 4)),
        "infos/heat": np.linspace(0, 1, steps),
        "metadata/algorithm": np.bytes_("SAC"),
    }


def test_the_cost_is_taken_from_the_infos(tmp_path: Path) -> None:
    rows = d4rl_rows([3, 4])
    reading = read_with_findings(save_hdf5(tmp_path / "data.hdf5", rows))
    assert reading.layout == "d4rl"
    np.testing.assert_array_equal(reading.dataset.costs[:, 0], rows["infos/cost"])
    assert reading.dataset.provenance["costs"] == {"cost": "infos/cost"}
    assert {f.code for f in reading.findings} == {"last-observation-repeated", "task-derived"}


def test_several_costs_are_named_and_ordered_as_declared(tmp_path: Path) -> None:
    rows = d4rl_rows([3, 4])
    path = save_hdf5(tmp_path / "data.hdf5", rows)
    columns = Columns(costs={"heat": "infos/heat", "bump": "infos/cost"}, cost_units={"heat": "kelvin"}, horizon=9)
    dataset = read_any(path, columns=columns)
    assert dataset.spec.cost_names == ("heat", "bump")
    assert dataset.spec.cost_units == ("kelvin", "cost units")
    assert dataset.spec.horizon == 9
    np.testing.assert_array_equal(dataset.costs, np.stack([rows["infos/heat"], rows["infos/cost"]], axis=1))
    spec = TaskSpec(
        env_id="test/Two",
        observation_size=2,
        action=Box((-1.0,), (1.0,)),
        horizon=9,
        cost_names=("bump", "heat"),
        cost_units=("bumps", "kelvin"),
    )
    asked = read_any(path, spec=spec, columns=Columns(costs={"heat": "infos/heat", "bump": "infos/cost"}))
    np.testing.assert_array_equal(asked.costs, dataset.costs[:, ::-1])


def test_no_cost_is_no_zero(tmp_path: Path) -> None:
    rows = d4rl_rows([3, 4])
    del rows["infos/cost"]
    path = save_hdf5(tmp_path / "data.hdf5", rows)
    with pytest.raises(DataError, match=r"no array costs; .* no cost is no zero: say in which array"):
        read_any(path)
    with pytest.raises(DataError, match=r"no array infos/cots; the group infos has heat, qpos"):
        read_any(path, columns=Columns(costs={"cost": "infos/cots"}))
    with pytest.raises(DataError, match="infos is a group, expected an array"):
        read_any(path, columns=Columns(costs={"cost": "infos"}))
    with pytest.raises(DataError, match=r"infos/qpos has shape \(7, 4\), expected \(steps,\)"):
        read_any(path, columns=Columns(costs={"cost": "infos/qpos"}))


def test_a_last_observation_that_was_not_logged_is_repeated_and_no_step_is_lost(tmp_path: Path) -> None:
    rows = d4rl_rows([3, 1, 4])
    dataset = read_any(save_hdf5(tmp_path / "data.hdf5", rows))
    np.testing.assert_array_equal(dataset.lengths, [3, 1, 4])
    np.testing.assert_array_equal(dataset.rewards, rows["rewards"])
    for episode in dataset:
        np.testing.assert_array_equal(episode.observations[-1], episode.observations[-2])
    kept = read_any(save_hdf5(tmp_path / "more.hdf5", d4rl_rows([3, 1, 4], following=True)))
    assert kept.observations[3].tolist() != kept.observations[2].tolist()


def test_a_cost_declared_binary_must_be(tmp_path: Path) -> None:
    path = save_hdf5(tmp_path / "data.hdf5", d4rl_rows([3, 4]))
    with pytest.raises(
        DataError, match=r"cost 'cost' of step 2 is 2.0 \(2 such values\); it was declared to be 0 or 1"
    ):
        read_any(path, columns=Columns(binary_costs=("cost",)))


@pytest.mark.parametrize("key", ["terminals", "timeouts"])
def test_ends_must_all_be_there(tmp_path: Path, key: str) -> None:
    rows = d4rl_rows([3, 4])
    del rows[key]
    with pytest.raises(DataError, match=f"no array {key}"):
        read_any(save_hdf5(tmp_path / "data.hdf5", rows))


def test_discrete_actions_are_indices(tmp_path: Path) -> None:
    rows = d4rl_rows([3, 4])
    rows["actions"] = np.array([0, 1, 2, 3, 0, 1, 2])
    path = save_hdf5(tmp_path / "data.hdf5", rows)
    assert read_any(path, columns=Columns(discrete_actions=4)).spec.action == Discrete(4)
    with pytest.raises(DataError, match=r"actions\[3\] = 3.0; the task has actions 0 to 2"):
        read_any(path, columns=Columns(discrete_actions=3))
    rows["actions"] = np.zeros((7, 2))
    with pytest.raises(DataError, match="one column of indices, got 2 columns"):
        read_any(save_hdf5(tmp_path / "wide.hdf5", rows), columns=Columns(discrete_actions=3))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (Columns(costs={}), "costs is empty"),
        (Columns(cost_units={"heat": "K"}), "cost_units names 'heat'; the costs are cost"),
        (Columns(binary_costs=("heat",)), "binary_costs names 'heat'"),
    ],
)
def test_declarations_that_contradict_themselves_are_refused(tmp_path: Path, columns: Columns, message: str) -> None:
    path = save_hdf5(tmp_path / "data.hdf5", d4rl_rows([3, 4]))
    with pytest.raises(UsageError, match=message):
        read_any(path, columns=columns)


def test_what_a_given_task_says_is_not_said_again(tmp_path: Path) -> None:
    path = save_hdf5(tmp_path / "data.hdf5", d4rl_rows([3, 4]))
    spec = TaskSpec(env_id="test/Two", observation_size=2, action=Box((-1.0,), (1.0,)), horizon=9)
    with pytest.raises(UsageError, match="horizon is said, and a task is given"):
        read_any(path, spec=spec, columns=Columns(horizon=9))
    with pytest.raises(UsageError, match="costs names heat; the task test/Two has cost"):
        read_any(path, spec=spec, columns=Columns(costs={"heat": "infos/heat"}))
