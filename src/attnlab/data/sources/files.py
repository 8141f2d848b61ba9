"""Sources of local data: files of many forms, and folders of text files, one folder for each class."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from attnlab.data.corpus import SPLITS
from attnlab.data.file_access import Paths, files_below, find_files, open_file, plain_suffix
from attnlab.data.readers import FASTTEXT_LABEL, OpenTable, open_table, read_document, read_lines, reading_errors
from attnlab.data.sources.base import Columned, Labelled, warn_about_shared_data
from attnlab.data.tables import Columns, Origin, Table, concatenate
from attnlab.data.text_format import FORMATS, Format, TextFormat
from attnlab.errors import UserError, relative_to_cwd


@dataclass(frozen=True, kw_only=True)
class Files(Columned):
    """Local CSV, TSV, JSON, JSONL, parquet or fastText files, plain or compressed.

    Args:
        train, val, test: for each split a file, a pattern such as "part-*.csv.gz", a list of either, or a file of lines
            for each column; `test` may be a share of train; a trained model is tested without `train`.
        format, header, delimiter, encoding: see `attnlab.data.text_format.TextFormat`.
        field: the key of the documents in a JSON file, or such a key for each split.
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
        per_split = isinstance(self.field, Mapping)  # files to predict have no splits
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
            key: _read_split(key, paths, self.columns.of_split(key), replace(self.text_format, field=fields[key]))
            for key, paths in chosen.items()
        }
        return tables, []


def _read_split(key: str, paths: Paths, columns: Columns, text_format: TextFormat) -> Table:
    """The table of the files that the setting `data.<key>` names."""
    if isinstance(paths, Mapping):
        return _read_columns(key, paths, columns, text_format)
    files = find_files(key, paths)
    given = relative_to_cwd(Path(paths)) if isinstance(paths, str) else f"data.{key}"
    name = str(relative_to_cwd(files[0])) if len(files) == 1 else f"{given} ({len(files)} files)"
    tables = [_read_file(key, file, columns, text_format).from_file(file.resolve()) for file in files]
    return concatenate(tables, name)


def _read_file(key: str, path: Path, columns: Columns, text_format: TextFormat) -> Table:
    with reading_errors(f"data.{key}={path}", text_format):
        form, name = _detect_format(key, path, text_format), str(relative_to_cwd(path))
        if text_format.field is not None and form != "json":
            raise UserError(f"data.field={text_format.field} is for JSON files, which {name} is not; leave it out")
        if form == "fasttext":
            for setting, column in columns.named:
                if setting in ("group", "id", "text_pair"):
                    raise UserError(
                        f"data.{setting}={column}: {name} is in fastText's format, which has no columns; leave it out"
                    )
            columns = Columns(TextFormat(), "label")
        named = [column for _, column in columns.named]
        with open_file(path) as file:
            table = open_table(file, name, form, text_format, named, numbers=str)
            # The columns of JSON are known when all of it has been read.
            needed = named if form == "json" else _needed(table, columns, text_format)
            values: dict[str, list[Any]] = {column: [] for column in needed}
            for part in table.parts(needed):  # in parts, as a second copy of all texts may not fit
                for column, of_column in values.items():
                    of_column += part[column]
        if not any(values.values()):
            raise ValueError("it has no rows")
        values = {column: values[column] for column in columns.needed(table.columns, name)}
        if form == "fasttext" and all(len(labels) <= 1 for labels in values["label"]):
            values["label"] = [labels[0] if labels else "" for labels in values["label"]]
        classes = _class_names(table.schema, columns.label)
        present = [] if form == "fasttext" else table.columns
        return replace(columns.table(name, values, classes, present, table.description), quoted=table.quoted)


def _detect_format(key: str, path: Path, text_format: TextFormat) -> Format:
    """The form of a file by `data.format`, by its suffix, or by its first bytes, which may be a label of fastText's."""
    found = text_format.format or FORMATS.get(plain_suffix(path)) or ("csv" if text_format.delimiter else None)
    if found is not None:
        return found
    with open_file(path) as file:
        if file.read(len(FASTTEXT_LABEL)) == FASTTEXT_LABEL.encode():
            return "fasttext"
    raise UserError(
        f"data.{key}={path}: unknown suffix, known are {', '.join(FORMATS)}; for other files give "
        "data.format=csv, tsv, json, parquet or fasttext, or a file of lines for each column: "
        f"\"data.{key}='{{text: <file>, label: <file>}}'\""
    )


def _needed(table: OpenTable, columns: Columns, text_format: TextFormat) -> list[str]:
    """The columns to read. Raises `UserError` if one is missing, with advice."""
    try:
        return columns.needed(table.columns, table.name)
    except UserError as error:
        named, advice = [column for _, column in columns.named], ""
        if table.quoted is False and any(f'"{column}"' in table.columns for column in named):
            advice = "; data.quoting=minimal takes the quotation marks away"
        elif table.quoted is not None and text_format.header:
            advice = "; if the first row is not a header, give data.header=false data.text=1 data.label=0"
            if all(column.isdigit() for column in named):
                advice = "; columns are counted from 0 with data.header=false"
        raise UserError(f"{error}{advice}") from None


def _class_names(schema: Any, column: str) -> list[str] | None:
    """What integer labels stand for, in the schema of a parquet file that `datasets` wrote."""
    if schema is None or b"huggingface" not in (schema.metadata or {}):
        return None
    feature = json.loads(schema.metadata[b"huggingface"])["info"]["features"].get(column, {})
    names = feature.get("names") or feature.get("feature", {}).get("names")
    return None if names is None else [str(name) for name in names]


def _read_columns(key: str, paths: Mapping[str, str], columns: Columns, text_format: TextFormat) -> Table:
    """A file of lines for each column, such as `{text: train_text.txt, label: train_labels.txt}`."""
    values, encoding = {}, ""
    for column, path in paths.items():
        files = find_files(key, str(path))
        if len(files) > 1:
            raise UserError(f"data.{key}.{column}={path} names {len(files)} files; give one")
        with reading_errors(f"data.{key}.{column}={path}", text_format), open_file(files[0]) as opened:
            encoding = text_format.encoding_of(opened)
            values[str(column)] = list(read_lines(opened, encoding))
    name = ", ".join(str(relative_to_cwd(Path(path))) for path in paths.values())
    sizes = [len(lines) for lines in values.values()]
    if len(set(sizes)) > 1:
        raise UserError(
            f"{name} have {', '.join(map(str, sizes))} lines; they need the same number, one for each document"
        )
    needed = columns.needed(list(values), name)
    how = f"; a line a document, {encoding.removesuffix('-sig')}"
    table = columns.table(name, {column: values[column] for column in needed}, present=list(values), how=how)
    return table.from_file(Path(str(paths[columns.texts[0]])).resolve())


@dataclass(frozen=True, kw_only=True)
class Folders(Labelled):
    """Text files, one for each document, in folders that are named after their classes.

    Args:
        path: the folder with a folder for each split; or for each class, where `test` is a share.
        train, val, test: names of folders in `path`; `test` may be a share of train.
        encoding: a name that Python knows; None for UTF-8, or the one that a byte order mark names.
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
                    f"data.{key}={folder.name} is not a folder in {root}, which holds {below}; name one of these, or "
                    "if these are the classes cut a test set out of them with data.test=0.2"
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
        table = columns.table(str(relative_to_cwd(folder)), values, how="; a folder a class")
        return replace(table, origin=Origin(parts, np.arange(len(parts))))


def _below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
