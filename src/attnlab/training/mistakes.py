"""The most confident mistakes on the test documents: mistakes.csv."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attnlab.data.sources import Split
from attnlab.model.gradients import STEPS, Attributable
from attnlab.training.attribution import Classifier, Explanation, attribute
from attnlab.training.module import Predictions

MISTAKES = 50
MARKED = 10  # the first ones: a run should not wait for its report
TEXT = 1000  # characters


@dataclass(frozen=True)
class Mistake:
    """A document whose answer is wrong.

    Attributes:
        index: as in predictions.parquet.
        text: its first `TEXT` characters, with a word on how many there are.
        label, predicted: names; of several labels with commas.
        probability: that the model gives to what is wrong: the predicted class, or of several labels the surest error.
        explanation: of the first `MARKED`, where the model can be asked: for the class that the probability is of.
    """

    index: int
    text: str
    label: str
    predicted: str
    probability: float
    explanation: Explanation | None


def find_mistakes(classifier: Classifier, predictions: Predictions, split: Split) -> list[Mistake]:
    """The `MISTAKES` of which the model was surest, these first; `split`: of the documents that were tested."""
    task, answers, labels = classifier.task, predictions.answers, predictions.labels
    sure, classes = _surest_error(predictions)
    order = sure.argsort(descending=True, stable=True)
    rows = order[~task.correct(answers, labels)[order]][:MISTAKES]
    places, documents, readable = predictions.index[rows].tolist(), split.documents, split.readable
    explanations: list[Any] = [None] * len(rows)
    if isinstance(classifier.model, Attributable):
        some: Any = [documents[place] for place in places[:MARKED]]
        found = attribute(classifier, some, classes[rows[:MARKED]].tolist(), steps=STEPS[:1])
        explanations[: len(found)] = found
    names = zip(task.names(labels[rows]), task.names(answers[rows]), strict=True)
    return [
        Mistake(
            index=place if split.places is None else int(split.places[place]),
            text=_cut(readable[place]),
            label=_in_words(label),
            predicted=_in_words(answer),
            probability=float(sure[row]),
            explanation=explanation,
        )
        for row, place, (label, answer), explanation in zip(rows, places, names, explanations, strict=True)
    ]


def _surest_error(predictions: Predictions) -> tuple[Tensor, Tensor]:
    """Of each document the probability given to what is wrong if the answer is, and the class it is of: [N], [N]."""
    probabilities = predictions.probabilities
    if predictions.labels.ndim == 1:
        best = probabilities.max(dim=1)
    else:
        answers = predictions.answers.bool()
        given = torch.where(answers, probabilities, 1 - probabilities)
        best = given.masked_fill(answers == predictions.labels.bool(), 0).max(dim=1)
    return best.values, best.indices


def write_mistakes(path: Path, mistakes: Sequence[Mistake]) -> None:
    """A row each; `words`: the strongest of those that spoke for what is wrong (+) or against it (-)."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["index", "text", "label", "predicted", "probability", "explained", "words"])
        for mistake in mistakes:
            explanation = mistake.explanation
            marks = ("", "") if explanation is None else (explanation.label, explanation.in_words())
            row = (mistake.index, mistake.text, mistake.label, mistake.predicted, f"{mistake.probability:.4f}")
            writer.writerow([*row, *marks])


def _cut(text: str) -> str:
    return text if len(text) <= TEXT else f"{text[:TEXT]} [... the first {TEXT:,} of {len(text):,} characters]"


def _in_words(names: str | list[str]) -> str:
    return names if isinstance(names, str) else ", ".join(names)
