"""From one vector a token to one a document; padding never counts."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnlab.errors import UserError

POOLINGS = ("cls", "max", "mean", "attention")
# Up to about here a product with the whole table is faster than gathering from it, forth and back, on CPU.
FEW_ROWS = 2048


class Pooling(nn.Module):
    """One vector a document: the first token's ("cls"), or over its tokens the "max" of each dimension or their "mean".

    Or, with "attention", a mean with a softmax over a learned score as weights (Lin et al., 2017, with one hop).

    Raises:
        UserError: there is no pooling `kind`.
    """

    def __init__(self, kind: str, embed_dim: int) -> None:
        super().__init__()
        if kind not in POOLINGS:
            raise UserError(f"model.pooling={kind} is unknown; choose one of {', '.join(POOLINGS)}")
        self.kind = kind
        self.score = nn.Linear(embed_dim, 1) if kind == "attention" else None

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x: [B, T, D], mask: [B, T] bool, False on padding -> [B, D]."""
        if self.score is not None:
            scores = self.score(x).squeeze(-1).masked_fill(~mask, float("-inf"))
            return mean_of_vectors(x, mask, scores.softmax(dim=1))
        if self.kind == "cls":
            return x[:, 0]
        if self.kind == "max":
            return x.masked_fill(~mask[..., None], float("-inf")).amax(dim=1)
        return mean_of_vectors(x, mask)


def mean_of_vectors(x: Tensor, mask: Tensor, weights: Tensor | None = None) -> Tensor:
    """x: [B, N, D], mask: [B, N] bool, False on what does not count; `weights`, [B, N], sum to 1 -> [B, D]."""
    if weights is not None:
        return torch.einsum("bnd,bn->bd", x, weights)
    present = mask.to(x.dtype)
    return torch.einsum("bnd,bn->bd", x, present) / present.sum(dim=1, keepdim=True)


def mean_of_rows(
    table: Tensor, rows: Tensor, mask: Tensor, weights: Tensor | None = None, sparse: bool = False
) -> Tensor:
    """`mean_of_vectors` of `table[rows]` without making the latter, many times as fast on CPU.

    table: [V, D], rows: [B, N] int64, mask: [B, N] bool, False on what does not count -> [B, D]. With
    `weights`, [B, N], it is the rows' sum so weighted; with `sparse` the table's gradient is sparse.
    """
    if torch.compiler.is_exporting():  # in terms that other runtimes have
        return mean_of_vectors(F.embedding(rows, table), mask, weights)
    if weights is None and not sparse and len(table) <= FEW_ROWS:  # how often each row occurs, times the table
        present = mask.to(table.dtype)
        occurrences = table.new_zeros(len(rows), len(table)).scatter_add_(1, rows, present)
        return occurrences @ table / present.sum(dim=1, keepdim=True)
    if weights is not None and not torch.is_grad_enabled():  # 0 on padding, which costs less than leaving it out
        return F.embedding_bag(rows, table, mode="sum", per_sample_weights=weights)
    counts = mask.sum(dim=1)
    bag = partial(F.embedding_bag, rows[mask], table, counts.cumsum(0) - counts, sparse=sparse)
    return bag(mode="mean") if weights is None else bag(mode="sum", per_sample_weights=weights[mask])
