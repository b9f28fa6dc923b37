import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from safehold.core.errors import DataError
from safehold.data.normalise import Normaliser

tables = hnp.arrays(
    np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=8), elements=st.floats(-1e6, 1e6, width=32)
)


@given(tables)
def test_normalised_data_has_mean_zero_and_deviation_one(values: np.ndarray) -> None:
    normaliser = Normaliser.fit(values)
    normalised = normaliser.apply(values).astype(np.float64)
    np.testing.assert_allclose(normalised.mean(axis=0), 0.0, atol=1e-4)
    np.testing.assert_allclose(normalised.std(axis=0), np.where(normaliser.constant, 0.0, 1.0), atol=1e-4)


@given(tables)
def test_invert_undoes_apply(values: np.ndarray) -> None:
    normaliser = Normaliser.fit(values)
    again = normaliser.invert(normaliser.apply(values))
    np.testing.assert_allclose(again, values, atol=1e-5 * np.abs(values).max() + 1e-30)


@given(tables)
def test_json_keeps_every_bit(values: np.ndarray) -> None:
    normaliser = Normaliser.fit(values)
    again = Normaliser.of_json(json.loads(json.dumps(normaliser.to_json())), values.shape[1])
    for name in ("mean", "std", "constant"):
        np.testing.assert_array_equal(getattr(again, name), getattr(normaliser, name))


def test_a_constant_column_is_recorded_and_becomes_zero_whatever_it_shows_later() -> None:
    values = np.array([[0.1, 1.0], [0.1, 3.0], [0.1, 5.0]], dtype=np.float32)
    normaliser = Normaliser.fit(values)
    np.testing.assert_array_equal(normaliser.constant, [True, False])
    np.testing.assert_array_equal(normaliser.apply(np.array([[7.0, 3.0]])), [[0.0, 0.0]])
    np.testing.assert_allclose(normaliser.invert(np.array([[2.0, 0.0]])), [[0.1, 3.0]], rtol=1e-7)


def test_a_tiny_but_real_spread_is_kept() -> None:
    normaliser = Normaliser.fit(np.array([[0.0], [1e-9]]))
    assert not normaliser.constant[0]
    np.testing.assert_allclose(normaliser.apply(np.array([[0.0], [1e-9]])), [[-1.0], [1.0]])


def test_no_rows_are_refused() -> None:
    with pytest.raises(DataError, match="rows of values"):
        Normaliser.fit(np.empty((0, 2)))


def test_values_that_are_not_finite_are_refused_by_column() -> None:
    with pytest.raises(DataError, match="column 1"):
        Normaliser.fit(np.array([[0.0, 1.0], [0.0, np.nan]]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"std": [0.0, 1.0]}, "positive"),
        ({"std": [-1.0, 1.0]}, "positive"),
        ({"mean": [float("nan"), 0.0]}, "finite"),
        ({"mean": [0.0]}, "one length|cannot be read"),
        ({"std": None}, "one length|cannot be read"),
        ({"mean": ["a", "b"]}, "cannot be read"),
    ],
)
def test_tampered_statistics_are_refused(change: dict[str, object], message: str) -> None:
    plain = Normaliser.fit(np.array([[0.0, 1.0], [2.0, 5.0]])).to_json()
    with pytest.raises(DataError, match=message):
        Normaliser.of_json({**plain, **change}, 2)


def test_missing_or_foreign_statistics_are_refused() -> None:
    plain = Normaliser.fit(np.array([[0.0, 1.0], [2.0, 5.0]])).to_json()
    with pytest.raises(DataError, match="of another task"):
        Normaliser.of_json(plain, 3)
    with pytest.raises(DataError, match="constant"):
        Normaliser.of_json({key: value for key, value in plain.items() if key != "constant"}, 2)


def test_values_of_another_width_are_refused() -> None:
    with pytest.raises(DataError, match="2 columns"):
        Normaliser.fit(np.array([[0.0, 1.0], [2.0, 5.0]])).apply(np.zeros((4, 1)))
