"""Integrated gradients: how much each token of a document adds to the logit of a class."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

STEPS = (8, 32, 128, 512)  # points on the path; the next number if the error of the sum exceeds `TOLERANCE`
TOLERANCE = 0.01  # relative to the difference that the scores sum to, absolute if that is less than 1
VALUES_AT_ONCE = 1 << 22  # in the embeddings of points that are computed together: 16 MB

Evidence = Callable[[Tensor, Tensor], Tensor]


@runtime_checkable
class Attributable(Protocol):
    """A model whose logits can be computed from embeddings, as on the path between two documents.

    In the shapes below: B documents of T tokens, for which the model looks up N vectors of width D.
    """

    def look_up(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """[B, T], [B, T] -> the vectors: [B, N, D]."""

    def classify(self, x: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The logits for vectors x: [B, N, D] -> [B, num_classes]."""

    def shares(self, counted: Tensor) -> Tensor:
        """The share of each token in the score of each vector, for the tokens `counted`: [B, T] bool -> [B, N, T]."""


def logit_of(logits: Tensor, targets: Tensor) -> Tensor:
    """[B, K], [B] -> [B]."""
    return logits.gather(1, targets[:, None])[:, 0]


def integrated_gradients(
    model: Attributable,
    input_ids: Tensor,
    attention_mask: Tensor,
    counted: Tensor,
    targets: Tensor,
    steps: Sequence[int] = STEPS,
    evidence: Evidence = logit_of,
) -> tuple[Tensor, Tensor]:
    """Integrated gradients on the embeddings (Sundararajan, Taly and Yan, 2017) of one number for each document.

    The path leads to the document from a baseline, in which the tokens `counted` have embeddings of zero, as padding
    has. By the axiom of completeness the scores sum to the difference of that number between both ends, which decides
    how many points of Gauss-Legendre quadrature are used.

    Args:
        input_ids: [B, T] int64.
        attention_mask: [B, T] bool, False on padding.
        counted: [B, T] bool, the tokens that get a score; others, such as [CLS] and [SEP], are part of the baseline.
        targets: [B] int64, the classes.
        steps: numbers of points to try, from the smallest.
        evidence: from logits, [B, K], and targets, [B], to the number that is explained, [B].

    Returns:
        scores, [B, T], and the difference minus the sum of the scores for each document, [B].
    """
    with torch.no_grad():
        x = model.look_up(input_ids, attention_mask)
        # A vector without a counted token, such as that of [CLS] or of padding, is the same at both ends.
        shares = model.shares(counted).to(x.dtype)
        change = x * (shares.sum(dim=2) > 0)[..., None]
        ends = (evidence(model.classify(end, input_ids, attention_mask), targets) for end in (x, x - change))
        rise = next(ends) - next(ends)
    by_row, lacking = torch.zeros_like(x[..., 0]), torch.full_like(rise, torch.inf)
    for number in steps:
        # Few points suffice for most documents; only the others are computed again with more.
        rows = (lacking.abs() > TOLERANCE * rise.abs().clamp(min=1)).nonzero()[:, 0]
        if not len(rows):
            break
        path = x[rows] - change[rows], change[rows]
        of = input_ids[rows], attention_mask[rows], targets[rows]
        gradient = _mean_gradient(model, *path, *of, number, evidence)
        by_row[rows] = (change[rows] * gradient).sum(dim=2)
        lacking[rows] = rise[rows] - by_row[rows].sum(dim=1)
    return torch.einsum("bn,bnt->bt", by_row, shares), lacking


def _mean_gradient(
    model: Attributable,
    start: Tensor,
    change: Tensor,
    ids: Tensor,
    mask: Tensor,
    targets: Tensor,
    steps: int,
    evidence: Evidence,
) -> Tensor:
    """The mean over the path from `start` to `start + change` of the gradient of the evidence: [B, N, D]."""
    points, weights = (torch.from_numpy(values).to(start) for values in np.polynomial.legendre.leggauss(steps))
    mean = torch.zeros_like(start)
    # Points are a dimension of the batch, as many together as memory allows.
    at_once = max(1, VALUES_AT_ONCE // start.numel())
    for some, weight in zip(((points + 1) / 2).split(at_once), (weights / 2).split(at_once), strict=True):
        x = (start + some[:, None, None, None] * change).flatten(0, 1).requires_grad_()
        with torch.enable_grad():
            logits = model.classify(x, ids.repeat(len(some), 1), mask.repeat(len(some), 1))
            total = evidence(logits, targets.repeat(len(some))).sum()
        gradients = torch.autograd.grad(total, x)[0].unflatten(0, (len(some), -1))
        mean += torch.einsum("s,sbnd->bnd", weight, gradients)
    return mean
