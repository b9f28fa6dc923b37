"""Foreign layouts: what an end of episode is, what goes through unchanged, what is refused and what is only said."""

import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from logged_episodes import SPEC, dataset_of, flat_rows, save_hdf5

from safehold.core.errors import DataError, ResourceError, UsageError
from safehold.core.spec import Box, TaskSpec
from safehold.data import hdf5
from safehold.data.layouts import read_any, read_with_findings, write_dsrl


def codes(path: Path) -> set[str]:
    return {finding.code for finding in read_with_findings(path).findings if finding.severity != "note"}


@given(st.lists(st.integers(1, 9), min_size=1, max_size=9), st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_flat_rows_become_episodes(tmp_path_factory, lengths: list[int], seed: int) -> None:
    rows = flat_rows(lengths, seed)
    path = save_hdf5(tmp_path_factory.mktemp("flat") / "data.hdf5", rows)
    reading = read_with_findings(path)
    dataset = reading.dataset
    assert reading.layout == "dsrl"
    assert {finding.code for finding in reading.findings} == {"task-derived"}
    np.testing.assert_array_equal(dataset.lengths, lengths)
    assert list(dataset.terminated) == [number % 2 == 0 for number in range(len(lengths))]
    start = 0
    for episode, length in zip(dataset, lengths, strict=True):
        window = slice(start, start + length)
        np.testing.assert_array_equal(episode.observations[:-1], rows["observations"][window])
        np.testing.assert_array_equal(episode.observations[1:], rows["next_observations"][window])
        np.testing.assert_array_equal(episode.actions, rows["actions"][window])
        assert episode.reward_return == pytest.approx(sum(rows["rewards"][window].tolist()))
        assert episode.cost_returns[0] == rows["costs"][window].sum()
        start += length


@given(st.lists(st.integers(1, 20), min_size=1, max_size=8), st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_what_is_written_flat_reads_back_the_same(tmp_path_factory, lengths: list[int], seed: int) -> None:
    several = dataset_of(lengths, seed)
    path = tmp_path_factory.mktemp("flat") / "data.hdf5"
    write_dsrl(path, several, cost="tilt")
    one = read_any(path)
    assert one.spec.cost_names == ("tilt",)
    np.testing.assert_array_equal(one.costs[:, 0], several.costs[:, 1])
    for name in ("observations", "actions", "rewards", "offsets", "terminated", "group"):
        np.testing.assert_array_equal(getattr(one, name), getattr(several, name))
    again = path.with_name("again.hdf5")
    write_dsrl(again, one)
    assert read_any(again).digest == one.digest
    assert one.provenance["origin"] == several.provenance


def test_our_own_layout_is_recognised_by_content_not_by_name(tmp_path: Path) -> None:
    path = tmp_path / "looks_like_dsrl.hdf5"
    hdf5.write(path, dataset_of([3, 4]))
    assert read_with_findings(path).layout == hdf5.FORMAT
    assert read_any(path).digest == dataset_of([3, 4]).digest


def test_a_spec_that_differs_from_the_files_own_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.hdf5"
    hdf5.write(path, dataset_of([3, 4]))
    assert read_any(path, spec=SPEC).spec == SPEC
    other = TaskSpec(env_id="test/Other", observation_size=3, action=SPEC.action, horizon=20)
    with pytest.raises(DataError, match="asked for was"):
        read_any(path, spec=other)


def test_a_foreign_file_takes_the_spec_that_is_given(tmp_path: Path) -> None:
    path = save_hdf5(tmp_path / "data.hdf5", flat_rows([3, 4]))
    spec = TaskSpec(env_id="test/Two", observation_size=2, action=Box((-1.0,), (1.0,)), horizon=10)
    assert read_any(path, spec=spec).spec == spec
    with pytest.raises(DataError, match="the horizon of the task is 3"):
        read_any(path, spec=TaskSpec(env_id="test/Two", observation_size=2, action=spec.action, horizon=3))
    with pytest.raises(DataError, match=r"observations has shape \(9, 2\), expected \(9, 5\)"):
        read_any(path, spec=TaskSpec(env_id="test/Two", observation_size=5, action=spec.action, horizon=10))


def test_the_derived_task_holds_what_the_data_shows(tmp_path: Path) -> None:
    rows = flat_rows([3, 4])
    rows["actions"][2] = 2.5
    spec = read_any(save_hdf5(tmp_path / "data.hdf5", rows)).spec
    assert spec == TaskSpec(env_id="unknown", observation_size=2, action=Box((-1.0,), (2.5,)), horizon=4)


def test_a_step_that_ends_both_ways_counts_as_terminated_and_is_said(tmp_path: Path) -> None:
    rows = flat_rows([3, 4])
    rows["terminals"][6] = 1
    path = save_hdf5(tmp_path / "data.hdf5", rows)
    assert codes(path) == {"ends-twice"}
    assert list(read_any(path).terminated) == [True, True]


def test_a_tail_without_an_end_is_kept_as_truncated_and_is_said(tmp_path: Path) -> None:
    rows = flat_rows([3, 4])
    rows["timeouts"][6] = 0
    path = save_hdf5(tmp_path / "data.hdf5", rows)
    assert codes(path) == {"unfinished"}
    assert list(read_any(path).lengths) == [3, 4]
    assert not read_any(path).terminated[1]


def test_no_end_at_all_is_refused(tmp_path: Path) -> None:
    rows = flat_rows([3, 4])
    rows["terminals"][:] = rows["timeouts"][:] = 0
    with pytest.raises(DataError, match="no episode can be told from the next"):
        read_any(save_hdf5(tmp_path / "data.hdf5", rows))


def test_a_gap_in_the_log_is_said_with_its_row(tmp_path: Path) -> None:
    rows = flat_rows([3, 4])
    rows["next_observations"][4] += 1
    (finding,) = [
        f for f in read_with_findings(save_hdf5(tmp_path / "data.hdf5", rows)).findings if f.severity == "warn"
    ]
    assert finding.code == "discontinuous"
    assert finding.where == "next_observations[4] and observations[5]"
    assert finding.what.startswith("1 of 5 steps")


def test_next_observations_that_are_a_copy_are_said(tmp_path: Path) -> None:
    rows = flat_rows([3, 4])
    rows["next_observations"] = rows["observations"]
    findings = read_with_findings(save_hdf5(tmp_path / "data.hdf5", rows)).findings
    assert any("equals observations in every row" in finding.what for finding in findings)


def test_extra_keys_are_said_and_not_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save_hdf5(tmp_path / "data.hdf5", {**flat_rows([3, 4]), "infos": np.array([b"text"]), "more": np.zeros(2)})
    with caplog.at_level(logging.WARNING):
        read_any(path)
    assert "infos, more: not part of the layout" in caplog.text


def test_a_policy_number_that_is_constant_in_each_episode_becomes_the_group(tmp_path: Path) -> None:
    path = save_hdf5(tmp_path / "data.hdf5", {**flat_rows([3, 4]), "policy_seed": np.repeat([7, 9], [3, 4])})
    assert list(read_any(path).group) == [7, 9]
    assert codes(path) == set()


@pytest.mark.parametrize(
    "values", [np.arange(7), np.zeros(3), np.repeat([2**40, 1], [3, 4]), np.array([b"a"] * 7), np.full(7, 0.5)]
)
def test_a_group_that_is_none_is_left_out_and_said(tmp_path: Path, values: np.ndarray) -> None:
    path = save_hdf5(tmp_path / "data.hdf5", {**flat_rows([3, 4]), "group": values})
    assert read_any(path).group is None
    assert codes(path) == {"group-ignored"}


def test_columns_of_one_are_taken_as_flat(tmp_path: Path) -> None:
    rows = flat_rows([3, 4])
    for key in ("rewards", "costs", "terminals", "timeouts"):
        rows[key] = rows[key][:, None]
    rows["actions"] = rows["actions"][:, 0]
    assert (
        read_any(save_hdf5(tmp_path / "a.hdf5", rows)).digest
        == read_any(save_hdf5(tmp_path / "b.hdf5", flat_rows([3, 4]))).digest
    )


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("rewards", lambda v: v[:-1], "rewards has 6 rows, observations has 7"),
        ("costs", lambda v: np.append(v, 0), "costs has 8 rows, observations has 7"),
        ("costs", lambda v: -v - 1, r"costs\[0, 0\] \(cost\) = -.* is negative"),
        ("costs", lambda v: np.where(np.arange(7) == 4, np.nan, v), r"costs\[4\] is nan"),
        ("rewards", lambda v: np.where(np.arange(7) == 5, -np.inf, v), r"rewards\[5\] is -inf"),
        (
            "observations",
            lambda v: np.where(np.arange(14).reshape(7, 2) == 13, np.inf, v),
            r"observations\[6, 1\] is inf",
        ),
        ("next_observations", lambda v: v[:, :1], r"next_observations has shape \(7, 1\), observations \(7, 2\)"),
        ("terminals", lambda v: v + 0.5, r"terminals\[0\] is 0.5"),
        ("timeouts", lambda v: v * np.nan, r"timeouts\[0\] is nan"),
        ("observations", lambda v: v[:, :, None], r"observations has shape \(7, 2, 1\), expected \(steps, columns\)"),
        ("costs", lambda v: np.stack([v, v], axis=1), r"costs has shape \(7, 2\), expected \(steps,\)"),
        ("costs", lambda v: v[0], r"costs has shape \(\), expected"),
        ("actions", lambda v: v[:, :0], r"actions has shape \(7, 0\)"),
    ],
)
def test_broken_rows_are_refused(tmp_path: Path, key: str, change, message: str) -> None:
    rows = flat_rows([3, 4])
    rows[key] = change(rows[key])
    with pytest.raises(DataError, match=message):
        read_any(save_hdf5(tmp_path / "data.hdf5", rows))


