"""What cost critics are fitted to, on chains worked out by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from safehold.core.constraint import Limit
from safehold.learn.cost_value import CostValue, DiscountedMaximum, DiscountedSum


def backed_up(value: CostValue, costs: list[float], goes_on: list[float], after: float) -> list[float]:
    """Targets along a chain, each from the target of the step behind it."""
    found = [after]
    for cost, on in zip(reversed(costs), reversed(goes_on), strict=True):
        found.append(
            float(value.targets(torch.tensor([cost]), torch.tensor([found[-1]]), torch.tensor([float(on)]))[0])
        )
    return found[:0:-1]


def test_a_sum_on_a_chain_that_ends():
    assert backed_up(DiscountedSum(0.5), [1.0, 0.0, 4.0], [1, 1, 0], after=100.0) == [2.0, 2.0, 4.0]


def test_a_sum_goes_on_where_only_the_clock_stopped():
    assert backed_up(DiscountedSum(0.5), [1.0, 0.0], [1, 1], after=8.0) == [3.0, 4.0]


def test_a_maximum_on_a_chain_that_ends():
    # last: c = 4. Middle: 0.5 * 0 + 0.5 max(0, 4) = 2. First: 0.5 * 1 + 0.5 max(1, 2) = 1.5
    assert backed_up(DiscountedMaximum(0.5), [1.0, 0.0, 4.0], [1, 1, 0], after=100.0) == [1.5, 2.0, 4.0]


def test_a_maximum_of_the_past_does_not_fade_and_one_ahead_does():
    assert backed_up(DiscountedMaximum(0.5), [3.0, 1.0], [1, 0], after=0.0) == [3.0, 1.0]
    assert backed_up(DiscountedMaximum(0.9), [0.0, 0.0, 1.0], [1, 1, 0], after=0.0) == pytest.approx([0.81, 0.9, 1.0])


def test_near_discount_one_it_is_the_plain_maximum():
    rng = np.random.default_rng(0)
    costs = rng.random(30).tolist()
    found = backed_up(DiscountedMaximum(1.0 - 1e-6), costs, [1.0] * 29 + [0.0], after=0.0)
    expected = np.maximum.accumulate(costs[::-1])[::-1]
    np.testing.assert_allclose(found, expected, atol=1e-4)


@given(
    st.lists(st.floats(0, 10, width=32), min_size=1, max_size=12),
    st.floats(0.1, 0.999),
    st.sampled_from([DiscountedSum, DiscountedMaximum]),
)
def test_targets_are_never_below_the_step_itself_nor_a_credit(costs, discount, kind):
    signal = torch.tensor(costs)
    targets = kind(discount).targets(signal, torch.full_like(signal, -5.0), torch.ones_like(signal))
    assert (targets >= signal * (1 - 1e-6)).all()


def test_limits_in_a_critics_units():
    limit = Limit("cost", 5.0)
    assert DiscountedSum(0.99).threshold(limit, 100) == pytest.approx(5.0)
    assert DiscountedSum(0.99).threshold(limit, 1000) == pytest.approx(0.5)
    constant = backed_up(DiscountedSum(0.9), [0.05] * 400, [1.0] * 400, after=0.0)[0]
    assert constant == pytest.approx(DiscountedSum(0.9).threshold(Limit("cost", 5.0), 100), rel=1e-4)
    assert DiscountedMaximum(0.99).threshold(Limit("cost", 0.2, "peak"), 1000) == 0.2
