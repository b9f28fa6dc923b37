"""Tables of rows, as CSV and as Parquet: named columns become episodes, and nothing is guessed, sorted or left out."""

import csv
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from logged_episodes import SPEC, dataset_of
from pyarrow import parquet

from safehold.core.errors import DataError, IntegrityError, ResourceError, UsageError
from safehold.core.spec import Discrete
from safehold.data import csv_table, parquet_table
from safehold.data.dataset import OfflineDataset
from safehold.data.declared import Columns
from safehold.data.layouts import read_any, read_with_findings

FORMATS = ("csv", "parquet")
SPEED = Columns(costs={"speed": "speed", "tilt": "tilt"})


def save(path: Path, table: dict[str, list]) -> Path:
    """The same table in the format of the path; None is a value left out."""
    if path.suffix == ".parquet":
        parquet.write_table(pa.table(table), path)
        return path
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(table)
        writer.writerows(zip(*(["" if v is None else v for v in values] for values in table.values()), strict=True))
    return path


def rows_of(dataset: OfflineDataset, *, last_seen: bool = True) -> dict[str, list]:
    """One row a step, and one more an episode for what was seen last."""
    names = [*(f"observation_{i}" for i in range(3)), "action_0", "action_1", "reward", "speed", "tilt"]
    table: dict[str, list] = {name: [] for name in ("episode", "step", "terminated", "truncated", *names)}
    for number, episode in enumerate(dataset):
        for step in range(len(episode) + last_seen):
            acted = step < len(episode)
            values = episode.observations[step].tolist()
            if acted:
                values += [*episode.actions[step].tolist(), episode.rewards[step], *episode.costs[step].tolist()]
            else:
                values += [None] * 5
            end = step == len(episode) - 1
            row = [f"run-{number}", step, int(end and episode.terminated), int(end and episode.truncated), *values]
            for name, value in zip(table, row, strict=True):
                table[name].append(value)
    return table


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_a_table_reads_back_to_the_dataset_it_was_written_from(tmp_path_factory, lengths, seed) -> None:
    assert_reads_back(tmp_path_factory.mktemp("table") / "flights.csv", dataset_of(lengths, seed))


def test_a_parquet_table_reads_back_to_the_dataset_it_was_written_from(tmp_path: Path) -> None:
    assert_reads_back(tmp_path / "flights.parquet", dataset_of([3, 1, 4, 1]))


def assert_reads_back(path: Path, dataset: OfflineDataset) -> None:
    reading = read_with_findings(save(path, rows_of(dataset)), spec=SPEC, columns=SPEED)
    assert reading.layout == path.suffix[1:]
    assert reading.findings == ()
    for name in ("observations", "actions", "rewards", "costs", "offsets", "terminated"):
        np.testing.assert_array_equal(getattr(reading.dataset, name), getattr(dataset, name))
    assert reading.dataset.provenance["columns"]["costs"] == {"speed": "speed", "tilt": "tilt"}


@pytest.mark.parametrize("kind", FORMATS)
def test_without_a_last_observation_it_is_repeated_and_said(tmp_path: Path, kind: str) -> None:
    dataset = dataset_of([3, 1, 4])
    path = save(tmp_path / f"t.{kind}", rows_of(dataset, last_seen=False))
    reading = read_with_findings(path, columns=SPEED)
    assert {f.code for f in reading.findings} == {"last-observation-repeated", "task-derived"}
    np.testing.assert_array_equal(reading.dataset.costs, dataset.costs)
    for episode in reading.dataset:
        np.testing.assert_array_equal(episode.observations[-1], episode.observations[-2])


