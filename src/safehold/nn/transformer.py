"""A causal transformer over tokens, with pre-norm blocks, and a sliding window for acting quickly."""

from itertools import pairwise
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from safehold.nn.dropout import kept

INITIAL_SD = 0.02
"""Standard deviation of the initial weights.   [GPT-2; OSRL's CDT]"""


class Block(nn.Module):
    """x + attention(norm(x)), then x + perceptron(norm(x)), the perceptron four times as wide, with GELU."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_output = nn.Linear(width, width)
        self.perceptron_norm = nn.LayerNorm(width)
        self.perceptron_in = nn.Linear(width, 4 * width)
        self.perceptron_out = nn.Linear(4 * width, width)

    def forward(
        self, x: Float[Tensor, "B S d"], wanted: Int[Tensor, "w"] | None = None
    ) -> Float[Tensor, "B S d"] | Float[Tensor, "B w d"]:
        """One block; a token sees itself and those before it. The features of the `wanted` tokens, None: of all."""
        query, key, value = self.split_heads(self._linear(self.query_key_value, self.attention_norm(x)))
        seen = None
        if wanted is not None:
            seen = wanted[:, None] >= torch.arange(x.shape[1], device=x.device)
            x, query = x.index_select(1, wanted), query.index_select(2, wanted)
        if self._drops:
            attended = dropping_attention(query, key, value, seen, self.dropout)
        else:
            attended = scaled_dot_product_attention(query, key, value, attn_mask=seen, is_causal=seen is None)
        return self.finish(x, attended)

    def split_heads(self, projected: Float[Tensor, "B S three_d"]) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value, each (B, heads, S, d / heads)."""
        rows, tokens, _ = projected.shape
        # cut before it is turned: the gradients of the three are then put together in one pass
        query, key, value = projected.view(rows, tokens, 3, self.heads, -1).unbind(2)
        return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)

    def finish(self, x: Float[Tensor, "B S d"], attended: Float[Tensor, "B h S e"]) -> Float[Tensor, "B S d"]:
        """Everything after the attention itself."""
        x = self._add(x, self._linear(self.attention_output, attended.transpose(1, 2).flatten(2)))
        hidden = nn.functional.gelu(self._linear(self.perceptron_in, self.perceptron_norm(x)))
        return self._add(x, self._linear(self.perceptron_out, hidden))

    @property
    def _drops(self) -> bool:
        return self.training and self.dropout > 0.0

    def _add(self, x: Tensor, change: Tensor) -> Tensor:
        return torch.addcmul(x, change, kept(x.shape, self.dropout, x)) if self._drops else x + change

    def _linear(self, layer: nn.Linear, x: Float[Tensor, "B S i"]) -> Float[Tensor, "B S o"]:
        """The layer's answer; where big networks train, by products that a CPU is quicker at, forth and back."""
        if not self._drops:
            return cast(Tensor, layer(x))
        return torch.addmm(layer.bias, x.flatten(0, 1), layer.weight.t().contiguous()).view(*x.shape[:2], -1)


def dropping_attention(
    query: Float[Tensor, "B h w e"],
    key: Float[Tensor, "B h S e"],
    value: Float[Tensor, "B h S e"],
    seen: Bool[Tensor, "w S"] | None,
    share: float,
) -> Float[Tensor, "B h w e"]:
    """softmax(Q K^T / sqrt(e)) V with a share of the attention dropped; `seen` None: a token sees itself and before.

    The same as torch's `scaled_dot_product_attention`, which takes twice as long with dropout at a few dozen tokens.
    """
    rows, heads, wanted, size = query.shape
    places = torch.arange(key.shape[2], device=key.device)
    seen = places[:, None] >= places if seen is None else seen
    mask = query.new_zeros(seen.shape).masked_fill_(~seen, -torch.inf)
    query, key, value = (part.flatten(0, 1) for part in (query, key, value))
    attention = torch.baddbmm(mask, query, key.transpose(1, 2), alpha=size**-0.5).softmax(dim=-1)
    return (attention * kept(attention.shape, share, attention)).bmm(value).view(rows, heads, wanted, size)


