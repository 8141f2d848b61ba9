"""Multi-head self-attention and the block around it."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnlab.errors import UserError
from attnlab.models.positional import PositionalEncoding

# In the shapes below: B documents of T tokens, width D, H heads. `score_mask` is the result of `attention_score_mask`.
# `pe` is an argument of each call, because it belongs to the model and not to any of its layers.


def attention_score_mask(mask: Tensor, pe: PositionalEncoding, dtype: torch.dtype) -> Tensor:
    """The mask for `scaled_dot_product_attention`: padding, and the positional bias if there is one.

    mask: [B, T] bool, False on padding -> [B, 1, 1, T] bool or [B, H, T, T] of `dtype`.
    """
    padding = mask[:, None, None, :]
    bias = pe.bias(mask.size(1))
    return padding if bias is None else bias.to(dtype).masked_fill(~padding, float("-inf"))


class SelfAttention(nn.Module):
    """Multi-head scaled dot-product self-attention (Vaswani et al., 2017); no token attends to padding."""

    def __init__(self, embed_dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        if num_heads < 1 or embed_dim % num_heads:
            allowed = [n for n in range(1, embed_dim + 1) if embed_dim % n == 0]
            raise UserError(
                f"model.num_heads={num_heads} does not divide model.embed_dim={embed_dim}; "
                f"use one of {', '.join(map(str, allowed))}"
            )
        self.num_heads, self.dropout = num_heads, dropout
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.out = nn.Linear(embed_dim, embed_dim)
        nn.init.xavier_uniform_(self.qkv.weight)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, score_mask: Tensor, pe: PositionalEncoding, queries: int | None = None) -> Tensor:
        """x: [B, T, D] -> [B, T, D], or only for the first `queries` tokens: [B, queries, D]."""
        q, k, v = self._heads(x, pe, queries)
        dropout = self.dropout if self.training else 0.0
        mask = score_mask[:, :, :queries]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return self.out(y.transpose(1, 2).flatten(2))

    def weights(self, x: Tensor, score_mask: Tensor, pe: PositionalEncoding) -> Tensor:
        """The weights of tokens in `forward`, without dropout: [B, H, T, T], each row summing to 1."""
        # The fused kernel does not return its weights, but with an identity matrix as values its output is the weights.
        q, k, _ = self._heads(x, pe)
        identity = torch.eye(x.size(1), dtype=q.dtype, device=q.device).expand(*q.shape[:2], -1, -1)
        return F.scaled_dot_product_attention(q, k, identity, attn_mask=score_mask)

    def _heads(self, x: Tensor, pe: PositionalEncoding, queries: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (all or the first ones), keys and values: [B, H, T, D / H] each."""
        # The second case slices the same weights, so that only the queries that are needed are computed.
        if queries is None:
            q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        else:
            width, weight, bias = x.size(-1), self.qkv.weight, self.qkv.bias
            q = F.linear(x[:, :queries], weight[:width], bias[:width])
            q = q.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            kv = F.linear(x, weight[width:], bias[width:])
            k, v = kv.unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return pe.rotate(q), pe.rotate(k), v


class Block(nn.Module):
    """Self-attention, then a feed-forward layer where `feed_forward` is above 0; dropout after each.

    With `layer_norm` each works on normalised input (pre-norm: Xiong et al., 2020), with `residual` it adds to it.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        dropout: float,
        layer_norm: bool,
        residual: bool,
        feed_forward: int = 0,
    ) -> None:
        super().__init__()
        self.residual = residual
        self.norm = nn.LayerNorm(embed_dim) if layer_norm else nn.Identity()
        self.attention = SelfAttention(embed_dim, num_heads, dropout)
        self.dropout = nn.Dropout(dropout)
        self.feed_forward = (
            nn.Sequential(
                nn.LayerNorm(embed_dim) if layer_norm else nn.Identity(),
                nn.Linear(embed_dim, feed_forward),
                nn.GELU(),
                nn.Linear(feed_forward, embed_dim),
                nn.Dropout(dropout),
            )
            if feed_forward
            else None
        )

    def forward(self, x: Tensor, score_mask: Tensor, pe: PositionalEncoding, queries: int | None = None) -> Tensor:
        """x: [B, T, D] -> [B, T, D], or only for the first `queries` tokens: [B, queries, D]."""
        x = self._join(x[:, :queries], self.dropout(self.attention(self.norm(x), score_mask, pe, queries)))
        return x if self.feed_forward is None else self._join(x, self.feed_forward(x))

    def weights(self, x: Tensor, score_mask: Tensor, pe: PositionalEncoding) -> Tensor:
        """The attention weights for this input: [B, H, T, T]."""
        return self.attention.weights(self.norm(x), score_mask, pe)

    def _join(self, x: Tensor, change: Tensor) -> Tensor:
        return x + change if self.residual else change
