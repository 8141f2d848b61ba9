"""Where articles come from. A source is a dataclass with a `load()`; each file in `conf/data` configures one."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from annotated_types import Ge

from attnlab.data import headlines
from attnlab.errors import UserError, first_line

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class Split:
    """Articles and their class numbers; labels: [N] int64."""

    texts: list[str]
    labels: headlines.Labels


@dataclass(frozen=True)
class Corpus:
    """What a source gives. `val` is None where a part of train is to serve; `ceilings` are accuracies, where known."""

    label_names: list[str]
    train: Split
    test: Split
    val: Split | None = None
    ceilings: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """Settings that every data set has.

    Args:
        batch_size: articles a batch and device.
        validation: the share of train that is set aside for validation, stratified by class, where the set has no
            validation split of its own; or "test", the notebook's protocol, which makes the test score optimistic.
        limit: train on at most this many articles, stratified by class; None for all.
        split_seed: decides which articles are set aside. Not the run's seed, so that runs with other seeds compare.
        num_workers: processes that build batches; slicing a memory-mapped array needs none.
    """

    batch_size: int
    validation: float | Literal["test"] = 0.1
    limit: int | None = None
    split_seed: Annotated[int, Ge(0)] = 0
    num_workers: Annotated[int, Ge(0)] = 0

    def __post_init__(self) -> None:
        if self.validation != "test" and not (isinstance(self.validation, float) and 0 < self.validation <= 0.5):
            raise UserError(
                f"data.validation={self.validation} is neither a share above 0 and up to 0.5 nor 'test'; try 0.1"
            )
        for key in ("batch_size", "limit"):
            if (value := getattr(self, key)) is not None and value < 1:
                raise UserError(f"data.{key}={value} must be at least 1")

    @abstractmethod
    def load(self) -> Corpus:
        """Read all articles. Raises `UserError` where they can't be used as they are."""


@dataclass(frozen=True, kw_only=True)
class Headlines(Source):
    """The built-in corpus (see `attnlab.data.headlines`), written anew from `corpus_seed` each time."""

    train_size: int
    test_size: int
    noise: float
    order_share: float
    corpus_seed: Annotated[int, Ge(0)] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("noise", "order_share"):
            if not 0 <= getattr(self, key) <= 1:
                raise UserError(f"data.{key}={getattr(self, key)} is a share: give a number from 0 to 1")
        for key in ("train_size", "test_size"):
            if getattr(self, key) < 1:
                raise UserError(f"data.{key}={getattr(self, key)} must be at least 1")

    def load(self) -> Corpus:
        rng = np.random.default_rng(self.corpus_seed)
        train, test = (
            headlines.generate(size, self.noise, self.order_share, rng) for size in (self.train_size, self.test_size)
        )
        aware, blind = headlines.ceilings(self.noise, self.order_share)
        return Corpus(
            list(headlines.TOPICS),
            Split(train.texts, train.labels),
            Split(test.texts, test.labels),
            ceilings={"ceiling/order_aware": aware, "ceiling/order_blind": blind},
        )


@dataclass(frozen=True, kw_only=True)
class Hub(Source):
    """A data set of the Hugging Face Hub by name, or a local folder of the same schema.

    Args:
        path: what `datasets.load_dataset` takes, e.g. "stanfordnlp/imdb" or a folder with parquet files.
        name: the set's configuration, where it has several.
        text, label: columns.
        train, val, test: names of splits; `val=None` takes a split named "validation" where there is one.
    """

    path: str
    name: str | None = None
    text: str = "text"
    label: str = "label"
    train: str = "train"
    val: str | None = None
    test: str = "test"

    def load(self) -> Corpus:
        if not self.path:
            raise UserError("data.path is empty; if it came from a variable of the shell, that is not set")
        import datasets  # a second to import, so only where it is used

        try:
            tables = datasets.load_dataset(self.path, self.name)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            raise UserError(
                f"can't load data.path={self.path}: {first_line(error).rstrip('.')}. "
                "Without network give a local copy with data.path=<folder>, or use data=headlines, which needs none."
            ) from error
        for key, split in (("train", self.train), ("val", self.val), ("test", self.test)):
            if split is not None and split not in tables:
                raise UserError(f"data.{key}={split} is no split of {self.path}; it has {', '.join(tables)}")
        val = self.val or ("validation" if "validation" in tables else None)
        splits = {"train": self.train, "val": val, "test": self.test}
        chosen = {key: (tables[split], f"the {split} split") for key, split in splits.items() if split}
        return _corpus(chosen, self.text, self.label)


@dataclass(frozen=True, kw_only=True)
class Files(Source):
    """Local CSV, TSV, JSON, JSONL or parquet files, one a split; labels are strings or integers."""

    train: str
    test: str
    val: str | None = None
    text: str = "text"
    label: str = "label"

    def load(self) -> Corpus:
        splits = {"train": self.train, "val": self.val, "test": self.test}
        return _corpus({key: (_read(key, path), path) for key, path in splits.items() if path}, self.text, self.label)


