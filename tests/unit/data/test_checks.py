"""Audits: each oddity is found where it is and not elsewhere; real flights are judged by their known numbers."""

import json
import os
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from logged_episodes import dataset_of

from safehold.core.episode import Episode
from safehold.core.errors import UsageError
from safehold.core.spec import Box, TaskSpec
from safehold.data import hdf5
from safehold.data.checks import Audit, audit, check
from safehold.data.dataset import OfflineDataset
from safehold.data.layouts import read_any

SPEC = TaskSpec(env_id="test/Walk", observation_size=3, action=Box((-1.0, -1.0), (1.0, 1.0)), horizon=200)
REPOSITORY = Path(__file__).parents[3]
EXCERPT = REPOSITORY / "tests" / "data" / "crazyflie-three-flights.hdf5"
FLIGHTS = Path(
    os.environ.get(
        "SAFEHOLD_CRAZYFLIE", REPOSITORY.parent / "shared" / "data" / "crazyflie" / "crazyflie-circle-pwm-162.hdf5"
    )
)
flights = pytest.mark.skipif(not FLIGHTS.exists(), reason="set SAFEHOLD_CRAZYFLIE to the file of 162 flights")


def walks(episodes: int = 30, steps: int = 100, seed: int = 0) -> list[Episode]:
    """Random walks that nobody could object to: one length, some cost, actions inside their bounds."""
    rng = np.random.default_rng(seed)
    return [
        Episode(
            observations=np.cumsum(rng.normal(size=(steps + 1, 3)), axis=0).astype(np.float32),
            actions=rng.uniform(-0.9, 0.9, size=(steps, 2)).astype(np.float32),
            rewards=rng.normal(size=steps),
            costs=(rng.random((steps, 1)) < 0.1).astype(np.float64),
            terminated=False,
            truncated=True,
        )
        for _ in range(episodes)
    ]


def found(episodes: list[Episode], spec: TaskSpec = SPEC, limit: float | None = None) -> dict[str, str]:
    """Codes of the warnings, with where and what."""
    findings = check(OfflineDataset.of(episodes, spec), None if limit is None else {"cost": limit})
    return {f.code: f"{f.where}: {f.what}" for f in findings if f.severity == "warn"}


def noted(episodes: list[Episode], spec: TaskSpec = SPEC) -> dict[str, str]:
    return {f.code: f"{f.where}: {f.what}" for f in check(OfflineDataset.of(episodes, spec)) if f.severity == "note"}


def changed(episodes: list[Episode], name: str, change) -> list[Episode]:
    """Every episode with one array passed through `change(values)`."""
    return numbered(episodes, name, lambda values, _: change(values))


def numbered(episodes: list[Episode], name: str, change) -> list[Episode]:
    """Every episode with one array passed through `change(values, episode number)`."""
    return [replace(e, **{name: change(np.array(getattr(e, name)), i)}) for i, e in enumerate(episodes)]


def cut(episode: Episode, steps: int) -> Episode:
    return Episode(
        observations=episode.observations[: steps + 1],
        actions=episode.actions[:steps],
        rewards=episode.rewards[:steps],
        costs=episode.costs[:steps],
        terminated=True,
        truncated=False,
    )


def test_sound_episodes_pass_without_a_warning(tmp_path: Path) -> None:
    assert found(walks()) == {}
    assert set(noted(walks())) == {"cost-values"}
    hdf5.write(tmp_path / "walks.h5", OfflineDataset.of(walks(), SPEC))
    result = audit(tmp_path / "walks.h5")
    assert (result.verdict, result.exit_code, result.layout) == ("pass", 0, hdf5.FORMAT)
    assert result.summary is not None
    assert result.summary.episodes == 30


def test_terminated_walks_of_many_lengths_pass_too() -> None:
    rng = np.random.default_rng(1)
    assert found([cut(episode, int(rng.integers(60, 100))) for episode in walks()]) == {}


def test_few_episodes_are_said() -> None:
    assert "only 3 episodes" in found(walks(3))["few-episodes"]


