"""From which probability on a class is answered, where a document may be of several."""

import warnings

from torch import Tensor
from torchmetrics.functional.classification import multilabel_precision_recall_curve


def best_thresholds(probabilities: Tensor, labels: Tensor) -> Tensor:
    """For each class the probability from which on answering it gives the best F1: [C], 0.5 where no document has it.

    probabilities, labels: [N, C]
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No positive samples")
        curves = multilabel_precision_recall_curve(probabilities, labels, labels.shape[1], validate_args=False)
    best = probabilities.new_full(labels.shape[1:], 0.5)
    for index, (precision, recall, thresholds) in enumerate(zip(*curves, strict=True)):
        if labels[:, index].any():
            f1 = 2 * precision * recall / (precision + recall)
            best[index] = thresholds[f1[:-1].nan_to_num().argmax()]  # the last point has no threshold: nothing answered
    return best
