"""Texts, labels and groups from the columns of a data set, as they are written. Rows count from 0."""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from attnlab.data.text_format import TextFormat
from attnlab.errors import UserError, relative_to_cwd

Value = TypeVar("Value")

NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
LABEL_SEPARATOR = "\x1f"  # between the labels of one document: ASCII's own separator of units, which no label holds
FLAGS = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}


@dataclass(frozen=True)
class Origin:
    """The file and row of each of N documents.

    Attributes:
        parts: path and number of rows of each file, or the name of another source.
        rows: [N] int64, the row of each document, counted over all parts.
        ids: its value in the column `data.id`, where that is set.
    """

    parts: Sequence[tuple[str, int]]
    rows: npt.NDArray[np.int64]
    ids: list[str] | None = None

    @classmethod
    def of_one(cls, name: str | Path, size: int, ids: list[str] | None = None) -> "Origin":
        """The origin of all rows of one file."""
        return cls([(str(name), size)], np.arange(size), ids)

    def take(self, rows: Sequence[int]) -> "Origin":
        """The origin of these documents only."""
        return Origin(self.parts, self.rows[np.asarray(rows, dtype=np.int64)], self.ids and pick(self.ids, rows))

    def __add__(self, other: "Origin") -> "Origin":
        """The origin of the documents of both."""
        ids = None if self.ids is None else self.ids + (other.ids or [""] * len(other.rows))
        rows = np.concatenate([self.rows, other.rows + sum(size for _, size in self.parts)])
        return Origin([*self.parts, *other.parts], rows, ids)

    def files(self) -> tuple[list[str], npt.NDArray[np.int64]]:
        """The name of the part that each document is from, and its row there."""
        starts = np.cumsum([0, *(size for _, size in self.parts)])
        numbers = np.searchsorted(starts, self.rows, side="right") - 1
        return [self.parts[number][0] for number in numbers.tolist()], self.rows - starts[numbers]

    def place(self, row: int) -> str:
        """The place of a document, for messages; a single file is not named, as they name it already."""
        (name,), (number,) = self.take([row]).files()
        if len(self.parts) < 2:
            return f"row {number}"
        file = str(relative_to_cwd(Path(name)))
        return file if dict(self.parts)[name] == 1 else f"{file} row {number}"


