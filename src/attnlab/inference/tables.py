"""Rows in, the same rows with more columns out, a part at a time."""

import csv
import json
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from io import BufferedReader
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO, Literal, NamedTuple

from attnlab.data.file_access import expand_pattern, files_below, plain_suffix, unpacked
from attnlab.data.readers import Form, Row, guess_form, open_table, read_document, reading_errors
from attnlab.data.text_format import FORMATS, TextFormat
from attnlab.errors import UserError, first_line
from attnlab.inference.predictor import BLOCK
from attnlab.paths import shown

Output = Literal["csv", "tsv", "jsonl", "parquet"]

STREAM = "-"  # standard input or output
OUTPUTS: dict[str, Output] = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".parquet": "parquet"}
BETWEEN = ";"  # several labels of a document, where a column holds text alone
NAMES = {"json": "JSON", "lines": "lines of text, a document each", "fasttext": "fastText's lines"}


class Part(NamedTuple):
    """Some rows of a file.

    Attributes:
        rows: each by the names of its columns.
        text_format: how their texts are assembled.
        schema: of a parquet file, its types.
        share: of all input, as far as this goes; None where that can't be known.
    """

    rows: list[Row]
    text_format: TextFormat
    schema: Any
    share: float | None


def read_parts(path: str, text_format: TextFormat, given: Collection[str]) -> Iterator[Part]:
    """The rows of a file, of all files of a pattern or a folder, or of standard input, as training reads them.

    Args:
        text_format: as in training, but for what is given anew.
        given: names of those settings, which stand above what the name of a file says.

    Raises:
        UserError: there is no such file, it is damaged, or has no such columns.
    """
    if Path(path).is_dir() and text_format.folders:
        yield from _documents(path, files_below(Path(path)), text_format)
        return
    files = [Path(path)] if path == STREAM else expand_pattern(path)
    if not files or not all(file.is_file() for file in files if path != STREAM):
        if Path(path).is_dir():
            raise UserError(f"input={path} is a folder; give a file in it, or a pattern such as '{path}/*.csv'")
        raise UserError(f"input={path} does not exist")
    if text_format.folders and "format" not in given and not any(plain_suffix(file) in FORMATS for file in files):
        yield from _documents(path, files, text_format)
        return
    for number, file in enumerate(files):
        name = STREAM if path == STREAM else str(shown(file))
        with reading_errors(f"input={name}", text_format), _opened(file) as raw:
            content = unpacked(raw, file)
            form = _form(content, file, name, text_format, given)
            if "field" in given and form != "json":
                raise UserError(f"data.field={text_format.field} is for JSON files, which {name} is not; leave it out")
            used = TextFormat() if form in ("lines", "fasttext") else text_format
            table = open_table(content, name, form, text_format, _columns(used), BLOCK)
            done = 0
            for rows in table.rows():
                if not done:
                    _check_columns(path, used, rows)
                done += len(rows)
                share = _share(raw, file, done / table.num_rows if table.num_rows else None)
                yield Part(rows, used, table.schema, share and (number + share) / len(files))


def _opened(file: Path) -> BinaryIO:
    return sys.stdin.buffer if str(file) == STREAM else file.open("rb")


def _documents(path: str, files: Sequence[Path], text_format: TextFormat) -> Iterator[Part]:
    """A row a file."""
    if path == STREAM:
        print("input=- is read as one document; data.format= says otherwise", file=sys.stderr)
    for start in range(0, len(files), BLOCK):
        rows = []
        for file in files[start : start + BLOCK]:
            with reading_errors(f"input={shown(file)}", text_format), _opened(file) as raw:
                rows.append({"file": str(shown(file)), "text": read_document(BufferedReader(raw), text_format)})  # type: ignore[arg-type]
        yield Part(rows, TextFormat(), None, min(1.0, (start + BLOCK) / len(files)))


def _columns(text_format: TextFormat) -> list[str]:
    return [*text_format.text, *([text_format.text_pair] if text_format.text_pair is not None else [])]


def _form(file: BufferedReader, path: Path, name: str, text_format: TextFormat, given: Collection[str]) -> Form:
    """By `data.format`, by the suffix, as in training, or by the first lines; a guess is reported."""
    known = None if "format" in given else FORMATS.get(plain_suffix(path))
    if known or text_format.format:
        return known or text_format.format  # type: ignore[return-value]
    columns = _columns(text_format)
    may_be_table = text_format.header or text_format.delimiter is not None or "header" in given
    form = guess_form(file, text_format, columns, may_be_table)
    if form != "parquet":
        found = NAMES.get(form, f"a table with the column {', '.join(columns)}")
        print(f"input={name} is read as {found}; data.format= says otherwise", file=sys.stderr)
    return form


def _check_columns(path: str, text_format: TextFormat, rows: list[Row]) -> None:
    present = dict.fromkeys(column for row in rows for column in row)
    for columns, what, setting in (
        (text_format.text, "texts", "text_column=, or say data.format=lines where each line is a text"),
        ([text_format.text_pair], "second texts", "data.text_pair="),
    ):
        if missing := next((column for column in columns if column not in (None, *present)), None):
            raise UserError(
                f"input={path} has no column {missing}; it has {', '.join(present)}: name the one with the {what} by "
                + setting
            )


def _share(raw: BinaryIO, file: Path, share: float | None) -> float | None:
    """How much of a file has been read, in rows where their number is known, or else in bytes."""
    if share is not None or not file.is_file() or plain_suffix(file) == ".json":  # read whole before the first row
        return share
    return 1.0 if raw.closed else raw.tell() / file.stat().st_size


