"""The temperature by which logits are divided, so that probabilities can be trusted (Guo et al., 2017)."""

from bisect import bisect_left
from collections.abc import Callable

import torch
from torch import Tensor

Losses = Callable[[Tensor, Tensor], Tensor]  # logits [N, C], labels -> [N]

TEMPERATURES = (0.05, 20.0)  # the range that is searched
CANDIDATES = 100_000  # in it, each 0.006 % above the one before
COARSE_CANDIDATES = 200  # each 3 % above the one before


def fit_temperature(losses: Losses, logits: Tensor, labels: Tensor) -> float:
    """The temperature with the least mean loss on a validation set, where one helps; logits: [N, C] float64.

    It helps where the loss on documents that it was not fitted to falls by more than chance: each half of the documents
    is measured at the best temperature of the other half, and the mean difference must exceed its standard error.
    Otherwise the temperature is 1.
    """
    if len(labels) < 2:
        return 1.0
    # At random, because files are often sorted by class or alternate between classes.
    halves = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)).tensor_split(2)
    gains = []
    for fitted, held_out in (halves, halves[::-1]):
        temperature = _best_temperature(losses, logits[fitted], labels[fitted], COARSE_CANDIDATES)
        inputs, targets = logits[held_out], labels[held_out]
        gains.append(losses(inputs, targets) - losses(inputs / temperature, targets))
    gain = torch.cat(gains)
    helps = gain.mean() > gain.std() / len(gain) ** 0.5
    return _best_temperature(losses, logits, labels, CANDIDATES) if helps else 1.0


def _best_temperature(losses: Losses, logits: Tensor, labels: Tensor, candidates: int) -> float:
    """The candidate with the least mean loss; 1 where every answer is right, as then the lowest would be the best."""
    lowest, highest = TEMPERATURES

    def candidate(number: int) -> float:
        return float(lowest * (highest / lowest) ** (number / (candidates - 1)))

    def rises_from(number: int) -> bool:
        here, next_ = (losses(logits / candidate(i), labels).mean() for i in (number, number + 1))
        return bool(next_ > here)

    # The loss is convex in the inverse of the temperature, so it rises from the best one on.
    best = bisect_left(range(candidates - 1), True, key=rises_from)
    separated = not losses(1e6 * logits, labels).any()
    return 1.0 if separated else candidate(best)
