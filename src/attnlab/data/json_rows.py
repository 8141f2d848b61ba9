"""The documents of a JSON file, in the shapes that people and libraries write.

`pandas.read_json` guesses types, but numbers that are labels or ids must stay as they are written.
"""

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, Self

from attnlab.errors import UserError


def json_rows(
    lines: io.TextIOWrapper, name: str, text: str, field: str | None, numbers: type[str] | None = None
) -> Iterator[dict[str, Any]]:
    """Each document as a dict; the values of a list get the names "0", "1" and so on. Lines of documents are streamed.

    Args:
        name: of the file, in messages.
        text: the column of the texts, by which documents are told from other objects.
        field: the key of the documents in an object.
        numbers: `str` reads numbers as strings; None as numbers that print as they are written.
    """
    seen = list(_until_text(lines))  # counted from the first line, as errors name the line
    try:
        first = _loads("".join(seen), numbers)
    except ValueError:  # the start of an object or a list on several lines, or damaged
        first = None
    rows: Iterable[Any]
    more = list(_until_text(lines)) if _is_document(first) else []
    if any(map(str.strip, more)):
        every = enumerate(chain(seen, more, lines))
        rows = (_loads(line, numbers, number) for number, line in every if line.strip())
    else:
        rest = "" if _is_document(first) else lines.read()
        start = "".join(seen)
        if first is None or rest.strip():
            first = _loads(start + rest, numbers) if start.strip() else []
        rows = _documents(first, name, text, field)
    for row in rows:
        if not isinstance(row, dict | list):
            raise _other_shape(name)
        yield row if isinstance(row, dict) else {str(number): value for number, value in enumerate(row)}


class Decimal(float):
    """A number that prints as it was written, because the labels 0.10 and 0.1 are two classes."""

    def __new__(cls, written: str) -> Self:
        number = super().__new__(cls, written)
        number.written = written
        return number

    written: str

    def __str__(self) -> str:
        return self.written


def _until_text(lines: Iterable[str]) -> Iterator[str]:
    """The lines up to the first one that is not blank."""
    for line in lines:
        yield line
        if line.strip():
            return


def _is_document(value: Any) -> bool:
    """Whether this may be a document of a file with one document on each line."""
    return isinstance(value, dict) or (isinstance(value, list) and not any(isinstance(v, dict | list) for v in value))


def _documents(whole: Any, name: str, text: str, field: str | None) -> Iterable[Any]:
    """The documents in a JSON value, which is written by row or by column."""
    if field is not None:
        if not isinstance(whole, dict) or field not in whole:
            raise UserError(f"data.field={field} is not a key of {name}{_keys(whole)}")
        whole = whole[field]
    if isinstance(whole, list):
        return whole
    if not isinstance(whole, dict):
        raise _other_shape(name)
    if set(whole) == {"columns", "index", "data"}:  # DataFrame.to_json(orient="split")
        return [dict(zip(whole["columns"], row, strict=True)) for row in whole["data"]]
    if set(whole) == {"schema", "data"}:  # orient="table"
        return whole["data"]
    if text in whole:
        return _turned(whole, whole[text], name)
    if whole and all(isinstance(row, dict) and text in row for row in whole.values()):  # orient="index"
        return whole.values()
    raise UserError(
        f"{name} holds one object{_keys(whole)}; if one of them holds the documents name it with data.field=<key>, "
        "otherwise name the columns of the texts and labels"
    )


def _turned(whole: Mapping[str, Any], texts: Any, name: str) -> Iterable[dict[str, Any]]:
    """Documents from columns, which are lists or, from `DataFrame.to_json`, objects with a key for each row."""
    columns = {column: values for column, values in whole.items() if type(values) is type(texts)}
    if isinstance(texts, dict):
        return ({column: values.get(key) for column, values in columns.items()} for key in texts)
    if not isinstance(texts, list):
        return [dict(whole)]
    sizes = {column: len(values) for column, values in columns.items()}
    if len(set(sizes.values())) > 1:
        raise UserError(f"{name}: the columns are of different lengths: {sizes}")
    return (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))


def _loads(text: str, numbers: type[str] | None, lines_before: int = 0) -> Any:
    """The value of a JSON text; NaN and infinities, which some libraries write, become missing values."""
    try:
        return json.loads(text, parse_int=numbers, parse_float=numbers or Decimal, parse_constant=lambda _: None)
    except json.JSONDecodeError as error:
        place = f"line {lines_before + error.lineno}, column {error.colno}"
        raise ValueError(f"JSON error in {place}: {error.msg}") from error


def _keys(whole: Any) -> str:
    return f" with the keys {', '.join(list(whole)[:20])}" if isinstance(whole, dict) else ", which is a list"


def _other_shape(name: str) -> UserError:
    return UserError(f"{name} is JSON of an unknown shape; write one document per line, or all in one list or object")
