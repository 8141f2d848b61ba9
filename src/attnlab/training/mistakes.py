"""The most confident mistakes on the test documents: mistakes.csv."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnlab.data.corpus import BETWEEN_TEXTS
from attnlab.data.sources import Split
from attnlab.models.gradients import STEPS, Attributable
from attnlab.runs import whole_file
from attnlab.training.attribution import Classifier, Explanation, attribute
from attnlab.training.module import Predictions

MISTAKES = 50
MARKED = 10  # the first ones: a run should not wait for its report
TEXT = 1000  # characters that are shown
TEXTS = ("text", "text_pair")  # columns of mistakes.csv


@dataclass(frozen=True)
class Mistake:
    """A document whose answer is wrong.

    Attributes:
        place: where the document comes from, as in predictions.parquet: `index` and others by their names.
        document: all of it, two texts of a pair.
        label, predicted: names; of several labels with commas.
        probability: that the model gives to what is wrong: the predicted class, or of several labels the surest error.
        explanation: of the first `MARKED`, where the model can be asked: for the class that the probability is of.
    """

    place: dict[str, Any]
    document: str | tuple[str, str]
    label: str
    predicted: str
    probability: float
    explanation: Explanation | None

    @property
    def text(self) -> str:
        """To be shown: the first `TEXT` characters, with a word on how many there are."""
        text = self.document if isinstance(self.document, str) else BETWEEN_TEXTS.join(self.document)
        return text if len(text) <= TEXT else f"{text[:TEXT]} [... the first {TEXT:,} of {len(text):,} characters]"


def find_mistakes(classifier: Classifier, predictions: Predictions, split: Split) -> list[Mistake]:
    """The `MISTAKES` of which the model was surest, these first; `split`: of the documents that were tested."""
    task, answers, labels = classifier.task, predictions.answers, predictions.labels
    sure, classes = task.surest_errors(predictions.probabilities, answers, labels)
    order = sure.argsort(descending=True, stable=True)
    rows = order[~task.correct(answers, labels)[order]][:MISTAKES]
    places, documents = predictions.index[rows].tolist(), split.documents
    explanations: list[Any] = [None] * len(rows)
    if isinstance(classifier.model, Attributable):
        some: Any = [documents[place] for place in places[:MARKED]]
        found = attribute(classifier, some, classes[rows[:MARKED]].tolist(), steps=STEPS[:1])
        explanations[: len(found)] = found
    found_at = split.found_at(predictions.index[rows].numpy())
    names = zip(task.names(labels[rows]), task.names(answers[rows]), strict=True)
    return [
        Mistake(
            place={column: values[number] for column, values in found_at.items()},
            document=documents[place],
            label=_in_words(label),
            predicted=_in_words(answer),
            probability=float(sure[row]),
            explanation=explanation,
        )
        for number, (row, place, (label, answer), explanation) in enumerate(
            zip(rows, places, names, explanations, strict=True)
        )
    ]


def write_mistakes(path: Path, mistakes: Sequence[Mistake], pairs: bool) -> None:
    """A row each, with the whole document; `words`: the strongest of those that spoke for what is wrong or against it.

    The documents stand in `TEXTS`, of pairs in both of these columns.
    """
    texts = TEXTS[: 1 + pairs]
    with whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        place = mistakes[0].place if mistakes else ["index"]
        writer.writerow([*place, *texts, "label", "predicted", "probability", "explained", "words"])
        for mistake in mistakes:
            explanation, document = mistake.explanation, mistake.document
            marks = ("", "") if explanation is None else (explanation.label, explanation.in_words())
            written = [document] if isinstance(document, str) else document
            answer = (mistake.label, mistake.predicted, f"{mistake.probability:.4f}")
            writer.writerow([*mistake.place.values(), *written, *answer, *marks])


def _in_words(names: str | list[str]) -> str:
    return names if isinstance(names, str) else ", ".join(names)
