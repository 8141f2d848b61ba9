"""Where documents come from. A source is a dataclass with a `load()`; each file in `conf/data` configures one."""

import csv
import logging
import tempfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from annotated_types import Ge
from hydra.utils import get_object, to_absolute_path

from attnlab.data import headlines
from attnlab.data.labels import Labels, multi_hot
from attnlab.data.reading import Columns, Quoting, Table, is_quoted, read_file, warn_of_quotes
from attnlab.errors import UserError, first_line

if TYPE_CHECKING:
    import datasets

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
MAX_COLUMNS = 1000  # of a CSV file on the Hub that are read as they are written
UNLABELLED = "-1"  # how sets of the Hub write "no label"


@dataclass(frozen=True)
class Split:
    """Documents and their labels.

    `places`: [N], where they stand among the documents that they were taken from as a fold.
    """

    texts: list[str]
    labels: Labels
    places: npt.NDArray[np.int64] | None = None


NOTHING = Split([], np.empty(0, dtype=np.int64))


@dataclass(frozen=True)
class Corpus:
    """What a source gives.

    `train` is empty where only test was asked for, `val` None where a part of train is to serve; `ceilings` are
    accuracies, where known.
    """

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
        folds: cross-validation: the training documents are divided into so many parts of like classes, of which `fold`
            is the test set, and the data's own test set is left alone (see `attnlab.data.folds.cut_fold`).
        fold: which one, from 0.
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
        if self.validation != "test" and not (isinstance(self.validation, float) and 0 < self.validation <= 0.5):
            raise UserError(
                f"data.validation={self.validation} is neither a share above 0 and up to 0.5 nor 'test'; try 0.1"
            )
        if self.fold >= (self.folds or 1):
            known = "a number of them" if self.folds is None else f"more than {self.fold}"
            raise UserError(f"data.fold={self.fold} wants data.folds, {known}; folds count from 0")
        for key in ("batch_size", "limit"):
            if (value := getattr(self, key)) is not None and value < 1:
                raise UserError(f"data.{key}={value} must be at least 1")

    @abstractmethod
    def load(self, splits: Collection[str] = SPLITS) -> Corpus:
        """Read the documents of these splits; a source may read more.

        Raises:
            UserError: they can't be used as they are.
        """


def located(config: dict[str, Any]) -> dict[str, Any]:
    """The config of a source with the places of its files in full, so that they are found from anywhere, later too."""
    keys = getattr(get_object(config["_target_"]), "PATHS", ())
    here = {key: to_absolute_path(config[key]) for key in keys if isinstance(config.get(key), str) and config[key]}
    return config | {key: path for key, path in here.items() if Path(path).exists()}


