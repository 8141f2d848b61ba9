"""How a data file is written, where that does not follow from its name, and how to open it."""

import bz2
import codecs
import gzip
import lzma
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, Literal

from attnlab.errors import UserError

# Whether quotation marks enclose a text, with separators or line breaks in it; None: in .csv they do, in .tsv not.
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
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16's, with which it begins
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
FASTTEXT_LABEL = "__label__"
LOOKED_AT = 1 << 16  # bytes at a file's start, by which it is told how it is written


@dataclass(frozen=True)
class Form:
    """How the files of a source are written; None for what each file says itself.

    Attributes:
        format: of files with another suffix than `FORMATS` has.
        header: whether the first row names the columns, which are else numbered from 0.
        delimiter: between the columns of a row.
        encoding: as Python names it.
        quoting: see `Quoting`.

    Raises:
        UserError: there is no such encoding, or a delimiter of several characters.
    """

    format: Format | None = None
    header: bool = True
    delimiter: str | None = None
    encoding: str | None = None
    quoting: Quoting = None

    def __post_init__(self) -> None:
        if self.delimiter == r"\t":  # as a shell passes it on
            object.__setattr__(self, "delimiter", "\t")
        if self.delimiter is not None and len(self.delimiter) != 1:
            raise UserError(f"data.delimiter={self.delimiter} must be one character")
        try:
            codecs.lookup(self.encoding or "utf-8")
        except LookupError as error:
            raise UserError(
                f"data.encoding={self.encoding} is no encoding that Python knows; utf-8, latin-1 and cp1252 are"
            ) from error

    def encoding_of(self, file: BufferedReader) -> str:
        """The encoding that is set, or that the file's first bytes name, or UTF-8."""
        start = file.peek()
        named = next((name for mark, name in BOMS.items() if start.startswith(mark)), "utf-8-sig")
        return self.encoding or named

    def format_of(self, key: str, path: Path) -> Format:
        """By `data.format`, by the suffix, or where all lines of a file begin with a label of fastText's.

        Raises:
            UserError: it is none that is read.
        """
        if self.format is not None:
            return self.format
        suffix = plain_suffix(path)
        if suffix in FORMATS:
            return FORMATS[suffix]
        if self.delimiter is not None:
            return "csv"
        with open_file(path) as file:
            if file.read(len(FASTTEXT_LABEL)) == FASTTEXT_LABEL.encode():
                return "fasttext"
        raise UserError(
            f"data.{key}={path}: files end in one of {', '.join(FORMATS)}; of another file say what it is with "
            "data.format=csv, tsv, json, parquet or fasttext, of lines give a file for each column: "
            f"\"data.{key}='{{text: <file>, label: <file>}}'\""
        )


@contextmanager
def open_file(path: Path) -> Iterator[BufferedReader]:
    """The content of a file, unpacked where its suffix says that it is packed."""
    with path.open("rb") as file, unpacked(file, path) as content:
        yield content


def unpacked(file: BinaryIO, path: Path) -> BufferedReader:
    """The content of an open file, of which `peek` shows the first `LOOKED_AT` bytes; it need not be one that seeks."""
    opener = OPENERS.get(path.suffix.lower())
    return BufferedReader(opener(file) if opener else file, LOOKED_AT)  # type: ignore[arg-type]  # all have readinto


def plain_suffix(path: Path) -> str:
    """The suffix of what is packed, or of the file itself."""
    return (path.with_suffix("") if path.suffix.lower() in OPENERS else path).suffix.lower()


def _open_zip(file: BinaryIO) -> Any:
    archive = zipfile.ZipFile(file)
    names = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX/")]
    if len(names) != 1:
        raise UserError(
            f"{file.name} holds {len(names)} files ({', '.join(names[:5])}); unpack it and name one of them"
        )
    return archive.open(names[0])


def _open_zstd(file: BinaryIO) -> Any:
    import pyarrow

    return pyarrow.input_stream(file, compression="zstd")


OPENERS: dict[str, Callable[[BinaryIO], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zip": _open_zip,
    ".zst": _open_zstd,
}
