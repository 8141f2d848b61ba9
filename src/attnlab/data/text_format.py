"""The text format: how files are written, which of their columns hold texts, and how these make one document."""

import codecs
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from io import BufferedReader
from pathlib import Path
from typing import Any, Literal

from attnlab.data.file_access import plain_suffix
from attnlab.data.tokens import Documents
from attnlab.errors import UserError

# Whether quotation marks enclose texts with delimiters or line breaks in them; None: in .csv they do, in .tsv not.
Quoting = Literal["minimal", "none"] | None
Format = Literal["csv", "tsv", "json", "parquet", "fasttext"]

FORMATS: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
}
BOMS = {
    codecs.BOM_UTF32_LE: "utf-32",  # first, because it begins with the mark of UTF-16
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@dataclass(frozen=True)
class TextFormat:
    """How files are written, which of their columns hold the texts, and how these are joined.

    A source has one, and a checkpoint keeps it as plain data, so that whatever uses a model assembles texts as training
    did.

    Attributes:
        format: the form of files whose suffix is not in `FORMATS`.
        header: whether the first row names the columns; otherwise they are numbered from 0.
        delimiter: between the columns of a row; None, also of `encoding` and `field`: detected in each file.
        encoding: a name that Python knows.
        quoting: see `Quoting`.
        text: the columns whose texts make a document, or the first text of a pair.
        join: goes between them; empty texts are left out.
        text_pair: the column of the second texts, where documents are pairs of texts.
        field: the key under which a JSON file has its documents.
        folders: whether each file is one document without columns, as `data=folders` reads them.
    """

    # Checkpoints hold these fields by name: renaming one makes older models unreadable.
    format: Format | None = None
    header: bool = True
    delimiter: str | None = None
    encoding: str | None = None
    quoting: Quoting = None
    text: Sequence[str] = ("text",)
    join: str = " "
    text_pair: str | None = None
    field: str | None = None
    folders: bool = False

    def __post_init__(self) -> None:
        if self.delimiter == r"\t":  # a shell passes a tab on as these two characters
            object.__setattr__(self, "delimiter", "\t")
        if self.delimiter is not None and len(self.delimiter) != 1:
            raise UserError(f"data.delimiter={self.delimiter} must be one character")
        try:
            codecs.lookup(self.encoding or "utf-8")
        except LookupError as error:
            raise UserError(
                f"data.encoding={self.encoding} is not an encoding that Python knows; utf-8, latin-1 and cp1252 are"
            ) from error

    def encoding_of(self, file: BufferedReader) -> str:
        """The encoding that is set, or that a byte order mark names, or UTF-8."""
        start = file.peek()
        named = next((name for mark, name in BOMS.items() if start.startswith(mark)), "utf-8-sig")
        return self.encoding or named

    def plain(self) -> dict[str, Any]:
        """As plain data, for a checkpoint."""
        return asdict(self) | {"text": list(self.text)}

    def of_file(self, path: Path) -> "TextFormat":
        """This format for a file whose suffix may override it."""
        known = FORMATS.get(plain_suffix(path))
        field = self.field if (known or self.format) in ("json", None) else None
        return replace(self, format=None if known else self.format, field=field)

    def complete(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The config of a source in which settings that are null get the values of this format."""
        # The suffix of a file may contradict `format`; the first file decides, that of the test if there is one.
        paths: Any = data.get("train") if isinstance(data.get("test"), float | int | None) else data.get("test")
        first = paths[0] if isinstance(paths, list) and paths else paths
        own = (self.of_file(Path(first)) if isinstance(first, str) else self).plain()
        own["text"] = own["text"] if len(self.text) > 1 else self.text[0]
        return {key: own.get(key) if value is None else value for key, value in data.items()}

    def changed(self, data: Mapping[str, Any]) -> "TextFormat":
        """This format, changed by what the config of a source sets."""
        given = {key: value for key, value in data.items() if value is not None and key in self.plain()}
        if "text" in given:
            given["text"] = tuple(map(str, _listed(given["text"])))
        if "text_pair" in given:
            given["text_pair"] = str(given["text_pair"])
        return replace(self, **given)

    def changes(self, data: Mapping[str, Any]) -> str:
        """The differences to the config of a source, for a message; "" if there are none."""
        own, new = self.plain(), self.changed(data).plain()
        return ", ".join(f"{key}={new[key]!r} (in training {own[key]!r})" for key in own if own[key] != new[key])

    def documents(self, rows: Sequence[Mapping[str, Any]]) -> Documents:
        """The document of each row: its text, or the pair of its texts, with "" for a missing column."""
        firsts = [self.joined([as_text(row.get(column), column) for column in self.text]) for row in rows]
        if self.text_pair is None:
            return firsts
        seconds = (as_text(row.get(self.text_pair), self.text_pair) for row in rows)
        return list(zip(firsts, seconds, strict=True))

    def joined(self, texts: Iterable[str]) -> str:
        """One document from the texts of its columns."""
        return self.join.join(filter(None, texts))

    def __str__(self) -> str:
        between = f", joined by {self.join!r}" if len(self.text) > 1 else ""
        pair = "" if self.text_pair is None else f"; its pair from {self.text_pair}"
        return f"text from {' + '.join(self.text)}{between}{pair}"


def _listed(value: Any) -> list[Any]:
    return [value] if isinstance(value, str | int) else list(value)


def as_text(value: Any, column: str) -> str:
    """A value of a column as training reads it: a number as it is written, a missing value as "".

    Raises:
        UserError: it is a list, an object or bytes, or holds half of a surrogate pair.
    """
    if value is None or value != value:
        return ""
    text = json.dumps(value) if isinstance(value, bool) else str(value)
    try:
        text.encode()
        if isinstance(value, str | int | float):
            return text
    except UnicodeEncodeError:
        pass
    raise UserError(f"column {column} holds {value!r:.40}, which is not text: name another column, or correct it")
