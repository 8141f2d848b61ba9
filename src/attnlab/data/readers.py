"""The reader of tables: each form of file, opened as columns or rows that come a part at a time.

No type is guessed, as labels such as 007 and 1.0 are names; only the types that a parquet file declares count.
"""

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from itertools import chain, islice
from typing import Any, Literal

from attnlab.data.file_access import PEEK_BYTES
from attnlab.data.json_rows import json_rows
from attnlab.data.text_format import Format, Quoting, TextFormat
from attnlab.data.tokens import AT_ONCE
from attnlab.errors import UserError, first_line

Row = dict[str, Any]
Values = dict[str, list[Any]]  # some rows, by column
Form = Format | Literal["lines"]

FASTTEXT_LABEL = "__label__"
LABEL_WORD = re.compile(rf"(?<!\S){FASTTEXT_LABEL}(\S+)\s*")
DELIMITERS = ",;\t|"  # candidates if none is set
PEEK_LINES = 20  # at the start of a file, from which the delimiter is detected


@dataclass(frozen=True)
class OpenTable:
    """A file that is being read. Either `parts` or `rows` may be called, once.

    Attributes:
        name: of the file, in messages.
        columns: their names; of JSON those that `parts` has come across so far, as each row may have further ones.
        parts: yields the values of these columns, as many rows at a time as `open_table` was asked for.
        records: of JSON its rows, which keep what their columns would lose: which of them each row has.
        description: how the file is written, in words.
        schema, num_rows: of a parquet file.
        quoted: whether quotation marks enclose texts; None where they can't.
    """

    name: str
    columns: list[str]
    parts: Callable[[Sequence[str]], Iterator[Values]]
    records: Iterator[list[Row]] | None = None
    description: str = ""
    schema: Any = None
    num_rows: int | None = None
    quoted: bool | None = None

    def rows(self) -> Iterator[list[Row]]:
        """All columns, as many rows at a time as `parts` gives.

        Raises:
            UserError: two columns have the same name.
        """
        if twin := next((column for column in self.columns if self.columns.count(column) > 1), None):
            raise UserError(f"{self.name} has two columns named {twin}; rename one of them")
        if self.records is not None:
            yield from self.records
            return
        for part in self.parts(self.columns):
            if rows := [dict(zip(part, row, strict=True)) for row in zip(*part.values(), strict=True)]:
                yield rows