class Writer:
    """A table on disk that is there whole or not at all, or one on standard output.

    Left by an exception it removes what was written; by Ctrl-C it keeps that under another name, `partial`.

    Args:
        path: ends in one of `OUTPUTS`, unless `kind` is given, or is "-".
        added: the types of the columns that every row has besides those that were read: str, float or list.
        labels: that may stand together in one column.

    Raises:
        UserError: it can't be written, or holds what this kind of file can't.
    """

    def __init__(self, path: str, kind: Output | None, added: Mapping[str, type], labels: Sequence[str] = ()) -> None:
        found = kind or OUTPUTS.get(Path(path).suffix.lower())
        if found is None:
            raise UserError(f"output={path} is of no known form: end it in {', '.join(OUTPUTS)}, or give format=csv")
        if found in ("csv", "tsv") and (label := next((label for label in labels if BETWEEN in label), None)):
            raise UserError(
                f"output={path}: the class {label!r} holds {BETWEEN!r}, which stands between several labels there; "
                "format=jsonl and format=parquet have lists"
            )
        self.path, self.kind, self.added = Path(path), found, added
        self.partial = self.path.with_name(f"{self.path.name}.partial")
        self.streamed = path == STREAM
        self.binary: Any = None
        self.parquet: Any = None
        self.columns: list[str] = []
        self.rows, self.end = 0, 0  # that are written, and where in the file they end

    def __enter__(self) -> "Writer":
        return self

    def write(self, rows: list[Row], schema: Any = None) -> None:
        """Add rows; `schema` has the types of the parquet file that they came from."""
        try:
            if self.binary is None:
                self._open(rows, schema)
            new = (column for row in rows for column in row if column not in self.columns)
            if self.kind != "jsonl" and (other := next(new, None)):
                raise ValueError(f"the first rows have no column {other}")
            if self.kind == "parquet":
                self.parquet.write_table(self._arrow(rows, self.parquet.schema))
            else:
                self.end += self.binary.write(self._text(rows).encode())
        except BrokenPipeError:  # whoever reads standard output has seen enough
            raise
        except OSError as error:
            raise UserError(f"output={self.path} can't be written: {error.strerror}") from error
        except (csv.Error, ValueError, TypeError) as error:
            place = f"rows {self.rows:,} to {self.rows + len(rows) - 1:,} do not fit into output={self.path}"
            advice = "a .jsonl file holds further columns and lists, a .parquet file infinities and bytes"
            raise UserError(f"{place} ({first_line(error)}); {advice}") from error
        self.rows += len(rows)

    def _open(self, rows: list[Row], schema: Any) -> None:
        self.columns = list(dict.fromkeys(column for row in rows for column in row))
        if self.streamed:
            self.binary = sys.stdout.buffer
        else:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.binary = self.partial.open("wb")
        if self.kind == "parquet":
            import pyarrow.parquet

            self.parquet = pyarrow.parquet.ParquetWriter(self.binary, self._arrow(rows, schema or []).schema)

    def _text(self, rows: list[Row]) -> str:
        if self.kind == "jsonl":
            return "".join(_json(row) + "\n" for row in rows)
        lines: list[str] = []
        # Python before 3.11.9 quotes a bare CR only where it is part of a line's end.
        target = SimpleNamespace(write=lambda line: lines.append(line.removesuffix("\r\n") + "\n"))
        # As they are read: quotation marks quote in .csv and are text in .tsv.
        tabs = {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None} if self.kind == "tsv" else {}
        table = csv.writer(target, lineterminator="\r\n", **tabs)  # type: ignore[arg-type]
        if not self.rows:
            table.writerow(self.columns)
        table.writerows([_cell(row.get(column)) for column in self.columns] for row in rows)
        return "".join(lines)

    def _arrow(self, rows: list[Row], schema: Any) -> Any:
        """As a table with the types of the schema, of `added`, or whatever holds the values."""
        import pyarrow as pa

        types = {str: pa.string(), float: pa.float64(), list: pa.list_(pa.string())}
        known = {field.name: field.type for field in schema} | {name: types[kind] for name, kind in self.added.items()}
        arrays = (pa.array([row.get(name) for row in rows], known.get(name)) for name in self.columns)
        filled = [array.cast(pa.string()) if pa.types.is_null(array.type) else array for array in arrays]
        return pa.table(dict(zip(self.columns, filled, strict=True)))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.binary is None:
            return
        if self.parquet is not None:
            self.parquet.close()
        if self.streamed:
            if kind is not BrokenPipeError:
                self.binary.flush()
            return
        if kind is KeyboardInterrupt and self.kind != "parquet":
            self.binary.truncate(self.end)  # no part of rows that were being written
        self.binary.close()
        if kind is None:
            self.partial.replace(self.path)
        elif kind is KeyboardInterrupt:
            print(f"interrupted: {self.rows:,} rows are in {shown(self.partial)}", file=sys.stderr)
        else:
            self.partial.unlink()


def _json(value: Any) -> str:
    """One line; what is no number is null. Raises `ValueError` for infinities and bytes, which JSON does not have."""
    return json.dumps(_with_nulls(value), ensure_ascii=False, default=_in_words, allow_nan=False)


def _with_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_nulls(part) for key, part in value.items()}
    if isinstance(value, list):
        return list(map(_with_nulls, value))
    return None if isinstance(value, float) and value != value else value


def _in_words(value: Any) -> str:
    """Dates and the like. Raises `ValueError` for bytes, which no reader would get back."""
    if isinstance(value, bytes):
        raise ValueError("bytes are not text")
    return str(value)


def _cell(value: Any) -> Any:
    """As a table of text holds it."""
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        if joined := next((part for part in value if BETWEEN in part), None):
            raise ValueError(f"{joined!r} holds {BETWEEN!r}, which stands between several labels")
        return BETWEEN.join(value)
    return _json(value) if isinstance(value, list | dict) else _in_words(value) if isinstance(value, bytes) else value
