"""What a label is: the loss of a model's logits, their metrics, the answer they stand for, and when it is right."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from annotated_types import Ge, Interval
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score
from torchmetrics.functional.classification import multiclass_confusion_matrix, multiclass_stat_scores

from attnlab.errors import UserError

log = logging.getLogger(__name__)

UNEQUAL = 10  # times as many documents in the largest class as in the smallest are worth a warning


class Task(nn.Module, ABC):
    """One way to label documents with C classes.

    `labels` and answers are of one shape, by which alone what follows tells tasks apart: [B] int64 for one class a
    document.

    What training minimises may weigh, smooth and focus. What is reported as loss never does: it is the cross-entropy of
    the probabilities, on one scale for all settings, so that runs compare by it and early stopping means the same for
    all of them. Where rare classes are to count as much as frequent ones, `monitor.metric=val/acc_balanced` or
    `val/f1_macro` chooses the epoch by them.

    Args:
        label_names: names of the classes, in order.
        class_weights: by which the loss of a class's documents is multiplied in training, 1 where a class is not named;
            "balanced" gives every class the same weight in all. They are scaled so that their mean over the training
            documents is 1 and the learning rate keeps its meaning.
        label_smoothing: the share of each label that is spread over all classes (Szegedy et al., 2016).
        loss: of training, "cross_entropy" or "focal" (Lin et al., 2017), by which documents that are answered well
            count less.
        gamma: how much less, for the focal loss; 0 is the cross-entropy.

    Raises:
        UserError: a weight of an unknown class or not above 0, or settings that contradict each other.
    """

    METRICS: ClassVar[tuple[str, ...]]  # names of what `scores` gives
    weights: Tensor | None

    def __init__(
        self,
        label_names: list[str],
        class_weights: dict[str, float] | Literal["balanced"] | None = None,
        label_smoothing: Annotated[float, Interval(ge=0, lt=1)] = 0.0,
        loss: Literal["cross_entropy", "focal"] = "cross_entropy",
        gamma: Annotated[float, Ge(0)] = 2.0,
    ) -> None:
        super().__init__()
        self.label_names, self.class_weights = list(label_names), class_weights  # Hydra hands over lists of its own
        self.label_smoothing, self.gamma = label_smoothing, gamma if loss == "focal" else 0.0
        if self.gamma and label_smoothing:
            raise UserError("task.loss=focal takes no task.label_smoothing: leave one of the two out")
        if isinstance(class_weights, Mapping):
            self.class_weights = _checked(class_weights, label_names)
        if class_weights is not None:  # in the checkpoint: a run that goes on has the same, whatever is rounded how
            self.register_buffer("weights", torch.ones(len(label_names)))
        else:
            self.weights = None

    def fit(self, labels: npt.NDArray[np.number]) -> None:
        """Find the class weights for the labels of the training set, or say that they may be wanted."""
        counts = self.counts(labels)
        present = [index for index in np.argsort(counts) if counts[index]]
        if self.class_weights is None:
            few, many = present[0], present[-1]
            if counts[many] > UNEQUAL * counts[few]:
                log.warning(
                    "Data: the training set has %s documents of %s and %s of %s; task.class_weights=balanced counts "
                    "them alike, and acc_balanced and f1_macro tell how rare classes fare",
                    *(f"{counts[many]:,}", self.label_names[many], f"{counts[few]:,}", self.label_names[few]),
                )
            return
        if isinstance(self.class_weights, str):
            weights = 1 / counts.clip(min=1)
        else:
            weights = np.array([self.class_weights.get(name, 1.0) for name in self.label_names])
        weights /= (weights * counts).sum() / counts.sum()
        assert isinstance(self.weights, Tensor)
        self.weights.copy_(torch.from_numpy(weights))
        shown = [f"{self.label_names[index]} {weights[index]:.3g}" for index in present[:20]]
        log.info("Class weights: %s", ", ".join(shown))

    @abstractmethod
    def counts(self, labels: npt.NDArray[np.number]) -> npt.NDArray[np.int64]:
        """Documents of each class: [C]."""

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

    METRICS = ("loss", "acc", "acc_balanced", "f1", "f1_macro")

    def counts(self, labels: npt.NDArray[np.number]) -> npt.NDArray[np.int64]:
        return np.bincount(labels.astype(np.int64), minlength=len(self.label_names))

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.weights is None and not self.gamma:
            return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=self.label_smoothing)
        if self.gamma:
            losses = (1 - (-losses).exp()) ** self.gamma * losses
        # Not torch's own weighted mean, which gives every batch the same weight in all, one of frequent classes too.
        return (losses if self.weights is None else losses * self.weights[labels]).mean()

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, reduction="none")

    def metrics(self) -> MetricCollection:
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


def _checked(weights: Mapping[Any, Any], label_names: list[str]) -> dict[str, float]:
    """Raises `UserError` for what is no weight of a class."""
    named = {str(name): weight for name, weight in weights.items()}
    for name, weight in named.items():
        if name not in label_names:
            known = ", ".join(label_names[:20]) + (" ..." if len(label_names) > 20 else "")
            raise UserError(f"task.class_weights names the class {name!r}, which there is not; the classes are {known}")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
            raise UserError(f"task.class_weights={{{name}: {weight}}} should be a number above 0")
    return named


METRICS = tuple(SingleLabel.METRICS)  # of any task