@pytest.mark.parametrize("kind", FORMATS)
def test_next_observations_give_the_last_one(tmp_path: Path, kind: str) -> None:
    dataset = dataset_of([3, 1, 4])
    table = rows_of(dataset, last_seen=False)
    following = np.concatenate([episode.observations[1:] for episode in dataset])
    table |= {f"seen_{i}": following[:, i].tolist() for i in range(3)}
    columns = SPEED.model_copy(update={"next_observations": ("seen_*",)})
    reading = read_with_findings(save(tmp_path / f"t.{kind}", table), columns=columns)
    assert {f.code for f in reading.findings} == {"task-derived"}
    np.testing.assert_array_equal(reading.dataset.observations, dataset.observations)
    table["seen_0"][1] += 1
    broken = read_with_findings(save(tmp_path / f"b.{kind}", table), columns=columns)
    assert "discontinuous" in {f.code for f in broken.findings}
    with pytest.raises(DataError, match="3 columns of observations and 2 of next_observations"):
        read_any(tmp_path / f"t.{kind}", columns=columns.model_copy(update={"next_observations": ("seen_0", "seen_1")}))


@pytest.mark.parametrize("kind", FORMATS)
def test_columns_are_found_by_list_or_prefix_in_a_sure_order(tmp_path: Path, kind: str) -> None:
    table = {"flight": [1, 1, 1], "u": [0.5, 0.25, 0.0], "r": [1, 2, 3], "bump": [0, 1, 0], "wear": [0.5, 0, 1]}
    table |= {f"x{i}": [i, i, i] for i in (10, 2, 0)} | {"done": [0, 0, 1], "policy": [7, 7, 7], "note": [1, 2, 3]}
    columns = Columns(
        episode="flight",
        observations=("x*", "u"),
        actions=("u",),
        reward="r",
        costs={"wear": "wear", "bump": "bump"},
        cost_units={"bump": "bumps"},
        binary_costs=("bump",),
        terminated="done",
        group="policy",
        env_id="test/Cart",
        horizon=5,
    )
    reading = read_with_findings(save(tmp_path / f"t.{kind}", table), columns=columns)
    data = reading.dataset
    np.testing.assert_array_equal(data.observations[0], np.array([0, 2, 10, 0.5], dtype=np.float32))
    np.testing.assert_array_equal(data.costs, [[0.5, 0], [0, 1], [1, 0]])
    assert (data.spec.env_id, data.spec.horizon) == ("test/Cart", 5)
    assert data.spec.cost_names == ("wear", "bump")
    assert data.spec.cost_units == ("cost units", "bumps")
    assert list(data.group) == [7]
    (unread,) = [f for f in reading.findings if f.code == "unknown-keys"]
    assert unread.where == "note"


def table_of(**changes: list | None) -> dict[str, list]:
    """Two episodes of two steps; a column given as None is left out."""
    table = {
        "episode": [1, 1, 2, 2],
        "step": [0, 1, 0, 1],
        "observation_0": [0.0, 1.0, 2.0, 3.0],
        "action_0": [0.1, 0.2, 0.3, 0.4],
        "reward": [1.0, 1.0, 1.0, 1.0],
        "cost": [0.0, 1.0, 0.0, 0.0],
        "terminated": [0, 1, 0, 0],
        "truncated": [0, 0, 0, 1],
    }
    return {name: values for name, values in {**table, **changes}.items() if values is not None}


