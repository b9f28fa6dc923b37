"""The temperature beside PyTorch's own gradient and Adam."""

import numpy as np
import pytest
import torch

from safehold.core.errors import DataError, ModelError
from safehold.learn.learner import State
from safehold.learn.temperature import Temperature


def test_steps_are_those_of_pytorch():
    surpluses = np.random.default_rng(0).normal(0.0, 3.0, 200)
    mine = Temperature(0.4, 0.05)
    theta = torch.tensor(np.log(np.expm1(0.4)), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([theta], lr=0.05)
    for surplus in surpluses:
        mine.answer(float(surplus))
        optimiser.zero_grad()
        (-torch.nn.functional.softplus(theta) * surplus).backward()
        optimiser.step()
        assert mine.value == pytest.approx(torch.nn.functional.softplus(theta).item(), rel=1e-9)
    assert abs(mine.value - 0.4) > 0.05


def test_goes_on_from_a_saved_state():
    mine = Temperature(1.0, 0.1)
    for surplus in (1.0, -0.5, 2.0):
        mine.answer(surplus)
    other = Temperature(7.0, 0.1)
    other.restore(mine.state())
    assert other.value == mine.value
    for one in (mine, other):
        one.answer(0.3)
    assert other.state() == mine.state()


def test_refuses_what_is_no_number():
    with pytest.raises(ModelError, match="update 1: the entropy misses its target by nan"):
        Temperature(1.0, 0.1).answer(float("nan"))


def test_starts_anywhere_and_refuses_a_state_that_is_none():
    for initial in (1e-6, 0.5, 40.0, 1e4):
        assert Temperature(initial, 0.1).value == pytest.approx(initial, rel=1e-6)
    whole = dict(Temperature(1.0, 0.1).state().meta)
    for broken in ({}, {**whole, "theta": float("nan")}, {**whole, "square": -1.0}, {**whole, "mean": None}):
        mine = Temperature(1.0, 0.1)
        with pytest.raises(DataError, match="no state of a temperature"):
            mine.restore(State(meta=broken))
        assert mine.value == pytest.approx(1.0)
