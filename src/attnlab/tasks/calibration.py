"""How far a model's probabilities can be trusted: the measures of calibration."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from attnlab.tasks.base import Task

BINS = 15  # of probabilities from 0 to 1, as in Guo et al. (2017)
LEFT_OUT = (5, 10, 20)  # percent of the documents


def calibration(task: Task, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Expected calibration error, score of Brier (1950) and log loss, at the task's temperature and at 1.

    And the accuracy without the documents whose answers are least certain. logits: [N, C]
    """
    calibrated = logits / task.temperature
    without = {f"{name}_uncalibrated": score for name, score in _errors(task, logits, labels).items()}
    kept = _accuracy_of_most_certain(task, task.uncalibrated(calibrated), labels)
    return _errors(task, calibrated, labels) | kept | without | {"temperature": torch.tensor(task.temperature)}


def _claims(task: Task, probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    stated, true = task.claims(probabilities, labels)
    # torchmetrics takes all values for logits if one is outside of 0 and 1, which rounding can cause.
    return stated.clamp(0, 1), true


def _errors(task: Task, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    from torchmetrics.functional.classification import binary_calibration_error

    probabilities = task.uncalibrated(logits)
    stated, true = _claims(task, probabilities, labels)
    return {
        "ece": binary_calibration_error(stated, true.long(), n_bins=BINS, validate_args=False),
        "brier": task.brier_scores(probabilities, labels).mean(),
        "log_loss": task.losses(logits, labels).mean(),
    }


def _accuracy_of_most_certain(task: Task, probabilities: Tensor, labels: Tensor) -> dict[str, Tensor]:
    right = task.correct(task.decide(probabilities), labels).float()
    _, group, sizes = task.confidence(probabilities).unique(return_inverse=True, return_counts=True)
    # The order of equally certain answers is arbitrary, so each counts as their mean.
    shares = torch.zeros_like(sizes, dtype=right.dtype).index_add(0, group, right) / sizes
    most_certain_first = shares.repeat_interleave(sizes).flip(0)
    kept = {100 - percent: len(right) - len(right) * percent // 100 for percent in LEFT_OUT}
    return {f"acc_kept_{percent}": most_certain_first[:number].mean() for percent, number in kept.items()}


def reliability(
    task: Task, probabilities: Tensor, labels: Tensor
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """For each of the B bins with any claims: their number [B], and mean probability and share of true ones [B, 2].

    probabilities: [N, C]
    """
    stated, true = (part.double().numpy() for part in _claims(task, probabilities, labels))
    counts, *sums = (np.histogram(stated, BINS, (0, 1), weights=weights)[0] for weights in (None, stated, true))
    held = counts > 0
    return counts[held], np.stack(sums, axis=1)[held] / counts[held, None]