def test_copies_are_found_with_their_numbers() -> None:
    episodes = walks()
    warnings = found([*episodes, episodes[7], episodes[9]])
    assert warnings == {"duplicates": "episodes 7 and 30: 2 episodes repeat an earlier one, value by value"}


def test_episodes_of_one_step_and_short_ones_are_found() -> None:
    episodes = walks()
    warnings = found([*episodes, cut(episodes[0], 1), cut(episodes[1], 5)])
    assert "episode 30: 1 episodes have a single step" in warnings["one-step"]
    assert "2 of 32 episodes have less than a tenth of the usual 100 steps" in warnings["bimodal-lengths"]


def test_a_clock_that_rings_at_different_times_is_found() -> None:
    episodes = [replace(cut(e, 80 + i % 20), terminated=False, truncated=True) for i, e in enumerate(walks())]
    assert "30 episodes count as ended by the clock, at 80 to 99 steps" in found(episodes)["clock-varies"]
    early = [*episodes, cut(walks(seed=5)[0], 79)]
    assert "every terminated one is shorter (at most 79 steps)" in found(early)["clock-varies"]


def crashing() -> list[Episode]:
    """Ten of thirty crash after 12 steps at a cost of 0.25 a step, the others cost 0.1; every step hurts."""
    episodes = changed(walks(), "rewards", lambda r: -np.abs(r))
    crash = np.zeros((100, 1))
    crash[9:12] = 1
    return [cut(replace(e, costs=crash), 12) if i % 3 == 0 else e for i, e in enumerate(episodes)]


def test_episodes_that_look_safe_because_they_ended_are_found() -> None:
    message = found(crashing())["early-ends-look-safe"]
    assert "10 terminated episodes have less than half the usual 100 steps; they cost 0.25 a step" in message
    assert "yet 10 of them are in the cheaper half" in message


def test_episodes_that_look_good_because_they_ended_are_found() -> None:
    message = found(crashing())["early-ends-look-good"]
    assert "100% of the best tenth by reward return" in message
    assert "the best of all has 12 steps" in message


def test_an_early_end_that_costs_and_earns_no_more_than_usual_is_no_finding() -> None:
    episodes = changed(walks(), "rewards", lambda r: np.abs(r))
    warnings = found([cut(e, 40) if i % 3 == 0 else e for i, e in enumerate(episodes)])
    assert not {"early-ends-look-safe", "early-ends-look-good"} & set(warnings)


def test_costs_that_are_all_zero_are_no_evidence_of_safety() -> None:
    warnings = found(changed(walks(), "costs", lambda c: c * 0))
    assert "no step shows danger" in warnings["no-danger"]
    assert set(warnings) == {"no-danger"}


def test_a_cost_in_another_unit_is_found_with_its_decades() -> None:
    def spike(costs: np.ndarray, i: int) -> np.ndarray:
        costs[3, 0] = 5e4 if i == 2 else 1
        return costs

    message = found(numbered(walks(), "costs", spike))["huge-cost"]
    assert "the largest cost of a step is 5e+04, the median of the positive ones 1; by decade: 1e0: " in message
    assert message.endswith("1e4: 1")


def test_costs_are_called_binary_or_real() -> None:
    assert "0 or 1 a step" in noted(walks())["cost-values"]
    assert "real-valued" in noted(changed(walks(), "costs", lambda c: c * 0.5))["cost-values"]


def test_costs_at_the_end_only_are_noted() -> None:
    def at_end(costs: np.ndarray, i: int) -> np.ndarray:
        return np.concatenate([costs[:-1] * 0, [[1.0]]])

    assert "only last steps have a cost" in noted(numbered(walks(), "costs", at_end))["cost-at-end-only"]


def test_swapped_rewards_and_costs_are_found() -> None:
    swapped = [replace(e, rewards=e.costs[:, 0], costs=np.abs(e.rewards)[:, None]) for e in walks()]
    assert "they look swapped" in found(swapped)["swapped"]
    negated = [replace(e, costs=np.abs(e.rewards)[:, None], rewards=-np.abs(e.rewards)) for e in walks()]
    assert "minus the rewards" in found(negated)["swapped"]


