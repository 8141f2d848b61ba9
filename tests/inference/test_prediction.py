"""`src/predict.py`: rows in, the same rows with answers out."""

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from attnlab.errors import UserError
from attnlab.inference import Predictor, prediction, tables
from attnlab.inference.prediction import predict
from attnlab.training.run import train
from tests.conftest import ROOT, TINY

Compose = Callable[..., DictConfig]

ROWS = {
    "id": ["007", "8", "9", "10"],
    "text": ['oil "prices", fall', "", "the team\nwon", "NA"],
    "note": ["x", "y", "", "z"],
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run."""
    folder = tmp_path_factory.mktemp("trained")
    paths = [f"paths.log_dir={folder}/logs", f"paths.run_dir={folder}/run"]
    with initialize_config_dir(str(ROOT / "conf")):
        train(compose("train", overrides=[*TINY, "model=bag", "trainer.max_epochs=1", *paths]))
    return folder / "run"


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
@pytest.mark.parametrize("at_once", [1, 4096])
def test_every_row_and_column_is_kept_in_order(
    name: str, at_once: int, ask: Callable[..., None], trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "AT_ONCE", at_once)
    output = tmp_path / "deep" / name.removesuffix(".gz")
    ask(f"input={write(tmp_path / name)}", f"output={output}")
    answered = read(output)
    assert list(answered.columns) == [*ROWS, "predicted", "probability"]
    assert answered["id"].to_list() == ROWS["id"] and answered["note"].to_list() == ROWS["note"]
    texts = answered["text"].to_list()
    assert texts[0] == ROWS["text"][0] and texts[3] == "NA"
    expected = Predictor.load(trained)(texts)
    assert answered["predicted"].to_list() == [label or "" for label in expected.labels]
    found = pd.to_numeric(answered["probability"]).to_numpy()
    assert found == pytest.approx(expected.probabilities.max(axis=1), abs=1e-6, nan_ok=True)


def test_empty_texts_are_counted_and_the_default_output_named(
    ask: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(f"input={write(tmp_path / 'new.csv')}")
    (output,) = tmp_path.glob("logs/predict/runs/*/predictions.csv")
    said = capsys.readouterr().err
    assert "1 of 4 rows have no text, and no answer" in said and f"4 rows are in {output}" in said
    assert len(read(output)) == 4


def test_standard_input_and_output(
    ask: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"text": "oil"}\n{"text": "\xc3\xa4"}\n')))
    ask("input=-", "output=-", "format=json")
    answered = pd.read_json(io.StringIO(capsys.readouterr().out), lines=True)
    assert answered["text"].to_list() == ["oil", "ä"] and list(answered.columns) == ["text", "predicted", "probability"]


def test_the_most_probable_classes(ask: Callable[..., None], tmp_path: Path) -> None:
    ask(f"input={write(tmp_path / 'new.csv')}", f"output={tmp_path}/out.parquet", "top_k=3", "text_column=[note,text]")
    answered = read(tmp_path / "out.parquet")
    assert list(answered.columns)[3:] == [f"{what}_{k}" for k in (1, 2, 3) for what in ("predicted", "probability")]
    assert (answered["probability_1"] >= answered["probability_2"]).all()
    assert answered["predicted_1"].nunique() <= 4 and "" not in set(answered["predicted_1"])


def test_several_labels_have_their_columns_in_every_part(
    tiny_config: Compose, compose_config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in one whose texts are all empty."""
    run = ["model=bag", "task=multi_label", "data.topics=all", "trainer.max_epochs=1", f"paths.run_dir={tmp_path}/run"]
    train(tiny_config(*run))
    monkeypatch.setattr(tables, "AT_ONCE", 1)
    paths = [f"ckpt_path={tmp_path}/run", f"input={write(tmp_path / 'new.csv')}", f"output={tmp_path}/out.parquet"]
    predict(compose_config(*paths, name="predict"))
    answered = read(tmp_path / "out.parquet")
    topics = ("World", "Sports", "Business", "Sci/Tech")
    assert list(answered.columns) == [*ROWS, "predicted", *(f"p({topic})" for topic in topics)]
    assert answered["p(World)"].isna().to_list() == [False, True, False, False] and answered.loc[1, "predicted"] == ""


def test_one_text_is_a_table(ask: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    ask("text=oil prices fall")
    shown = capsys.readouterr().out
    assert shown.count("*") == 1 and all(name in shown for name in ("World", "Sports", "Business", "Sci/Tech"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "give either text=.* or input="),
        (["text=a", "input=b.csv"], "give either text=.* or input="),
        (["text=' '"], "the text is empty"),
        (["text=a", "text_pair=b"], "this model is of single texts: leave out text_pair"),
        (["input=none.csv"], "input=none.csv is no file"),
        (["input=-"], "input=- says nothing of its form: give format="),
        (["input={new}", "text_column=body"], "no column body; it has id, text, note: name the one .* text_column="),
        (["input={new}", "output=out.xlsx"], "output=out.xlsx is of no known form: give .csv"),
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
    files["answered"] = write(tmp_path / "answered.csv", {"text": ["a"], "predicted": ["b"]})
    with pytest.raises(UserError, match=message) as caught:
        ask(*(override.format(**files) for override in overrides))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("**/predictions.csv*")) and not list(tmp_path.glob("*.partial"))


def test_what_is_interrupted_is_named(
    ask: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: Any) -> Any:
        yield from list(tables.read_parts(*arguments))[:1]
        raise KeyboardInterrupt

    monkeypatch.setattr(prediction, "read_parts", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ask(f"input={write(tmp_path / 'new.csv')}", f"output={tmp_path}/out.csv")
    assert f"interrupted: 4 rows are in {tmp_path}/out.csv.partial" in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists() and len((tmp_path / "out.csv.partial").read_text().splitlines()) > 4
