"""Parts as a researcher writes them, each with one thing that this program's own parts do not do."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from attnlab.task import SingleLabel


class Agreement(Metric):
    """A metric that says no direction; the more documents, the more it is."""

    right: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("right", torch.zeros(()))

    def update(self, preds: Tensor, target: Tensor, **_: Any) -> None:
        self.right += (preds.argmax(dim=1) == target).sum()

    def compute(self) -> Tensor:
        return self.right


class Measured(SingleLabel):
    """With two further metrics: torchmetrics knows that more of `mcc` is better, and of `agreement` nobody says it."""

    METRICS = (*SingleLabel.METRICS, "mcc", "agreement")

    def metrics(self) -> MetricCollection:
        from torchmetrics.classification import MulticlassMatthewsCorrCoef

        metrics = super().metrics()
        metrics.add_metrics({"mcc": MulticlassMatthewsCorrCoef(len(self.label_names)), "agreement": Agreement()})
        return metrics