WRONG = [
    (table_of(cost=None), Columns(), r"no column 'cost' for cost 'cost'; the table has episode"),
    (table_of(), Columns(costs={"heat": "cots"}), r"no column 'cots' for cost 'heat'; did you mean 'cost'\?"),
    (table_of(), Columns(reward="rewards"), r"no column 'rewards' for reward; did you mean 'reward'\?"),
    (table_of(), Columns(observations=("pose_*",)), "no column begins with 'pose_' for observations"),
    (
        table_of(),
        Columns(observations=("observation_*", "observation_0")),
        "names the column 'observation_0' twice",
    ),
    (table_of(), Columns(episode="flight"), "no column 'flight' for episode"),
    (table_of(), Columns(terminated="done"), "no column 'done' for terminated"),
    (table_of(episode=[1, 2, 1, 2]), Columns(), "row 2 belongs to episode '1' again"),
    (table_of(step=[0, 2, 0, 1]), Columns(), "goes from 0 to 2 in rows 0 and 1, inside an episode"),
    (table_of(step=[1, 0, 0, 1]), Columns(), "goes from 1 to 0 in rows 0 and 1"),
    (table_of(step=[0, None, 0, 1]), Columns(), "column 'step' says nothing in row 1"),
    (table_of(cost=[0, -1.0, 0, 0]), Columns(), r"costs\[1, 0\] \(cost\) = -1.0 is negative"),
    (table_of(cost=[-1, -1, -1, -2]), Columns(), "rewards and costs are swapped"),
    (table_of(cost=[0, 0.5, 0, 0]), Columns(binary_costs=("cost",)), "declared to be 0 or 1"),
    (table_of(cost=[0, None, 0, 0]), Columns(), "column 'cost' says nothing in row 1 .* is no zero"),
    (table_of(reward=[1, 1, 1, float("nan")]), Columns(), r"reward\[3\] is nan"),
    (table_of(observation_0=[0, float("inf"), 0, 0]), Columns(), r"observation_0\[1\] is inf"),
    (table_of(observation_0=[0, 1e39, 0, 0]), Columns(), r"observation_0\[1\] is 1e\+39"),
    (table_of(terminated=[1, 0, 0, 0]), Columns(), r"row 0 is an end \(terminated, truncated\), and its episode"),
    (table_of(terminated=[0, 2, 0, 0]), Columns(), r"terminated\[1\] is 2.0 .*expected 0 or 1"),
    (table_of(terminated=[0, None, 0, 0]), Columns(), "column 'terminated' says nothing in row 1"),
    (
        table_of(action_0=[None, 1, 1, 1], reward=[None, 1, 1, 1], cost=[None, 1, 1, 1]),
        Columns(),
        "row 0 has no action, reward and cost, and its episode goes on",
    ),
    (
        table_of(episode=[1, 1, 1, 2], step=None, **{n: [0, 0, 1, None] for n in ("action_0", "reward", "cost")}),
        Columns(),
        "row 1 is an end|episode '2' has an observation and no step",
    ),
    (table_of(episode=["a", "a", "b", None]), Columns(), "says no episode"),
    (table_of(action_0=[0, 1, 2, 0.5]), Columns(discrete_actions=3), r"actions\[3\] = 0.5; the task has actions"),
    (table_of(cost=["0", "one", "0", "0"]), Columns(), "column 'cost'.*(is no number|holds string)"),
    ({name: [] for name in table_of()}, Columns(), "no rows|holds null"),
]


