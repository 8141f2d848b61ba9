"""`src/predict.py`: rows in, the same rows with answers out. For the reader see tests/data/test_readers.py."""

import contextlib
import csv
import datetime
import gzip
import io
import json
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from omegaconf import DictConfig
from rich.console import Console

from attnlab.errors import UserError
from attnlab.inference import Predictor, prediction, tables
from attnlab.inference.prediction import predict
from attnlab.inference.predictor import BLOCK
from attnlab.training.train import train
from tests.conftest import ROOT, TINY, train_in

Compose = Callable[..., DictConfig]

TOPICS = ("World", "Sports", "Business", "Sci/Tech")
ROWS = {
    "id": ["007", "8", "9", "10"],
    "text": ['oil "prices", fall', "", "the team\nwon", "NA"],
    "note": ["x", "y", "", "z"],
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run."""
    return train_in(tmp_path_factory.mktemp("trained"), "model=bag", "trainer.max_epochs=1")


@pytest.fixture
def ask(trained: Path, compose_config: Compose) -> Callable[..., None]:
    """`ask("input=new.csv")`: predict with the trained model."""
    return lambda *overrides: predict(compose_config(f"ckpt_path={trained}", *overrides, name="predict"))


def write(path: Path, rows: dict[str, list[str]] = ROWS) -> Path:
    table = pd.DataFrame(rows)
    match path.suffixes[0]:
        case ".csv":
            table.to_csv(path, index=False)
        case ".tsv":
            table.replace("\n", " ", regex=True).to_csv(path, index=False, sep="\t", quoting=3)
        case ".jsonl":
            table.to_json(path, orient="records", lines=True)
        case ".parquet":
            table.to_parquet(path)
    return path


def read(path: Path) -> pd.DataFrame:
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    if path.suffix == ".jsonl":
        return pd.read_json(path, lines=True, dtype=False)
    return pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",", dtype=str, na_filter=False)


@pytest.mark.parametrize("name", ["new.csv", "new.csv.gz", "new.tsv", "new.jsonl", "new.parquet"])
@pytest.mark.parametrize("at_once", [1, 1024])
def test_every_row_and_column_is_kept_in_order(
    name: str, at_once: int, ask: Callable[..., None], trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "BLOCK", at_once)
    output = tmp_path / "deep" / name.removesuffix(".gz")
    ask(f"input={write(tmp_path / name)}", f"output={output}")
    answered = read(output)
    assert list(answered.columns) == [*ROWS, "predicted", "probability"]
    assert answered["id"].to_list() == ROWS["id"] and answered["note"].to_list() == ROWS["note"]
    texts = answered["text"].to_list()
    assert texts[0].startswith("oil") and texts[1] == "" and texts[3] == "NA"
    expected = Predictor.load(trained)(texts)
    assert answered["predicted"].fillna("").to_list() == [label or "" for label in expected.labels]
    probability = pd.to_numeric(answered["probability"]).to_numpy()
    assert probability == pytest.approx(expected.probabilities.max(axis=1), abs=1e-6, nan_ok=True)


TEXTS = ["oil prices fällt", "the team, won"]
RECORDS = [{"n": n, "text": text} for n, text in enumerate(TEXTS)]
TABLE = 'n,text\n0,oil prices fällt\n1,"the team, won"\n'


def zipped(content: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(zipfile.ZipInfo("new.csv"), content)  # of no time: the tests of two processes bear one name
    return packed.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "overrides"),
    [
        ("new.csv", TABLE.encode("utf-16"), []),
        ("new.csv", TABLE.encode("latin-1"), ["data.encoding=latin-1"]),
        ("new.csv", TABLE.replace(",", "~").replace("team~", "team,").encode(), ["data.delimiter='~'"]),
        ("new.csv", TABLE.split("\n", 1)[1].encode(), ["data.header=false", "text_column=1"]),
        ("new.csv.zip", zipped(TABLE.encode()), []),
        ("new.csv.zst", bytes(pa.compress(TABLE.encode(), "zstd", asbytes=True)), []),
        ("new.json", json.dumps(RECORDS, indent=2).encode("utf-16"), []),
        ("new.json", json.dumps({"data": RECORDS}).encode(), ["data.field=data"]),
        ("new.json", pd.DataFrame(RECORDS).to_json(orient="split").encode(), []),
        ("new.json", json.dumps([[0, TEXTS[0]], [1, TEXTS[1]]]).encode(), ["text_column=1"]),
        ("new.jsonl", "\n".join(map(json.dumps, RECORDS)).encode(), []),
        ("new.txt", "\n".join(TEXTS).encode(), []),
        ("new.txt", "".join(f"__label__a {text}\n" for text in TEXTS).encode(), []),
        ("new.txt", TABLE.encode(), []),
        ("new", "\n".join(map(json.dumps, RECORDS)).encode(), []),
        ("new", TABLE.replace(",", "\t").replace("team\t", "team,").replace('"', "").encode(), ["data.format=tsv"]),
        ("new.csv", b"text\n__label__x\n", ["data.format=lines"]),
    ],
)
def test_every_form_that_data_files_reads(
    name: str, content: bytes, overrides: list[str], ask: Callable[..., None], trained: Path, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    ask(f"input={tmp_path / name}", f"output={tmp_path}/out.jsonl", *overrides)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    texts = [next(row[key] for key in ("text", "1") if key in row) for row in rows]
    assert texts == (["text", "__label__x"] if "data.format=lines" in overrides else TEXTS)
    assert [row["predicted"] for row in rows] == Predictor.load(trained)(texts).labels
    assert all(list(row)[-2:] == ["predicted", "probability"] for row in rows)
    if rows[0].get("n") is not None:
        assert [int(row["n"]) for row in rows] == [0, 1]


def test_the_files_of_a_pattern_are_one_input(ask: Callable[..., None], tmp_path: Path) -> None:
    for number, text in enumerate(["oil", "team", "moon"]):
        (tmp_path / f"part-{number}.csv.gz").write_bytes(gzip.compress(f"text\n{text}\n".encode()))
    ask(f"input='{tmp_path}/part-*.csv.gz'", f"output={tmp_path}/out.csv")
    assert read(tmp_path / "out.csv")["text"].to_list() == ["oil", "team", "moon"]


Asker = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def learn(compose_config: Compose, tmp_path: Path) -> Callable[..., Asker]:
    """`learn("data=files", ...)` trains on that and moves the checkpoint; what it returns predicts with it."""

    def train_on(*data: str) -> Asker:
        tiny = [override for override in TINY if "size=" not in override]
        trained = ["model=bag", "tokenizer.vocab_size=60", "trainer.max_epochs=1", f"paths.run_dir={tmp_path}/run"]
        train(compose_config(*tiny, *trained, *data))
        (tmp_path / "run/checkpoints/best.ckpt").rename(tmp_path / "moved.ckpt")

        def asker(*overrides: str) -> list[dict[str, Any]]:
            asked = [f"ckpt_path={tmp_path}/moved.ckpt", f"output={tmp_path}/out.jsonl", *overrides]
            predict(compose_config(*asked, name="predict"))
            return list(map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines()))

        return asker

    return train_on


def probability(tmp_path: Path, *texts: Any) -> list[float]:
    found: list[float] = Predictor.load(tmp_path / "moved.ckpt")(list(texts)).probabilities.max(axis=1).tolist()
    return found


TITLES = [(f"{word}{number}", f"{word}s again", word) for word in ("oil", "team", "moon") for number in range(6)]


def test_a_moved_checkpoint_assembles_texts_as_training_did_and_says_what_is_otherwise(
    learn: Callable[..., Asker], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train.txt").write_text("".join(f"{label};{one};{two}\n" for one, two, label in TITLES))
    ask = learn(
        *("data=files", f"data.train={tmp_path}/train.txt", "data.test=0.2", "data.format=csv", "data.header=false"),
        *("data.text=[1,2]", "data.join=''", "data.label=0", "data.delimiter=';'"),
    )
    (tmp_path / "new.txt").write_text("?;oil1;moons, again\n")
    (row,) = ask(f"input={tmp_path}/new.txt")
    assert list(row) == ["0", "1", "2", "predicted", "probability"]
    assert [row["probability"]] == pytest.approx(probability(tmp_path, "oil1moons, again"), abs=1e-6)
    assert "differently" not in capsys.readouterr().err
    (tmp_path / "new.csv").write_text("a,b\noil1,moons\n")
    (row,) = ask(
        *(f"input={tmp_path}/new.csv", "text_column=[a,b]", "data.join=' '"),
        *("data.header=true", "data.delimiter=','"),
    )
    assert [row["probability"]] == pytest.approx(probability(tmp_path, "oil1 moons"), abs=1e-6)
    said = capsys.readouterr().err
    assert "differently than in training: " in said and "join=' ' (in training '')" in said
    assert "text=['a', 'b'] (in training ['1', '2'])" in said and "header=True (in training False)" in said


def test_the_columns_of_pairs_are_those_of_training(learn: Callable[..., Asker], tmp_path: Path) -> None:
    rows = [{"one": one, "two": two, "label": label} for one, two, label in TITLES]
    (tmp_path / "train.json").write_text(json.dumps({"rows": rows}))
    ask = learn(
        *("data=files", f"data.train={tmp_path}/train.json", "data.test=0.2", "data.field=rows"),
        *("data.text=one", "data.text_pair=two"),
    )
    (tmp_path / "new.json").write_text(json.dumps({"rows": [{"one": "oil", "two": "moon"}]}))
    (row,) = ask(f"input={tmp_path}/new.json")
    assert [row["probability"]] == pytest.approx(probability(tmp_path, ("oil", "moon")), abs=1e-6)
    (tmp_path / "new.csv").write_text("one,other\noil,moon\n")
    with pytest.raises(UserError, match="no column two; it has one, other: "):
        ask(f"input={tmp_path}/new.csv")
    (again,) = ask(f"input={tmp_path}/new.csv", "data.text_pair=other")
    assert again["probability"] == row["probability"]
    (tmp_path / "new.txt").write_text("oil\n")
    with pytest.raises(UserError, match="the model was trained on pairs of texts"):
        ask(f"input={tmp_path}/new.txt")


@pytest.mark.parametrize(("name", "given"), [("train.txt", ["data.format=tsv"]), ("train.tsv", []), ("train.csv", [])])
def test_a_sentence_is_not_cut_at_its_comma(
    name: str, given: list[str], learn: Callable[..., Asker], tmp_path: Path
) -> None:
    between = "," if name == "train.csv" else "\t"
    (tmp_path / name).write_text("".join(f"{one} {two}{between}{label}\n" for one, two, label in TITLES))
    data = ["data.test=0.2", "data.header=false", "data.text=0", "data.label=1"]
    ask = learn("data=files", f"data.train={tmp_path / name}", *data, *given)
    (tmp_path / "new.txt").write_text("oil, they say\nthe moon, again\n")
    expected = pytest.approx(probability(tmp_path, "oil, they say", "the moon, again"), abs=1e-6)
    assert [row["probability"] for row in ask(f"input={tmp_path}/new.txt")] == expected


def test_numbers_are_the_texts_that_they_were_in_training(learn: Callable[..., Asker], tmp_path: Path) -> None:
    rows = "".join(f'{{"text": {n}.50, "label": "{"ab"[n % 2]}"}}\n' for n in range(20))
    (tmp_path / "train.jsonl").write_text(rows)
    ask = learn("data=files", f"data.train={tmp_path}/train.jsonl", "data.test=0.2")
    (tmp_path / "new.jsonl").write_text('{"text": 0}\n{"text": 3.50}\n{"text": true}\n{"text": null}\n{"text": "0"}\n')
    answered = ask(f"input={tmp_path}/new.jsonl")
    assert [row["text"] for row in answered] == [0, 3.5, True, None, "0"] and answered[3]["predicted"] is None
    found = [row["probability"] for row in answered if row["predicted"]]
    assert found == pytest.approx(probability(tmp_path, "0", "3.50", "true", "0"), abs=1e-6)


def test_a_file_is_a_document_where_it_was_in_training(learn: Callable[..., Asker], tmp_path: Path) -> None:
    for number, (one, two, label) in enumerate(TITLES):
        file = tmp_path / "set" / label / "deep" / f"{number:02}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(f"{one}\n\ncafé {two}\n".encode("latin-1"))
    ask = learn("data=folders", f"data.path={tmp_path}/set", "data.test=0.2", "data.encoding=latin-1")
    texts = [f"{one}\n\ncafé {two}\n" for one, two, _ in TITLES]
    expected = pytest.approx(probability(tmp_path, *texts[:6]), abs=1e-6)
    for name in (f"{tmp_path}/set/oil", f"{tmp_path}/set/oil/deep/*"):
        answered = ask(f"input='{name}'")
        assert [Path(row["file"]).name for row in answered] == [f"{number:02}" for number in range(6)]
        assert [row["text"] for row in answered] == texts[:6]
        assert [row["probability"] for row in answered] == expected
    (row,) = ask(f"input={tmp_path}/set/oil/deep/00")
    assert row["text"] == texts[0]
    assert len(ask(f"input={tmp_path}/set/oil/deep/00", "data.format=lines")) == 3
    (tmp_path / "new.csv").write_text("text\noil\nmoon\n")
    assert len(ask(f"input={tmp_path}/new.csv")) == 2


def test_types_are_kept(ask: Callable[..., None], tmp_path: Path) -> None:
    values = {"n": [1, None], "when": [datetime.date(2026, 1, 2), None], "l": [["a", "b"], []], "text": ["oil", None]}
    table = pa.table(
        values,
        schema=pa.schema({"n": pa.int32(), "when": pa.date32(), "l": pa.list_(pa.string()), "text": pa.string()}),
    )
    pyarrow.parquet.write_table(table, tmp_path / "new.parquet")
    ask(f"input={tmp_path}/new.parquet", f"output={tmp_path}/out.parquet", "top_k=all")
    answered = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert answered.select(list(values)).equals(table)
    assert answered.column_names[4:] == ["predicted", *(f"p({topic})" for topic in TOPICS)]
    assert answered["predicted"].to_pylist()[1] is None and answered["p(World)"].null_count == 1
    ask(f"input={tmp_path}/new.parquet", f"output={tmp_path}/out.csv")
    assert read(tmp_path / "out.csv").loc[0, ["n", "when", "l"]].to_list() == ["1", "2026-01-02", "a;b"]
    (tmp_path / "new.jsonl").write_text('{"n": 8, "x": 0.10, "deep": {"a": [1]}, "text": "oil"}\n{"text": "moon"}\n')
    ask(f"input={tmp_path}/new.jsonl", f"output={tmp_path}/out.jsonl")
    rows = list(map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines()))
    assert rows[0] | {"n": 8, "x": 0.1, "deep": {"a": [1]}} == rows[0] and list(rows[1]) == [
        "text",
        "predicted",
        "probability",
    ]


def test_empty_texts_are_counted_and_the_default_output_named(
    ask: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(f"input={write(tmp_path / 'new.csv')}")
    (output,) = tmp_path.glob("logs/predict/runs/*/predictions.csv")
    said = capsys.readouterr().err
    assert "1 of 4 rows have no text" in said and f"4 rows are in {output}" in said
    assert len(read(output)) == 4


def test_standard_input_and_output(
    ask: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"oil\n\xc3\xa4\n")))
    ask("input=-", "output=-", "format=jsonl")
    shown = capsys.readouterr()
    assert "input=- is read as lines of text, a document each" in shown.err
    answered = pd.read_json(io.StringIO(shown.out), lines=True)
    assert answered["text"].to_list() == ["oil", "ä"] and list(answered.columns) == ["text", "predicted", "probability"]


def test_the_most_probable_classes(ask: Callable[..., None], tmp_path: Path) -> None:
    ask(f"input={write(tmp_path / 'new.csv')}", f"output={tmp_path}/out.parquet", "top_k=3", "text_column=[note,text]")
    answered = read(tmp_path / "out.parquet")
    assert list(answered.columns)[3:] == [f"{what}_{k}" for k in (1, 2, 3) for what in ("predicted", "probability")]
    assert (answered["probability_1"] >= answered["probability_2"]).all()
    assert answered["predicted_1"].nunique() <= 4 and answered["predicted_1"].notna().all()


def test_several_labels_have_their_columns_in_every_part(
    tiny_config: Compose, compose_config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in one whose texts are all empty."""
    run = ["model=bag", "task=multi_label", "data.topics=all", "trainer.max_epochs=1", f"paths.run_dir={tmp_path}/run"]
    train(tiny_config(*run))
    monkeypatch.setattr(tables, "BLOCK", 1)
    paths = [f"ckpt_path={tmp_path}/run", f"input={write(tmp_path / 'new.csv')}", f"output={tmp_path}/out.parquet"]
    predict(compose_config(*paths, name="predict"))
    answered = read(tmp_path / "out.parquet")
    assert list(answered.columns) == [*ROWS, "predicted", *(f"p({topic})" for topic in TOPICS)]
    assert answered["p(World)"].isna().to_list() == [False, True, False, False] and answered.loc[1, "predicted"] is None
    expected = Predictor.load(tmp_path / "run")(ROWS["text"])
    assert [labels if labels is None else list(labels) for labels in answered["predicted"]] == expected.labels
    predict(compose_config(*paths[:2], f"output={tmp_path}/out.csv", name="predict"))
    assert read(tmp_path / "out.csv")["predicted"].to_list() == [";".join(labels or []) for labels in expected.labels]
    with pytest.raises(UserError, match="top_k=2: the model knows any number of them a document"):
        predict(compose_config(*paths, "top_k=2", name="predict"))


@pytest.mark.parametrize("text", ["oil prices fall", "the team's: [won], 3-2", "???"])
def test_one_text_is_a_table(text: str, ask: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    ask(f"text={text}")
    shown = capsys.readouterr().out
    assert shown.count("*") == 1 and all(name in shown for name in ("World", "Sports", "Business", "Sci/Tech"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "give either text=.* or input="),
        (["text=a", "input=b.csv"], "give either text=.* or input="),
        (["text= "], "the text is empty"),
        (["text=a", "text_pair=b"], "trained on single texts: leave out text_pair"),
        (["input=none.csv"], "input=none.csv"),
        (["input={folder}"], "is a folder; give a file in it, or a pattern"),
        (["input={new}", "output=-"], "output=- has an unknown suffix: use .csv, .* or give format="),
        (["input={new}", "data.field=rows"], "data.field=rows is for JSON files"),
        (["input={utf16}", "data.encoding=utf-8"], "can't read input=.*it is not in data.encoding=utf-8"),
        (["input={lists}"], r"lists.jsonl: column text holds \[5\], which is not text: name another column"),
        (["input={half}"], "half.jsonl: column text holds .* which is not text: .*, or correct it"),
        (["input={twins}"], "has two columns named text"),
        (["input={tabs}", "output={folder}/out.tsv"], "rows 0 to 0 do not fit into output=.*out.tsv"),
        (["input={mixed}", "output={folder}/out.parquet"], "rows 0 to 1 do not fit into output=.*out.parquet"),
        (["input={keys}", "output={folder}/out.csv"], "the first rows have no column more"),
        (["input={new}", "top_k=5"], "top_k=5: the model knows 4; top_k=all"),
        (["input={new}", "output={folder}/out.csv.gz"], "out.csv.gz has an unknown suffix"),
        (["input={new}", "text_column=body"], "no column body; it has id, text, note: name the one .* text_column="),
        (["input={new}", "output=out.xlsx"], "output=out.xlsx has an unknown suffix: use .csv"),
        (["input={new}", "output=/proc/none/out.csv"], "can't be written"),
        (["input={empty}"], "has no rows"),
        (["input={damaged}"], "can't read input=.*damaged.parquet"),
        (["input={answered}"], "has a column predicted already; rename it"),
        (["text=a", "top_k=0"], "top_k=0 should be greater than or equal to 1"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    overrides: list[str], message: str, ask: Callable[..., None], tmp_path: Path
) -> None:
    files: dict[str, Any] = {"new": write(tmp_path / "new.csv"), "empty": tmp_path / "empty.csv"}
    files["empty"].write_text("id,text\n")
    files["damaged"] = tmp_path / "damaged.parquet"
    files["damaged"].write_bytes(b"PAR1 no more")
    others = {
        "utf16.csv": TABLE.encode("utf-16"),
        "lists.jsonl": b'{"text": "a"}\n{"text": [5]}',
        "half.jsonl": b'{"text": "\\ud83d"}',
        "twins.csv": b"text,text\na,b\n",
        "tabs.csv": b"text\na\tb\n",
        "mixed.jsonl": b'{"text": "a", "x": 1}\n{"text": "a", "x": "b"}\n',
        "keys.jsonl": b'{"text": "a"}\n' * BLOCK + b'{"text": "a", "more": 1}\n',
    }
    for name, content in others.items():
        files[name.split(".")[0]] = tmp_path / name
        (tmp_path / name).write_bytes(content)
    files["folder"] = tmp_path
    files["answered"] = write(tmp_path / "answered.csv", {"text": ["a"], "predicted": ["b"]})
    with pytest.raises(UserError, match=message) as caught:
        ask(*(override.format(**files) for override in overrides))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("**/predictions.csv*")) and not list(tmp_path.glob("*out*"))


def test_ctrl_c_keeps_what_is_done_and_names_it(trained: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "src" / "predict.py"), f"ckpt_path={trained}", "input=-", "output=out.csv"]
    # A shell's background job ignores Ctrl-C, and so would all that it starts.
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdin is not None and process.stderr is not None
    with process, process.stdin as lines, contextlib.suppress(BrokenPipeError):
        lines.write(b"oil prices fall\n" * 20_000)
        lines.flush()  # and more to come
        while not (partial := tmp_path / "out.csv.partial").is_file() or partial.stat().st_size < 20_000:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read().decode()
    rows = pd.read_csv(tmp_path / "out.csv.partial")
    assert process.returncode in (-signal.SIGINT, 130) and "Traceback" not in said
    assert f"interrupted: {len(rows):,} rows are in out.csv.partial" in said
    assert len(rows) and len(rows) % BLOCK == 0 and not (tmp_path / "out.csv").exists()


def test_ctrl_c_within_rows_leaves_none_of_them(tmp_path: Path) -> None:
    class Interrupted(dict[str, Any]):
        def get(self, *_: object) -> Any:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt), tables.Writer(str(tmp_path / "out.csv"), None, {}) as writer:
        writer.write([{"text": "whole"}])
        writer.write([{"text": "half"}, Interrupted(text="of it")])
    assert (tmp_path / "out.csv.partial").read_text() == "text\nwhole\n"


