"""How far a model's probabilities can be trusted: fitting the temperature, and measuring the calibration."""

from bisect import bisect_left
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

if TYPE_CHECKING:
    from attnlab.tasks.base import Task

Losses = Callable[[Tensor, Tensor], Tensor]  # logits [N, C], labels -> [N]

TEMPERATURES = (0.05, 20.0)  # the range that is searched
CANDIDATES = 100_000  # in it, each 0.006 % above the one before
COARSE_CANDIDATES = 200  # each 3 % above the one before
BINS = 15  # of probabilities from 0 to 1, as in Guo et al. (2017)
LEFT_OUT = (5, 10, 20)  # percent of the documents


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


def calibration(task: "Task", logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Expected calibration error, score of Brier (1950) and log loss, at the task's temperature and at 1.

    And the accuracy without the documents whose answers are least certain. logits: [N, C]
    """
    calibrated = logits / task.temperature
    without = {f"{name}_uncalibrated": score for name, score in _errors(task, logits, labels).items()}
    kept = _accuracy_of_most_certain(task, task.uncalibrated(calibrated), labels)
    return _errors(task, calibrated, labels) | kept | without | {"temperature": torch.tensor(task.temperature)}


def _claims(task: "Task", probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    stated, true = task.claims(probabilities, labels)
    # torchmetrics takes all values for logits if one is outside of 0 and 1, which rounding can cause.
    return stated.clamp(0, 1), true


def _errors(task: "Task", logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    from torchmetrics.functional.classification import binary_calibration_error

    probabilities = task.uncalibrated(logits)
    stated, true = _claims(task, probabilities, labels)
    return {
        "ece": binary_calibration_error(stated, true.long(), n_bins=BINS, validate_args=False),
        "brier": task.brier_scores(probabilities, labels).mean(),
        "log_loss": task.losses(logits, labels).mean(),
    }


def _accuracy_of_most_certain(task: "Task", probabilities: Tensor, labels: Tensor) -> dict[str, Tensor]:
    right = task.correct(task.decide(probabilities), labels).float()
    _, group, sizes = task.confidence(probabilities).unique(return_inverse=True, return_counts=True)
    # The order of equally certain answers is arbitrary, so each counts as their mean.
    shares = torch.zeros_like(sizes, dtype=right.dtype).index_add(0, group, right) / sizes
    most_certain_first = shares.repeat_interleave(sizes).flip(0)
    kept = {100 - percent: len(right) - len(right) * percent // 100 for percent in LEFT_OUT}
    return {f"acc_kept_{percent}": most_certain_first[:number].mean() for percent, number in kept.items()}


def reliability(
    task: "Task", probabilities: Tensor, labels: Tensor
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """For each of the B bins with any claims: their number [B], and mean probability and share of true ones [B, 2].

    probabilities: [N, C]
    """
    stated, true = (part.double().numpy() for part in _claims(task, probabilities, labels))
    counts, *sums = (np.histogram(stated, BINS, (0, 1), weights=weights)[0] for weights in (None, stated, true))
    held = counts > 0
    return counts[held], np.stack(sums, axis=1)[held] / counts[held, None]
