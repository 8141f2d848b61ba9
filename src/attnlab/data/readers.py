"""Readers of tables: each form of file becomes a `Table`, its values as they are written.

No type is guessed, as labels such as 007 and 1.0 are names; only the types that a parquet file declares count.
"""

import codecs
import csv
import io
import json
import logging
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BufferedReader
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from attnlab.data.file_access import PEEK_BYTES, Paths, find_files, open_file, plain_suffix
from attnlab.data.json_rows import json_rows
from attnlab.data.tables import Columns, Table, concatenate
from attnlab.data.text_format import FORMATS, Format, Quoting, TextFormat
from attnlab.data.tokens import AT_ONCE
from attnlab.errors import UserError, first_line
from attnlab.paths import shown

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

FASTTEXT_LABEL = "__label__"
LABEL_WORD = re.compile(rf"(?<!\S){FASTTEXT_LABEL}(\S+)\s*")
DELIMITERS = ",;\t|"  # candidates if none is set
PEEK_LINES = 20  # at the start of a file, from which the delimiter is detected


def read_split(key: str, paths: Paths, columns: Columns, text_format: TextFormat, field: str | None = None) -> Table:
    """The table of the files that the setting `data.<key>` names; of JSON files the part under `field`.

    Raises:
        UserError: a file does not exist, has an unknown format, or is damaged.
    """
    if isinstance(paths, Mapping):
        return _read_columns(key, paths, columns, text_format)
    files = find_files(key, paths)
    given = shown(Path(paths)) if isinstance(paths, str) else f"data.{key}"
    name = str(shown(files[0])) if len(files) == 1 else f"{given} ({len(files)} files)"
    tables = [_read_file(key, file, columns, text_format, field).from_file(file.resolve()) for file in files]
    return concatenate(tables, name)


def _read_file(key: str, path: Path, columns: Columns, text_format: TextFormat, field: str | None) -> Table:
    with reading_errors(f"data.{key}={path}", text_format):
        kind, name = detect_format(key, path, text_format), str(shown(path))
        if field is not None and kind != "json":
            raise UserError(f"data.field={field} is for JSON files, which {name} is not; leave it out")
        with open_file(path) as file:
            if kind == "json":
                return _read_json(file, name, columns, text_format, field)
            if kind == "parquet":
                return _read_parquet(file, name, columns)
            if kind == "fasttext":
                return _read_fasttext(file, name, columns, text_format)
            return _read_delimited(file, name, columns, text_format, "\t" if kind == "tsv" else ",")


def detect_format(key: str, path: Path, text_format: TextFormat) -> Format:
    """The form of a file by `data.format`, by its suffix, or by its first bytes, which may be a label of fastText's.

    Raises:
        UserError: no reader is known for it.
    """
    if text_format.format is not None:
        return text_format.format
    suffix = plain_suffix(path)
    if suffix in FORMATS:
        return FORMATS[suffix]
    if text_format.delimiter is not None:
        return "csv"
    with open_file(path) as file:
        if file.read(len(FASTTEXT_LABEL)) == FASTTEXT_LABEL.encode():
            return "fasttext"
    raise UserError(
        f"data.{key}={path}: unknown suffix, known are {', '.join(FORMATS)}; for other files give "
        "data.format=csv, tsv, json, parquet or fasttext, or a file of lines for each column: "
        f"\"data.{key}='{{text: <file>, label: <file>}}'\""
    )