class CausalTransformer(nn.Module):
    """`layers` blocks and a final layer norm.

    Dropout and initial weights draw from torch's default generator; whoever builds or trains one does it inside
    `nn.randomness.OwnGenerator.drawing`, so that the draws come from a generator of their own.
    """

    def __init__(self, *, width: int, layers: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(
        self, tokens: Float[Tensor, "B S d"], wanted: Int[Tensor, "w"] | None = None
    ) -> Float[Tensor, "B S d"] | Float[Tensor, "B w d"]:
        """The feature of every wanted token, None: of all, from the tokens up to it.

        The last block works for the wanted tokens only: half of them saves about a fifth of two layers.
        """
        *before, last = self.blocks
        for block in before:
            tokens = block(tokens)
        return self.norm(last(tokens, wanted))


def initialise(module: nn.Module) -> None:
    """Weights of linear layers and embeddings normal with standard deviation `INITIAL_SD`, biases zero, in place."""
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Embedding)):
            nn.init.normal_(part.weight, std=INITIAL_SD)
        if isinstance(part, nn.Linear):
            nn.init.zeros_(part.bias)


class SlidingWindow:
    """The feature of the newest token, over a window of the newest tokens, without repeating work.

    The same numbers as `CausalTransformer.forward` on the window, up to rounding. What is saved: the first block's
    query, key and value depend on a token alone and are kept while it stays in the window; the last block answers
    for the newest token only. The blocks between cannot be kept: a token's feature there changes when the window's
    oldest token leaves.

    Args:
        transformer: its weights are used, not copied.
        n: rows, one an episode.
        capacity: the largest number of tokens in the window.
    """

    def __init__(self, transformer: CausalTransformer, n: int, capacity: int) -> None:
        self._blocks: list[Block] = [block for block in transformer.blocks if isinstance(block, Block)]
        self._norm = transformer.norm
        first, width = self._blocks[0], transformer.norm.normalized_shape[0]
        # twice the capacity, so that the window slides along it and is moved back only when it reaches the end
        self._tokens = torch.empty(n, 2 * capacity, width)
        self._projected = torch.empty(3, n, first.heads, 2 * capacity, width // first.heads)
        self._start = self._stop = 0

    def __len__(self) -> int:
        """Tokens in the window."""
        return self._stop - self._start

    def forget(self, count: int) -> None:
        """Drops the `count` oldest tokens."""
        self._start += count

    def append(self, tokens: Float[Tensor, "n s d"]) -> None:
        """Adds tokens at the end."""
        if self._stop + tokens.shape[1] > self._tokens.shape[1]:
            self._move_to_front()
        first, place = self._blocks[0], slice(self._stop, self._stop + tokens.shape[1])
        self._tokens[:, place] = tokens
        parts = first.split_heads(first.query_key_value(first.attention_norm(tokens)))
        for stored, part in zip(self._projected, parts, strict=True):
            stored[:, :, place] = part
        self._stop = place.stop

    def newest(self) -> Float[Tensor, "n d"]:
        """The feature of the newest token."""
        x = self._tokens[:, self._start : self._stop]
        query, key, value = self._projected[:, :, :, self._start : self._stop].unbind(0)
        for block, following in pairwise(self._blocks):
            x = block.finish(x, scaled_dot_product_attention(query, key, value, is_causal=True))
            query, key, value = following.split_heads(following.query_key_value(following.attention_norm(x)))
        attended = scaled_dot_product_attention(query[:, :, -1:], key, value)
        return self._norm(self._blocks[-1].finish(x[:, -1:], attended))[:, 0]

    def _move_to_front(self) -> None:
        size = len(self)
        self._tokens[:, :size] = self._tokens[:, self._start : self._stop].clone()
        self._projected[:, :, :, :size] = self._projected[:, :, :, self._start : self._stop].clone()
        self._start, self._stop = 0, size
