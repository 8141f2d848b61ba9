"""Data sets of the Hugging Face Hub, and local folders of the same schema."""

import csv
import tempfile
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnlab.data.readers import quotes_enclose
from attnlab.data.sources.base import Columned, warn_about_shared_data
from attnlab.data.tables import Columns, Table
from attnlab.errors import UserError, as_user_error, first_line

if TYPE_CHECKING:
    import datasets

MAX_COLUMNS = 1000  # of a CSV file on the Hub that are read as they are written


@dataclass(frozen=True, kw_only=True)
class Hub(Columned):
    """A data set of the Hugging Face Hub by name, or a local folder of the same schema.

    Args:
        path: an argument of `datasets.load_dataset`, such as "stanfordnlp/imdb" or a folder with parquet files; or a
            folder that `save_to_disk` wrote.
        name: the configuration of the data set, if it has several.
        train, val, test: names of splits; `val=None` uses a split named "validation" if it is not `train` or `test`,
            and `test` may be a share of train.
    """

    PATHS = ("path",)

    path: str
    name: str | None = None
    train: str = "train"
    val: str | None = None
    test: str | float = "test"

    def tables(self, splits: Collection[str]) -> tuple[dict[str, Table], list[str]]:
        if not self.path:
            raise UserError("data.path is empty; if it came from a variable of the shell, that is not set")
        present, quoted = self._load()
        val = self.val
        if val is None and "validation" in present and "validation" not in (self.train, self.test):
            val = "validation"
        named = {"train": self.train, "val": val, "test": self.test}
        chosen = {key: split for key, split in named.items() if isinstance(split, str) and key in splits}
        for key, split in chosen.items():
            if split not in present:
                raise UserError(f"data.{key}={split} is not a split of {self.path}; it has {', '.join(present)}")
        warn_about_shared_data(chosen, {key: {split} for key, split in chosen.items()})
        tables = {
            key: _read(present[split], f"the {split} split", self.columns.of_split(key), quoted).from_file(
                f"{self.path} {split}"
            )
            for key, split in chosen.items()
        }
        return tables, [split for split in present if split not in (self.train, self.test)]

    def _load(self) -> "tuple[dict[str, datasets.Dataset], bool | None]":
        """The splits, and whether quotation marks enclosed texts, which is None unless it is CSV without types."""
        import datasets  # a second to import, so only where it is used

        quoted = None
        try:
            if Path(self.path, datasets.config.DATASETDICT_JSON_FILENAME).is_file():
                return dict(datasets.DatasetDict.load_from_disk(self.path)), None
            # The first builder only tells what kind of files there are; the second one reads CSV with other options.
            builder = datasets.load_dataset_builder(self.path, self.name)
            if hasattr(builder.config, "keep_default_na"):  # CSV files are to be read as by data=files
                options: dict[str, Any] = {"keep_default_na": False, "na_values": [""]}
                if builder.config.features is None:
                    quoted = quotes_enclose(self.quoting, builder.config.sep)
                    options["quoting"] = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
                    # For all columns, by position: `datasets` guesses types by chunk, and fails if they differ.
                    options["converters"] = dict.fromkeys(range(MAX_COLUMNS), str)
                builder = datasets.load_dataset_builder(self.path, self.name, **options)
            builder.download_and_prepare()
            return dict(builder.as_dataset()), quoted
        except Exception as error:  # data from outside can fail in any way
            raise UserError(f"can't load data.path={self.path}: {_cause(error, self.path)}") from error


def _read(dataset: "datasets.Dataset", name: str, columns: Columns, quoted: bool | None) -> Table:
    needed = columns.needed(dataset.column_names, name)
    if "__index_level_0__" in dataset.column_names:
        raise UserError(f"{name} has rows with one value more than there are columns; fix its files")
    feature = dataset.features.get(columns.label)
    classes = getattr(getattr(feature, "feature", feature), "names", None)  # of a ClassLabel, or a list of them
    with as_user_error(f"can't read {name}", ". Fix the data or download it again"):  # `datasets` reads only here
        values = {column: dataset[column][:] for column in needed}
    return replace(columns.table(name, values, classes, dataset.column_names), quoted=quoted)


def _cause(error: Exception, path: str) -> str:
    """Why a data set can't be loaded, and what to do."""
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
        return f"{message}; " + ("give one CSV, JSON or parquet file a split, named after it" if empty else "fix it")
    if path.startswith(("/", ".", "~")) or path.count("/") > 1:
        return "the folder does not exist"
    return f"{message}. Without network give a local copy with data.path=<folder>, or use data=headlines"
