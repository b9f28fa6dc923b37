import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from ledger_samples import OF_RARE_KINDS, ONE_OF_EACH, asked, started, told

from safehold.core.certificate import TrialState
from safehold.core.errors import DataError, IntegrityError
from safehold.core.measurement import Measurement
from safehold.ledger import events
from safehold.ledger.encoding import canonical, from_plain, to_plain
from safehold.ledger.events import KINDS, NAMES, Asked, Told, nullable, pack_mask, unpack_mask


@pytest.mark.parametrize("event", [*ONE_OF_EACH, *OF_RARE_KINDS], ids=lambda event: NAMES[type(event)])
def test_every_event_reads_back_as_it_was_written(event):
    text = canonical(to_plain(event))
    back = from_plain(KINDS[NAMES[type(event)]], json.loads(text), "event 1")
    assert back == event
    assert canonical(to_plain(back)) == text


def test_there_is_a_sample_of_every_kind():
    assert {type(event) for event in (*ONE_OF_EACH, *OF_RARE_KINDS)} == set(KINDS.values())


@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_every_finite_float_survives_exactly(value):
    assert json.loads(canonical([value])) == [value]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_ledger_holds_no_number_that_is_not_finite(value):
    with pytest.raises(DataError, match="finite numbers"):
        canonical(to_plain(replace(asked(), alpha=value)))


def test_what_is_not_plain_is_refused():
    with pytest.raises(DataError, match="plain JSON"):
        canonical(to_plain(started({"array": np.zeros(2)})))


def test_equal_values_have_one_spelling():
    assert (
        canonical({"b": 1.0, "a": [True, None]})
        == canonical({"a": [True, None], "b": 1.0})
        == ('{"a":[true,null],"b":1.0}')
    )
    assert to_plain(TrialState.DONE) == "done"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"number": 1.5}, "number: expected int"),
        ({"number": True}, "number: expected int"),
        ({"alpha": None}, "alpha: expected a finite number"),
        ({"alpha": True}, "alpha: expected a finite number"),
        ({"key": 3}, "key: expected str"),
        ({"phase": "panic"}, "phase: expected one of"),
        ({"target": 3}, "target: expected a list"),
        ({"target": [1.0, "x"]}, r"target\[1\]: expected a finite number"),
        ({"costs": []}, "costs: expected an object"),
        ({"costs": {"cost": 1}}, "costs.cost: expected an object"),
        ({"extra": 1}, "expected the fields"),
    ],
)
def test_an_altered_body_is_refused_by_field(change, message):
    plain = {**to_plain(asked()), **change}
    with pytest.raises(IntegrityError, match=message):
        from_plain(Asked, plain, "event 3")


def test_a_missing_field_is_refused():
    plain = to_plain(asked())
    del plain["target"]
    with pytest.raises(IntegrityError, match="expected the fields"):
        from_plain(Asked, plain, "event 3")


def test_a_failed_episode_without_numbers_survives_as_null():
    measurement = Measurement(
        rewards=np.array([1.0, np.nan]),
        costs={"cost": np.array([0.5, np.inf])},
        failed=np.array([False, True]),
    )
    event = events.told("trial-0000", measurement, None, None)
    assert event.costs == {"cost": (0.5, None)}
    back = from_plain(Told, json.loads(canonical(to_plain(event))), "event").measurement
    np.testing.assert_array_equal(back.rewards, [1.0, np.nan])
    np.testing.assert_array_equal(back.costs["cost"], [0.5, np.nan])
    np.testing.assert_array_equal(back.failed, [False, True])
    assert back.mean_cost("cost") == np.inf


def test_an_evaluation_reads_back_as_a_measurement():
    measurement = Measurement(rewards=np.array([1.0]), costs={"cost": np.array([2.0])}, failed=np.array([False]))
    event = events.evaluated("naive", (1.0, 2.0), measurement, (5,), (9,))
    assert (event.purpose, event.target, event.lengths, event.seeds) == ("naive", (1.0, 2.0), (5,), (9,))
    assert event.measurement.mean_cost("cost") == 2.0


def test_an_observation_reads_back_as_a_measurement():
    clean = np.zeros(2, dtype=np.bool_)
    measurement = Measurement(rewards=np.array([1.0, 2.0]), costs={"cost": np.array([2.0, 3.0])}, failed=clean)
    event = events.observed((1.0, 2.0), 7, "bench", measurement)
    assert (event.source, event.index, event.rewards) == ("bench", 7, (1.0, 2.0))
    assert event.measurement.mean_cost("cost") == 2.5


def test_lengths_and_seeds_come_one_an_episode():
    with pytest.raises(DataError, match="2 episodes but 1 lengths"):
        events.told("trial-0000", told().measurement, (5,), None)
    with pytest.raises(DataError, match="2 episodes but 3 seeds"):
        events.evaluated("naive", None, told().measurement, None, (1, 2, 3))


def test_numbers_that_are_not_finite_become_none():
    assert nullable(np.array([1.0, np.nan, np.inf])) == (1.0, None, None)


@given(mask=arrays(np.bool_, st.integers(1, 100)))
def test_a_mask_survives_packing(mask):
    np.testing.assert_array_equal(unpack_mask(pack_mask(mask), len(mask)), mask)


@pytest.mark.parametrize(("text", "message"), [("!!", "not base64"), ("gA==", "1 bytes for 20 candidates")])
def test_an_altered_mask_is_refused(text, message):
    with pytest.raises(IntegrityError, match=message):
        unpack_mask(text, 20)
