"""Tasks in which a document has any number of classes."""

import warnings
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Interval
from torch import Tensor
from torch.nn import functional as F

from attnlab.data.corpus import Counts, Labels
from attnlab.errors import UserError
from attnlab.tasks.base import Task, Weights

if TYPE_CHECKING:
    from torchmetrics import MetricCollection


class MultiLabel(Task):
    """Each document has any number of classes, decided one by one. Labels: [B, C] float32, answers: [B, C] bool.

    The loss is the mean over classes of the binary cross-entropy. A class is predicted where its probability reaches
    the threshold of the class. Each validation chooses the threshold with the best F1 (Lipton et al., 2014), after the
    temperature, and a checkpoint keeps both; this makes scores on validation a little optimistic, those on test not.
    `acc` is the share of documents for which exactly their classes are predicted (subset accuracy), `map` the mean over
    classes of the average precision.

    A class weight multiplies the loss of documents that have the class; "balanced" gives them in all the weight of the
    documents without it.

    Args:
        threshold: one for every class, instead of chosen ones.
    """

    METRICS: ClassVar[tuple[str, ...]] = ("loss", "acc", "f1_micro", "f1_macro", "map")
    BALANCED = "map"
    thresholds: Tensor

    def __init__(
        self,
        label_names: list[str],
        threshold: Annotated[float, Interval(gt=0, lt=1)] | None = None,
        class_weights: dict[str, float] | Literal["balanced"] | None = None,
        label_smoothing: Annotated[float, Interval(ge=0, lt=1)] = 0.0,
        loss: Literal["cross_entropy", "focal"] = "cross_entropy",
        gamma: Annotated[float, Ge(0)] = 2.0,
    ) -> None:
        super().__init__(label_names, class_weights, label_smoothing, loss, gamma)
        self.threshold = threshold
        self.register_buffer("thresholds", torch.full((len(label_names),), threshold or 0.5))

    def check(self, labels: Labels) -> None:
        if labels.ndim == 1:
            raise UserError(
                "the documents have one label each, and task=multi_label takes several: give a column of lists, "
                "data.label_separator or data.label=[<columns of 0 and 1>], or task=single_label"
            )

    def weigh(self, counts: Counts, num_documents: int, given: Weights | None) -> Weights:
        return (num_documents - counts).clip(min=1) / counts.clip(min=1) if given is None else given

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        labels = labels.to(logits.dtype)
        smooth = labels * (1 - self.label_smoothing) + self.label_smoothing / 2
        losses = F.binary_cross_entropy_with_logits(logits, smooth, pos_weight=self.weights, reduction="none")
        if self.gamma:
            right = torch.where(labels > 0, logits, -logits).sigmoid()
            losses = (1 - right) ** self.gamma * losses
        return losses.mean()

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none").mean(dim=1)

    def metrics(self) -> "MetricCollection":
        from torchmetrics import MeanMetric, MetricCollection

        return MetricCollection({"loss": MeanMetric(nan_strategy="disable")})

    def scores(self, metrics: "MetricCollection", logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        from torchmetrics.functional.classification import multilabel_average_precision, multilabel_f1_score

        labels, size = labels.long(), len(self.label_names)
        answers, plain = self.decide(self.probabilities(logits)), self.uncalibrated(logits)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Average precision score for one or more classes was `nan`")
            # It depends on the order of the documents alone, which is the same at any temperature.
            precision = multilabel_average_precision(plain, labels, size, "macro", validate_args=False)
        return {
            "loss": metrics["loss"].compute(),
            "acc": self.correct(answers, labels).float().mean(),
            "f1_micro": multilabel_f1_score(answers.long(), labels, size, average="micro", validate_args=False),
            "f1_macro": multilabel_f1_score(answers.long(), labels, size, average="macro", validate_args=False),
            "map": precision,
        }

    def calibrate(self, logits: Tensor, labels: Tensor) -> None:
        """Fit the temperature, then choose thresholds for the probabilities at this temperature."""
        super().calibrate(logits, labels)
        if self.threshold is None:
            self.thresholds.copy_(best_thresholds(self.probabilities(logits), labels.long()))

    def uncalibrated(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()

    def decide(self, probabilities: Tensor) -> Tensor:
        return probabilities >= self.thresholds

    def correct(self, answers: Tensor, labels: Tensor) -> Tensor:
        return (answers == labels.bool()).all(dim=1)

    def surest_errors(self, probabilities: Tensor, answers: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The most certain one among the wrong decisions about classes."""
        given = torch.where(answers.bool(), probabilities, 1 - probabilities)
        best = given.masked_fill(answers.bool() == labels.bool(), 0).max(dim=1)
        return best.values, best.indices

    def confidence(self, probabilities: Tensor) -> Tensor:
        """The probability that all decisions are right, as if classes were independent."""
        return torch.where(self.decide(probabilities), probabilities, 1 - probabilities).prod(dim=1)

    def claims(self, probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """One claim for each class: that the document has it."""
        return probabilities.flatten(), labels.flatten()

    def brier_scores(self, probabilities: Tensor, labels: Tensor) -> Tensor:
        """The mean over classes: from 0 to 1."""
        return (probabilities - labels).square().mean(dim=1)

    def names(self, answers: Tensor) -> list[list[str]]:
        return [[self.label_names[index] for index in row.nonzero().flatten().tolist()] for row in answers]

    def stat_scores(self, answers: Tensor, labels: Tensor) -> Tensor:
        from torchmetrics.functional.classification import multilabel_stat_scores

        return multilabel_stat_scores(answers.long(), labels.long(), len(self.label_names), average=None)

    def confusion(self, answers: Tensor, labels: Tensor) -> None:
        return None


def best_thresholds(probabilities: Tensor, labels: Tensor) -> Tensor:
    """The threshold of each class that gives the best F1: [C], 0.5 where no document has the class.

    probabilities, labels: [N, C]
    """
    from torchmetrics.functional.classification import multilabel_precision_recall_curve

    # torchmetrics takes all values for logits if one is outside of 0 and 1, which rounding can cause.
    probabilities = probabilities.clamp(0, 1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No positive samples")
        curves = multilabel_precision_recall_curve(probabilities, labels, labels.shape[1], validate_args=False)
    best = probabilities.new_full(labels.shape[1:], 0.5)
    for index, (precision, recall, thresholds) in enumerate(zip(*curves, strict=True)):
        if labels[:, index].any():
            f1 = 2 * precision * recall / (precision + recall)
            best[index] = thresholds[f1[:-1].nan_to_num().argmax()]  # the last point, without answers, has no threshold
    return best
