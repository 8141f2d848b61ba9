"""The base class of tasks."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
import yaml
from annotated_types import Ge, Interval
from torch import Tensor, nn

from attnlab.data.corpus import Counts, Labels, count_labels, shortened
from attnlab.errors import UserError
from attnlab.tasks.temperature import fit_temperature

if TYPE_CHECKING:  # torchmetrics takes a second to import, and answering needs none
    from torchmetrics import MetricCollection

log = logging.getLogger(__name__)

Weights = npt.NDArray[np.float64]


class Task(nn.Module, ABC):
    """One way to label documents with C classes. Each task defines the shape of its labels and answers.

    The training loss may weight classes, smooth labels and focus on hard documents. The reported loss never does: it is
    the cross-entropy of the probabilities, on one scale for all settings, so that runs can be compared by it and early
    stopping means the same in all of them. Frequent classes count most in it, so choose the epoch by `BALANCED` if rare
    ones matter as much: with class weights on AG News, of 10,000 to 100 documents a class, that gained 6 points of
    macro F1 where the model overfitted.

    Probabilities are computed from logits divided by a `temperature` (Guo et al., 2017). Each validation fits it again,
    where it helps, and a checkpoint keeps it. It changes no loss, and answers only where the user sets a threshold.

    Args:
        label_names: names of the classes, in order.
        class_weights: weights of classes in training, 1 for a class that is not named, or "balanced".
        label_smoothing: the share of each label that is spread over all classes (Szegedy et al., 2016).
        loss: the training loss, "cross_entropy" or "focal" (Lin et al., 2017), in which documents that are answered
            well count less.
        gamma: how much less, for the focal loss; 0 is the cross-entropy.
    """

    METRICS: ClassVar[tuple[str, ...]]  # the names that `scores` returns
    BALANCED: ClassVar[str]  # the metric in which all classes count alike
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
        self.label_names, self.class_weights = label_names, class_weights
        self.label_smoothing, self.gamma = label_smoothing, gamma if loss == "focal" else 0.0
        # Not a buffer: those are cast to the precision of the weights, and weight averaging averages them.
        self.temperature = 1.0
        if self.gamma and label_smoothing:
            raise UserError("task.loss=focal does not work with task.label_smoothing: leave one of the two out")
        if isinstance(class_weights, Mapping):
            self.class_weights = _checked(class_weights, label_names)
        # A buffer, so that a run resumes with the weights of its checkpoint and not with ones that round differently.
        self.register_buffer("weights", None if class_weights is None else torch.ones(len(label_names)))

    @property
    def num_outputs(self) -> int:
        """Logits that the model returns for each document: by default one for each class."""
        return len(self.label_names)

    @property
    def is_standard(self) -> bool:
        """Whether probabilities and answers follow from logits as in this program's own tasks.

        If not, the task's own methods are called wherever an answer is explained, counted or exported.
        """
        own = next(kind for kind in type(self).__mro__ if kind.__module__.startswith("attnlab.tasks."))
        methods = ("uncalibrated", "probabilities", "decide")
        unchanged = all(getattr(type(self), name) is getattr(own, name) for name in methods)
        return own is not Task and unchanged and self.num_outputs == len(self.label_names)

    def fit(self, labels: Labels) -> None:
        """Compute the class weights from the labels of the training set, or warn that they may be needed."""
        self.check(labels)
        counts = count_labels(labels, len(self.label_names))
        named = self.class_weights if isinstance(self.class_weights, dict) else {}
        given = np.array([named.get(name, 1.0) for name in self.label_names])
        weights = self.weigh(counts, len(labels), None if self.class_weights == "balanced" else given)
        if self.weights is not None:
            self.weights.copy_(torch.from_numpy(weights))
            shown = [f"{name} {weight:.3g}" for name, weight in zip(self.label_names, weights, strict=True)]
            log.info("Class weights: %s", ", ".join(shown[:20]))

    @abstractmethod
    def check(self, labels: Labels) -> None:
        """Raise `UserError` for labels that belong to another task."""

    @abstractmethod
    def weigh(self, counts: Counts, num_documents: int, given: Weights | None) -> Weights:
        """The weights in training, [C], for those that the user has given, [C], or None for balanced ones."""

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The training loss, a mean over B documents; logits: [B, C]."""

    @abstractmethod
    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of each document that is reported: [B]."""

    @abstractmethod
    def metrics(self) -> "MetricCollection":
        """The metrics that `update` accumulates over a split and `scores` computes."""

    @abstractmethod
    def uncalibrated(self, logits: Tensor) -> Tensor:
        """Probabilities at a temperature of 1: logits [B, C] -> [B, C]."""

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probabilities at the temperature of the last validation, or of the checkpoint: logits [B, C] -> [B, C]."""
        return self.uncalibrated(logits / self.temperature)

    @abstractmethod
    def decide(self, probabilities: Tensor) -> Tensor:
        """The answers for probabilities [B, C]."""

    def explained_class(self, probabilities: Tensor) -> Tensor:
        """The class for which an answer is explained: probabilities [B, C] -> [B] int64."""
        return probabilities.argmax(dim=1)

    def evidence(self, logits: Tensor, classes: Tensor) -> Tensor:
        """The number that an explanation divides among the words, [B]; it grows with the probability of `classes`, [B].

        The logit of the class; in a task whose logits mean something else, the log-odds of the class's probability.
        """
        if self.is_standard:
            return logits.gather(1, classes[:, None])[:, 0]
        return self.uncalibrated(logits).gather(1, classes[:, None])[:, 0].logit(eps=1e-6)

    @abstractmethod
    def surest_errors(self, probabilities: Tensor, answers: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """For each document the probability of the most certain error in its answer, and the class of it: [B], [B]."""

    @abstractmethod
    def correct(self, answers: Tensor, labels: Tensor) -> Tensor:
        """Whether the answer for each document is right: [B] bool, whose mean is `test/acc`."""

    @abstractmethod
    def confidence(self, probabilities: Tensor) -> Tensor:
        """The probability that the answer for each document is right: probabilities [B, C] -> [B]."""

    @abstractmethod
    def claims(self, probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """What calibration is measured on: the probability of each claim about the documents, and whether it is true.

        probabilities: [B, C] -> [M], [M]
        """

    @abstractmethod
    def brier_scores(self, probabilities: Tensor, labels: Tensor) -> Tensor:
        """The score of Brier (1950) for each document: probabilities [B, C] -> [B]."""

    @abstractmethod
    def names(self, answers: Tensor) -> list[Any]:
        """Answers, or labels, as the name or the list of names of each document."""

    @abstractmethod
    def stat_scores(self, answers: Tensor, labels: Tensor) -> Tensor:
        """[C, 5]: true and false positives, true and false negatives and documents of each class."""

    @abstractmethod
    def confusion(self, answers: Tensor, labels: Tensor) -> Tensor | None:
        """Documents by class and answer, [C, C]; None where classes do not exclude each other."""

    def update(self, metrics: "MetricCollection", logits: Tensor, labels: Tensor) -> None:
        """Count a batch."""
        metrics.update(preds=logits, target=labels, value=self.losses(logits, labels))

    def scores(self, metrics: "MetricCollection", logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The metrics of all batches, by name; logits: [N, C], of the same documents."""
        return metrics.compute()

    def calibrate(self, logits: Tensor, labels: Tensor) -> None:
        """Fit the temperature to a validation set, where that helps; logits: [N, C]."""
        self.temperature = fit_temperature(self.losses, logits.cpu().double(), labels.cpu())


def _checked(weights: Mapping[Any, Any], label_names: list[str]) -> dict[str, float]:
    """The weights by class name. Raises `UserError` for an unknown class, or a weight that is not above 0."""
    named = {_as_typed(name, label_names): weight for name, weight in weights.items()}
    for name, weight in named.items():
        if name not in label_names:
            known = shortened(label_names)
            raise UserError(
                f"task.class_weights names the class {name!r}, which does not exist; the classes are {known}"
            )
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
            raise UserError(f"task.class_weights={{{name}: {weight}}} should be a number above 0")
    return named


def _as_typed(name: Any, label_names: list[str]) -> str:
    """The class that a key of a YAML file means, which YAML may have converted: 1_0 to 10, yes to true."""
    if isinstance(name, str):
        return name

    def means(label: str) -> bool:
        try:
            read = yaml.safe_load(label)
        except yaml.YAMLError:
            return False
        return type(read) is type(name) and read == name

    found = list(filter(means, label_names))
    if len(found) > 1:
        raise UserError(
            f"task.class_weights: {name} may be {' or '.join(found)}; put the class's name in quotation marks"
        )
    return found[0] if found else str(name)
