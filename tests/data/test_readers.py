"""Every form in which people have labelled text comes in as the same documents; docs/data.md lists them."""

import bz2
import gzip
import io
import json
import logging
import lzma
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from attnlab.data.sources import Corpus, Files
from attnlab.errors import UserError

TEXTS = [f"{word} number {row}" for row in range(6) for word in ("Café rain", "late goals")]
LABELS = ["weather", "sport"] * 6
ROWS = list(zip(TEXTS, LABELS, strict=True))
RECORDS = [{"text": text, "label": label} for text, label in ROWS]
FRAME = pd.DataFrame(RECORDS)

Content = Mapping[str, str | bytes]


def separated(rows: Sequence[tuple[str, ...]] = ROWS, delimiter: str = ",", header: str = "text,label\n") -> str:
    return header.replace(",", delimiter) + "".join(delimiter.join(row) + "\n" for row in rows)


def zipped(content: str, *names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, content)
    return buffer.getvalue()


def zstd(content: bytes) -> bytes:
    compressed: bytes = pa.compress(content, codec="zstd", asbytes=True)
    return compressed


def source(folder: Path, files: Content, **settings: Any) -> Files:
    """The first file is train and test, unless `settings` name others."""
    for name, content in files.items():
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    def placed(paths: Any) -> Any:
        if isinstance(paths, dict):
            return {column: placed(path) for column, path in paths.items()}
        if isinstance(paths, list):
            return [placed(path) for path in paths]
        return str(folder / paths) if isinstance(paths, str) else paths

    settings = {"train": next(iter(files)), "test": settings.get("train", next(iter(files)))} | settings
    return Files(batch_size=4, **settings | {key: placed(settings[key]) for key in ("train", "test")})


def check(corpus: Corpus, labels: list[str] = LABELS) -> None:
    assert corpus.train.texts == TEXTS
    assert [corpus.label_names[number] for number in corpus.train.labels] == labels


WHOLE = separated().encode()
PARTS = [separated(ROWS[:5]), separated(ROWS[5:])]
FORMS: dict[str, tuple[Content, dict[str, Any]]] = {
    "comma": ({"a.csv": WHOLE}, {}),
    "no header": (
        {"a.csv": "".join(f'"{label}","{text[:4]}","{text[5:]}"\n' for text, label in ROWS)},
        {"header": False, "text": [1, 2], "label": 0},
    ),
    "two text columns": (
        {"a.csv": separated([(text[:4], text[5:], label) for text, label in ROWS], header="title,body,label\n")},
        {"text": ["title", "body"]},
    ),
    "two text columns, joined by a dash": (
        {"a.csv": separated([(*text.split(" number "), label) for text, label in ROWS], header="title,body,label\n")},
        {"text": ["title", "body"], "join": " number "},
    ),
    "a pattern of shards": (
        {f"part-{i}.csv.gz": gzip.compress(part.encode()) for i, part in enumerate(PARTS)},
        {"train": "part-*.csv.gz"},
    ),
    "a list of shards": ({f"{i}.csv": part for i, part in enumerate(PARTS)}, {"train": ["0.csv", "1.csv"]}),
    ".gz": ({"a.csv.gz": gzip.compress(WHOLE)}, {}),
    ".bz2": ({"a.csv.bz2": bz2.compress(WHOLE)}, {}),
    ".xz": ({"a.csv.xz": lzma.compress(WHOLE)}, {}),
    ".zip": ({"a.csv.zip": zipped(separated(), "folder/", "folder/a.csv", "__MACOSX/a.csv")}, {}),
    ".zst": ({"a.csv.zst": zstd(WHOLE)}, {}),
    ".jsonl.zst": ({"a.jsonl.zst": zstd("\n".join(map(json.dumps, RECORDS)).encode())}, {}),
    "semicolons": ({"a.csv": separated(delimiter=";")}, {}),
    "semicolons, as set": ({"a.csv": separated(delimiter=";")}, {"delimiter": ";"}),
    "bars": ({"a.csv": separated(delimiter="|")}, {}),
    "tabs in a .csv": ({"a.csv": separated(delimiter="\t")}, {}),
    "commas in a .tsv": ({"a.tsv": separated()}, {}),
    "semicolons, no header": ({"a.csv": separated(delimiter=";", header="")}, {"header": False, "text": 0, "label": 1}),
    "a delimiter of one's own": ({"a.csv": separated(delimiter="~")}, {"delimiter": "~"}),
    "tabs, no suffix": ({"Collection": separated(delimiter="\t")}, {"format": "tsv"}),
    "tabs, a suffix that says nothing": ({"a.txt": separated(delimiter="\t")}, {"delimiter": r"\t"}),
    "latin-1": ({"a.csv": separated().encode("latin-1")}, {"encoding": "latin-1"}),
    "UTF-16, as Excel writes it": ({"a.csv": separated(delimiter="\t").encode("utf-16")}, {}),
    "parallel files": (
        {"texts.txt": "\n".join(TEXTS), "labels.txt": "\n".join(LABELS) + "\n"},
        {"train": {"text": "texts.txt", "label": "labels.txt"}},
    ),
    "fastText": ({"a.txt": "".join(f"__label__{label} {text}\n" for text, label in ROWS)}, {}),
    "fastText, label behind": (
        {"a.ft": "".join(f"{text} __label__{label}\n" for text, label in ROWS)},
        {"format": "fasttext"},
    ),
    "JSON, a line each": ({"a.jsonl": "\n".join(map(json.dumps, RECORDS))}, {}),
    "JSON, a list a line": ({"a.jsonl": "\n".join(map(json.dumps, ROWS))}, {"text": 0, "label": 1}),
    "JSON, a list": ({"a.json": json.dumps(RECORDS)}, {}),
    "JSON, an indented list": ({"a.json": json.dumps(RECORDS, indent=1)}, {}),
    "JSON, a list of pairs": ({"a.json": json.dumps(ROWS)}, {"text": 0, "label": 1}),
    "JSON, an object of lists": ({"a.json": json.dumps({"text": TEXTS, "label": LABELS, "version": 1})}, {}),
    "JSON, under a key": ({"a.json": json.dumps({"version": 1, "data": RECORDS})}, {"field": "data"}),
    "JSON, lists under a key": (
        {"a.json": json.dumps({"all": {"text": TEXTS, "label": LABELS}}, indent=2)},
        {"field": "all"},
    ),
    "JSON, splits of pairs": (
        {"a.json": json.dumps({"train": ROWS, "test": ROWS[:2]})},
        {"field": {"train": "train", "test": "test"}, "text": 0, "label": 1},
    ),
}
FORMS |= {
    f"DataFrame.to_json(orient={orient!r})": ({"a.json": FRAME.to_json(orient=orient)}, {})
    for orient in ("columns", "index", "records", "split", "table")
}


