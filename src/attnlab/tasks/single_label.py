"""Tasks in which a document has one class."""

import logging
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from attnlab.data.corpus import Counts, Labels
from attnlab.errors import UserError
from attnlab.tasks.base import Task, Weights

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

log = logging.getLogger(__name__)

IMBALANCE = 10  # a warning if the largest class has more than so many times the documents of the smallest


class SingleLabel(Task):
    """Each document has one class. Labels and answers: [B] int64.

    Class weights are scaled so that their mean over the training documents is 1, which leaves the learning rate its
    meaning; "balanced" gives every class the same total weight.
    """

    METRICS: ClassVar[tuple[str, ...]] = ("loss", "acc", "acc_balanced", "f1", "f1_macro")
    BALANCED = "acc_balanced"

    def update(self, metrics: "MetricCollection", logits: Tensor, labels: Tensor) -> None:
        # torchmetrics takes the largest logit as the answer, which need not be that of a user's own task.
        preds = logits if self.is_standard else self.decide(self.probabilities(logits))
        metrics.update(preds=preds, target=labels, value=self.losses(logits, labels))

    def check(self, labels: Labels) -> None:
        if labels.ndim == 2:
            raise UserError("the documents have several labels each, and task=single_label takes one: task=multi_label")

    def weigh(self, counts: Counts, num_documents: int, given: Weights | None) -> Weights:
        few, many = min(counts[counts > 0]), counts.max()
        if self.weights is None and many > IMBALANCE * few:
            largest, smallest = (self.label_names[int(np.flatnonzero(counts == number)[0])] for number in (many, few))
            log.warning(
                "Data: the training set has %s documents of %s and %s of %s; task.class_weights=balanced counts them "
                "alike, and acc_balanced and f1_macro show how rare classes fare",
                *(f"{many:,}", largest, f"{few:,}", smallest),
            )
        weights = 1 / counts.clip(min=1) if given is None else given
        return weights * num_documents / (weights * counts).sum()

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.weights is None and not self.gamma:
            return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=self.label_smoothing)
        if self.gamma:
            losses = (1 - (-losses).exp()) ** self.gamma * losses
        # Not torch's weighted mean, which divides by the weights in the batch and so undoes them from batch to batch.
        return (losses if self.weights is None else losses * self.weights[labels]).mean()

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, reduction="none")

    def metrics(self) -> "MetricCollection":
        from torchmetrics import MeanMetric, MetricCollection
        from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

        size = len(self.label_names)
        return MetricCollection(
            {
                "loss": MeanMetric(nan_strategy="disable"),
                "acc": MulticlassAccuracy(size, average="micro", validate_args=False),
                "acc_balanced": MulticlassAccuracy(size, average="macro", validate_args=False),
                "f1": MulticlassF1Score(size, average="weighted", validate_args=False),
                "f1_macro": MulticlassF1Score(size, average="macro", validate_args=False),
            }
        )

    def uncalibrated(self, logits: Tensor) -> Tensor:
        return logits.softmax(dim=1)

    def decide(self, probabilities: Tensor) -> Tensor:
        return probabilities.argmax(dim=1)

    def correct(self, answers: Tensor, labels: Tensor) -> Tensor:
        return answers == labels

    def explained_class(self, probabilities: Tensor) -> Tensor:
        return self.decide(probabilities)

    def surest_errors(self, probabilities: Tensor, answers: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The answer's own probability."""
        return probabilities.gather(1, answers[:, None])[:, 0], answers

    def confidence(self, probabilities: Tensor) -> Tensor:
        return probabilities.gather(1, self.decide(probabilities)[:, None])[:, 0]

    def claims(self, probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """One claim: that the document has the predicted class."""
        return self.confidence(probabilities), self.correct(self.decide(probabilities), labels)

    def brier_scores(self, probabilities: Tensor, labels: Tensor) -> Tensor:
        """The sum over classes: from 0 to 2."""
        right = probabilities.gather(1, labels[:, None]).squeeze(1)
        return probabilities.square().sum(dim=1) - 2 * right + 1  # (1 - right)² in place of right²

    def names(self, answers: Tensor) -> list[str]:
        return [self.label_names[answer] for answer in answers.tolist()]

    def stat_scores(self, answers: Tensor, labels: Tensor) -> Tensor:
        from torchmetrics.functional.classification import multiclass_stat_scores

        return multiclass_stat_scores(answers, labels, num_classes=len(self.label_names), average=None)

    def confusion(self, answers: Tensor, labels: Tensor) -> Tensor:
        from torchmetrics.functional.classification import multiclass_confusion_matrix

        return multiclass_confusion_matrix(answers, labels, num_classes=len(self.label_names))
