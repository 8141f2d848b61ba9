"""Documents with their labels as class numbers, from the tables of a source."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from attnlab.data.tables import Origin, Table, pick
from attnlab.data.tokens import Documents
from attnlab.errors import UserError

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
BETWEEN_TEXTS = " || "  # of a pair, where it is displayed
UNLABELLED = "-1"  # the label of unlabelled documents in data sets of the Hub

# The class of each of N documents, [N] int64, or where one may have several of C classes [N, C] float32 of 0 and 1.
Labels = npt.NDArray[np.int64] | npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]  # [N], True for the documents that are chosen
OnEmpty = Literal["refuse", "drop"]


@dataclass(frozen=True)
class Split:
    """N documents and their labels.

    Attributes:
        texts: the text of each document, or the first text of a pair.
        labels: see `Labels`.
        groups: documents of one group stay on one side of a split; "" is no group.
        pairs: the second texts.
        places: [N], the indices in the whole training set, of documents that were cut out of it as a fold.
        origin: their files and rows, where the source knows them.
    """

    texts: list[str]
    labels: Labels
    groups: list[str] | None = None
    pairs: list[str] | None = None
    places: npt.NDArray[np.int64] | None = None
    origin: Origin | None = None

    @property
    def documents(self) -> Documents:
        """The documents in the form that a tokenizer encodes."""
        return self.texts if self.pairs is None else list(zip(self.texts, self.pairs, strict=True))

    @property
    def as_single_texts(self) -> list[str]:
        """Each document as one text."""
        return [text if isinstance(text, str) else BETWEEN_TEXTS.join(text) for text in self.documents]

    def __add__(self, other: "Split") -> "Split":
        groups = None if self.groups is None else self.groups + (other.groups or [""] * len(other.texts))
        pairs = None if self.pairs is None else self.pairs + (other.pairs or [])
        origin = self.origin + other.origin if self.origin and other.origin else None
        labels = np.concatenate([self.labels, other.labels])
        return Split(self.texts + other.texts, labels, groups, pairs, origin=origin)

    def take(self, mask: Mask) -> "Split":
        """The documents where `mask`, [N], is True."""
        rows = np.flatnonzero(mask).tolist()
        groups, pairs = self.groups and pick(self.groups, rows), self.pairs and pick(self.pairs, rows)
        origin = self.origin and self.origin.take(rows)
        return Split(pick(self.texts, rows), self.labels[mask], groups, pairs, origin=origin)

    def found_at(self, numbers: npt.NDArray[np.int64]) -> dict[str, Any]:
        """Columns that identify these documents in the data: `index`, and where known `id`, `file` and `row`.

        `id` is the user's own; rows count from 0, without a header.
        """
        columns: dict[str, Any] = {"index": numbers if self.places is None else self.places[numbers]}
        if self.origin is not None:
            origin = self.origin.take(numbers.tolist())
            columns |= {} if origin.ids is None else {"id": origin.ids}
            columns["file"], columns["row"] = origin.files()
        return columns


NOTHING = Split([], np.empty(0, dtype=np.int64))


@dataclass(frozen=True)
class Corpus:
    """The documents of a source by split.

    `train` is empty where only test was read, `test` where it has no labels, `val` is None where a part of train is to
    validate. `ceilings`: highest possible accuracies, where known.
    """

    label_names: list[str]
    train: Split
    test: Split
    val: Split | None = None
    ceilings: dict[str, float] = field(default_factory=dict)


def make_corpus(
    tables: Mapping[str, Table], on_empty: OnEmpty = "refuse", min_label_count: int = 1, others: Sequence[str] = ()
) -> Corpus:
    """The corpus of these tables; labels become numbers by the classes of train, or of test if only that is read.

    `others` are further splits of the data set, for messages.

    Raises:
        UserError: a text or a label is missing, a class is unknown, or a split other than test has no labels.
    """
    tables = {key: _without_empty(table, on_empty) for key, table in tables.items()}
    # Class numbers come from train, so that they do not depend on which other splits are read.
    leading = tables["train" if "train" in tables else "test"]
    classes = leading.find_classes()
    _warn_about_similar_labels(classes)
    tables = _with_labels(tables, classes, others)
    if "train" in tables and min_label_count > 1:
        # Counted in train only: the classes of a task must not depend on its test set.
        counts = Counter(label for labels in tables["train"].label_sets() for label in labels)
        rare = [name for name in classes if counts[name] < min_label_count]
        classes = [name for name in classes if counts[name] >= min_label_count]
        tables = {key: _without_classes(table, rare, min_label_count) for key, table in tables.items()}
    multi_label = any(table.multi_label for table in tables.values())
    splits = {key: _numbered(table, classes, multi_label) for key, table in tables.items()}
    return Corpus(classes, splits.get("train", NOTHING), splits.get("test", NOTHING), splits.get("val"))


def _without_empty(table: Table, on_empty: OnEmpty) -> Table:
    """The rows with a text, and with a label unless no row has one."""
    labelled = any(table.labels) and not table.multi_label  # a document that may have several labels may have none
    texts = [row for row, text in enumerate(table.texts) if not text or text.isspace()]
    pairs = [row for row, text in enumerate(table.pairs or []) if not text or text.isspace()]
    labels = [row for row, label in enumerate(table.labels) if labelled and not label]
    for what, rows in (("text", texts), ("second text", pairs), ("label", labels)):
        if rows:
            first = ", ".join(map(table.place, rows[:5])) + (", ..." if len(rows) > 5 else "")
            found = f"{table.name}: {len(rows):,} of {len(table.texts):,} rows have no {what} ({first})"
            if on_empty == "refuse":
                raise UserError(f"{found}; data.on_empty=drop leaves them out")
            log.warning("%s: left out", found)
    empty = {*texts, *pairs, *labels}
    return table.take([row for row in range(len(table.texts)) if row not in empty]) if empty else table


def _with_labels(tables: Mapping[str, Table], classes: list[str], others: Sequence[str]) -> dict[str, Table]:
    """The tables that have labels. Only test may lack them, if train is read too."""
    unlabelled = [
        key
        for key, table in tables.items()
        if set(table.labels) <= {"", UNLABELLED} and not set(table.labels).intersection(classes)
    ]
    for key in unlabelled:
        also = f"; there is also {', '.join(others)}" if others else ""
        remedy = f"name one that has them with data.{key}=<other>{also}"
        if key != "test" or "train" not in tables:
            raise UserError(f"{tables[key].name} has no labels; {remedy}")
        why = "has no labels, so nothing is tested: src/predict.py predicts them. For a test"
        log.warning("%s %s %s", tables[key].name, why, remedy)
    return {key: table for key, table in tables.items() if key not in unlabelled}


def _without_classes(table: Table, rare: list[str], fewest: int) -> Table:
    left_out = {*rare}
    kept = [row for row, labels in enumerate(table.label_sets()) if left_out.isdisjoint(labels)]
    lost = len(table.labels) - len(kept)
    if not lost:
        return table
    log.warning(
        "%s: %s rows are left out, of %d classes with fewer than data.min_label_count=%d documents in train: %s",
        table.name,
        f"{lost:,}",
        len(rare),
        fewest,
        shortened(rare),
    )
    return table.take(kept)


def _warn_about_similar_labels(classes: list[str]) -> None:
    alike = Counter(" ".join(name.casefold().split()) for name in classes)
    if twins := [name for name in classes if alike[" ".join(name.casefold().split())] > 1]:
        log.warning("Labels that differ only in case or white space are classes of their own: %s", shortened(twins))


def _numbered(table: Table, classes: list[str], multi_label: bool) -> Split:
    number = {name: index for index, name in enumerate(classes)}
    sets = table.label_sets()
    for row, names in enumerate(sets):
        for name in names:
            if name not in number:
                raise UserError(
                    f"{table.name}, {table.place(row)}: the label {name!r} does not occur in the training set; give it "
                    f"one of {shortened(classes)} or remove the row"
                )
    numbers = ([number[name] for name in names] for names in sets)
    if multi_label:
        labels: Labels = multi_hot(numbers, len(classes))
    else:
        labels = np.fromiter((row[0] for row in numbers), dtype=np.int64, count=len(sets))
    return Split(table.texts, labels, table.groups, table.pairs, origin=table.origin)


def shortened(names: Sequence[str]) -> str:
    """The first 20 names, and the number of the others."""
    return ", ".join(names[:20]) + (f" and {len(names) - 20} others" if len(names) > 20 else "")


def renumber(corpus: Corpus, label_names: list[str]) -> Corpus:
    """The corpus with its classes in this order. Raises `UserError` for other classes."""
    if strange := set(corpus.label_names) - set(label_names):
        if strange == set(corpus.label_names) == {UNLABELLED}:
            raise UserError(f"the data has no labels (all are {UNLABELLED}); give data that has")
        raise UserError(
            f"the data has the classes {', '.join(sorted(strange))}, which the model does not know; "
            f"it knows {', '.join(label_names)}"
        )
    # Labels were numbered by the classes that this data has, which may be fewer or in another order than the outputs of
    # the model.
    number = np.array([label_names.index(name) for name in corpus.label_names])

    def renumbered(split: Split) -> Split:
        if split.labels.ndim == 1:
            return replace(split, labels=number[split.labels])
        hot = np.zeros((len(split.labels), len(label_names)), dtype=np.float32)
        hot[:, number] = split.labels
        return replace(split, labels=hot)

    train, test, val = renumbered(corpus.train), renumbered(corpus.test), corpus.val and renumbered(corpus.val)
    return Corpus(label_names, train, test, val, corpus.ceilings)


def count_labels(labels: Labels, num_classes: int) -> Counts:
    """Documents of each class: [C]."""
    if labels.ndim == 2:
        return labels.sum(axis=0).astype(np.int64)
    return np.bincount(labels.astype(np.int64), minlength=num_classes)


def multi_hot(rows: Iterable[Iterable[int]], num_classes: int) -> npt.NDArray[np.float32]:
    """[N, C] float32 with 1 for each class of a row."""
    numbers = [list(row) for row in rows]
    hot = np.zeros((len(numbers), num_classes), dtype=np.float32)
    for row, classes in zip(hot, numbers, strict=True):
        row[classes] = 1
    return hot