@contextmanager
def reading_errors(what: str, text_format: TextFormat) -> Iterator[None]:
    """Turn any error from reading `what` into a `UserError` that says what to do."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a file from outside can fail in any way
        message = first_line(error).rstrip(".")
        if not isinstance(error, UnicodeError):
            advice = ". Fix the file or download it again"
        elif text_format.encoding is None:
            advice = "; if it is not UTF-8, give its encoding with data.encoding=, such as cp1252 or latin-1"
        else:
            advice = f"; it is not in data.encoding={text_format.encoding}"
        raise UserError(f"can't read {what}: {message}{advice}") from error


def read_document(file: BufferedReader, text_format: TextFormat) -> str:
    """The whole file as one text."""
    encoding = text_format.encoding_of(file)
    return file.read().decode(encoding)


def read_lines(file: BufferedReader, encoding: str) -> Iterator[str]:
    """The lines without their ends."""
    return (line.rstrip("\n") for line in io.TextIOWrapper(file, encoding=encoding))


def parse_fasttext(lines: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """The text and the labels of each line."""
    return ((LABEL_WORD.sub("", line).strip(), LABEL_WORD.findall(line)) for line in lines)


def _read_fasttext(file: BufferedReader, name: str, columns: Columns, text_format: TextFormat) -> Table:
    """One document a line, with its labels in it: `__label__sport Two late goals`."""
    for key, column in columns.named:
        if key in ("group", "id", "text_pair"):
            raise UserError(f"data.{key}={column}: {name} is in fastText's format, which has no columns; leave it out")
    encoding = text_format.encoding_of(file)
    texts, labels = [], list[Any]()
    for text, found in parse_fasttext(read_lines(file, encoding)):
        texts.append(text)
        labels.append(found)
    if all(len(found) <= 1 for found in labels):
        labels = [found[0] if found else "" for found in labels]
    plain, how = Columns(TextFormat(), "label"), f"; fastText's lines, {encoding.removesuffix('-sig')}"
    return plain.table(name, {"text": texts, "label": labels}, how=how)


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
    name = ", ".join(str(shown(Path(path))) for path in paths.values())
    sizes = [len(lines) for lines in values.values()]
    if len(set(sizes)) > 1:
        raise UserError(
            f"{name} have {', '.join(map(str, sizes))} lines; they need the same number, one for each document"
        )
    needed = columns.needed(list(values), name)
    how = f"; a line a document, {encoding.removesuffix('-sig')}"
    table = columns.table(name, {column: values[column] for column in needed}, present=list(values), how=how)
    return table.from_file(Path(str(paths[columns.texts[0]])).resolve())


def _read_json(file: BufferedReader, name: str, columns: Columns, text_format: TextFormat, field: str | None) -> Table:
    """The columns of an object or a list a line, or of a whole that `data.field` may name a part of.

    Raises:
        UserError: it has an unknown shape.
        ValueError: it is damaged, or holds half a surrogate pair.
    """
    encoding = text_format.encoding_of(file)
    lines = io.TextIOWrapper(file, encoding=encoding)
    values: dict[str, list[Any]] = {column: [] for _, column in columns.named}
    present: dict[str, None] = {}  # in their order
    count = 0
    for row in json_rows(lines, name, columns.texts[0], field, numbers=str):
        present |= dict.fromkeys(row)
        for column, of_column in values.items():
            value = row.get(column)
            try:
                str(value).encode()
            except UnicodeEncodeError as error:
                raise ValueError(f"row {count} holds one half of a surrogate pair, which is not a character") from error
            of_column.append(json.dumps(value) if isinstance(value, bool) else value)
        count += 1
    if not count:
        raise ValueError("it has no rows")
    found = {column: values[column] for column in columns.needed(list(present), name)}
    return columns.table(name, found, present=list(present), how=f"; JSON, {encoding.removesuffix('-sig')}")


def _read_parquet(file: BinaryIO, name: str, columns: Columns) -> Table:
    """The columns of a parquet file, whose own types count.

    Raises:
        UserError: a column is not there.
        Exception: whatever pyarrow finds wrong.
    """
    import pyarrow.parquet

    parquet = pyarrow.parquet.ParquetFile(file)
    schema = parquet.schema_arrow
    needed = columns.needed(schema.names, name)
    if parquet.metadata.num_rows == 0:
        raise ValueError("it has no rows")
    values: dict[str, list[Any]] = {column: [] for column in needed}
    for batch in parquet.iter_batches(columns=needed):  # not a second copy of all texts at once
        for column, of_column in values.items():
            of_column += batch.column(column).to_pylist()
    return columns.table(name, values, _class_names(schema.metadata, columns.label), schema.names)


def _class_names(metadata: dict[bytes, bytes] | None, column: str) -> list[str] | None:
    """Of a file that `datasets` wrote, whose labels are numbers of named classes."""
    if not metadata or b"huggingface" not in metadata:
        return None
    feature = json.loads(metadata[b"huggingface"])["info"]["features"].get(column, {})
    names = feature.get("names") or feature.get("feature", {}).get("names")
    return None if names is None else [str(name) for name in names]


@dataclass(frozen=True)
class DelimitedFile:
    """An open file of delimited values, such as CSV.

    Attributes:
        present: the names of its columns, or their numbers.
        parts: its rows, `AT_ONCE` at a time, as strings.
        quoted: whether quotation marks quote.
    """

    present: list[str]
    parts: "Iterator[pd.DataFrame]"
    delimiter: str
    encoding: str
    quoted: bool


def open_delimited(file: BufferedReader, wanted: Collection[str], text_format: TextFormat, usual: str) -> DelimitedFile:
    """Find the delimiter that makes the columns `wanted`, `usual` unless the file says otherwise, and begin to read.

    Raises:
        Exception: whatever pandas finds wrong, here or in the parts.
    """
    import pandas as pd  # half a second to import, so only where it is used

    encoding = text_format.encoding_of(file)
    delimiter = text_format.delimiter or _find_delimiter(first_lines(file, encoding), wanted, text_format, usual)
    quoted = quotes_enclose(text_format.quoting, delimiter)
    # The header is read as a row: pandas then renames no column, and takes none for an index in rows too wide.
    parts = pd.read_csv(
        file,
        sep=delimiter,
        header=None,
        dtype=str,
        na_filter=False,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        encoding=encoding,
        chunksize=AT_ONCE,
    )
    first = next(parts)  # at most `AT_ONCE` rows, so that a header that does not fit is refused before all is read
    present = first.iloc[0].to_list() if text_format.header else [str(number) for number in range(first.shape[1])]
    return DelimitedFile(
        present, chain([first.iloc[1:] if text_format.header else first], parts), delimiter, encoding, quoted
    )


def _read_delimited(file: BufferedReader, name: str, columns: Columns, text_format: TextFormat, usual: str) -> Table:
    """The columns of a delimited file; `usual` is the delimiter of its suffix.

    Raises:
        UserError: a column is not there.
        Exception: whatever pandas finds wrong.
    """
    opened = open_delimited(file, {column for _, column in columns.named}, text_format, usual)
    try:
        needed = columns.needed(opened.present, name)
    except UserError as error:
        raise UserError(f"{error}{_advice(opened, columns, text_format)}") from None
    values: dict[str, list[str]] = {column: [] for column in needed}
    size = 0
    for part in opened.parts:  # not a second copy of all texts at once
        size += len(part)
        for column, of_column in values.items():
            of_column += part[opened.present.index(column)].to_list()
    if not size:
        raise ValueError("it has no rows")
    found = "" if opened.delimiter == usual or text_format.delimiter else " (found)"
    marks = "quote" if opened.quoted else "are text"
    how = f"; separated by {opened.delimiter!r}{found}, {opened.encoding.removesuffix('-sig')}, quotation marks {marks}"
    return replace(columns.table(name, values, present=opened.present, how=how), quoted=opened.quoted)


def quotes_enclose(quoting: Quoting, delimiter: str) -> bool:
    """Whether quotation marks enclose texts. By default not in files with tabs, which texts lack."""
    return delimiter != "\t" if quoting is None else quoting == "minimal"


def first_lines(file: BufferedReader, encoding: str) -> list[str]:
    """Up to `PEEK_LINES` at the start of a file, without moving its position."""
    start = file.peek()
    lines = list(io.StringIO(codecs.getincrementaldecoder(encoding)().decode(start), newline=""))
    whole = (
        lines[:-1] if len(start) == PEEK_BYTES and len(lines) > 1 else lines
    )  # the last one may go on after these bytes
    return whole[:PEEK_LINES]


def is_delimiter(delimiter: str, lines: list[str], wanted: Collection[str], text_format: TextFormat) -> bool:
    """Whether this delimiter divides these lines into the `wanted` columns."""
    quoted = quotes_enclose(text_format.quoting, delimiter)
    reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE)
    rows = [row for row in reader if row]
    if not rows:
        return False
    if text_format.header:
        return set(wanted) <= set(rows[0])
    return len({*map(len, rows)}) == 1 and set(wanted) <= set(map(str, range(len(rows[0]))))


def _find_delimiter(lines: list[str], wanted: Collection[str], text_format: TextFormat, usual: str) -> str:
    """The usual delimiter, unless exactly one other divides the lines into the wanted columns."""
    try:
        if is_delimiter(usual, lines, wanted, text_format):
            return usual
        found = [delimiter for delimiter in DELIMITERS if is_delimiter(delimiter, lines, wanted, text_format)]
    except csv.Error:  # a field of more than 131,072 characters
        return usual
    return found[0] if len(found) == 1 else usual


def _advice(opened: DelimitedFile, columns: Columns, text_format: TextFormat) -> str:
    """Advice for a column that is missing."""
    wanted = [column for _, column in columns.named]
    if not opened.quoted and any(f'"{column}"' in opened.present for column in wanted):
        return "; data.quoting=minimal takes the quotation marks away"
    if not text_format.header:
        return ""
    if all(column.isdigit() for column in wanted):
        return "; columns are counted from 0 with data.header=false"
    return "; if the first row is not a header, give data.header=false data.text=1 data.label=0"


def warn_about_quotes(table: Table) -> None:
    """Warn if quotation marks look as if they were misread: as enclosing texts, or as part of them."""
    if table.quoted:
        rows = [row for row, text in enumerate(table.texts) if "\n" in text or "\r" in text]
        if rows:
            log.warning(
                "%s: %s texts hold a line break, the first in %s; if quotation marks are not meant to quote, give "
                "data.quoting=none",
                table.name,
                f"{len(rows):,}",
                table.place(rows[0]),
            )
    elif table.quoted is not None:
        count = sum(len(text) > 1 and text[0] == text[-1] == '"' for text in table.texts)
        if count:
            log.warning(
                "%s: %s texts begin and end with a quotation mark, which are part of them; data.quoting=minimal reads "
                "them as quoted",
                table.name,
                f"{count:,}",
            )
