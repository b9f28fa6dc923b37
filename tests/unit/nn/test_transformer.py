import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import erf, softmax

from safehold.nn.randomness import OwnGenerator
from safehold.nn.transformer import CausalTransformer, SlidingWindow, initialise


def transformer(width: int = 16, layers: int = 2, heads: int = 4, dropout: float = 0.0) -> CausalTransformer:
    with OwnGenerator(0).drawing():
        made = CausalTransformer(width=width, layers=layers, heads=heads, dropout=dropout)
        for parameter in made.parameters():  # larger than the initial weights, so that mistakes show
            torch.nn.init.normal_(parameter, std=0.4)
    return made.eval()


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_hand(made: CausalTransformer, x: np.ndarray) -> np.ndarray:
    """The textbook's equations on one sequence (S, d), in float64."""

    def linear(layer: torch.nn.Linear, x: np.ndarray) -> np.ndarray:
        return x @ layer.weight.double().numpy().T + layer.bias.double().numpy()

    def norm(layer: torch.nn.LayerNorm, x: np.ndarray) -> np.ndarray:
        standard = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + layer.eps)
        return standard * layer.weight.double().numpy() + layer.bias.double().numpy()

    with torch.no_grad():
        for block in made.blocks:
            query, key, value = np.split(linear(block.query_key_value, norm(block.attention_norm, x)), 3, axis=1)
            size = x.shape[1] // block.heads
            heads = []
            for h in range(block.heads):
                part = slice(h * size, (h + 1) * size)
                scores = query[:, part] @ key[:, part].T / np.sqrt(size)
                scores[np.triu_indices(len(x), 1)] = -np.inf
                heads.append(softmax(scores, axis=1) @ value[:, part])
            x = x + linear(block.attention_output, np.concatenate(heads, axis=1))
            hidden = linear(block.perceptron_in, norm(block.perceptron_norm, x))
            x = x + linear(block.perceptron_out, 0.5 * hidden * (1.0 + erf(hidden / np.sqrt(2.0))))
        return norm(made.norm, x)


def test_equals_the_equations_written_out() -> None:
    made, x = transformer(), tokens(3, 7, 16)
    features = made(x).detach().numpy()
    for row in range(3):
        np.testing.assert_allclose(features[row], by_hand(made, x[row].double().numpy()), atol=2e-5)


@settings(max_examples=20, deadline=None)
@given(wanted=st.lists(st.integers(0, 8), min_size=1, max_size=9, unique=True), layers=st.integers(1, 3))
def test_wanted_tokens_have_the_features_that_all_would_have(wanted: list[int], layers: int) -> None:
    made, x = transformer(layers=layers), tokens(2, 9, 16)
    some = made(x, torch.tensor(wanted))
    torch.testing.assert_close(some, made(x)[:, wanted], atol=1e-5, rtol=1e-5)


@settings(max_examples=20, deadline=None)
@given(place=st.integers(0, 8), layers=st.integers(1, 3))
def test_later_tokens_change_nothing_before_them(place: int, layers: int) -> None:
    made, x = transformer(layers=layers), tokens(2, 9, 16)
    changed = x.clone()
    changed[:, place:] = tokens(2, 9 - place, 16, seed=1)
    before, after = made(x), made(changed)
    assert torch.equal(before[:, :place], after[:, :place])
    assert not torch.allclose(before[:, place:], after[:, place:])


def test_rows_of_a_batch_never_meet() -> None:
    made, x = transformer(), tokens(4, 6, 16)
    changed = x.clone()
    changed[1] = 0.0
    assert torch.equal(made(x)[[0, 2, 3]], made(changed)[[0, 2, 3]])


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize(("capacity", "step"), [(12, 4), (7, 3), (4, 1)])
@torch.inference_mode()
def test_the_sliding_window_equals_the_plain_forward(layers: int, capacity: int, step: int) -> None:
    made, stream = transformer(layers=layers), tokens(10, 60, 16)
    window, first = SlidingWindow(made, 10, capacity), 0
    for last in range(step, 61, step):
        drop = max(0, last - first - capacity)
        window.forget(drop)
        first += drop
        window.append(stream[:, last - step : last])
        assert len(window) == last - first
        expected = made(stream[:, first:last])[:, -1]
        torch.testing.assert_close(window.newest(), expected, atol=1e-5, rtol=1e-5)


def test_a_generator_of_ones_own_leaves_the_default_one_alone_and_continues() -> None:
    before = torch.get_rng_state()
    own = OwnGenerator(3)
    with own.drawing():
        first = torch.rand(2)
    saved = own.state()
    with own.drawing():
        second = torch.rand(2)
    own.restore(saved)
    with own.drawing():
        again = torch.rand(2)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(second, again)
    assert torch.equal(torch.cat([first, second]), torch.rand(4, generator=torch.Generator().manual_seed(3)))


def test_dropout_acts_in_training_only() -> None:
    made, x = transformer(dropout=0.5), tokens(1, 4, 16)
    assert torch.equal(made(x), made(x))
    made.train()
    with OwnGenerator(0).drawing():
        assert not torch.equal(made(x), made(x))


def test_initial_weights_have_the_stated_spread() -> None:
    with OwnGenerator(0).drawing():
        layer = torch.nn.Linear(200, 200)
        initialise(layer)
    assert layer.weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert not layer.bias.any()
