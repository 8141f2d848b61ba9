"""What a label is: the loss of a model's logits, their metrics, the answer they stand for, and when it is right."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score
from torchmetrics.functional.classification import multiclass_confusion_matrix, multiclass_stat_scores


class Task(nn.Module, ABC):
    """One way to label documents with C classes.

    `labels` and answers are of one shape, by which alone what follows tells tasks apart: [B] int64 for one class a
    document.

    Args:
        label_names: names of the classes, in order.
    """

    METRICS: ClassVar[tuple[str, ...]]  # names of what `scores` gives

    def __init__(self, label_names: list[str]) -> None:
        super().__init__()
        self.label_names = label_names

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """What training minimises, the mean over B documents; logits: [B, C]."""

    @abstractmethod
    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """What is reported as loss of each document: [B]."""

    @abstractmethod
    def metrics(self) -> MetricCollection:
        """What `update` fills over a split and `scores` reads."""

    @abstractmethod
    def probabilities(self, logits: Tensor) -> Tensor:
        """[B, C], of the logits [B, C]."""

    @abstractmethod
    def decide(self, probabilities: Tensor) -> Tensor:
        """The answers: what is predicted from probabilities [B, C]."""

    @abstractmethod
    def correct(self, answers: Tensor, labels: Tensor) -> Tensor:
        """Whether each document's answer is right: [B] bool. What `test/acc` is the mean of."""

    @abstractmethod
    def names(self, answers: Tensor) -> list[str]:
        """Answers, or labels, in words."""

    @abstractmethod
    def stat_scores(self, answers: Tensor, labels: Tensor) -> Tensor:
        """[C, 5]: true and false positives, true and false negatives and documents of each class."""

    @abstractmethod
    def confusion(self, answers: Tensor, labels: Tensor) -> Tensor | None:
        """[C, C]: documents by class and answer; None where a class is not taken for another."""

    def update(self, metrics: MetricCollection, logits: Tensor, labels: Tensor) -> None:
        """Count a batch."""
        metrics.update(preds=logits, target=labels, value=self.losses(logits, labels))

    def scores(self, metrics: MetricCollection) -> dict[str, Tensor]:
        """The metrics of all that was counted, by their names."""
        return metrics.compute()


class SingleLabel(Task):
    """Each document is of one class. Labels and answers: [B] int64."""

    METRICS = ("loss", "acc", "f1", "f1_macro")

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels)

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, reduction="none")

    def metrics(self) -> MetricCollection:
        size = len(self.label_names)
        return MetricCollection(
            {
                "loss": MeanMetric(nan_strategy="disable"),
                "acc": MulticlassAccuracy(size, average="micro", validate_args=False),
                "f1": MulticlassF1Score(size, average="weighted", validate_args=False),
                "f1_macro": MulticlassF1Score(size, average="macro", validate_args=False),
            }
        )

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.softmax(dim=1)

    def decide(self, probabilities: Tensor) -> Tensor:
        return probabilities.argmax(dim=1)

    def correct(self, answers: Tensor, labels: Tensor) -> Tensor:
        return answers == labels

    def names(self, answers: Tensor) -> list[str]:
        return [self.label_names[answer] for answer in answers.tolist()]

    def stat_scores(self, answers: Tensor, labels: Tensor) -> Tensor:
        return multiclass_stat_scores(answers, labels, num_classes=len(self.label_names), average=None)

    def confusion(self, answers: Tensor, labels: Tensor) -> Tensor:
        return multiclass_confusion_matrix(answers, labels, num_classes=len(self.label_names))


METRICS = tuple(SingleLabel.METRICS)  # of any task
