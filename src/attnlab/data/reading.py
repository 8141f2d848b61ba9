"""Data files, read as they are written: no type is guessed, and a parquet file's own types count. Rows count from 0."""

import csv
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from attnlab.data.labels import BETWEEN, flagged
from attnlab.errors import UserError, first_line

log = logging.getLogger(__name__)

# Whether quotation marks enclose a text, with separators or line breaks in it; None: in .csv they do, in .tsv not.
Quoting = Literal["minimal", "none"] | None
NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")


@dataclass(frozen=True)
class Columns:
    """Which columns of a data set hold the texts and the labels. Names may be given as numbers.

    Attributes:
        flags: where a document may have several labels, columns of 0 and 1 that are named after them.
        separator: or what stands between them in one column; lists need none.
    """

    text: str
    label: str
    flags: tuple[str, ...] = ()
    separator: str | None = None

    @classmethod
    def of(cls, text: str | int, label: str | int | list[str], separator: str | None) -> "Columns":
        """As settings name them."""
        if isinstance(label, str | int):
            return cls(str(text), str(label), (), separator)
        flags = tuple(map(str, label))
        return cls(str(text), f"[{','.join(flags)}]", flags)

    @property
    def labels(self) -> tuple[str, ...]:
        """The columns that hold the labels."""
        return self.flags or (self.label,)

    def check(self, present: Sequence[str], name: str) -> None:
        """Raises `UserError` where `present`, the columns of what messages call `name`, lacks one or has it twice."""
        for key, column in (("text", self.text), *(("label", label) for label in self.labels)):
            if column not in present:
                quoted = f'"{column}"' in present
                raise UserError(
                    f"data.{key}={column} is no column of {name}; it has {', '.join(present)}"
                    + ("; data.quoting=minimal takes the quotation marks away" if quoted else "")
                )
            if present.count(column) > 1:
                raise UserError(f"{name} has two columns named {column}; rename one of them")

    def table(
        self, name: str, texts: Iterable[Any], labels: Sequence[Sequence[Any]], classes: list[str] | None = None
    ) -> "Table":
        """What stands in the columns; integer labels are numbers of `classes`, where these are given.

        labels: of each of the columns `labels`.

        Raises:
            UserError: something there is no text, or no label.
        """
        values = labels[0]
        if self.flags:
            values, classes = flagged(name, self.flags, labels), list(self.flags)
        elif self.separator:
            values = [[part.strip() for part in str(value or "").split(self.separator)] for value in values]
        several = any(isinstance(value, list) for value in values)
        found = [
            BETWEEN.join(filter(None, self._labels(name, value if isinstance(value, list) else [value], classes or [])))
            for value in values
        ]
        return Table(name, self.label, list(self._texts(name, texts)), found, classes, several)

    def _texts(self, name: str, values: Iterable[Any]) -> Iterator[str]:
        for row, value in enumerate(values):
            if not isinstance(value, str | None):
                raise UserError(
                    f"data.text={self.text} of {name} holds {type(value).__name__} (row {row}), no text; "
                    "name another column"
                )
            if not value or value.isspace():
                raise UserError(f"{name}, row {row}: the text is empty; remove the row from the data")
            yield value

    def _labels(self, name: str, values: Iterable[Any], classes: list[str]) -> Iterator[str]:
        for value in values:
            if classes and isinstance(value, int) and -1 <= value < len(classes):
                yield "" if value == -1 else classes[value]  # -1 is the Hub's "not labelled"
            elif isinstance(value, str | int):
                yield str(value)
            elif value is None or value != value:  # NaN, as which pandas writes what is missing
                yield ""
            else:
                raise UserError(
                    f"data.label={self.label} of {name} holds {value!r}; labels are strings or integers: rewrite them"
                )