@pytest.mark.parametrize(("files", "settings"), FORMS.values(), ids=FORMS)
def test_every_form_is_the_same_documents(files: Content, settings: dict[str, Any], tmp_path: Path) -> None:
    check(source(tmp_path, files, **settings).load())


@pytest.mark.parametrize(
    ("labels", "content"),
    [
        (["1.0", "4.5"] * 6, None),
        (["TRUE", "FALSE"] * 6, None),
        (["1.0", "4.5"] * 6, {"text": TEXTS, "label": [1.0, 4.5] * 6}),
        (["True", "False"] * 6, {"text": TEXTS, "label": [True, False] * 6}),
    ],
)
def test_stars_and_truth_values_are_labels_as_written(
    labels: list[str], content: dict[str, Any] | None, tmp_path: Path
) -> None:
    if content is None:
        corpus = source(tmp_path, {"a.csv": separated(list(zip(TEXTS, labels, strict=True)))}).load()
    else:
        pd.DataFrame(content).to_parquet(tmp_path / "a.parquet")
        corpus = source(tmp_path, {"a.parquet": (tmp_path / "a.parquet").read_bytes()}).load()
    check(corpus, labels)


def test_what_was_found_in_a_file_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.INFO, "attnlab"):
        rows = [("1", text, "x", label) for text, label in ROWS]
        source(tmp_path, {"a.csv": separated(rows, ";", "id,text,date,label\n")}).load()
    assert caplog.messages[1] == (
        "Read train from a.csv: 12 rows; text from text, label from label (not used: id,\n"
        "  date); separated by ';' (found), utf-8, quotation marks quote"
    )


@pytest.mark.parametrize(
    ("files", "settings", "message"),
    [
        ({"a.csv": "3,x,y\n4,z,w"}, {"text": [1, 2], "label": 0}, r"3, x, y; columns are counted from 0 with data"),
        ({"a.csv": separated()}, {"header": False}, r"data\.text=text is not a column of .*a\.csv; it has 0, 1$"),
        ({"a.txt": separated()}, {}, r"a\.txt: unknown suffix, .* for other files give data\.format=csv"),
        ({"a.csv": separated()}, {"train": "b-*.csv"}, r"data\.train=.*b-\*\.csv does not exist"),
        ({"a.csv": separated()}, {"train": []}, r"data\.train does not name a file"),
        ({"a.csv": separated()}, {"delimiter": "::"}, r"data\.delimiter=:: must be one character"),
        ({"a.csv": separated()}, {"encoding": "x-1"}, r"data\.encoding=x-1 is not an encoding .*; utf-8, latin-1 and"),
        ({"a.csv": separated()}, {"encoding": "ascii"}, r"a\.csv: 'ascii' codec .*; it is not in data\.encoding=ascii"),
        ({"a.zip": zipped("", "a", "b")}, {}, r"a\.zip holds 2 files \(a, b\); unpack it and name one of them"),
        ({"a.csv.gz": b"no gzip"}, {}, r"can't read data\.train=.*a\.csv\.gz: Not a gzipped file"),
        ({"a.json": json.dumps({"x": []})}, {"field": "y"}, r"data\.field=y is not a key of .*a\.json with the keys x"),
        ({"a.txt": "__label__a x\n"}, {"group": "user"}, r"data\.group=user: .*a\.txt is in fastText's format, which"),
        ({"a.csv": separated()}, {"field": "data"}, r"data\.field=data is for JSON files, which .*a\.csv is not"),
        (
            {"1.txt": "x\n", "2.txt": "y\n"},
            {"train": {"text": "?.txt", "label": "1.txt"}},
            r"data\.train\.text=.*\?\.txt names 2 files; give one",
        ),
        (
            {"t.txt": "x\ny\n", "l.txt": "a\n"},
            {"train": {"text": "t.txt", "label": "l.txt"}},
            r"t\.txt, .*l\.txt have 2, 1 lines; they need the same number",
        ),
        ({"a.csv": separated()}, {"test": 1.5}, r"data\.test=1\.5 is a share of train: give one above 0 and below 1"),
        ({"a.csv": separated(ROWS[:2])}, {"test": 0.2}, r"data\.test=0\.2 of 2 documents leaves no test documents"),
        ({"a.csv": separated()}, {"test": None}, r"data\.test is needed .*, or a share of train .* data\.test=0\.2"),
        ({"a.csv": separated()}, {"group": "user"}, r"data\.group=user is not a column of"),
    ],
)  # fmt: skip
def test_what_is_no_such_form_is_one_line(
    files: Content, settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        source(tmp_path, files, **settings).load()
    assert "\n" not in str(caught.value)