@pytest.mark.parametrize(("table", "columns", "message"), WRONG)
def test_what_is_wrong_is_named(tmp_path: Path, table, columns: Columns, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_any(save(tmp_path / "t.csv", table), columns=columns)


@pytest.mark.parametrize(("table", "columns", "message"), [*WRONG[7:18:5], *WRONG[-2:]])
def test_what_is_wrong_in_a_parquet_table_is_named(tmp_path: Path, table, columns: Columns, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_any(save(tmp_path / "t.parquet", table), columns=columns)


def test_odd_ends_are_said(tmp_path: Path) -> None:
    def codes(**changes: list | None) -> set[str]:
        findings = read_with_findings(save(tmp_path / "t.csv", table_of(**changes))).findings
        return {f.code for f in findings} - {"task-derived", "last-observation-repeated"}

    assert codes() == set()
    assert codes(terminated=None) == {"ends-unknown"}
    assert codes(terminated=[0, 1, 0, 1]) == {"ends-twice"}
    assert codes(truncated=[0, 0, 0, 0]) == {"unfinished"}
    assert codes(truncated=None) == set()
    assert codes(group=[1, 2, 3, 3]) == {"group-ignored"}


@pytest.mark.parametrize("kind", FORMATS)
def test_discrete_actions_and_truth_values(tmp_path: Path, kind: str) -> None:
    table = table_of(action_0=[0, 1, 2, 0], terminated=[False, True, False, False])
    dataset = read_any(save(tmp_path / f"t.{kind}", table), columns=Columns(discrete_actions=3))
    assert dataset.spec.action == Discrete(3)
    assert list(dataset.terminated) == [True, False]


@pytest.mark.parametrize("kind", FORMATS)
def test_many_episodes_of_one_step(tmp_path: Path, kind: str) -> None:
    n = 20_000
    table = {name: [0.0] * n for name in ("observation_0", "action_0", "reward", "cost")}
    table |= {"episode": list(range(n)), "terminated": [1] * n}
    assert len(read_any(save(tmp_path / f"t.{kind}", table))) == n


@pytest.mark.parametrize("kind", FORMATS)
def test_memory_beyond_the_budget_is_refused(tmp_path: Path, kind: str) -> None:
    path = save(tmp_path / f"t.{kind}", {name: values * 50 for name, values in table_of().items()})
    with pytest.raises(ResourceError, match=r"budget|memory"):
        read_any(path, budget=1000)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_table_that_changes_while_it_is_read_is_refused(tmp_path: Path, kind: str) -> None:
    path = save(tmp_path / f"t.{kind}", table_of())
    opened = csv_table.opened_csv if kind == "csv" else parquet_table.opened_parquet

    def read_while_it_changes() -> None:
        with opened(path) as table:
            table.read(("cost",), "episode")
            with path.open("ab") as file:
                file.write(b"\n")

    with pytest.raises(DataError, match="changed while it was read"):
        read_while_it_changes()


# Text tables ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"empty \(0 bytes\)"),
        (b"\x89PNG\r\n\x1a\n\xff\xfe", "begins with b'.x89PNG.*a PNG image"),
        (b"episode,cost\n1,\xff\n", "no UTF-8 text"),
        (b"\n\n\n", "the first line must name each column once"),
        (b"episode,,cost\n", "column '' has no name"),
        (b"cost,cost\n", "column 'cost' has no name, or the same as another"),
        (b"a,\x1b[2J\n", "has no name"),
        (b"episode;cost\n1;2\n", "is one column, 'episode;cost'; values are parted by ','"),
        (b'episode,"cost\n1,2\n', "no table of values parted by ','"),
        (b"a," + b"1" * 2**20, "characters or more"),
        (b"a," + b"1" * 200_000 + b"\n", "field larger than field limit"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_any(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0.3", "0_3", "line 4, column 'action_0': '0_3' is no number"),
        ("0.3", "٣", "line 4, column 'action_0': '٣' is no number"),
        ("0.3", "0,3", "line 4 has 9 values, the header 8"),
        ("0.3", "=1+1", "line 4, column 'action_0': '=1[+]1' is no number"),
        ("0.3", "0x1p3", "is no number"),
    ],
)
def test_a_value_that_is_no_number_is_named_by_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = save(tmp_path / "t.csv", table_of())
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DataError, match=message):
        read_any(path)


def test_other_delimiters_marks_of_order_and_empty_lines(tmp_path: Path) -> None:
    expected = read_any(save(tmp_path / "t.csv", table_of())).digest
    text = (tmp_path / "t.csv").read_text()
    (tmp_path / "b.csv").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n\r\n").encode())
    (tmp_path / "t.tsv").write_text(text.replace(",", "\t"))
    (tmp_path / "s.csv").write_text(text.replace(",", " ; "))
    assert read_any(tmp_path / "b.csv").digest == expected
    assert read_any(tmp_path / "t.tsv").digest == expected
    assert read_any(tmp_path / "s.csv", columns=Columns(delimiter=";")).digest == expected


# Parquet ----------------------------------------------------------------------------------------------------------


def test_parquet_columns_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    odd = {
        "lists": pa.array([[0.0], [1.0], [0.0], [0.0]]),
        "structures": pa.array([{"a": 1}] * 4),
        "text": pa.array(["0", "1", "0", "0"]),
        "dictionary": pa.array(["0", "1", "0", "0"]).dictionary_encode(),
        "bytes": pa.array([b"0"] * 4),
        "times": pa.array([0, 1, 0, 0], pa.timestamp("ms")),
        "decimals": pa.array([0, 1, 0, 0], pa.decimal128(5, 2)),
        "nothing": pa.array([None] * 4),
        "spans": pa.array([0, 1, 0, 0], pa.duration("s")),
    }
    parquet.write_table(pa.table({**table_of(), **odd}), tmp_path / "t.parquet")
    with parquet_table.opened_parquet(tmp_path / "t.parquet") as table:
        for name in odd:
            with pytest.raises(DataError, match=rf"column '{name}' holds .*expected numbers"):
                table.read((name,), "episode")
            if name != "text":
                with pytest.raises(DataError, match=rf"column '{name}' holds .*expected whole numbers or text"):
                    table.read(("cost",), name)


def test_every_kind_of_number_comes_in_exactly(tmp_path: Path) -> None:
    kinds = [pa.int8(), pa.uint16(), pa.uint64(), pa.float32(), pa.bool_()]
    odd = {str(kind): pa.array([0, 1, 0, 0]).cast(kind) for kind in kinds}
    odd["halffloat"] = pa.array(np.array([0, 1, 0, 0], dtype=np.float16))
    parquet.write_table(pa.table({**table_of(), **odd}), tmp_path / "t.parquet")
    with parquet_table.opened_parquet(tmp_path / "t.parquet") as table:
        rows = table.read(tuple(odd), "episode")
    for name in odd:
        np.testing.assert_array_equal(rows.values[name], [0, 1, 0, 0])


def test_a_file_over_which_pyarrow_breaks_down_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "t.parquet", table_of())
    for program, error, message in (
        ("import os; os.abort()", DataError, "pyarrow broke down over this file"),
        ("while True: pass", DataError, "pyarrow broke down over this file"),
        ('import sys; sys.stdin.readline(); print(\'{"error": "memory"}\')', ResourceError, "no memory for what"),
    ):
        child = tmp_path / "child.py"
        child.write_text(f"import resource; resource.setrlimit(resource.RLIMIT_CPU, (1, 1)); {program}")
        monkeypatch.setattr(parquet_table, "_CHILD", child)
        if "while" in program:
            child.write_text(
                "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (1, 1))\nwhile True:\n    pass\n"
            )
        with pytest.raises(error, match=message):
            read_any(path)