@dataclass(frozen=True)
class Table:
    """The two columns of a split.

    Attributes:
        name: of the file or split, in messages.
        column: the one that holds the labels.
        texts: none of them empty.
        labels: as they are written, "" where there is none, and with `BETWEEN` between several.
        classes: all that there can be, in their order, where the set says so.
        several: whether a document may have any number of labels.
    """

    name: str
    column: str
    texts: list[str]
    labels: list[str]
    classes: list[str] | None = None
    several: bool = False

    def label_sets(self) -> list[list[str]]:
        """The labels of each document."""
        if not self.several:
            return [[label] for label in self.labels]
        return [label.split(BETWEEN) if label else [] for label in self.labels]

    def find_classes(self) -> list[str]:
        """The labels that occur, unless the set names its classes: by size if all are numbers, else by alphabet.

        Raises:
            UserError: there are none, or so many that the column holds something else.
        """
        if self.classes is not None:
            return self.classes
        present = {label for labels in self.label_sets() for label in labels} - {""}
        if not present:
            raise UserError(f"data.label={self.column} of {self.name} holds no label; name another column")
        if not self.several and len(present) > 20 and len(present) > len(self.labels) / 2:
            raise UserError(
                f"data.label={self.column} of {self.name} holds {len(present):,} different values in "
                f"{len(self.labels):,} rows; labels repeat, so name another column"
            )
        numbers = all(map(NUMBER.fullmatch, present))
        return sorted(present, key=lambda name: (float(name), name) if numbers else (0, name))


def read_file(key: str, path: str, columns: Columns, quoting: Quoting) -> Table:
    """The file `path`, which the setting `data.<key>` names.

    Raises:
        UserError: there is no such file, it is of no kind that is read, or it is damaged.
    """
    file = Path(path)
    if file.is_dir():
        raise UserError(
            f"data.{key}={path} is a folder; give a file, or read a folder with one file a split by data=hub data.path="
        )
    suffix = file.suffix.lower()
    if suffix not in READERS:
        raise UserError(f"data.{key}={path}: files end in one of {', '.join(READERS)}")
    if not file.is_file():
        raise UserError(f"data.{key}={path} is no file")
    try:
        return READERS[suffix](file, columns, quoting)
    except UserError:
        raise
    except Exception as error:  # a file from outside can fail in any way
        message = first_line(error).rstrip(".")
        if isinstance(error, UnicodeDecodeError):
            message += "; save the file as UTF-8"
        raise UserError(f"can't read data.{key}={path}: {message}. Mend the file or get it again") from error


def is_quoted(quoting: Quoting, separator: str) -> bool:
    """Whether quotation marks quote. A tab stands in no text, so a file with tabs has no need of them."""
    return separator != "\t" if quoting is None else quoting == "minimal"


def warn_of_quotes(table: Table, quoted: bool) -> None:
    """Say where quotation marks look like the opposite of what they were taken for."""
    if quoted:
        rows = [row for row, text in enumerate(table.texts) if "\n" in text or "\r" in text]
        if rows:
            log.warning(
                "%s: %s texts hold a line break, the first in row %d; if quotation marks are not meant to quote, give "
                "data.quoting=none",
                table.name,
                f"{len(rows):,}",
                rows[0],
            )
    else:
        count = sum(len(text) > 1 and text[0] == text[-1] == '"' for text in table.texts)
        if count:
            log.warning(
                "%s: %s texts begin and end with a quotation mark, which are part of them; data.quoting=minimal reads "
                "them as quoted",
                table.name,
                f"{count:,}",
            )


def _read_separated(separator: str) -> Callable[[Path, Columns, Quoting], Table]:
    def read(file: Path, columns: Columns, quoting: Quoting) -> Table:
        import pandas as pd  # half a second to import, so only where it is used

        quoted = is_quoted(quoting, separator)
        # The header is read as a row: pandas then renames no column, and takes none for an index in rows too wide.
        rows = pd.read_csv(
            file,
            sep=separator,
            header=None,
            dtype=str,
            na_filter=False,
            quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        )
        header = rows.iloc[0].to_list()
        columns.check(header, str(file))
        if len(rows) == 1:
            raise ValueError("it has no rows")
        texts, *labels = (rows[header.index(column)].to_list()[1:] for column in (columns.text, *columns.labels))
        table = columns.table(str(file), texts, labels)
        warn_of_quotes(table, quoted)
        return table

    return read


