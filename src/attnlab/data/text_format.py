"""How the texts of a model are assembled: where they stand in files, and what becomes one document."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from attnlab.data.forms import FORMATS, Form, plain_suffix
from attnlab.data.tokens import Documents
from attnlab.errors import UserError


@dataclass(frozen=True)
class TextFormat(Form):
    """How files are written, which of their columns hold the texts, and how these are joined.

    A source has one, and a checkpoint keeps it as plain data, so that all that uses a model assembles texts as training
    did.

    Attributes:
        text: the columns whose texts make a document, or the first text of a pair.
        join: what stands between them; empty texts are left out.
        text_pair: the column of the second texts, where documents are pairs of texts.
        field: the key under which a JSON file has its documents.
        folders: a file is a document, as `data=folders` reads it; such files have no columns.
    """

    text: Sequence[str] = ("text",)
    join: str = " "
    text_pair: str | None = None
    field: str | None = None
    folders: bool = False

    def plain(self) -> dict[str, Any]:
        """As a checkpoint keeps it."""
        return asdict(self) | {"text": list(self.text)}

    def of_file(self, path: Path) -> "TextFormat":
        """The same for a file whose name may say by itself how it is written."""
        known = FORMATS.get(plain_suffix(path))
        field = self.field if (known or self.format) in ("json", None) else None
        return replace(self, format=None if known else self.format, field=field)

    def complete(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The config of a source, with what it leaves open (null) as it is here."""
        paths: Any = data.get("train") if isinstance(data.get("test"), float | int | None) else data.get("test")
        first = paths[0] if isinstance(paths, list) and paths else paths
        own = (self.of_file(Path(first)) if isinstance(first, str) else self).plain()
        own["text"] = own["text"] if len(self.text) > 1 else self.text[0]
        return {key: own.get(key) if value is None else value for key, value in data.items()}

    def changed(self, data: Mapping[str, Any]) -> "TextFormat":
        """With what the config of a source gives."""
        given = {key: value for key, value in data.items() if value is not None and key in self.plain()}
        if "text" in given:
            given["text"] = tuple(map(str, _listed(given["text"])))
        if "text_pair" in given:
            given["text_pair"] = str(given["text_pair"])
        return replace(self, **given)

    def changes(self, data: Mapping[str, Any]) -> str:
        """What the config of a source says otherwise, in words; empty where nothing."""
        own, new = self.plain(), self.changed(data).plain()
        return ", ".join(f"{key}={new[key]!r} (in training {own[key]!r})" for key in own if own[key] != new[key])

    def documents(self, rows: Sequence[Mapping[str, Any]]) -> Documents:
        """The document of each row: its text, or the pair of its texts. What a row lacks is "".

        Raises:
            UserError: something there is no text.
        """
        firsts = [self.joined([as_text(row.get(column), column) for column in self.text]) for row in rows]
        if self.text_pair is None:
            return firsts
        seconds = (as_text(row.get(self.text_pair), self.text_pair) for row in rows)
        return list(zip(firsts, seconds, strict=True))

    def joined(self, texts: Iterable[str]) -> str:
        """One document of the texts of its columns."""
        return self.join.join(filter(None, texts))

    def __str__(self) -> str:
        between = f", joined by {self.join!r}" if len(self.text) > 1 else ""
        pair = "" if self.text_pair is None else f"; its pair from {self.text_pair}"
        return f"text from {' + '.join(self.text)}{between}{pair}"


def _listed(value: Any) -> list[Any]:
    return [value] if isinstance(value, str | int) else list(value)


def as_text(value: Any, column: str) -> str:
    """What stands in a column as training reads it; numbers as they are written, nothing as "".

    Raises:
        UserError: it is no text.
    """
    if value is None or value != value:
        return ""
    text = json.dumps(value) if isinstance(value, bool) else str(value)
    try:
        text.encode()
        if isinstance(value, str | int | float):
            return text
    except UnicodeEncodeError:  # half of a surrogate pair
        pass
    raise UserError(f"column {column} holds {value!r:.40}, which is no text: name another column, or correct it")