@dataclass(frozen=True, kw_only=True)
class Headlines(Source):
    """The built-in corpus (see `attnlab.data.headlines`), written anew from `corpus_seed` each time.

    Args:
        topics: what a document's labels are: None for the topic of its title, "all" for those it tells of, one or two.
    """

    train_size: int
    test_size: int
    noise: float
    order_share: float
    corpus_seed: Annotated[int, Ge(0)] = 0
    topics: Literal["all"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("noise", "order_share"):
            if not 0 <= getattr(self, key) <= 1:
                raise UserError(f"data.{key}={getattr(self, key)} is a share: give a number from 0 to 1")
        for key in ("train_size", "test_size"):
            if getattr(self, key) < 1:
                raise UserError(f"data.{key}={getattr(self, key)} must be at least 1")

    def load(self, splits: Collection[str] = SPLITS) -> Corpus:
        del splits  # test is written after train, from the same stream of random numbers
        rng = np.random.default_rng(self.corpus_seed)
        train, test = (
            headlines.generate(size, self.noise, self.order_share, rng) for size in (self.train_size, self.test_size)
        )
        names = list(headlines.TOPICS)
        if self.topics == "all":
            both = [
                Split(part.texts, multi_hot(zip(part.labels, part.body_topics, strict=True), len(names)))
                for part in (train, test)
            ]
            return Corpus(names, both[0], both[1])
        aware, blind = headlines.ceilings(self.noise, self.order_share)
        return Corpus(
            names,
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
        text, label: columns; of several labels a document a column of lists, or columns of 0 and 1 that are named after
            them.
        label_separator: what stands between several labels in one column.
        quoting: as of `Files`, for a set of CSV files.
        train, val, test: names of splits; `val=None` takes a split named "validation" where there is one that serves
            for nothing else.
    """

    PATHS = ("path",)

    path: str
    name: str | None = None
    text: str | int = "text"
    label: str | int | list[str] = "label"
    label_separator: str | None = None
    quoting: Quoting = None
    train: str = "train"
    val: str | None = None
    test: str = "test"

    def load(self, splits: Collection[str] = SPLITS) -> Corpus:
        if not self.path:
            raise UserError("data.path is empty; if it came from a variable of the shell, that is not set")
        tables, quoted = self._load_tables()
        val = self.val
        if val is None and "validation" in tables and "validation" not in (self.train, self.test):
            val = "validation"
        chosen = {
            key: split
            for key, split in (("train", self.train), ("val", val), ("test", self.test))
            if split is not None and key in splits
        }
        for key, split in chosen.items():
            if split not in tables:
                raise UserError(f"data.{key}={split} is no split of {self.path}; it has {', '.join(tables)}")
        _warn_of_shared(chosen, chosen)
        columns = Columns.of(self.text, self.label, self.label_separator)
        read = {key: _from_dataset(tables[split], f"the {split} split", columns) for key, split in chosen.items()}
        if quoted is not None:
            for table in read.values():
                warn_of_quotes(table, quoted)
        return _corpus(read, [split for split in tables if split not in (self.train, self.test)])

    def _load_tables(self) -> "tuple[dict[str, datasets.Dataset], bool | None]":
        """The splits, and whether quotation marks quoted: None where the set is no CSV files or declares types."""
        import datasets  # a second to import, so only where it is used

        quoted = None
        try:
            builder = datasets.load_dataset_builder(self.path, self.name)
            if hasattr(builder.config, "keep_default_na"):  # of CSV files, which are read as data=files reads them
                options: dict[str, Any] = {"keep_default_na": False, "na_values": [""]}
                if builder.config.features is None:
                    quoted = is_quoted(self.quoting, builder.config.sep)
                    options["quoting"] = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
                    # By place, so that no other column is guessed at either, which fails where chunks differ.
                    options["converters"] = dict.fromkeys(range(MAX_COLUMNS), str)
                builder = datasets.load_dataset_builder(self.path, self.name, **options)
            builder.download_and_prepare()
            return dict(builder.as_dataset()), quoted
        except Exception as error:  # a set from outside can fail in any way
            raise UserError(f"can't load data.path={self.path}: {_cause(error, self.path)}") from error


@dataclass(frozen=True, kw_only=True)
class Files(Source):
    """Local CSV, TSV, JSON, JSONL or parquet files, one a split, read as they are written.

    Args:
        train, val, test: files; a trained model is tested without `train`.
        text, label, label_separator: as of `Hub`; a label is a string or an integer.
        quoting: whether quotation marks enclose texts ("minimal") or are part of them ("none"); None: the former in
            .csv, the latter in .tsv.
    """

    PATHS = ("train", "val", "test")

    train: str | None = None
    test: str
    val: str | None = None
    text: str | int = "text"
    label: str | int | list[str] = "label"
    label_separator: str | None = None
    quoting: Quoting = None

    def load(self, splits: Collection[str] = SPLITS) -> Corpus:
        paths = {"train": self.train, "val": self.val, "test": self.test}
        if "train" in splits and self.train is None:
            raise UserError("data.train is needed and has no default: give data.train=<file>")
        chosen = {key: path for key, path in paths.items() if path is not None and key in splits}
        for key, path in chosen.items():
            if not path:
                raise UserError(f"data.{key} is empty; if it came from a variable of the shell, that is not set")
        _warn_of_shared(chosen, {key: Path(path).resolve() for key, path in chosen.items()})
        columns = Columns.of(self.text, self.label, self.label_separator)
        return _corpus({key: read_file(key, path, columns, self.quoting) for key, path in chosen.items()})


def _from_dataset(dataset: "datasets.Dataset", name: str, columns: Columns) -> Table:
    columns.check(dataset.column_names, name)
    if "__index_level_0__" in dataset.column_names:
        raise UserError(f"{name} has rows with one value more than there are columns; mend its files")
    feature = dataset.features.get(columns.label)
    classes = getattr(getattr(feature, "feature", feature), "names", None)  # of a ClassLabel, or a list of them
    try:
        texts, labels = dataset[columns.text][:], [dataset[label][:] for label in columns.labels]
    except Exception as error:  # damage that shows only when the values are read
        raise UserError(f"can't read {name}: {first_line(error)}. Mend the set or get it again") from error
    return columns.table(name, texts, labels, classes)


def _cause(error: Exception, path: str) -> str:
    """Why a set can't be loaded, and what to do about that."""
    from datasets.config import HF_DATASETS_CACHE
    from huggingface_hub.constants import HF_HUB_CACHE

    for folder in map(Path, (HF_DATASETS_CACHE, HF_HUB_CACHE)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as unusable:
            return (
                f"the cache {folder} can't be written: {first_line(unusable)}; give another place with HF_HOME=<folder>"
            )
    message = first_line(error.__cause__ or error).rstrip(".")
    if Path(path).is_dir():
        empty = isinstance(error, FileNotFoundError)
        return f"{message}; " + ("give one CSV, JSON or parquet file a split, named after it" if empty else "mend it")
    if path.startswith(("/", ".", "~")) or path.count("/") > 1:
        return "there is no such folder"
    return f"{message}. Without network give a local copy with data.path=<folder>, or use data=headlines"


def _warn_of_shared(chosen: Mapping[str, str], what: Mapping[str, object]) -> None:
    """Say where the user's own words make one split or file serve two ends; `what` each is, by another name or not."""
    train, val, test = map(what.get, SPLITS)
    for key, one, other, consequence in (
        ("val", val, test, "Validating on the test set (data.val={}): the test score will be optimistic"),
        ("test", test, train, "Testing on the training set (data.test={}): the test score will be optimistic"),
        ("val", val, train, "Validating on the training set (data.val={}): the validation scores will be optimistic"),
    ):
        if one is not None and one == other:
            log.warning(consequence.format(chosen[key]))


def _corpus(tables: Mapping[str, Table], others: Sequence[str] = ()) -> Corpus:
    """The tables with their labels numbered by the classes of train, or of test where that is read alone.

    `others` are splits of the set that are neither.
    """
    classes = tables["train" if "train" in tables else "test"].find_classes()
    number = {name: index for index, name in enumerate(classes)}
    several = any(table.several for table in tables.values())
    alike = Counter(" ".join(name.casefold().split()) for name in classes)
    if twins := [name for name in classes if alike[" ".join(name.casefold().split())] > 1]:
        log.warning("Labels that differ in case or white space alone are classes of their own: %s", _shortened(twins))
    splits = {}
    for key, table in tables.items():
        sets = table.label_sets()
        if not any(label in number for labels in sets for label in labels) and set(table.labels) <= {"", UNLABELLED}:
            also = f"; there is also {', '.join(others)}" if others else ""
            raise UserError(f"{table.name} has no labels; name one that has them with data.{key}=<other>{also}")
        labelled = ((row, label) for row, labels in enumerate(sets) for label in labels)
        unknown = next((pair for pair in labelled if pair[1] not in number), None)
        if unknown is not None:
            row, label = unknown
            raise UserError(
                f"{table.name}, row {row}: "
                + (f"the label {label!r} is none of the training set" if label else "the label is missing")
                + f"; give it one of {_shortened(classes)} or remove the row"
            )
        numbers = [[number[label] for label in labels] for labels in sets]
        if several:
            splits[key] = Split(table.texts, multi_hot(numbers, len(classes)))
        else:
            splits[key] = Split(table.texts, np.array([row[0] for row in numbers], dtype=np.int64))
    return Corpus(classes, splits.get("train", NOTHING), splits["test"], splits.get("val"))


def _shortened(names: Sequence[str]) -> str:
    """The names, unless there are many."""
    return ", ".join(names[:20]) + (f" and {len(names) - 20} others" if len(names) > 20 else "")