AS_WRITTEN = {"keep_default_na": False}  # an article or a label may well be "NA", "null" or "None"
READERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".csv": ("csv", AS_WRITTEN),
    ".tsv": ("csv", {"sep": "\t", **AS_WRITTEN}),
    ".json": ("json", {}),
    ".jsonl": ("json", {}),
    ".parquet": ("parquet", {}),
}


def _read(key: str, path: str) -> "datasets.Dataset":
    suffix = Path(path).suffix.lower()
    if suffix not in READERS:
        raise UserError(f"data.{key}={path}: files end in one of {', '.join(READERS)}")
    if not Path(path).is_file():
        raise UserError(f"data.{key}={path} is no file")
    import datasets  # a second to import, so only where it is used

    builder, options = READERS[suffix]
    try:
        return datasets.load_dataset(builder, data_files=path, split="train", **options)
    except Exception as error:  # a file from outside can fail in any way
        message = first_line(error.__cause__ or error)
        if "corresponds to no data" in message:
            message = "it has no rows"
        elif isinstance(error.__cause__, UnicodeDecodeError):
            message += "; save the file as UTF-8"
        raise UserError(
            f"can't read data.{key}={path}: {message.rstrip('.')}. Mend the file or get it again"
        ) from error


def _corpus(tables: "dict[str, tuple[datasets.Dataset, str]]", text: str, label: str) -> Corpus:
    """The articles of each split's table, of which the other entry is its name in messages. Rows count from 0."""
    labels: dict[str, Sequence[Any]] = {}
    texts: dict[str, list[str]] = {}
    for split, (table, name) in tables.items():
        _check_columns(table, name, text, label)
        try:
            texts[split], labels[split] = table[text][:], table[label][:]
        except Exception as error:  # damage that shows only when the values are read
            raise UserError(f"can't read {name}: {first_line(error)}. Mend the file or get it again") from error
        for row, value in enumerate(texts[split]):
            if not isinstance(value, str | None):
                raise UserError(
                    f"data.text={text} of {name} holds {type(value).__name__} (row {row}), no text; name another column"
                )
            if not value or value.isspace():
                raise UserError(f"{name}, row {row}: the text is empty; remove the row from the data")
    table, name = tables["train"]
    classes = _find_classes(labels["train"], table.features[label], label, name)
    number = {value: index for index, value in enumerate(classes)}
    splits = {}
    for split, values in labels.items():
        unknown = next((row for row, value in enumerate(values) if value not in number), None)
        if unknown is not None:
            missing = values[unknown] in (None, "")
            raise UserError(
                f"{tables[split][1]}, row {unknown}: "
                + ("the label is missing" if missing else f"the label {values[unknown]!r} is none of the training set")
                + f"; give it one of {_shortened(classes.values())} or remove the row"
            )
        splits[split] = Split(texts[split], np.array([number[value] for value in values], dtype=np.int64))
    return Corpus(list(classes.values()), splits["train"], splits["test"], splits.get("val"))


def _check_columns(table: "datasets.Dataset", name: str, text: str, label: str) -> None:
    for key, column in (("text", text), ("label", label)):
        if column not in table.column_names:
            raise UserError(f"data.{key}={column} is no column of {name}; it has {', '.join(table.column_names)}")
        if f"{column}.1" in table.column_names:  # how pandas reads a second column of that name
            raise UserError(f"{name} has two columns named {column}; rename one of them")


def _find_classes(labels: Sequence[Any], feature: Any, column: str, name: str) -> dict[Any, str]:
    """What stands for each class in the data, in order, and the classes' names."""
    if names := getattr(feature, "names", None):  # a ClassLabel knows its classes; labels are their numbers
        return dict(enumerate(names))
    present = [value for value in labels if value not in (None, "")]
    if strange := next((value for value in present if not isinstance(value, str | int)), None):
        raise UserError(
            f"data.label={column} of {name} holds {strange!r}; labels are strings or integers: rewrite them"
        )
    if len({isinstance(value, str) for value in present}) > 1:
        raise UserError(f"data.label={column} of {name} holds strings and integers; write all labels as one of them")
    classes = sorted(set(present))
    if len(classes) > 20 and len(classes) > len(labels) / 2:
        raise UserError(
            f"data.label={column} of {name} holds {len(classes):,} different values in {len(labels):,} rows; "
            "labels repeat, so name another column"
        )
    return {value: str(value) for value in classes}


def _shortened(names: Iterable[str]) -> str:
    """The names, unless there are many."""
    listed = list(names)
    return ", ".join(listed[:20]) + (f" and {len(listed) - 20} others" if len(listed) > 20 else "")