def test_no_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rows"):
        read_any(save_hdf5(tmp_path / "data.hdf5", {key: values[:0] for key, values in flat_rows([3]).items()}))


@pytest.mark.parametrize("key", ["next_observations", "costs", "timeouts"])
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    rows = flat_rows([3, 4])
    del rows[key]
    with pytest.raises(DataError, match=f"no array {key}; the file has"):
        read_any(save_hdf5(tmp_path / "data.hdf5", rows))


def test_other_files_are_refused_with_what_they_hold(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"arrays \['x'\] and groups \[\]"):
        read_any(save_hdf5(tmp_path / "x.hdf5", {"x": np.zeros(3)}))


def test_the_budget_reaches_the_file(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="budget"):
        read_any(save_hdf5(tmp_path / "data.hdf5", flat_rows([9] * 9)), budget=100)


def test_the_one_cost_of_the_flat_layout_must_be_named(tmp_path: Path) -> None:
    for cost in (None, "heat"):
        with pytest.raises(UsageError, match="name one of"):
            write_dsrl(tmp_path / "data.hdf5", dataset_of([3]), cost=cost)


def test_many_episodes_of_one_step_are_handled(tmp_path: Path) -> None:
    steps = 20_000
    rows = {key: np.zeros(steps, dtype=np.float32) for key in ("rewards", "costs", "timeouts")}
    rows |= {key: np.zeros((steps, 1), dtype=np.float32) for key in ("observations", "next_observations", "actions")}
    dataset = read_any(save_hdf5(tmp_path / "data.hdf5", {**rows, "terminals": np.ones(steps)}))
    assert len(dataset) == dataset.n_steps == steps
