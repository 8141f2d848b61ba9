"""Pooling: from a vector for each token to one for the document; padding never counts."""

from abc import abstractmethod
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnlab.errors import UserError

# For tables of up to about this size, multiplying by the whole table is faster on CPU than gathering its rows.
FEW_ROWS = 2048


class Pooling(nn.Module):
    """The base class of poolings; `embed_dim` is the width D of a token's vector."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.embed_dim = embed_dim

    @abstractmethod
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x: [B, T, D], mask: [B, T] bool, False on padding -> [B, D]."""


class ClsPooling(Pooling):
    """The first token's vector, that of [CLS]."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return x[:, 0]


class MaxPooling(Pooling):
    """The largest value of each dimension over the document's tokens."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return x.masked_fill(~mask[..., None], float("-inf")).amax(dim=1)


class MeanPooling(Pooling):
    """The mean over the document's tokens."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return mean_of_vectors(x, mask)


class AttentionPooling(Pooling):
    """A weighted mean, each token's weight a softmax over a learned score (Lin et al., 2017, with one hop)."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__(embed_dim)
        self.score = nn.Linear(embed_dim, 1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        scores = self.score(x).squeeze(-1).masked_fill(~mask, float("-inf"))
        return torch.einsum("btd,bt->bd", x, scores.softmax(dim=1))


def mean_of_vectors(x: Tensor, mask: Tensor, weights: Tensor | None = None) -> Tensor:
    """x: [B, N, D], mask: [B, N] bool, False on padding; `weights`, [B, N], sum to 1 -> [B, D]."""
    if weights is not None:
        return torch.einsum("bnd,bn->bd", x, weights)
    present = mask.to(x.dtype)
    return torch.einsum("bnd,bn->bd", x, present) / present.sum(dim=1, keepdim=True)


def mean_of_rows(
    table: Tensor, rows: Tensor, mask: Tensor, weights: Tensor | None = None, sparse: bool = False
) -> Tensor:
    """`mean_of_vectors` of `table[rows]` without building the latter, many times as fast on CPU.

    table: [V, D], rows: [B, N] int64, mask: [B, N] bool, False on padding; `weights`, [B, N], sum to 1 -> [B, D]. With
    `sparse` the gradient of the table is sparse.
    """
    if torch.compiler.is_exporting():  # other runtimes do not have `embedding_bag`
        return mean_of_vectors(F.embedding(rows, table), mask, weights)
    if weights is None and not sparse and len(table) <= FEW_ROWS:  # how often each row occurs, times the table
        present = mask.to(table.dtype)
        occurrences = table.new_zeros(len(rows), len(table)).scatter_add_(1, rows, present)
        return occurrences @ table / present.sum(dim=1, keepdim=True)
    if weights is not None and not torch.is_grad_enabled():  # adding padding with weight 0 is faster than removing it
        return F.embedding_bag(rows, table, mode="sum", per_sample_weights=weights)
    # Documents of different lengths as one flat list of rows, with the start of each document.
    counts = mask.sum(dim=1)
    bag = partial(F.embedding_bag, rows[mask], table, counts.cumsum(0) - counts, sparse=sparse)
    return bag(mode="mean") if weights is None else bag(mode="sum", per_sample_weights=weights[mask])


POOLINGS: dict[str, type[Pooling]] = {
    "cls": ClsPooling,
    "max": MaxPooling,
    "mean": MeanPooling,
    "attention": AttentionPooling,
}


def make_pooling(name: str, embed_dim: int) -> Pooling:
    """The pooling of this name."""
    if name not in POOLINGS:
        raise UserError(f"model.pooling={name} is unknown; choose one of {', '.join(POOLINGS)}")
    return POOLINGS[name](embed_dim)
