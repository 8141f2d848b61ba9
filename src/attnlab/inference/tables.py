"""Rows of a table in, the same rows with more columns out, a part at a time."""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from attnlab.data.forms import FORMATS, Form, Format, open_file, plain_suffix
from attnlab.data.separated import is_quoted
from attnlab.data.tokens import AT_ONCE
from attnlab.errors import UserError, first_line
from attnlab.paths import shown

if TYPE_CHECKING:
    import pandas as pd

STREAM = "-"  # standard input or output
DELIMITERS = {"csv": ",", "tsv": "\t"}


def read_parts(path: str, form: Form) -> "Iterator[pd.DataFrame]":
    """The rows of a file, or of standard input, as they are written: no type is guessed.

    Raises:
        UserError: there is no such file, it is of no kind that is read here, or it is damaged.
    """
    if path != STREAM and not Path(path).is_file():
        raise UserError(f"input={path} is no file")
    if path == STREAM and form.format is None:
        raise UserError("input=- says nothing of its form: give format=csv, tsv or json (an object a line)")
    kind = _kind("input", path, form)
    try:
        with sys.stdin.buffer if path == STREAM else open_file(Path(path)) as file:
            yield from _parts(file, kind, form)
    except UserError:
        raise
    except Exception as error:  # a file from outside can fail in any way
        raise UserError(f"can't read input={path}: {first_line(error)}") from error


def _kind(key: str, path: str, form: Form) -> Format:
    """By `format`, or by the suffix. Raises `UserError` where neither says it."""
    kind = form.format or FORMATS.get(plain_suffix(Path(path)))
    if kind is None:
        raise UserError(f"{key}={path} is of no known form: give {', '.join(FORMATS)} (input also with format=csv)")
    if kind == "fasttext":
        raise UserError("format=fasttext has no columns for answers: write the texts into a column of a .csv file")
    return kind


def _parts(file: BinaryIO, kind: Format, form: Form) -> "Iterator[pd.DataFrame]":
    import pandas as pd  # half a second to import, so only where it is used

    if kind == "parquet":
        import pyarrow.parquet

        for batch in pyarrow.parquet.ParquetFile(file).iter_batches(AT_ONCE):
            yield batch.to_pandas()
    elif kind == "json":
        yield from pd.read_json(file, lines=True, chunksize=AT_ONCE, dtype=False, convert_dates=False)
    else:
        delimiter = form.delimiter or DELIMITERS[kind]
        quoting = csv.QUOTE_MINIMAL if is_quoted(form.quoting, delimiter) else csv.QUOTE_NONE
        header = 0 if form.header else None
        encoding = form.encoding or "utf-8-sig"
        settings: dict[str, Any] = {"sep": delimiter, "quoting": quoting, "header": header, "encoding": encoding}
        for part in pd.read_csv(file, dtype=str, na_filter=False, index_col=False, chunksize=AT_ONCE, **settings):
            part.columns = part.columns.map(str)
            yield part


class Writer:
    """A table on disk that is there whole or not at all, or one on standard output.

    Left by an exception it keeps what was written so far under another name, `partial`.

    Args:
        path: ends in .csv, .tsv, .jsonl or .parquet, or is "-".
        form: of standard output.

    Raises:
        UserError: the path says nothing of a form.
    """

    def __init__(self, path: str, form: Form) -> None:
        self.path = Path(path)
        self.kind = _kind("output", path, form if path == STREAM else Form())
        self.partial = self.path.with_name(f"{self.path.name}.partial")
        self.file: Any = None
        self.rows = 0

    def __enter__(self) -> "Writer":
        return self

    def write(self, part: "pd.DataFrame") -> None:
        """Add these rows, of the same columns as those before."""
        if self.file is None:
            self.file = self._open(part)
        if self.kind == "parquet":
            import pyarrow as pa

            self.file.write_table(pa.Table.from_pandas(part, schema=self.file.schema, preserve_index=False))
        elif self.kind == "json":
            self.file.write(part.to_json(orient="records", lines=True, force_ascii=False))
        else:
            part.to_csv(self.file, sep=DELIMITERS[self.kind], index=False, header=not self.rows, lineterminator="\n")
        self.rows += len(part)

    def _open(self, part: "pd.DataFrame") -> Any:
        if str(self.path) == STREAM:
            return sys.stdout
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.kind != "parquet":
                return self.partial.open("w", encoding="utf-8", newline="")
            import pyarrow as pa
            import pyarrow.parquet

            return pyarrow.parquet.ParquetWriter(self.partial, pa.Schema.from_pandas(part, preserve_index=False))
        except OSError as error:
            raise UserError(f"output={self.path} can't be written: {error.strerror}") from error

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.file is None or self.file is sys.stdout:
            return
        self.file.close()
        if kind is None:
            self.partial.replace(self.path)
        elif kind is KeyboardInterrupt:
            print(f"interrupted: {self.rows:,} rows are in {shown(self.partial)}", file=sys.stderr)
        else:
            self.partial.unlink()
