"""Base classes of sources: the settings that all have, and `load()`."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from textwrap import fill
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge
from hydra.utils import to_absolute_path

from attnlab.config import find_allowed
from attnlab.data.corpus import SPLITS, Corpus, OnEmpty, make_corpus
from attnlab.data.file_access import expand_pattern
from attnlab.data.splits import cut_test
from attnlab.data.tables import Columns, Table
from attnlab.data.text_format import Quoting, TextFormat
from attnlab.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """Settings that every data set has.

    Args:
        batch_size: documents in a batch on each device.
        validation: the share of train that is set aside for validation, stratified by class, if the set has no
            validation split; or "test", as in the notebook, which makes the test score optimistic.
        limit: train on at most this many documents, stratified by class; None for all.
        split_seed: decides which documents are set aside; not the seed of the run, so that runs with different seeds
            can be compared.
        folds: for cross-validation, the number of parts into which the training documents are divided, stratified by
            class; `fold` is the test set, instead of the data's own (see `attnlab.data.splits.cut_fold`).
        fold: its number, from 0.
        num_workers: processes that build batches; slicing a memory-mapped array needs none.
    """

    PATHS: ClassVar[tuple[str, ...]] = ()  # the settings that name files or folders

    batch_size: int
    validation: float | Literal["test"] = 0.1
    limit: int | None = None
    split_seed: Annotated[int, Ge(0)] = 0
    folds: Annotated[int, Ge(2)] | None = None
    fold: Annotated[int, Ge(0)] = 0
    num_workers: Annotated[int, Ge(0)] = 0

    def __post_init__(self) -> None:
        _ = self.text_format  # checks delimiter and encoding
        if self.validation != "test" and not (isinstance(self.validation, float) and 0 < self.validation <= 0.5):
            raise UserError(
                f"data.validation={self.validation} is neither a share above 0 and up to 0.5 nor 'test'; try 0.1"
            )
        if self.fold >= (self.folds or 1):
            known = "a number of them" if self.folds is None else f"more than {self.fold}"
            raise UserError(f"data.fold={self.fold} requires data.folds, {known}; folds count from 0")
        for key in ("batch_size", "limit"):
            if (value := getattr(self, key)) is not None and value < 1:
                raise UserError(f"data.{key}={value} must be at least 1")

    @property
    def text_format(self) -> TextFormat:
        """How its files are written and its texts assembled."""
        return TextFormat()

    @abstractmethod
    def load(self, splits: Collection[str] = SPLITS) -> Corpus:
        """Read the documents of these splits; a source may read more. Raises `UserError` if they can't be used."""


@dataclass(frozen=True, kw_only=True)
class Labelled(Source):
    """Documents with labels that a user has.

    Args:
        on_empty: whether rows without a text or a label are an error, or are dropped with a warning.
        min_label_count: classes with fewer documents in train are left out of every split.
    """

    on_empty: OnEmpty = "refuse"
    min_label_count: Annotated[int, Ge(1)] = 1

    @property
    def test_share(self) -> float | None:
        """The share of train that becomes the test set; None if `test` names one."""
        test = getattr(self, "test", None)
        return float(test) if isinstance(test, int | float) else None

    @abstractmethod
    def tables(self, splits: Collection[str]) -> tuple[dict[str, Table], list[str]]:
        """The tables of these splits, and the names of the other splits of the data set."""

    def load(self, splits: Collection[str] = SPLITS) -> Corpus:
        share = self.test_share
        if share is not None and not 0 < share < 1:
            raise UserError(f"data.test={share} is a share of train: give one above 0 and below 1, such as 0.2")
        if share is not None or (self.min_label_count > 1 and getattr(self, "train", None)):
            splits = {"train", *splits}  # because the test set depends on it
        tables, others = self.tables([split for split in SPLITS if split in splits])
        for key, table in tables.items():
            understood = f"Read {key} from {table.name}: {len(table.texts):,} rows{table.description}"
            log.info("%s", fill(understood, 80, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False))
            _warn_about_quotes(table)
        corpus = make_corpus(tables, self.on_empty, self.min_label_count, others)
        # Cut by `split_seed` alone, so that all runs with these settings have the same test set.
        return corpus if share is None else cut_test(corpus, share, self.split_seed)