def test_constant_rewards_and_actions_are_found() -> None:
    assert "every reward is 0" in found(changed(walks(), "rewards", np.zeros_like))["constant-rewards"]
    still = found(changed(walks(), "actions", lambda a: a * np.array([1, 0], dtype=np.float32)))
    assert still == {"constant-actions": "actions, column 1: 1 of 2 columns never change"}


def test_a_column_that_never_changes_is_noted_and_a_huge_one_found() -> None:
    mask = np.array([1, 0, 1], dtype=np.float32)
    assert noted(changed(walks(), "observations", lambda o: o * mask))["constant-columns"].startswith(
        "observations, column 1: 1 of 3"
    )
    assert (
        "up to 1e+06"
        in found(changed(walks(), "observations", lambda o: np.append(o[:-1], [[0, 0, 1e6]], 0)))["large-observations"]
    )


def test_a_sensor_that_hangs_is_found_with_episode_and_steps() -> None:
    def hang(observations: np.ndarray, i: int) -> np.ndarray:
        if i == 4:
            observations[20:30] = observations[20]
        if i == 6:
            observations[10:80, 2] = observations[10, 2]
        return observations

    warnings = found(numbered(walks(), "observations", hang))
    assert warnings["stuck-observation"].startswith("episode 4, steps 20 to 29: the whole observation stays the same")
    assert warnings["stuck-column"].startswith("observations, column 2, episode 6, steps 10 to 79: one value for 70")
    assert set(warnings) == {"stuck-observation", "stuck-column"}


def test_a_sensor_that_is_read_more_slowly_is_noted() -> None:
    def slow(observations: np.ndarray, i: int) -> np.ndarray:
        observations[1::2, 1] = observations[:-1:2, 1]
        return observations

    assert (
        "keeps its value in 50% of the steps (at most 1 in a row)"
        in noted(numbered(walks(), "observations", slow))["held-column"]
    )


def test_a_jump_inside_an_episode_is_found_and_one_between_episodes_is_not() -> None:
    def jump(observations: np.ndarray, i: int) -> np.ndarray:
        observations += 1000 * i
        if i == 11:
            observations[31:, 1] += 50
        return observations

    warnings = found(numbered(walks(), "observations", jump))
    assert warnings["jumps"].startswith(
        "observations, column 1, episode 11, step 30 to 31: the largest of 1 jumps in 1 ep"
    )
    assert set(warnings) == {"jumps"}


def test_actions_beyond_and_at_their_bounds_are_found() -> None:
    warnings = found(changed(walks(), "actions", lambda a: a * 2))
    assert "actions leave the bounds of the task" in warnings["actions-out-of-bounds"]
    assert "they lie in [-1.8, 1.8]" in noted(changed(walks(), "actions", lambda a: a * 2))["actions-not-unit"]
    assert "saturated-actions" in found(changed(walks(), "actions", lambda a: np.sign(a)))
    some = noted(changed(walks(), "actions", lambda a: np.clip(a * 1.2, -1, 1)))["saturated-actions"]
    assert "share of steps at a bound, by column: 7" in some


def test_an_observation_that_holds_the_last_action_is_noted() -> None:
    def echo(observations: np.ndarray, i: int) -> np.ndarray:
        observations[1:, 2] = episodes[i].actions[:, 0]
        return observations

    episodes = walks()
    assert noted(numbered(episodes, "observations", echo))["previous-action-seen"].startswith("observations, column 2:")


