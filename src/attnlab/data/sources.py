"""Where articles come from. A source is a dataclass with a `load()`; each file in `conf/data` configures one."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
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
        return _corpus(tables[self.train], tables[val] if val else None, tables[self.test], self.text, self.label)


@dataclass(frozen=True, kw_only=True)
class Files(Source):
    """Local CSV, TSV, JSON, JSONL or parquet files, one a split; labels are strings or integers."""

    train: str
    test: str
    val: str | None = None
    text: str = "text"
    label: str = "label"

    def load(self) -> Corpus:
        train, val, test = (
            _read(key, path) if path else None
            for key, path in (("train", self.train), ("val", self.val), ("test", self.test))
        )
        assert train is not None and test is not None
        return _corpus(train, val, test, self.text, self.label)


READERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".csv": ("csv", {}),
    ".tsv": ("csv", {"sep": "\t"}),
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
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise UserError(f"can't read data.{key}={path}: {first_line(error.__cause__ or error)}") from error


def _corpus(
    train: "datasets.Dataset", val: "datasets.Dataset | None", test: "datasets.Dataset", text: str, label: str
) -> Corpus:
    tables = {"train": train, "val": val, "test": test}
    columns: dict[str, tuple[list[str], Sequence[Any]]] = {}
    for split, table in tables.items():
        if table is None:
            continue
        for key, column in (("text", text), ("label", label)):
            if column not in table.column_names:
                raise UserError(
                    f"data.{key}={column} is no column of the {split} split; it has {', '.join(table.column_names)}"
                )
        columns[split] = table[text][:], table[label][:]
        for row, value in enumerate(columns[split][0]):
            if not isinstance(value, str | None):
                raise UserError(f"data.text={text} holds {type(value).__name__}, not text; name another column")
            if not value or value.isspace():
                raise UserError(f"row {row} of the {split} split has an empty text; remove it from the data")

    names, numbers = _number_labels(
        {split: labels for split, (_, labels) in columns.items()}, train.features[label], label
    )
    splits = {split: Split(texts, numbers[split]) for split, (texts, _) in columns.items()}
    return Corpus(names, splits["train"], splits["test"], splits.get("val"))


def _number_labels(
    values: dict[str, Sequence[Any]], feature: Any, column: str
) -> tuple[list[str], dict[str, headlines.Labels]]:
    """Class names, in order, and each split's labels as class numbers."""
    classes: list[Any]
    if names := getattr(feature, "names", None):  # a ClassLabel knows its classes; labels are their numbers
        classes = list(range(len(names)))
    else:
        if strange := next((v for v in values["train"] if not isinstance(v, str | int)), None):
            raise UserError(f"data.label={column} holds {strange!r}; labels are strings or integers")
        classes = sorted(set(values["train"]) - {None})
        names = [str(value) for value in classes]
    number = {value: index for index, value in enumerate(classes)}
    numbers = {}
    for split, labels in values.items():
        unknown = next((row for row, value in enumerate(labels) if value not in number), None)
        if unknown is not None:
            raise UserError(
                f"row {unknown} of the {split} split has the label {labels[unknown]!r}; the classes are "
                + ", ".join(map(str, names))
            )
        numbers[split] = np.array([number[value] for value in labels], dtype=np.int64)
    return names, numbers
