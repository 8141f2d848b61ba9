"""Local files in the forms that people have, and folders of text files, one folder for each class."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from attnlab.data.corpus import SPLITS
from attnlab.data.file_access import Paths, files_below, find_files
from attnlab.data.readers import read_document, read_split, reading_errors
from attnlab.data.sources.base import Columned, Labelled, warn_about_shared_data
from attnlab.data.tables import Columns, Origin, Table
from attnlab.data.text_format import Format, TextFormat
from attnlab.errors import UserError
from attnlab.paths import shown


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
        per_split = isinstance(self.field, Mapping)  # other files have no splits within them
        return TextFormat().changed(vars(self) | ({"field": None} if per_split else {}))

    def tables(self, splits: Collection[str]) -> tuple[dict[str, Table], list[str]]:
        given: dict[str, Any] = {"train": self.train, "val": self.val, "test": self.test}
        for key, other in (("train", ""), ("test", ", or a share of train to cut out for it, such as data.test=0.2")):
            if key in splits and given[key] is None:
                raise UserError(f"data.{key} is needed and has no default: give data.{key}=<file>{other}")
        chosen = {key: given[key] for key in splits if not isinstance(given[key], int | float | None)}
        fields = {key: self.field.get(key) if isinstance(self.field, Mapping) else self.field for key in chosen}
        files = {key: {file.resolve() for file in find_files(key, paths)} for key, paths in chosen.items()}
        warn_about_shared_data(chosen, {key: {(file, fields[key]) for file in files[key]} for key in chosen})
        tables = {
            key: read_split(key, paths, self.columns.of_split(key), self.text_format, fields[key])
            for key, paths in chosen.items()
        }
        return tables, []


@dataclass(frozen=True, kw_only=True)
class Folders(Labelled):
    """Text files, one a document, in folders that bear the names of their classes.

    Args:
        path: the folder that holds those of the splits; or those of the classes, where `test` is a share.
        train, val, test: names of folders below `path`; a share as `test` cuts it out of train.
        encoding: as Python names it; None for UTF-8, or what a file's first bytes say.
    """

    PATHS = ("path",)

    path: str
    train: str = "train"
    val: str | None = None
    test: str | float = "test"
    encoding: str | None = None

    @property
    def text_format(self) -> TextFormat:
        return TextFormat(encoding=self.encoding, folders=True)

    def tables(self, splits: Collection[str]) -> tuple[dict[str, Table], list[str]]:
        root = Path(self.path)
        if not self.path or not root.is_dir():
            raise UserError(f"data.path={self.path} is not a folder; give one with a folder for each class")
        named = {"train": self.train, "val": self.val, "test": self.test}
        chosen = {key: root / name for key, name in named.items() if isinstance(name, str) and key in splits}
        if self.test_share is not None and self.val is None and not (root / self.train).is_dir():
            chosen = {"train": root}
        for key, folder in chosen.items():
            if not folder.is_dir():
                below = ", ".join(path.name for path in _below(root)[:20]) or "nothing"
                raise UserError(
                    f"data.{key}={folder.name} is not a folder in {root}, which holds {below}; name the right one, or "
                    "where these are the classes cut a test set out of them with data.test=0.2"
                )
        return {key: self._read(folder) for key, folder in chosen.items()}, []

    def _read(self, folder: Path) -> Table:
        texts, labels, parts, text_format = [], [], [], self.text_format
        for label in _below(folder):
            for file in files_below(label):
                with reading_errors(str(file), text_format), file.open("rb") as opened:
                    texts.append(read_document(opened, text_format))
                labels.append(label.name)
                parts.append((str(file.resolve()), 1))
        if not texts:
            raise UserError(f"{folder} has no folders with files in them; give one with a folder for each class")
        columns, values = Columns(text_format, "label"), {"text": texts, "label": labels}
        table = columns.table(str(shown(folder)), values, how="; a folder a class")
        return replace(table, origin=Origin(parts, np.arange(len(parts))))


def _below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