def _read_json(file: Path, columns: Columns, quoting: Quoting) -> Table:
    del quoting
    texts: list[Any] = []
    labels: list[list[Any]] = [[] for _ in columns.labels]
    present: dict[str, None] = {}  # in their order
    row = None
    for row in _json_rows(file):
        present |= dict.fromkeys(row)
        text, found = row.get(columns.text), [row.get(label) for label in columns.labels]
        try:
            f"{text}{found}".encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"row {len(texts)} holds one half of a surrogate pair, which is no character") from error
        texts.append(text)
        for values, label in zip(labels, found, strict=True):
            values.append(json.dumps(label) if isinstance(label, bool) else label)
    if row is None:
        raise ValueError("it has no rows")
    if (
        len(texts) == 1
        and not isinstance(texts[0], str)
        and any(isinstance(value, dict | list) for value in row.values())
    ):
        raise _other_shape(file)
    columns.check(list(present), str(file))
    return columns.table(str(file), texts, labels)


def _json_rows(file: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file: one a line if the first line is one, else the entries of a list."""
    with file.open(encoding="utf-8-sig") as lines:
        start = next((line for line in lines if line.strip()), "")
        try:
            by_line = isinstance(_loads(start), dict)
        except ValueError:  # a list of several lines, or damaged
            by_line = False
        if by_line:
            lines.seek(0)
            rows: Iterable[Any] = (_loads(line, number) for number, line in enumerate(lines) if line.strip())
        else:
            whole = _loads(start + lines.read()) if start else []
            rows = whole if isinstance(whole, list) else [whole]
        for row in rows:
            if not isinstance(row, dict):
                raise _other_shape(file)
            yield row


def _loads(text: str, lines_before: int = 0) -> Any:
    """Numbers as they are written; NaN and the infinities are no JSON and stand for what is missing."""
    try:
        return json.loads(text, parse_int=str, parse_float=str, parse_constant=lambda _: None)
    except json.JSONDecodeError as error:
        place = f"line {lines_before + error.lineno}, column {error.colno}"
        raise ValueError(f"JSON error in {place}: {error.msg}") from error


def _other_shape(file: Path) -> UserError:
    return UserError(
        f"{file} is JSON of another shape than is read, one object a line or a list of objects, each with a text and a "
        "label; rewrite it so"
    )


def _read_parquet(file: Path, columns: Columns, quoting: Quoting) -> Table:
    del quoting
    import pyarrow.parquet

    parquet = pyarrow.parquet.ParquetFile(file)
    schema = parquet.schema_arrow
    columns.check(schema.names, str(file))
    if parquet.metadata.num_rows == 0:
        raise ValueError("it has no rows")
    rows = parquet.read([columns.text, *columns.labels])
    texts, *labels = (rows.column(column).to_pylist() for column in (columns.text, *columns.labels))
    return columns.table(str(file), texts, labels, _class_names(schema.metadata, columns.label))


def _class_names(metadata: dict[bytes, bytes] | None, column: str) -> list[str] | None:
    """Of a file that `datasets` wrote, whose labels are numbers of named classes."""
    if not metadata or b"huggingface" not in metadata:
        return None
    feature = json.loads(metadata[b"huggingface"])["info"]["features"].get(column, {})
    names = feature.get("names") or feature.get("feature", {}).get("names")
    return None if names is None else [str(name) for name in names]


READERS: dict[str, Callable[[Path, Columns, Quoting], Table]] = {
    ".csv": _read_separated(","),
    ".tsv": _read_separated("\t"),
    ".json": _read_json,
    ".jsonl": _read_json,
    ".parquet": _read_parquet,
}
