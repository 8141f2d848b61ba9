"""Labels as numbers, one or several for each document."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from attnlab.errors import UserError

# Of N documents and C classes: the class of each, [N] int64, or where one may be of several [N, C] float32 of 0 and 1.
Labels = npt.NDArray[np.int64] | npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]  # [N], set for the documents that are chosen

BETWEEN = "\x1f"  # the labels of one document, where a table holds them as text: ASCII's own separator of units
FLAGS = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}


def count_labels(labels: Labels, num_classes: int) -> Counts:
    """Documents of each class: [C]."""
    if labels.ndim == 2:
        return labels.sum(axis=0).astype(np.int64)
    return np.bincount(labels.astype(np.int64), minlength=num_classes)


def strata(labels: Labels) -> npt.NDArray[np.int64]:
    """[N] numbers to stratify by: the class, or for several labels their combination, sorted by the rarest of them.

    Documents next to each other in this order are alike, so that where combinations are too rare to be divided at least
    the rare classes are.
    """
    if labels.ndim == 1:
        return labels.astype(np.int64)
    rarest_first = np.argsort(labels.sum(axis=0), kind="stable")
    return np.unique(labels[:, rarest_first], axis=0, return_inverse=True)[1].ravel()


def flagged(name: str, columns: Sequence[str], values: Sequence[Sequence[Any]]) -> list[list[str]]:
    """For each row the names of the `columns` that hold 1.

    Raises:
        UserError: a column of what messages call `name` holds something else than 0 and 1.
    """
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


def multi_hot(rows: Iterable[Iterable[int]], num_classes: int) -> npt.NDArray[np.float32]:
    """[N, C] float32 with 1 for each class of a row."""
    numbers = [list(row) for row in rows]
    hot = np.zeros((len(numbers), num_classes), dtype=np.float32)
    for row, classes in zip(hot, numbers, strict=True):
        row[classes] = 1
    return hot