def test_episodes_of_one_policy_that_are_alike_are_noted() -> None:
    episodes = numbered(walks(), "rewards", lambda r, i: r + i // 3)
    dataset = OfflineDataset.of(episodes, SPEC, group=[i // 3 for i in range(30)])
    (finding,) = [f for f in check(dataset) if f.code == "episodes-alike"]
    assert "10 behaviour policies" in finding.what
    assert "reward return 1.00" in finding.what


def test_a_limit_that_nothing_keeps_or_nothing_passes_is_found() -> None:
    assert "no episode keeps the limit; the cheapest costs" in found(walks(), limit=0.0)["limit-never-kept"]
    assert "no episode passes the limit" in found(walks(), limit=99.0)["limit-never-passed"]
    assert set(found(walks(60), limit=10.0)) <= {"coverage"}


def test_a_limit_with_few_episodes_under_it_is_a_warning() -> None:
    dataset = OfflineDataset.of(walks(), SPEC)
    low = float(np.sort(dataset.cost_returns[:, 0])[2])
    kept = int((dataset.cost_returns[:, 0] <= low).sum())
    assert f"{kept} of 30 episodes keep the limit" in found(walks(), limit=low)["coverage"]


def test_limits_are_for_costs_that_exist(tmp_path: Path) -> None:
    path = tmp_path / "two.h5"
    hdf5.write(path, dataset_of([5] * 30))
    assert audit(path, limit={"tilt": 100.0}).verdict == "warn"
    for limit, message in (
        (3.0, "say which one it is for"),
        ({"heat": 1.0}, "limit on 'heat': the data has costs"),
        (float("nan"), "limit nan: a limit is a finite number"),
        (-1.0, "limit -1.0"),
        ({"tilt": float("inf")}, "limit inf"),
    ):
        with pytest.raises(UsageError, match=message):
            audit(path, limit=limit)


def test_a_file_that_cannot_be_read_fails_with_the_exit_code_of_its_error(tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    hdf5.write(path, dataset_of([5] * 30))
    large = audit(path, budget=100)
    with h5py.File(path, "r+") as file:
        file["costs"][0, 0] = 0
    damaged = audit(path)
    path.write_bytes(b"\x89PNG")
    unreadable = audit(path)
    missing = audit(tmp_path / "nothing.h5")
    for result, code, exit_code in (
        (large, "too-large", 7),
        (damaged, "damaged", 4),
        (unreadable, "unreadable", 3),
        (missing, "unreadable", 3),
    ):
        assert (result.verdict, result.exit_code, result.summary) == ("fail", exit_code, None)
        assert [(f.severity, f.code) for f in result.findings] == [("fail", code)]
        json.dumps(result.to_json(), allow_nan=False)


@pytest.mark.parametrize("lengths", [[1], [1, 1], [2], [1] * 40])
def test_tiny_datasets_are_judged_without_a_warning_of_numpy(lengths: list[int]) -> None:
    assert check(dataset_of(lengths), {"speed": 1.0, "tilt": 0.0})


def test_flipped_bytes_end_in_a_verdict(tmp_path: Path) -> None:
    hdf5.write(tmp_path / "whole.h5", dataset_of([5] * 30))
    whole = (tmp_path / "whole.h5").read_bytes()
    expected = audit(tmp_path / "whole.h5").digest
    rng = np.random.default_rng(0)
    for trial in range(60):
        content = bytearray(whole)
        for place in rng.integers(0, len(content), size=1 + trial % 4):
            content[place] ^= 1 << int(rng.integers(8))
        path = tmp_path / f"{trial}.h5"
        path.write_bytes(content)
        result = audit(path)
        assert result.verdict == "fail" or result.digest == expected


def codes(result: Audit) -> set[str]:
    return {finding.code for finding in result.findings if finding.severity == "warn"}


def test_three_real_flights_are_judged() -> None:
    result = audit(EXCERPT, limit=5.0)
    assert (result.verdict, result.exit_code, result.layout) == ("warn", 0, "dsrl")
    assert codes(result) == {
        "unknown-keys",
        "few-episodes",
        "bimodal-lengths",
        "early-ends-look-safe",
        "early-ends-look-good",
        "coverage",
    }
    assert result.summary is not None
    assert (result.summary.episodes, result.summary.steps, result.summary.terminated) == (3, 615, 3)
    assert result.summary.costs[0].values == (0, 1)
    assert result.summary.group is not None
    assert result.summary.group.groups == 3
    assert EXCERPT.stat().st_size < 200_000


def test_three_real_flights_cost_one_where_they_tilt_beyond_20_degrees() -> None:
    with h5py.File(EXCERPT) as file:
        x, y, z, w = file["next_observations"][:, 3:7].astype(np.float64).T
        costs = file["costs"][:]
    roll = np.arctan2(2 * (w * x + y * z), 1 - 2 * (x * x + y * y))
    pitch = np.arcsin(np.clip(2 * (w * y - z * x), -1, 1))
    np.testing.assert_array_equal(costs, np.maximum(np.abs(roll), np.abs(pitch)) > np.radians(20))


@flights
def test_real_flights_have_the_numbers_that_their_note_states() -> None:
    summary = audit(FLIGHTS).summary
    assert summary is not None
    assert (summary.episodes, summary.steps) == (162, 155_838)
    assert (summary.terminated, summary.truncated) == (103, 59)
    assert (summary.observation_size, summary.action_size) == (20, 4)
    assert summary.rewards.minimum == pytest.approx(-183.73, abs=0.01)
    assert summary.rewards.maximum == pytest.approx(-0.228, abs=0.001)
    (cost,) = summary.costs
    assert (cost.returns.minimum, cost.returns.maximum, cost.values) == (0, 83, (0, 1))
    assert cost.returns.mean == pytest.approx(12.0, abs=0.05)
    assert cost.episodes_without == 41
    assert (summary.lengths.minimum, summary.lengths.maximum) == (11, 3065)
    assert summary.group is not None
    assert (summary.group.groups, summary.group.fewest_episodes, summary.group.most_episodes) == (54, 3, 3)


@flights
def test_real_flights_are_read_row_by_row_as_h5py_reads_them() -> None:
    dataset = read_any(
        FLIGHTS,
        spec=TaskSpec(env_id="crazyflie", observation_size=20, action=Box((-1.0,) * 4, (1.0,) * 4), horizon=3100),
    )
    with h5py.File(FLIGHTS) as file:
        rows = {key: file[key][()] for key in file}
    assert int((dataset.lengths < 200).sum()) == 75
    assert dataset.lengths[dataset.terminated].max() < 1980 <= dataset.lengths[~dataset.terminated].min()
    assert (rows["rewards"].min() > -1.01, rows["rewards"].max() <= -0.002) == (True, True)
    for i, flight in enumerate(dataset):
        mine = rows["flight"] == i
        np.testing.assert_array_equal(flight.observations[:-1], rows["observations"][mine])
        np.testing.assert_array_equal(flight.observations[1:], rows["next_observations"][mine])
        np.testing.assert_array_equal(flight.costs[:, 0], rows["costs"][mine])
        assert set(rows["policy_seed"][mine]) == {dataset.group[i]}
        assert flight.terminated == bool(rows["terminals"][mine][-1])


@flights
def test_the_audit_of_real_flights_sees_what_a_person_would() -> None:
    result = audit(FLIGHTS, limit=5.0)
    assert (result.verdict, result.exit_code) == ("warn", 0)
    found = {finding.code: f"{finding.where}: {finding.what}" for finding in result.findings}
    assert codes(result) == {
        "unknown-keys",
        "bimodal-lengths",
        "clock-varies",
        "early-ends-look-safe",
        "early-ends-look-good",
        "jumps",
    }
    assert "76 of 162 episodes have less than a tenth of the usual 2127 steps" in found["bimodal-lengths"]
    assert "every terminated one is shorter (at most 1814 steps)" in found["clock-varies"]
    assert "they cost 0.105 a step, the others 0.00408, yet 34 of them" in found["early-ends-look-safe"]
    assert "100% of the best tenth by reward return" in found["early-ends-look-good"]
    assert "the best of all has 11 steps" in found["early-ends-look-good"]
    assert "episode 146, step 3 to 4" in found["jumps"]
    assert found["previous-action-seen"].startswith("observations, columns 16, 17, 18, 19:")
    assert "column 15: keeps its value in 23% of the steps" in found["held-column"]
    assert "14.6%, 12.6%, 22.8%, 12.9%" in found["saturated-actions"]
    assert "54 behaviour policies" in found["episodes-alike"]
    assert "76 of 162 episodes keep the limit, 30 of them terminated" in found["coverage"]
