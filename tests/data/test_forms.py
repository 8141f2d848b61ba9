"""Every form in which people have labelled text comes in as the same documents; docs/data.md lists them."""

import bz2
import gzip
import io
import json
import logging
import lzma
import re
import shlex
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from omegaconf import DictConfig

from attnlab.checking import check_config
from attnlab.config import instantiate, resolve
from attnlab.data.sources import Corpus, Files, Folders, Hub, located
from attnlab.errors import UserError
from tests.conftest import ROOT

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
        ({"a.csv": separated()}, {"header": False}, r"data\.text=text is no column of .*a\.csv; it has 0, 1$"),
        ({"a.txt": separated()}, {}, r"a\.txt: files end in one of .*; of another file say .* data\.format=csv"),
        ({"a.csv": separated()}, {"train": "b-*.csv"}, r"data\.train=.*b-\*\.csv is no file"),
        ({"a.csv": separated()}, {"train": []}, r"data\.train names no file"),
        ({"a.csv": separated()}, {"delimiter": "::"}, r"data\.delimiter=:: must be one character"),
        ({"a.csv": separated()}, {"encoding": "x-1"}, r"data\.encoding=x-1 is no encoding .*; utf-8, latin-1 and"),
        ({"a.csv": separated()}, {"encoding": "ascii"}, r"a\.csv: 'ascii' codec .*; it is not in data\.encoding=ascii"),
        ({"a.zip": zipped("", "a", "b")}, {}, r"a\.zip holds 2 files \(a, b\); unpack it and name one of them"),
        ({"a.csv.gz": b"no gzip"}, {}, r"can't read data\.train=.*a\.csv\.gz: Not a gzipped file"),
        ({"a.json": json.dumps({"x": []})}, {"field": "y"}, r"data\.field=y is no key of .*a\.json with the keys x"),
        ({"a.txt": "__label__a __label__b x\n"}, {}, r"a\.txt, row 0: 2 labels; a document has one here"),
        (
            {"t.txt": "x\ny\n", "l.txt": "a\n"},
            {"train": {"text": "t.txt", "label": "l.txt"}},
            r"t\.txt, .*l\.txt have 2, 1 lines; they need equally many",
        ),
        ({"a.csv": separated()}, {"test": 1.5}, r"data\.test=1\.5 is a share of train: give one above 0 and below 1"),
        ({"a.csv": separated(ROWS[:2])}, {"test": 0.2}, r"data\.test=0\.2 of 2 documents leaves none to test"),
        ({"a.csv": separated()}, {"test": None}, r"data\.test is needed .*, or a share of train .* data\.test=0\.2"),
        ({"a.csv": separated()}, {"group": "user"}, r"data\.group=user is no column of"),
    ],
)  # fmt: skip
def test_what_is_no_such_form_is_one_line(
    files: Content, settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        source(tmp_path, files, **settings).load()
    assert "\n" not in str(caught.value)


def test_a_test_set_is_cut_out_of_one_file(tmp_path: Path) -> None:
    """Stratified, the same for every run, and no row on both sides."""
    rows = [(f"text {row}", "common" if row % 4 else "rare") for row in range(100)] + [
        ("lonely", "pair"),
        ("too", "pair"),
    ]
    first = source(tmp_path, {"a.csv": separated(rows)}, test=0.2).load()
    again = source(tmp_path, {"a.csv": separated(rows)}, test=0.2).load(["test"])
    other = source(tmp_path, {"a.csv": separated(rows)}, test=0.2, split_seed=1).load()
    assert first.test.texts == again.test.texts != other.test.texts
    assert sorted(first.train.texts + first.test.texts) == sorted(text for text, _ in rows)
    assert np.bincount(first.test.labels).tolist() == [15, 0, 5] and first.label_names == ["common", "pair", "rare"]
    assert {"lonely", "too"} <= set(first.train.texts)  # or one of them could not be validated on


def test_documents_of_one_group_stay_on_one_side(tmp_path: Path) -> None:
    rows = [(f"text {row}", "ab"[row % 2], f"user {row // 5}") for row in range(100)]
    files: Content = {"a.csv": separated(rows, header="text,label,user\n")}
    corpus = source(tmp_path, files, test=0.2, group="user").load()
    assert corpus.train.groups is not None and corpus.test.groups is not None
    assert not set(corpus.train.groups) & set(corpus.test.groups) and 18 <= len(corpus.test.texts) <= 22
    assert Counter(corpus.train.groups + corpus.test.groups) == {f"user {user}": 5 for user in range(20)}


def test_rows_without_a_text_are_counted_and_can_be_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    parts = {f"{i}.csv": f"text,label\n{','.join(ROWS[i])}\n,sport\nx y,\n \t,a\n" for i in range(2)}
    with pytest.raises(
        UserError, match=r"4 of 8 rows have no text \(.*0\.csv row 1, .*0\.csv row 3, .*1\.csv row 1, .*on_em"
    ):
        source(tmp_path, parts, train=["0.csv", "1.csv"]).load()
    corpus = source(tmp_path, parts, train=["0.csv", "1.csv"], on_empty="drop").load()
    assert corpus.train.texts == TEXTS[:2] and corpus.label_names == ["sport", "weather"]
    assert re.search(r"4 of 8 rows have no text \(.*\): left out", caplog.text)
    assert re.search(r"2 of 8 rows have no label \(.*0\.csv row 2, .*1\.csv row 2\): left out", caplog.text)


def test_pairs_of_texts(tmp_path: Path) -> None:
    rows = [(*text.split(" number "), label) for text, label in ROWS]
    files: Content = {"a.csv": separated(rows, header="premise,hypothesis,label\n")}
    corpus = source(tmp_path, files, text="premise", text_pair="hypothesis", test=0.5).load()
    assert sorted(corpus.train.documents + corpus.test.documents) == sorted(row[:2] for row in rows)
    assert corpus.train.readable[0] == " || ".join(corpus.train.documents[0])
    files = {"a.csv": separated([*rows, ("x", "", "sport")], header="premise,hypothesis,label\n")}
    with pytest.raises(UserError, match=r"1 of 13 rows have no second text \(row 12\)"):
        source(tmp_path, files, text="premise", text_pair="hypothesis").load()
    with pytest.raises(UserError, match=r"data\.text_pair=other is no column of"):
        source(tmp_path, files, text="premise", text_pair="other").load()


def test_classes_that_are_too_small_can_be_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [*ROWS, ("one more", "lone"), ("and one", "single")]
    files: Content = {"a.csv": separated(rows), "b.csv": separated([("x", "sport"), ("y", "lone")])}
    corpus = source(tmp_path, files, test="b.csv", min_label_count=2).load()
    check(corpus)
    assert corpus.test.texts == ["x"]
    assert "2 rows are left out, of 2 classes with fewer than data.min_label_count=2" in caplog.text
    # A trained model is tested on the same documents.
    assert source(tmp_path, files, test="b.csv", min_label_count=2).load(["test"]).test.texts == ["x"]


def test_a_test_file_without_labels_is_said_to_be_for_predicting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files: Content = {"a.csv": separated(), "b.csv": "id,text\n1,x\n"}
    corpus = source(tmp_path, files, test="b.csv").load()
    check(corpus)
    assert not corpus.test.texts and "b.csv has no labels, so nothing is tested: src/predict.py" in caplog.text
    with pytest.raises(UserError, match="holds no label"):
        source(tmp_path, files, test="b.csv").load(["test"])
    with pytest.raises(UserError, match=r"data\.label=label is no column of .*b\.csv"):
        source(tmp_path, files, train="b.csv").load()


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for split, step in (("train", 1), ("test", 3)):
        for row, (text, label) in list(enumerate(ROWS))[::step]:
            folder = tmp_path / "set" / split / label / "deeper"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{row:02}").write_text(text)
            (folder / ".hidden").write_text("no document")
    (tmp_path / "set" / "train" / "README").write_text("no class")
    return tmp_path / "set"


def test_a_folder_a_class(folders: Path) -> None:
    corpus = Folders(batch_size=4, path=str(folders)).load()
    assert sorted(corpus.train.texts) == sorted(TEXTS) and len(corpus.test.texts) == 4
    assert corpus.label_names == ["sport", "weather"] and corpus.train.labels.tolist() == [0] * 6 + [1] * 6
    for path in (folders, folders / "train"):
        cut = Folders(batch_size=4, path=str(path), test=0.5).load()
        assert sorted(cut.train.texts + cut.test.texts) == sorted(TEXTS) and len(cut.test.texts) == 6
    assert len(Folders(batch_size=4, path=str(folders)).load(["test"]).test.texts) == 4


def test_what_is_no_folder_a_class_is_one_line(folders: Path) -> None:
    (folders / "train" / "sport" / "bad").write_bytes("größe".encode("latin-1"))
    for settings, message in (
        (
            {"path": str(folders / "train")},
            r"data\.train=train is no folder in .*, which holds sport, weather; .*=0\.2",
        ),
        ({"path": str(folders / "x")}, r"data\.path=.*x is no folder; give one that holds a folder a class"),
        ({"path": str(folders / "test" / "sport" / "deeper"), "test": 0.5}, "has no folders with files in them"),
        ({"path": str(folders)}, r"can't read .*bad: 'utf-8' .* data\.encoding=, such as cp1252 or latin-1"),
    ):
        with pytest.raises(UserError, match=message):
            Folders(batch_size=4, **settings).load()
    assert "größe" in Folders(batch_size=4, path=str(folders), encoding="latin-1").load().train.texts


def test_a_set_of_the_hub_that_was_saved_to_disk_or_has_no_test_split(tmp_path: Path) -> None:
    import datasets

    train = datasets.Dataset.from_dict({"title": TEXTS, "body": TEXTS, "label": LABELS})
    datasets.DatasetDict({"train": train}).save_to_disk(str(tmp_path / "saved"))
    corpus = Hub(batch_size=4, path=str(tmp_path / "saved"), text=["title", "body"], join="|", test=0.5).load()
    assert sorted(corpus.train.texts + corpus.test.texts) == sorted(f"{text}|{text}" for text in TEXTS)
    assert np.bincount(corpus.test.labels).tolist() == [3, 3]


COMMANDS = re.findall(r"\| `(data=[^`]*)` \|$", (ROOT / "docs" / "data.md").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture
def documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all files that docs/data.md names, where they are looked for."""
    titled = [(text[:4], text[5:], label) for text, label in ROWS]
    files: dict[str, str | bytes] = {
        name: separated() for name in ("train.csv", "val.csv", "test.csv", "all.csv", "jan.csv", "feb.csv")
    }
    files |= {f"{split}.tsv": separated(delimiter="\t", header="review,stars\n") for split in ("train", "test")}
    files |= {f"part-{i}.csv.gz": gzip.compress(part.encode()) for i, part in enumerate(PARTS)}
    files |= {
        "nohead.csv": "".join(f'"{label}","{text[:4]}","{text[5:]}"\n' for text, label in ROWS),
        "titled.csv": separated(titled, header="title,description,label\n"),
        "semicolons.csv": separated(delimiter=";"),
        "tilde.csv": separated(delimiter="~"),
        "latin1.csv": separated().encode("latin-1"),
        "unquoted.csv": separated().replace("late", '"late'),
        "SMSSpamCollection": separated([(label, text) for text, label in ROWS], "\t", header=""),
        "fasttext.txt": "".join(f"__label__{label} {text}\n" for text, label in ROWS),
        "texts.txt": "\n".join(TEXTS),
        "labels.txt": "\n".join(LABELS),
        "train.jsonl": "\n".join(map(json.dumps, RECORDS)),
        "test.json": json.dumps(RECORDS),
        "frame.json": FRAME.to_json(),
        "wrapped.json": json.dumps({"data": RECORDS}),
        "splits.json": json.dumps({"train": ROWS, "test": ROWS}),
        "blank.csv": separated([*ROWS, (" ", "sport")]),
        "rare.csv": separated([*ROWS, ("one", "lone")]),
        "authors.csv": separated([(*row, f"{i // 2}") for i, row in enumerate(ROWS)], header="text,label,author\n"),
        "unlabelled.csv": "text\nx\n",
        "pairs.csv": separated(titled, header="premise,hypothesis,label\n"),
        "hubfolder/train.csv": separated(titled, header="title,description,label\n"),
        "hubfolder/test.csv": separated(titled, header="title,description,label\n"),
    }
    for i, (text, label) in enumerate(ROWS):
        files |= {f"newsgroups/{split}/{label}/{i}": text for split in ("train", "test")}
        files[f"mails/{label}/{i}"] = text.encode("latin-1")
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("documented")
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_page_reads_its_data(command: str, compose_config: Callable[..., DictConfig]) -> None:
    config = resolve(compose_config(*shlex.split(command)))
    check_config(config, {})
    if "stanfordnlp" in command:
        pytest.skip("there is no network in tests")
    corpus: Corpus = instantiate(located(config["data"])).load()
    assert corpus.label_names == ["sport", "weather"]
    texts = corpus.train.texts + (corpus.test.texts if "data.test=0.2" in command else [])
    assert len(texts) in (12, 24)
    for text in texts:
        assert any(whole.startswith(re.sub('[":]', "", text)) for whole in TEXTS)


def test_the_page_has_a_command_for_every_form() -> None:
    assert len(COMMANDS) >= 30
