"""What of several labels a document can't be told from sums over batches."""

import warnings

from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import multilabel_precision_recall_curve
from torchmetrics.utilities import dim_zero_cat


class Collected(Metric):
    """All logits and labels, for what can't be told from sums over batches."""

    preds: list[Tensor]
    target: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("preds", default=[], dist_reduce_fx="cat")
        self.add_state("target", default=[], dist_reduce_fx="cat")

    def update(self, preds: Tensor, target: Tensor) -> None:
        self.preds.append(preds)
        self.target.append(target.long())

    def compute(self) -> tuple[Tensor, Tensor]:
        return dim_zero_cat(self.preds), dim_zero_cat(self.target)


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