def open_table(
    file: BufferedReader,
    name: str,
    form: Form,
    text_format: TextFormat,
    columns: Sequence[str],
    size: int = AT_ONCE,
    numbers: type[str] | None = None,
) -> OpenTable:
    """Open a file that is written in this form.

    Args:
        columns: the ones that the caller looks for, by which a delimiter is recognised; the first one holds texts.
        size: rows in a part.
        numbers: `str` reads the numbers of JSON as they are written.

    Raises:
        UserError: it is JSON of an unknown shape.
        Exception: whatever json, pandas or pyarrow find wrong, here or while it is read; see `reading_errors`.
    """
    if form == "parquet":
        return _open_parquet(file, name, size)
    if form in ("csv", "tsv"):
        return _open_delimited(file, name, columns, text_format, "\t" if form == "tsv" else ",", size)
    encoding = text_format.encoding_of(file)
    # "utf-8-sig" is how Python names UTF-8 with an optional byte order mark, which is no news to a user.
    written = encoding.removesuffix("-sig")
    if form == "json":
        lines = io.TextIOWrapper(file, encoding=encoding)
        rows = json_rows(lines, name, columns[0], text_format.field, numbers)
        return _open_json(rows, name, size, f"; JSON, {written}")
    documents = read_lines(file, encoding)

    def parts(_: Sequence[str]) -> Iterator[Values]:
        while some := list(islice(documents, size)):
            if form == "lines":
                yield {"text": some}
            else:  # one document a line, with its labels in it: "__label__sport Two late goals"
                texts = [LABEL_WORD.sub("", line).strip() for line in some]
                yield {"text": texts, "label": [LABEL_WORD.findall(line) for line in some]}

    return OpenTable(
        name,
        ["text"] if form == "lines" else ["text", "label"],
        parts,
        description=f"; {'lines' if form == 'lines' else 'fastText lines'}, {written}",
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


def _open_json(rows: Iterator[Row], name: str, size: int, description: str) -> OpenTable:
    present: list[str] = []

    # Kept as rows too: a list of column values can't tell a missing value from null, which predict.py writes back.
    records = iter(lambda: list(islice(rows, size)), [])

    def parts(columns: Sequence[str]) -> Iterator[Values]:
        count = 0
        for some in records:
            present[:] = dict.fromkeys([*present, *(column for row in some for column in row)])
            values: Values = {column: [row.get(column) for row in some] for column in columns}
            for of_column in values.values():
                for place, value in enumerate(of_column):
                    # JSON can hold half of a surrogate pair, at which the tokenizer would fail without naming the row.
                    try:
                        str(value).encode()
                    except UnicodeEncodeError as error:
                        raise ValueError(
                            f"row {count + place} holds one half of a surrogate pair, which is not a character"
                        ) from error
                    if isinstance(value, bool):
                        of_column[place] = json.dumps(value)
            count += len(some)
            yield values

    return OpenTable(name, present, parts, records, description)


def _open_parquet(file: BufferedReader, name: str, size: int) -> OpenTable:
    import pyarrow.parquet

    # The index stands at the end of the file, and standard input can't be read from there.
    parquet = pyarrow.parquet.ParquetFile(file if file.seekable() else io.BytesIO(file.read()))
    schema = parquet.schema_arrow

    def parts(columns: Sequence[str]) -> Iterator[Values]:
        for batch in parquet.iter_batches(size, columns=list(columns)):
            yield {column: batch.column(column).to_pylist() for column in columns}

    return OpenTable(name, schema.names, parts, schema=schema, num_rows=parquet.metadata.num_rows)


def _open_delimited(
    file: BufferedReader, name: str, wanted: Collection[str], text_format: TextFormat, usual: str, size: int
) -> OpenTable:
    """Find the delimiter that makes the columns `wanted`: `usual`, unless the file says otherwise."""
    import pandas as pd  # half a second to import, so only where it is used

    encoding = text_format.encoding_of(file)
    delimiter = text_format.delimiter or _find_delimiter(first_lines(file, encoding), wanted, text_format, usual)
    quoted = quotes_enclose(text_format.quoting, delimiter)
    # The header is read as a row, because otherwise pandas renames columns of the same name, and takes the first column
    # for an index if rows are wider than the header. `na_filter` would turn texts such as NA into missing values.
    reader = pd.read_csv(
        file,
        sep=delimiter,
        header=None,
        dtype=str,
        na_filter=False,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        encoding=encoding,
        chunksize=size,
    )
    # Only the first rows, so that a header that does not fit is refused before all is read.
    first = reader.get_chunk(size + text_format.header)
    present = first.iloc[0].to_list() if text_format.header else [str(number) for number in range(first.shape[1])]

    def parts(columns: Sequence[str]) -> Iterator[Values]:
        for part in chain([first.iloc[int(text_format.header) :]], reader):
            yield {column: part[present.index(column)].to_list() for column in columns}

    found = "" if delimiter == usual or text_format.delimiter else " (found)"
    marks = "quote" if quoted else "are text"
    description = f"; separated by {delimiter!r}{found}, {encoding.removesuffix('-sig')}, quotation marks {marks}"
    return OpenTable(name, present, parts, description=description, quoted=quoted)


def quotes_enclose(quoting: Quoting, delimiter: str) -> bool:
    """Whether quotation marks enclose texts. By default not in files with tabs, which texts lack."""
    return delimiter != "\t" if quoting is None else quoting == "minimal"


def guess_form(file: BufferedReader, text_format: TextFormat, columns: Sequence[str], may_be_table: bool) -> Form:
    """How a file is written, by its first lines; lines of text, unless it looks like something else.

    Args:
        columns: of the texts, by which a table is recognised.
        may_be_table: whether any delimiter makes a table; else a tab alone, as a comma may be a sentence's own.
    """
    if file.peek().startswith(b"PAR1"):
        return "parquet"
    lines = first_lines(file, text_format.encoding_of(file))
    start = "".join("".join(lines).split())
    if start.startswith(('{"', "[{", '["', "[[")):
        return "json"
    if start.startswith(FASTTEXT_LABEL):
        return "fasttext"
    if may_be_table:
        delimiters = text_format.delimiter or DELIMITERS
        return "csv" if any(_is_delimiter(mark, lines, columns, text_format) for mark in delimiters) else "lines"
    is_tsv = bool(lines) and "\t" in lines[0] and _is_delimiter("\t", lines, columns, text_format)
    return "tsv" if is_tsv else "lines"


def first_lines(file: BufferedReader, encoding: str) -> list[str]:
    """Up to `PEEK_LINES` at the start of a file, without moving its position."""
    start = file.peek()
    lines = list(io.StringIO(codecs.getincrementaldecoder(encoding)().decode(start), newline=""))
    # The last line may continue behind the bytes that were read.
    whole = lines[:-1] if len(start) == PEEK_BYTES and len(lines) > 1 else lines
    return whole[:PEEK_LINES]


def _is_delimiter(delimiter: str, lines: list[str], wanted: Collection[str], text_format: TextFormat) -> bool:
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
        if _is_delimiter(usual, lines, wanted, text_format):
            return usual
        found = [delimiter for delimiter in DELIMITERS if _is_delimiter(delimiter, lines, wanted, text_format)]
    except csv.Error:  # a field of more than 131,072 characters
        return usual
    return found[0] if len(found) == 1 else usual
