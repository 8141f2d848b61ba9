"""A folder a class."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from attnlab.data.file_access import files_below
from attnlab.data.readers import read_document, reading_errors
from attnlab.data.sources.base import Labelled
from attnlab.data.tables import Columns, Origin, Table
from attnlab.data.text_format import TextFormat
from attnlab.errors import UserError
from attnlab.paths import shown


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
            raise UserError(f"data.path={self.path} is no folder; give one that holds a folder a class")
        named = {"train": self.train, "val": self.val, "test": self.test}
        chosen = {key: root / name for key, name in named.items() if isinstance(name, str) and key in splits}
        if self.test_share is not None and self.val is None and not (root / self.train).is_dir():
            chosen = {"train": root}
        for key, folder in chosen.items():
            if not folder.is_dir():
                below = ", ".join(path.name for path in _below(root)[:20]) or "nothing"
                raise UserError(
                    f"data.{key}={folder.name} is no folder in {root}, which holds {below}; name the right one, or "
                    "where these are the classes cut a test set out of them with data.test=0.2"
                )
        return {key: self._read(folder) for key, folder in chosen.items()}, []

    def _read(self, folder: Path) -> Table:
        texts, labels, parts, form = [], [], [], self.text_format
        for label in _below(folder):
            for file in files_below(label):
                with reading_errors(str(file), form), file.open("rb") as opened:
                    texts.append(read_document(opened, form))
                labels.append(label.name)
                parts.append((str(file.resolve()), 1))
        if not texts:
            raise UserError(f"{folder} has no folders with files in them; give one that holds a folder a class")
        columns, values = Columns(form, "label"), {"text": texts, "label": labels}
        table = columns.table(str(shown(folder)), values, how="; a folder a class")
        return replace(table, origin=Origin(parts, np.arange(len(parts))))


def _below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
