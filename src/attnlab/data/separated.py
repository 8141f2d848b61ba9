"""CSV, TSV and their kin, read by pandas without guessing any type."""

import codecs
import csv
import io
import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from io import BufferedReader
from itertools import chain
from typing import TYPE_CHECKING

from attnlab.data.forms import LOOKED_AT, Form, Quoting
from attnlab.data.tables import Columns, Table
from attnlab.data.tokens import AT_ONCE
from attnlab.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

DELIMITERS = ",;\t|"  # that are looked for where none is set
LINES = 20  # at the start of a file, that are looked at for it


def is_quoted(quoting: Quoting, delimiter: str) -> bool:
    """Whether quotation marks quote. A tab stands in no text, so a file with tabs has no need of them."""
    return delimiter != "\t" if quoting is None else quoting == "minimal"


@dataclass(frozen=True)
class Separated:
    """A file whose values are separated, as it was understood.

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


def open_separated(file: BufferedReader, wanted: Collection[str], form: Form, usual: str) -> Separated:
    """Find the delimiter that makes the columns `wanted`, `usual` unless the file says otherwise, and begin to read.

    Raises:
        Exception: whatever pandas finds wrong, here or in the parts.
    """
    import pandas as pd  # half a second to import, so only where it is used

    encoding = form.encoding_of(file)
    delimiter = form.delimiter or _find_delimiter(first_lines(file, encoding), wanted, form, usual)
    quoted = is_quoted(form.quoting, delimiter)
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
    first = next(parts)
    present = first.iloc[0].to_list() if form.header else [str(number) for number in range(first.shape[1])]
    return Separated(present, chain([first.iloc[1:] if form.header else first], parts), delimiter, encoding, quoted)


def read_separated(file: BufferedReader, name: str, columns: Columns, form: Form, usual: str) -> Table:
    """The columns of a file whose values are separated, by `usual` unless it says otherwise.

    Raises:
        UserError: a column is not there.
        Exception: whatever pandas finds wrong.
    """
    opened = open_separated(file, {column for _, column in columns.named}, form, usual)
    try:
        needed = columns.needed(opened.present, name)
    except UserError as error:
        raise UserError(f"{error}{_advice(opened, columns, form)}") from None
    values: dict[str, list[str]] = {column: [] for column in needed}
    size = 0
    for part in opened.parts:  # not a second copy of all texts at once
        size += len(part)
        for column, of_column in values.items():
            of_column += part[opened.present.index(column)].to_list()
    if not size:
        raise ValueError("it has no rows")
    found = "" if opened.delimiter == usual or form.delimiter else " (found)"
    marks = "quote" if opened.quoted else "are text"
    how = f"; separated by {opened.delimiter!r}{found}, {opened.encoding.removesuffix('-sig')}, quotation marks {marks}"
    return replace(columns.table(name, values, present=opened.present, how=how), quoted=opened.quoted)


def first_lines(file: BufferedReader, encoding: str) -> list[str]:
    """Up to `LINES` at the start of a file, which is then read as if nobody had looked."""
    start = file.peek()
    lines = list(io.StringIO(codecs.getincrementaldecoder(encoding)().decode(start), newline=""))
    whole = lines[:-1] if len(start) == LOOKED_AT and len(lines) > 1 else lines  # the last one goes on
    return whole[:LINES]


def separates(delimiter: str, lines: list[str], wanted: Collection[str], form: Form) -> bool:
    """Whether it makes the columns that are `wanted` of these lines."""
    quoted = is_quoted(form.quoting, delimiter)
    reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE)
    rows = [row for row in reader if row]
    if not rows:
        return False
    if form.header:
        return set(wanted) <= set(rows[0])
    return len({*map(len, rows)}) == 1 and set(wanted) <= set(map(str, range(len(rows[0]))))


def _find_delimiter(lines: list[str], wanted: Collection[str], form: Form, usual: str) -> str:
    """The usual one, unless just one other makes the columns that are asked for of the first lines."""
    try:
        if separates(usual, lines, wanted, form):
            return usual
        found = [delimiter for delimiter in DELIMITERS if separates(delimiter, lines, wanted, form)]
    except csv.Error:  # a field of more than 131,072 characters
        return usual
    return found[0] if len(found) == 1 else usual


def _advice(opened: Separated, columns: Columns, form: Form) -> str:
    """Why a column may not be there."""
    wanted = [column for _, column in columns.named]
    if not opened.quoted and any(f'"{column}"' in opened.present for column in wanted):
        return "; data.quoting=minimal takes the quotation marks away"
    if not form.header:
        return ""
    if all(column.isdigit() for column in wanted):
        return "; columns are counted from 0 with data.header=false"
    return "; if that is no header but the first row, give data.header=false data.text=1 data.label=0"


def warn_of_quotes(table: Table) -> None:
    """Say where quotation marks look like the opposite of what they were taken for."""
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
