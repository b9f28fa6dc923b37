"""Dropout: its share, its mean, its independence, and attention that drops beside attention written out."""

import math

import pytest
import torch
from scipy.stats import binom

from safehold.nn import transformer
from safehold.nn.dropout import Dropout, kept
from safehold.nn.randomness import OwnGenerator
from safehold.nn.transformer import dropping_attention


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_drops_its_share_and_keeps_the_mean(share):
    with OwnGenerator(0).drawing():
        drawn = kept((1000, 1001), share, torch.zeros(()))
    assert drawn.unique().tolist() == pytest.approx([0.0, 1.0 / (1.0 - share)], rel=1e-4)
    dropped = int((drawn == 0.0).sum())
    low, high = binom.interval(0.999, drawn.numel(), share)
    assert low <= dropped <= high


def test_entries_are_dropped_independently_wherever_they_lie():
    with OwnGenerator(1).drawing():
        drawn = (kept((20_000, 8), 0.3, torch.zeros(())) == 0.0).double()
    correlations = torch.corrcoef(drawn.T) - torch.eye(8)
    assert correlations.abs().max() < 4.5 / math.sqrt(20_000), "four entries share a word of random bits"


def test_nothing_is_dropped_where_nothing_is_trained():
    x = torch.ones(3, 4)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0).train()(x), x)


def test_attention_that_drops_equals_the_equations_with_the_same_mask():
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(3, 2, 7, 4, generator=generator) for _ in range(3))
    with OwnGenerator(5).drawing():
        attended = dropping_attention(query, key, value, None, 0.2)
    with OwnGenerator(5).drawing():
        mask = kept((6, 7, 7), 0.2, query).view(3, 2, 7, 7)
    scores = (query @ key.transpose(2, 3) / 2.0).masked_fill(~torch.ones(7, 7).tril().bool(), -torch.inf)
    torch.testing.assert_close(attended, (scores.softmax(-1) * mask) @ value, atol=1e-5, rtol=1e-5)


def test_the_path_that_drops_gives_features_and_gradients_of_the_plain_one_where_nothing_is_dropped(monkeypatch):
    monkeypatch.setattr(transformer, "kept", lambda shape, share, like: like.new_ones(shape))  # noqa: ARG005
    features, gradients = [], []
    for share in (0.5, 0.0):
        with OwnGenerator(0).drawing():
            made = transformer.CausalTransformer(width=16, layers=3, heads=2, dropout=share)
            for parameter in made.parameters():
                torch.nn.init.normal_(parameter, std=0.4)
            x = torch.randn(4, 9, 16)
        features.append(made.train()(x, torch.tensor([2, 3, 6, 8])))
        features[-1].square().mean().backward()
        gradients.append([parameter.grad for parameter in made.parameters()])
    torch.testing.assert_close(features[0], features[1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-5)
