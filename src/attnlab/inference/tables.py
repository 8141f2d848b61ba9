"""The tables of `src/predict.py`: rows are read and written, with more columns, a part at a time."""

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
from attnlab.errors import UserError, first_line, relative_to_cwd
from attnlab.inference.predictor import BLOCK

Output = Literal["csv", "tsv", "jsonl", "parquet"]

STREAM = "-"  # standard input or output
OUTPUTS: dict[str, Output] = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".parquet": "parquet"}
LABEL_SEPARATOR = ";"  # between the labels of a document in CSV and TSV
NAMES = {"json": "JSON", "lines": "lines of text, a document each", "fasttext": "lines of fastText"}


class Part(NamedTuple):
    """Some rows of a file.

    Attributes:
        rows: their values by column.
        text_format: how their texts are assembled.
        schema: the types of a parquet file.
        share: of all input that has been read; None where that is unknown.
    """

    rows: list[Row]
    text_format: TextFormat
    schema: Any
    share: float | None


def read_parts(path: str, text_format: TextFormat, given: Collection[str]) -> Iterator[Part]:
    """The rows of a file, of all files of a pattern or a folder, or of standard input, as training reads them.

    Args:
        text_format: that of training, with the settings that the user has changed.
        given: the names of these settings, which take precedence over the suffix of a file.

    Raises:
        UserError: a file does not exist, is damaged, or lacks a column.
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
        name = STREAM if path == STREAM else str(relative_to_cwd(file))
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
    """A row for each file."""
    if path == STREAM:
        print("input=- is read as one document; to change this give data.format=", file=sys.stderr)
    for start in range(0, len(files), BLOCK):
        rows = []
        for file in files[start : start + BLOCK]:
            with reading_errors(f"input={relative_to_cwd(file)}", text_format), _opened(file) as raw:
                text = read_document(BufferedReader(raw), text_format)  # type: ignore[arg-type]
                rows.append({"file": str(relative_to_cwd(file)), "text": text})
        yield Part(rows, TextFormat(), None, min(1.0, (start + BLOCK) / len(files)))


def _columns(text_format: TextFormat) -> list[str]:
    return [*text_format.text, *([text_format.text_pair] if text_format.text_pair is not None else [])]


def _form(file: BufferedReader, path: Path, name: str, text_format: TextFormat, given: Collection[str]) -> Form:
    """The form by `data.format`, the suffix, the format in training, or the first lines; a guess is reported."""
    known = None if "format" in given else FORMATS.get(plain_suffix(path))
    if known or text_format.format:
        return known or text_format.format  # type: ignore[return-value]
    columns = _columns(text_format)
    may_be_table = text_format.header or text_format.delimiter is not None or "header" in given
    form = guess_form(file, text_format, columns, may_be_table)
    if form != "parquet":
        found = NAMES.get(form, f"a table with the column {', '.join(columns)}")
        print(f"input={name} is read as {found}; to change this give data.format=", file=sys.stderr)
    return form


def _check_columns(path: str, text_format: TextFormat, rows: list[Row]) -> None:
    present = dict.fromkeys(column for row in rows for column in row)
    for columns, what, setting in (
        (text_format.text, "texts", "text_column=, or if each line is a text give data.format=lines"),
        ([text_format.text_pair], "second texts", "data.text_pair="),
    ):
        if missing := next((column for column in columns if column not in (None, *present)), None):
            raise UserError(
                f"input={path} has no column {missing}; it has {', '.join(present)}: name the one with the {what} by "
                + setting
            )


def _share(raw: BinaryIO, file: Path, share: float | None) -> float | None:
    """The share of a file that has been read, in rows if their number is known, otherwise in bytes."""
    if share is not None or not file.is_file() or plain_suffix(file) == ".json":  # it is read before the first row
        return share
    return 1.0 if raw.closed else raw.tell() / file.stat().st_size


class Writer:
    """Writes a table to standard output, or to a file that is complete or does not exist.

    If an exception ends the `with` block, what was written is removed; after Ctrl-C it is kept, named `partial`.

    Args:
        path: "-", or a path with a suffix in `OUTPUTS` unless `kind` is given.
        added: the types of the columns that are added to those that were read: str, float or list.
        labels: the labels that may stand together in one value.

    Raises:
        UserError: the file can't be written, or a value does not fit into this kind of file.
    """

    def __init__(self, path: str, kind: Output | None, added: Mapping[str, type], labels: Sequence[str] = ()) -> None:
        found = kind or OUTPUTS.get(Path(path).suffix.lower())
        if found is None:
            raise UserError(f"output={path} has an unknown suffix: use {', '.join(OUTPUTS)}, or give format=csv")
        if found in ("csv", "tsv") and (label := next((label for label in labels if LABEL_SEPARATOR in label), None)):
            raise UserError(
                f"output={path}: the class {label!r} contains {LABEL_SEPARATOR!r}, which separates labels there; "
                "use format=jsonl or format=parquet, which have lists"
            )
        self.path, self.kind, self.added = Path(path), found, added
        self.partial = self.path.with_name(f"{self.path.name}.partial")
        self.streamed = path == STREAM
        self.binary: Any = None
        self.parquet: Any = None
        self.columns: list[str] = []
        self.rows, self.end = 0, 0  # the rows that are written, and the position behind them

    def __enter__(self) -> "Writer":
        return self

    def write(self, rows: list[Row], schema: Any = None) -> None:
        """Add rows; `schema` is that of the parquet file that they come from."""
        try:
            if self.binary is None:
                self._open(rows, schema)
            # The first part decides the columns of a table; JSON lines can have further ones.
            new = (column for row in rows for column in row if column not in self.columns)
            if self.kind != "jsonl" and (other := next(new, None)):
                raise ValueError(f"the first rows have no column {other}")
            if self.kind == "parquet":
                self.parquet.write_table(self._arrow(rows, self.parquet.schema))
            else:
                self.end += self.binary.write(self._text(rows).encode())
        except BrokenPipeError:  # the reader of standard output has closed it, as `head` does
            raise
        except OSError as error:
            raise UserError(f"output={self.path} can't be written: {error.strerror}") from error
        except (csv.Error, ValueError, TypeError) as error:
            place = f"rows {self.rows:,} to {self.rows + len(rows) - 1:,} do not fit into output={self.path}"
            advice = "a .jsonl file can hold further columns and lists, a .parquet file infinities and bytes"
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
        # Python before 3.11.9 leaves a bare CR unquoted unless the line terminator contains one.
        target = SimpleNamespace(write=lambda line: lines.append(line.removesuffix("\r\n") + "\n"))
        # In .tsv quotation marks are part of the text, as the reader takes them.
        tabs = {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None} if self.kind == "tsv" else {}
        table = csv.writer(target, lineterminator="\r\n", **tabs)  # type: ignore[arg-type]
        if not self.rows:
            table.writerow(self.columns)
        table.writerows([_cell(row.get(column)) for column in self.columns] for row in rows)
        return "".join(lines)

    def _arrow(self, rows: list[Row], schema: Any) -> Any:
        """A table with the types of the schema and of `added`, other columns with types that pyarrow infers."""
        import pyarrow as pa

        types = {str: pa.string(), float: pa.float64(), list: pa.list_(pa.string())}
        known = {field.name: field.type for field in schema} | {name: types[kind] for name, kind in self.added.items()}
        arrays = (pa.array([row.get(name) for row in rows], known.get(name)) for name in self.columns)
        # A column without values gets a type, because those of later parts would not fit into the type null.
        filled = [array.cast(pa.string()) if pa.types.is_null(array.type) else array for array in arrays]
        return pa.table(dict(zip(self.columns, filled, strict=True)))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.binary is None:  # nothing was written
            return
        if self.parquet is not None:
            self.parquet.close()
        if self.streamed:
            if kind is not BrokenPipeError:
                self.binary.flush()
            return
        if kind is KeyboardInterrupt and self.kind != "parquet":
            self.binary.truncate(self.end)  # removes rows that were partly written
        self.binary.close()
        if kind is None:
            self.partial.replace(self.path)
        elif kind is KeyboardInterrupt:
            print(f"interrupted: {self.rows:,} rows are in {relative_to_cwd(self.partial)}", file=sys.stderr)
        else:
            self.partial.unlink()


def _json(value: Any) -> str:
    """One line of JSON, with null for NaN. Raises `ValueError` for infinities and bytes, which JSON does not have."""
    return json.dumps(_with_nulls(value), ensure_ascii=False, default=_as_str, allow_nan=False)


def _with_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_nulls(part) for key, part in value.items()}
    if isinstance(value, list):
        return list(map(_with_nulls, value))
    return None if isinstance(value, float) and value != value else value


def _as_str(value: Any) -> str:
    """A date, for instance. Raises `ValueError` for bytes, which could not be read back."""
    if isinstance(value, bytes):
        raise ValueError("bytes are not text")
    return str(value)


def _cell(value: Any) -> Any:
    """A value as CSV and TSV hold it."""
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        if joined := next((part for part in value if LABEL_SEPARATOR in part), None):
            raise ValueError(f"{joined!r} contains {LABEL_SEPARATOR!r}, which separates labels")
        return LABEL_SEPARATOR.join(value)
    return _json(value) if isinstance(value, list | dict) else _as_str(value) if isinstance(value, bytes) else value