@dataclass(frozen=True, kw_only=True)
class Columned(Labelled):
    """Documents in the columns of a table.

    Args:
        text: the column of the texts, or several, whose texts are joined by `join`; None for "text".
        text_pair: the column of the second texts, where a document is a pair of texts.
        label: the column of the labels, strings or numbers; if documents have several labels, a column of lists or
            columns of 0 and 1 that are named after the labels.
        label_separator: the separator of several labels in one column.
        group: a column; documents with the same value stay on one side of any split that is made here.
        id: a column that identifies documents in predictions.parquet and mistakes.csv.
        join: goes between the texts of several columns; None for a space.
        quoting: of delimited files, see `attnlab.data.text_format.TextFormat`.
    """

    text: str | int | list[str | int] | None = None
    text_pair: str | int | None = None
    label: str | int | list[str] = "label"
    label_separator: str | None = None
    group: str | int | None = None
    id: str | int | None = None
    join: str | None = None
    quoting: Quoting = None

    @property
    def text_format(self) -> TextFormat:
        return TextFormat().changed(vars(self))

    @property
    def columns(self) -> Columns:
        """The columns that these settings name, all as strings."""
        flags = () if isinstance(self.label, str | int) else tuple(map(str, self.label))
        return Columns(
            self.text_format,
            label=f"[{','.join(flags)}]" if flags else str(self.label),
            flags=flags,
            separator=self.label_separator,
            group=None if self.group is None else str(self.group),
            id=None if self.id is None else str(self.id),
        )


def _warn_about_quotes(table: Table) -> None:
    """Warn if quotation marks seem to be misread, as enclosing texts or as part of them."""
    if table.quoted:
        rows = [row for row, text in enumerate(table.texts) if "\n" in text or "\r" in text]
        if rows:
            log.warning(
                "%s: %s texts hold a line break, the first in %s; if quotation marks are part of the text, give "
                "data.quoting=none",
                table.name,
                f"{len(rows):,}",
                table.place(rows[0]),
            )
    elif table.quoted is not None:
        count = sum(len(text) > 1 and text[0] == text[-1] == '"' for text in table.texts)
        if count:
            log.warning(
                "%s: %s texts begin and end with a quotation mark, which is read as part of them; if it encloses them, "
                "give data.quoting=minimal",
                table.name,
                f"{count:,}",
            )


def warn_about_shared_data(chosen: Mapping[str, object], what: Mapping[str, Set[object]]) -> None:
    """Warn if settings use the same data for two splits; `what` identifies the data of each, under any name."""
    for key, other, consequence in (
        ("val", "test", "Validating on the test set (data.val={}): the test score will be optimistic"),
        ("test", "train", "Testing on the training set (data.test={}): the test score will be optimistic"),
        ("val", "train", "Validating on the training set (data.val={}): the validation scores will be optimistic"),
    ):
        if what.get(key, set()) & what.get(other, set()):
            log.warning(consequence.format(chosen[key]))


def with_absolute_paths(config: dict[str, Any]) -> dict[str, Any]:
    """The config of a source with absolute paths, so that its files are found later and from any directory.

    Settings of the text format that are null get their defaults.
    """
    keys = getattr(find_allowed(config.get("_target_")), "PATHS", ())
    return TextFormat().complete(config) | {key: _absolute(config[key]) for key in keys if key in config}


def _absolute(paths: Any) -> Any:
    """Paths that exist as absolute ones, also in a list or mapping; anything else, such as Hub names, unchanged."""
    if isinstance(paths, Mapping):
        return {key: _absolute(path) for key, path in paths.items()}
    if isinstance(paths, Sequence) and not isinstance(paths, str):
        return [_absolute(path) for path in paths]
    if not isinstance(paths, str) or not paths:
        return paths
    path = to_absolute_path(paths)
    return path if expand_pattern(path) else paths