@dataclass(frozen=True)
class Columns:
    """The columns that the settings of `attnlab.data.sources.base.Columned` name.

    Attributes:
        label: the column of labels; with `flags`, columns of 0 and 1 that are named after the labels, only their name
            in messages.
        optional: whether labels may be missing.
    """

    text_format: TextFormat
    label: str
    group: str | None = None
    flags: tuple[str, ...] = ()
    separator: str | None = None
    optional: bool = False
    id: str | None = None

    @property
    def texts(self) -> Sequence[str]:
        return self.text_format.text

    @property
    def pair(self) -> str | None:
        return self.text_format.text_pair

    def of_split(self, key: str) -> "Columns":
        """The columns of this split: a test set may have no labels, and only train is divided by group."""
        return replace(self, optional=key == "test", group=self.group if key == "train" else None)

    @property
    def named(self) -> list[tuple[str, str]]:
        """Pairs of a setting and the column that it names; texts come first."""
        labels = [("label", column) for column in self.flags or (self.label,)]
        named = [*(("text", text) for text in self.texts), ("text_pair", self.pair), *labels]
        return [(key, column) for key, column in [*named, ("group", self.group), ("id", self.id)] if column is not None]

    def needed(self, present: Sequence[str], name: str) -> list[str]:
        """The columns to read out of those `present` in the file `name`.

        Raises:
            UserError: one is missing, or there are two of the same name.
        """
        found = []
        for key, column in self.named:
            if column in present:
                found.append(column)
            elif key != "label" or not self.optional:
                raise UserError(f"data.{key}={column} is not a column of {name}; it has {', '.join(present)}")
            if present.count(column) > 1:
                raise UserError(f"{name} has two columns named {column}; rename one of them")
        return list(dict.fromkeys(found))

    def table(
        self,
        name: str,
        values: Mapping[str, Sequence[Any]],
        classes: list[str] | None = None,
        present: Sequence[str] = (),
        how: str = "",
    ) -> "Table":
        """The table of these columns; integer labels are indices into `classes`, if these are given.

        Args:
            present: all columns of the file, to report which were used.
            how: a description of how the file is written.

        Raises:
            UserError: a value can't be a text or a label.
        """
        texts = [list(self._texts(name, "text", column, values[column])) for column in self.texts]
        rows = zip(*texts, strict=True)
        joined = texts[0] if len(texts) == 1 else list(map(self.text_format.joined, rows))
        labels, multi_label, classes = self._labels(name, values, classes, len(joined))
        groups, ids = (
            None if column is None else ["" if v is None or v != v else str(v) for v in values[column]]
            for column in (self.group, self.id)
        )
        pairs = None if self.pair is None else list(self._texts(name, "text_pair", self.pair, values[self.pair]))
        description = (self._describe(present) if present else "") + how
        origin = Origin.of_one(name, len(joined), ids)
        return Table(
            name, self.label, joined, labels, origin, groups, classes, description, pairs=pairs, multi_label=multi_label
        )

    def _labels(
        self, name: str, values: Mapping[str, Sequence[Any]], classes: list[str] | None, size: int
    ) -> tuple[list[str], bool, list[str] | None]:
        """`labels`, `multi_label` and `classes` of the `Table`."""
        if self.flags and all(column in values for column in self.flags):
            sets: Sequence[Any] = labels_of_flags(name, self.flags, [values[column] for column in self.flags])
            classes = list(self.flags)
        elif self.label not in values:
            return [""] * size, bool(self.flags or self.separator), classes
        elif self.separator:
            sets = [[part.strip() for part in str(value or "").split(self.separator)] for value in values[self.label]]
        else:
            sets = values[self.label]
        # One list among the values makes the task one of several labels; until then a document has one.
        if not any(isinstance(value, list) for value in sets):
            return list(self._named(name, sets, classes or [])), False, classes
        rows = (value if isinstance(value, list) else [value] for value in sets)
        labels = [LABEL_SEPARATOR.join(filter(None, self._named(name, row, classes or []))) for row in rows]
        return list(map(sys.intern, labels)), True, classes

    def _describe(self, present: Sequence[str]) -> str:
        used = {column for _, column in self.named}
        others = [column for column in present if column not in used]
        labelled = set(self.flags or [self.label]) <= set(present)
        return (
            f"; text from {' + '.join(self.texts)}"
            + (f", its pair from {self.pair}" if self.pair is not None else "")
            + (f", label from {self.label}" if labelled else ", no labels")
            + (f", group from {self.group}" if self.group is not None else "")
            + (f", id from {self.id}" if self.id is not None else "")
            + (f" (not used: {', '.join(others[:10])}{', ...' if len(others) > 10 else ''})" if others else "")
        )

    def _texts(self, name: str, key: str, column: str, values: Iterable[Any]) -> Iterator[str]:
        for row, value in enumerate(values):
            if not isinstance(value, str | None):
                raise UserError(
                    f"data.{key}={column} of {name} holds {type(value).__name__} (row {row}), not text; "
                    "name another column"
                )
            yield value or ""

    def _named(self, name: str, values: Iterable[Any], classes: list[str]) -> Iterator[str]:
        for value in values:
            if classes and isinstance(value, int) and -1 <= value < len(classes):
                yield "" if value == -1 else classes[value]  # -1 is the Hub's "not labelled"
            elif value is None or value != value:  # NaN: pandas writes missing values so
                yield ""
            elif isinstance(value, str | int | float):
                yield sys.intern(str(value))  # one string for each label and not for each document
            else:
                raise UserError(
                    f"data.label={self.label} of {name} holds {value!r}; labels are strings or numbers: rewrite them"
                )


