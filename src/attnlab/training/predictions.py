"""What a model answers for a split: its logits while they come in, the answers of a test, and the worst mistakes."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from attnlab.data.batching import Batch
from attnlab.data.corpus import BETWEEN_TEXTS, Labels
from attnlab.data.sources import Split
from attnlab.models.gradients import STEPS, Attributable
from attnlab.runs import whole_file
from attnlab.training.attribution import Classifier, Explanation, attribute

MAX_MISTAKES = 50
NUM_EXPLAINED = 10  # of the mistakes: a run should not wait for its report
MAX_TEXT = 1000  # characters of a document that are displayed
TEXTS = ("text", "text_pair")  # columns of mistakes.csv


class LogitBuffer:
    """The logits of the N documents of a split, K each, in the order of the split.

    They are written into one tensor: keeping each batch's fragments the memory, to many times as much with many
    classes.
    """

    def __init__(self, labels: Labels, num_outputs: int, device: torch.device) -> None:
        self.labels = torch.from_numpy(labels).to(device)
        self.logits = torch.zeros(len(labels), num_outputs, dtype=torch.float32, device=device)
        self.seen = torch.zeros(len(labels), dtype=torch.bool, device=device)

    def add(self, batch: Batch, logits: Tensor) -> None:
        """logits: [B, K]"""
        self.logits[batch.indices] = logits.to(self.logits.dtype)
        self.seen[batch.indices] = True

    def gather(self) -> tuple[Tensor, Tensor, Tensor]:
        """Index in the split, logits and labels of each document that any process has seen."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            local = self.seen.nonzero().squeeze(1)
            parts: list[Any] = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(parts, (local.cpu(), self.logits[local].cpu()))
            for index, logits in parts:
                self.seen[index], self.logits[index] = True, logits.to(self.logits.device)
        index = self.seen.nonzero().squeeze(1)
        if len(index) == len(self.seen):  # the usual case: without a limit on the number of batches
            return index, self.logits, self.labels
        return index, self.logits[index], self.labels[index]


@dataclass(frozen=True)
class SplitPredictions:
    """What a model answers for N documents and C classes, in the order of the split. Labels and answers: see `Task`."""

    index: Tensor  # [N] int64
    labels: Tensor
    probabilities: Tensor  # [N, C] float32
    answers: Tensor
    logits: Tensor  # [N, C] float32, before the temperature


@dataclass(frozen=True)
class Mistake:
    """A document with a wrong answer.

    Attributes:
        place: where the document comes from, as in predictions.parquet: `index` and other columns by name.
        document: the whole text, or the two texts of a pair.
        label, predicted: class names; several labels are separated by commas.
        probability: of the wrong answer: of the predicted class, or with several labels of the most confident error.
        explanation: of the first `NUM_EXPLAINED`, if the model can be explained: for the class of `probability`.
    """

    place: dict[str, Any]
    document: str | tuple[str, str]
    label: str
    predicted: str
    probability: float
    explanation: Explanation | None

    @property
    def text(self) -> str:
        """For display: the first `MAX_TEXT` characters, and a note if there are more."""
        text = self.document if isinstance(self.document, str) else BETWEEN_TEXTS.join(self.document)
        return (
            text
            if len(text) <= MAX_TEXT
            else f"{text[:MAX_TEXT]} [... the first {MAX_TEXT:,} of {len(text):,} characters]"
        )

    @property
    def marked_text(self) -> list[tuple[str, float]]:
        """For display: `text` in pieces, each with the strength of its mark from -1 to 1. Of an explained one."""
        assert self.explanation is not None
        found, length = list[tuple[str, float]](), 0
        for text, score in self.explanation.marks():
            if length < MAX_TEXT:
                found.append((text[: MAX_TEXT - length], score or 0.0))
            length += len(text)
        return found + [(f" [... the first {MAX_TEXT:,} of {length:,} characters]", 0.0)] * (length > MAX_TEXT)


def find_mistakes(classifier: Classifier, predictions: SplitPredictions, split: Split) -> list[Mistake]:
    """The `MAX_MISTAKES` most confident mistakes on `split`, the most confident first."""
    task, answers, labels = classifier.task, predictions.answers, predictions.labels
    confidence, classes = task.surest_errors(predictions.probabilities, answers, labels)
    order = confidence.argsort(descending=True, stable=True)
    rows = order[~task.correct(answers, labels)[order]][:MAX_MISTAKES]
    places, documents = predictions.index[rows].tolist(), split.documents
    explanations: list[Any] = [None] * len(rows)
    if isinstance(classifier.model, Attributable):
        first: Any = [documents[place] for place in places[:NUM_EXPLAINED]]
        found = attribute(classifier, first, classes[rows[:NUM_EXPLAINED]].tolist(), steps=STEPS[:1])
        explanations[: len(found)] = found
    found_at = split.found_at(predictions.index[rows].numpy())
    names = zip(task.names(labels[rows]), task.names(answers[rows]), strict=True)
    return [
        Mistake(
            place={column: values[number] for column, values in found_at.items()},
            document=documents[place],
            label=_joined(label),
            predicted=_joined(answer),
            probability=float(confidence[row]),
            explanation=explanation,
        )
        for number, (row, place, (label, answer), explanation) in enumerate(
            zip(rows, places, names, explanations, strict=True)
        )
    ]


def write_mistakes(path: Path, mistakes: Sequence[Mistake], pairs: bool) -> None:
    """A row for each mistake, with the whole document (the texts of a pair in both columns of `TEXTS`).

    The column `words` has the words with the strongest evidence for or against the wrong answer.
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


def _joined(names: str | list[str]) -> str:
    return names if isinstance(names, str) else ", ".join(names)
