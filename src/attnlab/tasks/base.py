"""What every task has."""

import logging
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
import yaml
from annotated_types import Ge, Interval
from torch import Tensor, nn

from attnlab.data.corpus import Counts, Labels, count_labels
from attnlab.errors import UserError

if TYPE_CHECKING:  # torchmetrics takes a second to import, and answering needs none
    from torchmetrics import MetricCollection

log = logging.getLogger(__name__)

Weights = npt.NDArray[np.float64]

TEMPERATURES = (0.05, 20.0)  # between which one is looked for
CANDIDATES = 100_000  # of them, each 0.006 % above the one before
ROUGHLY = 200  # candidates, each 3 % above the one before


class Task(nn.Module, ABC):
    """One way to label documents with C classes. Of what shape labels and answers are, each task says.

    What training minimises may weigh, smooth and focus. What is reported as loss never does: it is the cross-entropy of
    the probabilities, on one scale for all settings, so that runs compare by it and early stopping means the same for
    all of them. Frequent classes count most in it, so where rare ones are to count as much the epoch is better chosen
    by `BALANCED`: with class weights on AG News, of 10,000 to 100 documents a class, by 6 points of macro F1 where the
    model came to learn by heart.

    Probabilities are those of logits divided by a `temperature` (Guo et al., 2017), which each validation fits anew
    where that helps, and a checkpoint keeps. It moves no loss, and no answer but by a threshold that the user gives.

    Args:
        label_names: names of the classes, in order.
        class_weights: what the documents of a class count in training, 1 where a class is not named, or "balanced".
        label_smoothing: the share of each label that is spread over all classes (Szegedy et al., 2016).
        loss: of training, "cross_entropy" or "focal" (Lin et al., 2017), by which documents that are answered well
            count less.
        gamma: how much less, for the focal loss; 0 is the cross-entropy.

    Raises:
        UserError: a weight of an unknown class or not above 0, or settings that contradict each other.
    """

    METRICS: ClassVar[tuple[str, ...]]  # names of what `scores` gives
    BALANCED: ClassVar[str]  # the one of them to choose an epoch by where all classes are to count alike
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
        self.temperature = 1.0  # no buffer: it is of no precision of the weights, and nothing to average with them
        if self.gamma and label_smoothing:
            raise UserError("task.loss=focal takes no task.label_smoothing: leave one of the two out")
        if isinstance(class_weights, Mapping):
            self.class_weights = _checked(class_weights, label_names)
        if class_weights is not None:  # in the checkpoint: a run that goes on has the same, whatever is rounded how
            self.register_buffer("weights", torch.ones(len(label_names)))
        else:
            self.weights = None

    @property
    def num_outputs(self) -> int:
        """How many logits the model gives a document; one a class unless a task says otherwise."""
        return len(self.label_names)

    @property
    def is_usual(self) -> bool:
        """Whether probabilities and answers follow from logits as in this program's own tasks.

        A task of another kind is asked itself wherever an answer is explained, counted or exported.
        """
        return False

    def fit(self, labels: Labels) -> None:
        """Find the class weights for the labels of the training set, or say that they may be wanted."""
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
        """Raises `UserError` for the labels of another task."""

    @abstractmethod
    def weigh(self, counts: Counts, num_documents: int, given: Weights | None) -> Weights:
        """The weights that training takes for those that are given by the user, None for balanced ones; all: [C]."""

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """What training minimises, the mean over B documents; logits: [B, C]."""

    @abstractmethod
    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """What is reported as loss of each document: [B]."""

    @abstractmethod
    def metrics(self) -> "MetricCollection":
        """What `update` fills over a split and `scores` reads."""

    @abstractmethod
    def uncalibrated(self, logits: Tensor) -> Tensor:
        """Probabilities at a temperature of 1: [B, C], of the logits [B, C]."""

    def probabilities(self, logits: Tensor) -> Tensor:
        """At the temperature of the last validation, or of the checkpoint: [B, C], of the logits [B, C]."""
        return self.uncalibrated(logits / self.temperature)

    @abstractmethod
    def decide(self, probabilities: Tensor) -> Tensor:
        """The answers: what is predicted from probabilities [B, C]."""

    def leading(self, probabilities: Tensor) -> Tensor:
        """The class by which an answer is explained: [B] int64, of the probabilities [B, C]."""
        return probabilities.argmax(dim=1)

    def evidence(self, logits: Tensor, classes: Tensor) -> Tensor:
        """What an explanation divides among the words: [B]; the more, the more probable the `classes`, [B], are.

        The log-odds of their probability, unless a task says otherwise.
        """
        return self.uncalibrated(logits).gather(1, classes[:, None])[:, 0].logit(eps=1e-6)

    @abstractmethod
    def surest_errors(self, probabilities: Tensor, answers: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Of each document the probability of what is wrong if its answer is, and the class that it is of: [B], [B]."""

    @abstractmethod
    def correct(self, answers: Tensor, labels: Tensor) -> Tensor:
        """Whether each document's answer is right: [B] bool. What `test/acc` is the mean of."""

    @abstractmethod
    def confidence(self, probabilities: Tensor) -> Tensor:
        """How probable it is of each document that its answer is right: [B], of the probabilities [B, C]."""

    @abstractmethod
    def claims(self, probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """By which calibration is judged: the probability of each claim about the documents, and whether it is true.

        probabilities: [B, C]; both answers: [M]
        """

    @abstractmethod
    def squared_errors(self, probabilities: Tensor, labels: Tensor) -> Tensor:
        """Of each document the score of Brier (1950): [B], of the probabilities [B, C]."""

    @abstractmethod
    def names(self, answers: Tensor) -> list[Any]:
        """Answers, or labels, in words: a name or a list of names each."""

    @abstractmethod
    def stat_scores(self, answers: Tensor, labels: Tensor) -> Tensor:
        """[C, 5]: true and false positives, true and false negatives and documents of each class."""

    @abstractmethod
    def confusion(self, answers: Tensor, labels: Tensor) -> Tensor | None:
        """[C, C]: documents by class and answer; None where a class is not taken for another."""

    def update(self, metrics: "MetricCollection", logits: Tensor, labels: Tensor) -> None:
        """Count a batch."""
        metrics.update(preds=logits, target=labels, value=self.losses(logits, labels))

    def scores(self, metrics: "MetricCollection", logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The metrics of all that was counted, by their names; logits: [N, C], of the same documents."""
        return metrics.compute()

    def calibrate(self, logits: Tensor, labels: Tensor) -> None:
        """Fit the temperature to a validation set, by the least mean of `losses`, where that helps; logits: [N, C].

        It helps where the loss of documents on which it was not fitted falls by more than chance would have it: those
        of one half are measured at the best temperature of the other, and the mean difference should be above its
        standard error. Where it does not, the temperature is 1.
        """
        logits, labels = logits.cpu().double(), labels.cpu()
        self.temperature = 1.0
        if len(labels) < 2:
            return
        # Drawn, as files are sorted by class or take turns at it.
        halves = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)).tensor_split(2)
        gains = []
        for fitted, held_out in (halves, halves[::-1]):
            temperature = self._best_temperature(logits[fitted], labels[fitted], ROUGHLY)
            inputs, targets = logits[held_out], labels[held_out]
            gains.append(self.losses(inputs, targets) - self.losses(inputs / temperature, targets))
        gain = torch.cat(gains)
        if gain.mean() > gain.std() / len(gain) ** 0.5:
            self.temperature = self._best_temperature(logits, labels)

    def _best_temperature(self, logits: Tensor, labels: Tensor, candidates: int = CANDIDATES) -> float:
        """The one of the least mean of `losses`; 1 where all is answered right, as then the lowest is the best."""
        lowest, highest = TEMPERATURES

        def candidate(number: int) -> float:
            return float(lowest * (highest / lowest) ** (number / (candidates - 1)))

        def rises_from(number: int) -> bool:
            here, next_ = (self.losses(logits / candidate(i), labels).mean() for i in (number, number + 1))
            return bool(next_ > here)

        # The loss is convex in the temperature's inverse, so it rises from the best one on.
        best = bisect_left(range(candidates - 1), True, key=rises_from)
        separated = not self.losses(1e6 * logits, labels).any()
        return 1.0 if separated else candidate(best)


def follows(kind: type[Task], usual: type[Task]) -> bool:
    """Whether a subclass of `usual` computes probabilities and answers as that does."""
    return all(getattr(kind, name) is getattr(usual, name) for name in ("uncalibrated", "probabilities", "decide"))


def _checked(weights: Mapping[Any, Any], label_names: list[str]) -> dict[str, float]:
    """Raises `UserError` for what is no weight of a class."""
    named = {_as_typed(name, label_names): weight for name, weight in weights.items()}
    for name, weight in named.items():
        if name not in label_names:
            known = ", ".join(label_names[:20]) + (" ..." if len(label_names) > 20 else "")
            raise UserError(f"task.class_weights names the class {name!r}, which there is not; the classes are {known}")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
            raise UserError(f"task.class_weights={{{name}: {weight}}} should be a number above 0")
    return named


def _as_typed(name: Any, label_names: list[str]) -> str:
    """The class that a key of a YAML file means which YAML has made something else of: 10 of 1_0, true of yes."""
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