@dataclass(frozen=True)
class Table:
    """The columns of a split that are used.

    Attributes:
        name: of the file or split, in messages.
        column: the one that holds the labels.
        texts: "" where a text is missing.
        labels: as they are written, "" where a label is missing, several joined by `LABEL_SEPARATOR`.
        groups, pairs: None where the settings name no such column.
        classes: all possible ones, in their order, where the set declares them.
        description: which columns were used and how the files are written.
        multi_label: whether a document may have any number of labels.
        quoted: whether quotation marks enclose texts; None where they can't.
    """

    name: str
    column: str
    texts: list[str]
    labels: list[str]
    origin: Origin
    groups: list[str] | None = None
    classes: list[str] | None = None
    description: str = ""
    quoted: bool | None = None
    pairs: list[str] | None = None
    multi_label: bool = False

    def from_file(self, name: str | Path) -> "Table":
        """The same table with this file as the origin of all rows."""
        return replace(self, origin=Origin.of_one(name, len(self.texts), self.origin.ids))

    def label_sets(self) -> list[list[str]]:
        """The labels of each document."""
        if not self.multi_label:
            return [[label] for label in self.labels]
        return [label.split(LABEL_SEPARATOR) if label else [] for label in self.labels]

    def place(self, row: int) -> str:
        return self.origin.place(row)

    def take(self, rows: Sequence[int]) -> "Table":
        """The table of these rows only."""
        return replace(
            self,
            texts=pick(self.texts, rows),
            labels=pick(self.labels, rows),
            origin=self.origin.take(rows),
            groups=self.groups and pick(self.groups, rows),
            pairs=self.pairs and pick(self.pairs, rows),
        )

    def find_classes(self) -> list[str]:
        """The classes that the data set declares, or the labels that occur: numbers by size, others by alphabet.

        Raises:
            UserError: there are none, or so many that the column holds something else.
        """
        if self.classes is not None:
            return self.classes
        present = {label for labels in self.label_sets() for label in labels} - {""}
        if not present:
            raise UserError(f"data.label={self.column} of {self.name} holds no label; name another column")
        if not self.multi_label and len(present) > 20 and len(present) > len(self.labels) / 2:
            raise UserError(
                f"data.label={self.column} of {self.name} holds {len(present):,} different values in "
                f"{len(self.labels):,} rows; labels repeat, so name another column"
            )
        numbers = all(map(NUMBER.fullmatch, present))
        return sorted(present, key=lambda name: (float(name), name) if numbers else (0, name))


def pick(values: Sequence[Value], rows: Iterable[int]) -> list[Value]:
    """The `values` at these rows."""
    return [values[row] for row in rows]


def concatenate(tables: Sequence[Table], name: str) -> Table:
    """The rows of several files of one split, one after another.

    Raises:
        UserError: they name different classes.
    """
    first = tables[0]
    if len(tables) == 1:
        return first
    if other := next((table for table in tables if table.classes != first.classes), None):
        raise UserError(f"{first.name} and {other.name} name different classes; write both with the same ones")
    return replace(
        first,
        name=name,
        texts=[text for table in tables for text in table.texts],
        labels=[label for table in tables for label in table.labels],
        multi_label=any(table.multi_label for table in tables),
        groups=None if first.groups is None else [group for table in tables for group in table.groups or []],
        pairs=None if first.pairs is None else [pair for table in tables for pair in table.pairs or []],
        origin=reduce(add, (table.origin for table in tables)),
    )


def labels_of_flags(name: str, columns: Sequence[str], values: Sequence[Sequence[Any]]) -> list[list[str]]:
    """For each row the names of the `columns` that hold 1; `name` is that of the file, in messages."""
    rows: list[list[str]] = [[] for _ in values[0]]
    for column, cells in zip(columns, values, strict=True):
        for number, (row, cell) in enumerate(zip(rows, cells, strict=True)):
            flag = FLAGS.get(str(cell).strip().lower())
            if flag is None:
                raise UserError(
                    f"{name}, row {number}: data.label=[{','.join(columns)}] are columns of 0 and 1, and {column} "
                    f"holds {cell!r}; fix it or leave the column out"
                )
            if flag:
                row.append(column)
    return rows
