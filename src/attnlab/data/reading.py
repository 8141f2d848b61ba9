"""Data files, read as they are written: no type is guessed, and a parquet file's own types count."""

import glob
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

from attnlab.data.forms import FASTTEXT_LABEL, Form, open_file
from attnlab.data.separated import read_separated
from attnlab.data.structured import read_json, read_parquet
from attnlab.data.tables import Columns, Table, concatenate
from attnlab.data.text_format import TextFormat
from attnlab.errors import UserError, first_line
from attnlab.paths import shown

# A file or a pattern, a list of them, or a file of lines for each column.
Paths = str | list[str] | dict[str, str]
LABEL_WORD = re.compile(rf"(?<!\S){FASTTEXT_LABEL}(\S+)\s*")


def read_split(key: str, paths: Paths, columns: Columns, form: Form, field: str | None = None) -> Table:
    """The documents of the files that the setting `data.<key>` names; of JSON files the part under `field`.

    Raises:
        UserError: there is no such file, it is of no kind that is read, or it is damaged.
    """
    if isinstance(paths, Mapping):
        return _read_columns(key, paths, columns, form)
    files = find_files(key, paths)
    given = shown(Path(paths)) if isinstance(paths, str) else f"data.{key}"
    name = str(shown(files[0])) if len(files) == 1 else f"{given} ({len(files)} files)"
    tables = [_read_file(key, file, columns, form, field).from_file(file.resolve()) for file in files]
    return concatenate(tables, name)


def matching(path: str) -> list[Path]:
    """The file of that name, or those of a pattern in alphabetical order."""
    return [Path(path)] if Path(path).exists() else sorted(map(Path, glob.glob(path, recursive=True)))  # noqa: PTH207


def find_files(key: str, paths: Paths) -> list[Path]:
    """The files that are meant.

    Raises:
        UserError: there are none, or a path is empty or a folder.
    """
    given = list(paths.values()) if isinstance(paths, Mapping) else [paths] if isinstance(paths, str) else list(paths)
    found: list[Path] = []
    for path in given:
        if not path:
            raise UserError(f"data.{key} is empty; if it came from a variable of the shell, that is not set")
        if Path(path).is_dir():
            raise UserError(
                f"data.{key}={path} is a folder; give a file, or read a folder with a folder a class by data=folders "
                "data.path=, one with a file a split by data=hub data.path="
            )
        files = [file for file in matching(path) if file.is_file()]
        if not files:
            raise UserError(f"data.{key}={path} is no file")
        found += files
    if not found:
        raise UserError(f"data.{key} names no file")
    return found


@contextmanager
def reading_from(what: str, form: Form) -> Iterator[None]:
    """Make whatever is wrong with the file `what` a `UserError` that says what to do."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a file from outside can fail in any way
        message = first_line(error).rstrip(".")
        if not isinstance(error, UnicodeError):
            advice = ". Mend the file or get it again"
        elif form.encoding is None:
            advice = "; if it is not in UTF-8 say in what with data.encoding=, such as cp1252 or latin-1"
        else:
            advice = f"; it is not in data.encoding={form.encoding}"
        raise UserError(f"can't read {what}: {message}{advice}") from error


def _read_file(key: str, path: Path, columns: Columns, form: Form, field: str | None) -> Table:
    with reading_from(f"data.{key}={path}", form):
        kind, name = form.format_of(key, path), str(shown(path))
        if field is not None and kind != "json":
            raise UserError(f"data.field={field} is for JSON files, and {name} is none; leave it out")
        with open_file(path) as file:
            if kind == "json":
                return read_json(file, name, columns, form, field)
            if kind == "parquet":
                return read_parquet(file, name, columns)
            if kind == "fasttext":
                return _read_fasttext(file, name, columns, form)
            return read_separated(file, name, columns, form, "\t" if kind == "tsv" else ",")


def documents_below(folder: Path) -> list[Path]:
    """Every file at any depth but hidden ones, in the order of their names."""
    return sorted(path for path in folder.rglob("[!.]*") if path.is_file())


def read_document(file: BufferedReader, form: Form) -> str:
    """The whole file as one text."""
    encoding = form.encoding_of(file)
    return file.read().decode(encoding)


def read_lines(file: BufferedReader, encoding: str) -> Iterator[str]:
    """The lines without their ends."""
    return (line.rstrip("\n") for line in io.TextIOWrapper(file, encoding=encoding))


def split_fasttext(lines: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """The text and the labels of each line."""
    return ((LABEL_WORD.sub("", line).strip(), LABEL_WORD.findall(line)) for line in lines)


def _read_fasttext(file: BufferedReader, name: str, columns: Columns, form: Form) -> Table:
    """One document a line, with its labels in it: `__label__sport Two late goals`."""
    for key, column in columns.named:
        if key in ("group", "id", "text_pair"):
            raise UserError(f"data.{key}={column}: {name} has fastText's lines, which have no columns; leave it out")
    encoding = form.encoding_of(file)
    texts, labels = [], list[Any]()
    for text, found in split_fasttext(read_lines(file, encoding)):
        texts.append(text)
        labels.append(found)
    if all(len(found) <= 1 for found in labels):
        labels = [found[0] if found else "" for found in labels]
    plain, how = Columns(TextFormat(), "label"), f"; fastText's lines, {encoding.removesuffix('-sig')}"
    return plain.table(name, {"text": texts, "label": labels}, how=how)


def _read_columns(key: str, paths: Mapping[str, str], columns: Columns, form: Form) -> Table:
    """A file of lines for each column, such as `{text: train_text.txt, label: train_labels.txt}`."""
    values, encoding = {}, ""
    for column, path in paths.items():
        files = find_files(key, str(path))
        if len(files) > 1:
            raise UserError(f"data.{key}.{column}={path} names {len(files)} files; give one")
        with reading_from(f"data.{key}.{column}={path}", form), open_file(files[0]) as opened:
            encoding = form.encoding_of(opened)
            values[str(column)] = list(read_lines(opened, encoding))
    name = ", ".join(str(shown(Path(path))) for path in paths.values())
    sizes = [len(lines) for lines in values.values()]
    if len(set(sizes)) > 1:
        raise UserError(f"{name} have {', '.join(map(str, sizes))} lines; they need equally many, one a document")
    needed = columns.needed(list(values), name)
    how = f"; a line a document, {encoding.removesuffix('-sig')}"
    table = columns.table(name, {column: values[column] for column in needed}, present=list(values), how=how)
    return table.from_file(Path(str(paths[columns.texts[0]])).resolve())
