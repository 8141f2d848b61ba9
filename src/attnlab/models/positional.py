"""Positional encodings. Each acts in one of three places: on the embeddings, on queries and keys, or on the scores.

A new one is a subclass and a file in `conf/pe`.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnlab.errors import UserError


class PositionalEncoding(nn.Module):
    """No encoding (`pe=none`), and the base class of encodings, which override the methods that they change.

    Args:
        embed_dim: width D of an embedding.
        num_heads: attention heads H, of width D / H each.
        max_length: the longest document T that the model will be given.
    """

    needs_attention: ClassVar[bool] = False

    def __init__(self, embed_dim: int, num_heads: int, max_length: int) -> None:
        super().__init__()
        self.embed_dim, self.num_heads, self.max_length = embed_dim, num_heads, max_length

    def embed(self, x: Tensor) -> Tensor:
        """Token embeddings x: [B, T, D] to the model's input: [B, T, D]."""
        return x

    def rotate(self, x: Tensor) -> Tensor:
        """Queries or keys x: [B, H, T, D / H] to those in the scores: [B, H, T, D / H]."""
        return x

    def bias(self, length: int) -> Tensor | None:
        """The bias of the attention scores: [H, T, T], or None for none."""
        return None


class Sinusoidal(PositionalEncoding):
    """Sines and cosines of geometrically falling frequency, added to the embeddings (Vaswani et al., 2017)."""

    table: Tensor  # [T, D]

    def __init__(self, embed_dim: int, num_heads: int, max_length: int) -> None:
        super().__init__(embed_dim, num_heads, max_length)
        angles = _angles(max_length, math.ceil(embed_dim / 2), embed_dim)
        # Sine and cosine in turn; an odd width leaves out the last cosine.
        table = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :embed_dim]
        self.register_buffer("table", table, persistent=False)

    def embed(self, x: Tensor) -> Tensor:
        return x + self.table[: x.size(1)]


class Learned(PositionalEncoding):
    """One trained vector for each position, added to the embeddings (Gehring et al., 2017).

    Args:
        max_len: the number of positions that have a vector; None for all.
        beyond: "error" refuses a `max_len` below `max_length`; "zero" adds nothing to the tokens after `max_len`, which
            is what the notebook's table of 5 rows did on a device that reads zeros out of range.
    """

    def __init__(
        self, embed_dim: int, num_heads: int, max_length: int, max_len: int | None = None, beyond: str = "error"
    ) -> None:
        super().__init__(embed_dim, num_heads, max_length)
        size = max_length if max_len is None else min(max_len, max_length)
        if beyond not in ("error", "zero"):
            raise UserError(f"pe.beyond={beyond} is unknown; choose error or zero")
        if size < 1 or (size < max_length and beyond == "error"):
            raise UserError(
                f"pe.max_len={max_len} has no vector for every token of documents of up to {max_length}: use "
                f"pe.max_len=null, a smaller tokenizer.max_length, or pe.beyond=zero for no position after them"
            )
        self.table = nn.Parameter(torch.empty(size, embed_dim))
        nn.init.normal_(self.table, std=0.02)

    def embed(self, x: Tensor) -> Tensor:
        return x + F.pad(self.table, (0, 0, 0, self.max_length - len(self.table)))[: x.size(1)]


class Rotary(PositionalEncoding):
    """Queries and keys rotated by an angle that grows with their position (Su et al., 2021, RoFormer).

    Neighbouring dimensions of a head rotate in pairs; of an odd number, the last one is not rotated.
    """

    needs_attention = True
    angles: Tensor  # [T, pairs]

    def __init__(self, embed_dim: int, num_heads: int, max_length: int) -> None:
        super().__init__(embed_dim, num_heads, max_length)
        self.pairs = embed_dim // num_heads // 2
        if self.pairs == 0:
            raise UserError(
                f"pe=rotary rotates pairs of dimensions, but model.num_heads={num_heads} leaves one for each head of "
                f"model.embed_dim={embed_dim}; use at most {embed_dim // 2} heads"
            )
        self.register_buffer("angles", _angles(max_length, self.pairs, 2 * self.pairs), persistent=False)

    def rotate(self, x: Tensor) -> Tensor:
        # Cosines are computed in the full precision of the angles: in half precision large positions would coincide.
        angles = self.angles[: x.size(-2)]
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        turned, rest = x[..., : 2 * self.pairs], x[..., 2 * self.pairs :]
        even, odd = turned[..., 0::2], turned[..., 1::2]
        turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)
        return torch.cat([turned, rest], dim=-1)


class ALiBi(PositionalEncoding):
    """A penalty on attention scores that grows with distance, with a slope for each head (Press et al., 2022).

    It is the same in both directions, as a classifier reads whole documents.
    """

    needs_attention = True
    slopes: Tensor  # [H]

    def __init__(self, embed_dim: int, num_heads: int, max_length: int) -> None:
        super().__init__(embed_dim, num_heads, max_length)
        self.register_buffer("slopes", torch.tensor(_alibi_slopes(num_heads)), persistent=False)

    def bias(self, length: int) -> Tensor:
        positions = torch.arange(length, device=self.slopes.device)
        distance = (positions[:, None] - positions).abs()
        return -self.slopes[:, None, None] * distance


def _angles(max_length: int, pairs: int, width: int) -> Tensor:
    """Position times frequency 10000^(-2i / width): [max_length, pairs]."""
    frequencies = torch.exp(torch.arange(pairs) * (-2 * math.log(10_000.0) / width))
    return torch.arange(max_length)[:, None] * frequencies


def _alibi_slopes(num_heads: int) -> list[float]:
    """The geometric series of the paper; between powers of two, every other slope of the next power is added."""
    power = 2 ** math.floor(math.log2(num_heads))
    slopes = [2 ** (-8 * (head + 1) / power) for head in range(power)]
    return slopes + ([] if power == num_heads else _alibi_slopes(2 * power)[0::2][: num_heads - power])
