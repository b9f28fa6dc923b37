import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safehold.learn.advantage import advantages


def brute_force(signal, values, next_values, terminated, ended, discount, decay):
    """The definition: for every start, the discounted sum of one-step errors until the episode's or batch's end."""
    steps, n = signal.shape
    result = np.zeros((steps, n))
    for i in range(n):
        for t in range(steps):
            weight = 1.0
            for later in range(t, steps):
                follows = 0.0 if terminated[later, i] else next_values[later, i]
                result[t, i] += weight * (signal[later, i] + discount * follows - values[later, i])
                weight *= discount * decay
                if ended[later, i]:
                    break
    return result


def random_batch(rng, steps=12, n=3):
    ended = rng.random((steps, n)) < 0.25
    return {
        "signal": rng.standard_normal((steps, n)),
        "values": rng.standard_normal((steps, n)),
        "next_values": rng.standard_normal((steps, n)),
        "terminated": ended & (rng.random((steps, n)) < 0.5),
        "ended": ended,
    }


@given(seed=st.integers(0, 2**32), discount=st.floats(0.1, 1.0), decay=st.floats(0.0, 1.0))
def test_equals_the_definition(seed, discount, decay):
    batch = random_batch(np.random.default_rng(seed))
    np.testing.assert_allclose(
        advantages(**batch, discount=discount, decay=decay),
        brute_force(**batch, discount=discount, decay=decay),
        atol=1e-10,
    )


def test_decay_one_is_the_return_less_the_value():
    rewards = np.array([[1.0], [2.0], [4.0]])
    values = np.array([[10.0], [20.0], [30.0]])
    ended = np.array([[False], [False], [True]])
    result = advantages(
        rewards, values, np.array([[20.0], [30.0], [99.0]]), ended, ended, discount=0.5, decay=1.0
    )  # terminated: nothing follows the last step, whatever the value there
    np.testing.assert_allclose(result[:, 0], [1 + 1 + 1 - 10, 2 + 2 - 20, 4 - 30])


@pytest.mark.parametrize(("terminated", "expected"), [(True, 1.0), (False, 1.0 + 0.9 * 7.0)])
def test_a_timeout_is_bootstrapped_and_a_termination_is_not(terminated, expected):
    one = np.array([[1.0]])
    result = advantages(one, 0 * one, 7.0 * one, np.array([[terminated]]), np.array([[True]]), discount=0.9, decay=0.95)
    assert result[0, 0] == pytest.approx(expected)


def test_nothing_leaks_from_the_next_episode():
    rng = np.random.default_rng(0)
    batch = random_batch(rng, steps=8, n=1)
    batch["ended"][:] = False
    batch["terminated"][:] = False
    batch["ended"][3] = True
    before = advantages(**batch, discount=0.99, decay=0.95)
    batch["signal"][4:] += 100.0
    after = advantages(**batch, discount=0.99, decay=0.95)
    np.testing.assert_array_equal(before[:4], after[:4])
    assert (before[4:] != after[4:]).all()