def test_a_reader_that_has_seen_enough_is_no_fault(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("oil prices fall\n" * 20_000)
    predicted = f"{sys.executable} {ROOT}/src/predict.py ckpt_path={trained} input=lines.txt output=- format=jsonl"
    result = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{predicted} | head -n 1"], cwd=tmp_path, capture_output=True, text=True
    )
    assert json.loads(result.stdout)["text"] == "oil prices fall"
    assert "Traceback" not in result.stderr and "Broken" not in result.stderr


def test_on_a_terminal_the_bar_shows_rows_and_the_time_left(
    ask: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = io.StringIO()
    console = partial(Console, file=shown, force_terminal=True, width=100)
    monkeypatch.setattr(prediction, "Console", lambda **_: console())
    ask(f"input={write(tmp_path / 'new.parquet')}", f"output={tmp_path}/out.csv")
    assert "4 rows" in shown.getvalue() and "a second" in shown.getvalue() and "100%" in shown.getvalue()


def test_what_is_written_reads_back(ask: Callable[..., None], tmp_path: Path) -> None:
    texts = ["one\rtwo", "one\r\ntwo", 'a "quoted", text']
    table = pa.table({"text": texts, "score": [float("nan"), 0.5, None]})
    pyarrow.parquet.write_table(table, tmp_path / "new.parquet")
    for name in ("out.csv", "out.jsonl"):
        ask(f"input={tmp_path}/new.parquet", f"output={tmp_path / name}")
    with (tmp_path / "out.csv").open(newline="") as file:
        assert [row["text"] for row in csv.DictReader(file)] == texts
    rows = [json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == texts and [row["score"] for row in rows] == [None, 0.5, None]
    nested = pa.table({"text": ["a"], "more": [{"scores": [float("nan"), 1.5]}]})
    pyarrow.parquet.write_table(nested, tmp_path / "nested.parquet")
    for name in ("nested.out.jsonl", "nested.csv"):
        ask(f"input={tmp_path}/nested.parquet", f"output={tmp_path / name}")
    (row,) = map(json.loads, (tmp_path / "nested.out.jsonl").read_text().splitlines())
    assert row["more"] == {"scores": [None, 1.5]}
    with (tmp_path / "nested.csv").open(newline="") as file:
        assert [json.loads(row["more"], parse_constant=pytest.fail) for row in csv.DictReader(file)] == [row["more"]]
    (tmp_path / "labels.jsonl").write_text('{"text": "a", "tags": ["R&D; tech", "tech"]}\n')
    with pytest.raises(UserError, match="contains ';', which separates labels"):
        ask(f"input={tmp_path}/labels.jsonl", f"output={tmp_path}/labels.csv")
    assert not list(tmp_path.glob("labels.csv*"))


@pytest.mark.parametrize(
    ("value", "name"),
    [(b"a", "out.csv"), ([b"a"], "out.csv"), (b"a", "out.jsonl"), ([b"a"], "out.jsonl"), (float("inf"), "out.jsonl")],
)
def test_what_a_file_of_text_cannot_hold_is_refused_and_parquet_holds_it(
    value: Any, name: str, ask: Callable[..., None], tmp_path: Path
) -> None:
    pyarrow.parquet.write_table(pa.table({"text": ["oil"], "more": [value]}), tmp_path / "new.parquet")
    with pytest.raises(UserError, match=r"a \.parquet file infinities and bytes"):
        ask(f"input={tmp_path}/new.parquet", f"output={tmp_path / name}")
    assert not list(tmp_path.glob("out.*"))
    ask(f"input={tmp_path}/new.parquet", f"output={tmp_path}/out.parquet")
    assert pyarrow.parquet.read_table(tmp_path / "out.parquet")["more"].to_pylist() == [value]


@pytest.mark.parametrize(("path", "kind"), [("out.csv", None), ("out.tsv", None), (tables.STREAM, "csv")])
def test_a_class_that_would_run_into_others_is_refused_before_anything_is_written(
    path: str, kind: tables.Output | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["tech", "R&D; tech"]
    with pytest.raises(UserError, match="use format=jsonl or format=parquet"):
        tables.Writer(path, kind, {"predicted": list}, names)
    for other in ("jsonl", "parquet"):
        with tables.Writer(f"out.{other}", None, {"predicted": list}, names) as writer:
            writer.write([{"predicted": names}])
    assert read(tmp_path / "out.parquet")["predicted"].to_list()[0].tolist() == names
    assert json.loads((tmp_path / "out.jsonl").read_text()) == {"predicted": names}
    assert {file.name for file in tmp_path.iterdir()} == {"out.jsonl", "out.parquet"}
