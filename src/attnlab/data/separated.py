"""CSV, TSV and their kin, read by pandas without guessing any type."""

import csv
import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import BinaryIO

from attnlab.data.forms import Form, Quoting
from attnlab.data.tables import Columns, Table
from attnlab.errors import UserError

log = logging.getLogger(__name__)

DELIMITERS = ",;\t|"  # that are looked for where none is set
LOOKED_AT = 20  # lines at the start of a file


def is_quoted(quoting: Quoting, delimiter: str) -> bool:
    """Whether quotation marks quote. A tab stands in no text, so a file with tabs has no need of them."""
    return delimiter != "\t" if quoting is None else quoting == "minimal"


def read_separated(file: BinaryIO, name: str, columns: Columns, form: Form, usual: str) -> Table:
    """The columns of a file whose values are separated, by `usual` unless it says otherwise.

    Raises:
        UserError: a column is not there.
        Exception: whatever pandas finds wrong.
    """
    import pandas as pd  # half a second to import, so only where it is used

    encoding = form.encoding_of(file)
    delimiter = form.delimiter or _find_delimiter(file, encoding, columns, form, usual)
    quoted = is_quoted(form.quoting, delimiter)
    # The header is read as a row: pandas then renames no column, and takes none for an index in rows too wide.
    rows = pd.read_csv(
        file,
        sep=delimiter,
        header=None,
        dtype=str,
        na_filter=False,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        encoding=encoding,
    )
    present = rows.iloc[0].to_list() if form.header else [str(number) for number in range(rows.shape[1])]
    with _advice(present, columns, form, quoted):
        needed = columns.needed(present, name)
    rows = rows.iloc[1:] if form.header else rows
    if rows.empty:
        raise ValueError("it has no rows")
    values = {column: rows[present.index(column)].to_list() for column in needed}
    table = columns.table(name, values, present=present)
    found = "" if delimiter == usual or form.delimiter else " (found)"
    marks = "quote" if quoted else "are text"
    words = f"{table.form}; separated by {delimiter!r}{found}, {encoding.removesuffix('-sig')}, quotation marks {marks}"
    return replace(table, form=words, quoted=quoted)


def _find_delimiter(file: BinaryIO, encoding: str, columns: Columns, form: Form, usual: str) -> str:
    """The usual one, unless just one other makes the columns that are asked for of the first lines."""
    text = io.TextIOWrapper(file, encoding=encoding, newline="")
    lines = list(islice(text, LOOKED_AT))
    text.detach()
    file.seek(0)
    wanted = {column for _, column in columns.named}

    def fits(delimiter: str) -> bool:
        reader = csv.reader(
            lines,
            delimiter=delimiter,
            quoting=csv.QUOTE_MINIMAL if is_quoted(form.quoting, delimiter) else csv.QUOTE_NONE,
        )
        rows = [row for row in reader if row]
        if not rows:
            return False
        if form.header:
            return wanted <= set(rows[0])
        return len({*map(len, rows)}) == 1 and wanted <= set(map(str, range(len(rows[0]))))

    try:
        if fits(usual):
            return usual
        found = [delimiter for delimiter in DELIMITERS if fits(delimiter)]
    except csv.Error:  # a field of more than 131,072 characters
        return usual
    return found[0] if len(found) == 1 else usual


@contextmanager
def _advice(present: list[str], columns: Columns, form: Form, quoted: bool) -> Iterator[None]:
    """Add to what is said of a column that is not there why that may be."""
    try:
        yield
    except UserError as error:
        wanted = [column for _, column in columns.named]
        advice = ""
        if not quoted and any(f'"{column}"' in present for column in wanted):
            advice = "; data.quoting=minimal takes the quotation marks away"
        elif form.header and all(column.isdigit() for column in wanted):
            advice = "; columns are counted from 0 with data.header=false"
        elif form.header:
            advice = "; if that is no header but the first row, give data.header=false data.text=1 data.label=0"
        raise UserError(f"{error}{advice}") from None


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