def test_whole_numbers_that_a_float_cannot_hold_are_refused(tmp_path: Path) -> None:
    parquet.write_table(pa.table({**table_of(), "cost": [0, 2**53 + 1, 0, 0]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"cost\[1\] is 9007199254740993"):
        read_any(tmp_path / "t.parquet")


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pa.table([pa.array([1]), pa.array([2])], names=["cost", "cost"])
    parquet.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(DataError, match="same name as another"):
        read_any(tmp_path / "t.parquet")


def test_a_small_parquet_file_that_holds_many_rows_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    n = 5_000_000
    zeros = pa.array(np.zeros(n))
    table = pa.table({name: zeros for name in ("observation_0", "action_0", "reward", "cost", "terminated")})
    parquet.write_table(table.append_column("episode", pa.array(np.zeros(n, dtype=int))), tmp_path / "t.parquet")
    assert (tmp_path / "t.parquet").stat().st_size < 200_000
    with pytest.raises(ResourceError, match="claims 5000000 rows"):
        read_any(tmp_path / "t.parquet", budget=2**28)


def test_a_flipped_bit_in_a_page_with_a_checksum_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    table = {name: values * 100 for name, values in table_of(episode=[1] * 4, step=None).items()}
    table["observation_0"] = np.random.default_rng(0).normal(size=400).tolist()
    table |= {"terminated": [0] * 400, "truncated": [0] * 400}
    parquet.write_table(pa.table(table), path, write_page_checksum=True, compression="none", use_dictionary=False)
    read_any(path)
    content = bytearray(path.read_bytes())
    place = content.index(np.float64(table["observation_0"][200]).tobytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="CRC"):
        read_any(path)


def test_without_pyarrow_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "t.parquet", table_of())
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"pip install 'safehold\[parquet\]', or write the table as CSV"):
        read_any(path)
