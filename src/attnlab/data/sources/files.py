"""Local files in the forms that people have."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from attnlab.data.corpus import SPLITS
from attnlab.data.file_access import Paths, find_files
from attnlab.data.readers import read_split
from attnlab.data.sources.base import Columned, warn_of_shared
from attnlab.data.tables import Table
from attnlab.data.text_format import Format, TextFormat
from attnlab.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Files(Columned):
    """Local CSV, TSV, JSON, JSONL, parquet or fastText files, plain or packed, read as they are written.

    Args:
        train, val, test: for each split a file, a pattern such as "part-*.csv.gz", a list of either, or by column files
            of lines; a share as `test` cuts it out of train, and a trained model is tested without `train`.
        format, header, delimiter, encoding: see `attnlab.data.text_format.TextFormat`.
        field: the key under which a JSON file has its documents, or for each split its key.
    """

    PATHS = SPLITS

    train: Paths | None = None
    val: Paths | None = None
    test: Paths | float | None = None
    format: Format | None = None
    header: bool | None = None
    delimiter: str | None = None
    encoding: str | None = None
    field: str | dict[str, str] | None = None

    @property
    def text_format(self) -> TextFormat:
        per_split = isinstance(self.field, Mapping)  # which is no use to other files
        return TextFormat().changed(vars(self) | ({"field": None} if per_split else {}))

    def tables(self, splits: Collection[str]) -> tuple[dict[str, Table], list[str]]:
        given: dict[str, Any] = {"train": self.train, "val": self.val, "test": self.test}
        for key, other in (("train", ""), ("test", ", or a share of train to cut out for it, such as data.test=0.2")):
            if key in splits and given[key] is None:
                raise UserError(f"data.{key} is needed and has no default: give data.{key}=<file>{other}")
        chosen = {key: given[key] for key in splits if not isinstance(given[key], int | float | None)}
        fields = {key: self.field.get(key) if isinstance(self.field, Mapping) else self.field for key in chosen}
        files = {key: {file.resolve() for file in find_files(key, paths)} for key, paths in chosen.items()}
        warn_of_shared(chosen, {key: {(file, fields[key]) for file in files[key]} for key in chosen})
        tables = {
            key: read_split(key, paths, self.columns.of_split(key), self.text_format, fields[key])
            for key, paths in chosen.items()
        }
        return tables, []
