import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from attnlab.data.sources import Files, Folders, Headlines, Hub
from attnlab.data.splits import cut_fold
from attnlab.errors import UserError

ROWS = [{"body": 'Rain, "again"', "kind": "weather"}, {"body": "Two goals", "kind": "sport"}] * 3


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows))
    else:
        import csv

        with path.open("w", newline="") as file:
            tabs: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None}
            writer = csv.DictWriter(file, rows[0], **(tabs if path.suffix == ".tsv" else {}))
            writer.writeheader()
            writer.writerows(rows)
    return str(path)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_each_document_leads_back_to_its_file_row_and_id(suffix: str, tmp_path: Path) -> None:
    """Whatever was left out, cut or put together on the way."""
    for name in ("a", "b"):
        rows = [{"id": f"{name}{i}", "body": f"{name} {i}" if i % 5 else "", "kind": "xy"[i % 2]} for i in range(40)]
        write(tmp_path / f"{name}.{suffix}", rows)
    paths = [str(tmp_path / f"{name}.{suffix}") for name in ("a", "b")]
    cut = Files(batch_size=4, train=paths, test=0.3, text="body", label="kind", id="id", on_empty="drop").load()
    folded = Files(
        batch_size=4, train=paths[0], val=paths[1], test=paths[0], text="body", label="kind", id="id", on_empty="drop"
    )
    fold = cut_fold(folded.load(), fold=1, folds=3, seed=0)
    assert len(cut.test.texts) == 19 and len(fold.test.texts) > 15
    for split in (cut.train, cut.test, fold.train, fold.test):
        found = split.found_at(np.arange(len(split.texts))[::-1])
        assert [text.replace(" ", "") for text in split.texts[::-1]] == found["id"]
        places = [f"{Path(file).stem} {row}" for file, row in zip(found["file"], found["row"], strict=True)]
        assert places == split.texts[::-1] and {Path(file).name[1:] for file in found["file"]} == {f".{suffix}"}


def test_documents_of_folders_and_of_the_built_in_corpus_lead_back_too(tmp_path: Path) -> None:
    for name in ("x/1", "x/2", "x/3", "y/1", "y/2", "y/3"):
        (tmp_path / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / name).write_text(name)
    train = Folders(batch_size=4, path=str(tmp_path), test=0.3).load().train
    assert [file[-3:] for file in train.found_at(np.arange(4))["file"]] == train.texts
    headlines = Headlines(batch_size=4, train_size=9, test_size=9, noise=0.0, order_share=0.0).load()
    assert headlines.test.found_at(np.array([4]))["row"] == [4]


def files(
    tmp_path: Path, train: list[dict[str, Any]] = ROWS, test: list[dict[str, Any]] = ROWS, /, **keys: Any
) -> Files:
    paths = {"train": write(tmp_path / "train.jsonl", train), "test": write(tmp_path / "test.jsonl", test)}
    settings: dict[str, Any] = {"batch_size": 4, "text": "body", "label": "kind"} | paths | keys
    return Files(**settings)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".json", ".jsonl", ".parquet"])
def test_every_kind_of_file(suffix: str, tmp_path: Path) -> None:
    train, test = write(tmp_path / f"train{suffix}", ROWS), write(tmp_path / f"test{suffix}", ROWS[:1])
    corpus = Files(batch_size=4, train=train, test=test, text="body", label="kind").load()
    assert corpus.label_names == ["sport", "weather"]
    assert corpus.train.texts == [row["body"] for row in ROWS]
    assert corpus.train.labels.tolist() == [1, 0] * 3 and corpus.test.labels.tolist() == [1]


def test_integer_labels_need_not_start_at_zero(tmp_path: Path) -> None:
    rows = [{"body": "x", "kind": kind} for kind in (3, 7, 3)]
    corpus = files(tmp_path, rows, rows).load()
    assert corpus.label_names == ["3", "7"] and corpus.train.labels.tolist() == [0, 1, 0]


def test_a_folder_of_the_hubs_schema(tmp_path: Path) -> None:
    """Class names come from the set, and a split named "validation" is used."""
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["b", "a"])})
    for split in ("train", "validation", "test"):
        rows = {"text": [f"{split} {i}" for i in range(4)], "label": [0, 1, 1, 0]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / f"{split}.parquet"))
    corpus = Hub(batch_size=4, path=str(tmp_path)).load()
    assert corpus.label_names == ["b", "a"] and corpus.train.labels.tolist() == [0, 1, 1, 0]
    assert corpus.val is not None and corpus.val.texts[0] == "validation 0"
    with pytest.raises(UserError, match=r"data\.test=dev is not a split .*train, validation, test"):
        Hub(batch_size=4, path=str(tmp_path), test="dev").load()


def test_a_hub_folder_of_csv_files_is_read_as_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("id,text,label\n1,None,007\n2,012,NA\n3,nan,7\n,x,null\n")
    (tmp_path / "test.csv").write_text("id,text,label\n1,NA,null\n")
    corpus = Hub(batch_size=4, path=str(tmp_path)).load()
    assert corpus.train.texts == ["None", "012", "nan", "x"] and corpus.test.texts == ["NA"]
    assert [corpus.label_names[i] for i in corpus.train.labels] == ["007", "NA", "7", "null"]


def test_no_column_of_a_hub_folder_is_guessed_by_chunk(tmp_path: Path) -> None:
    rows = "".join(f"{row},text {row},{row % 2}\n" for row in range(10_001))
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text(f"id,text,label\n{rows}x9,last,other\n")
    corpus = Hub(batch_size=4, path=str(tmp_path)).load()
    assert corpus.label_names == ["0", "1", "other"] and corpus.train.texts[-2:] == ["text 10000", "last"]


def test_a_hub_folder_of_tab_separated_files_is_not_quoted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for split in ("train", "test"):
        (tmp_path / f"{split}.tsv").write_text('text\tlabel\n"x\ta\ny\tb\n"z"\ta\n')
    assert Hub(batch_size=4, path=str(tmp_path)).load().train.texts == ['"x', "y", '"z"']
    assert "the train split: 1 texts begin and end with a quotation mark" in caplog.text
    for split in ("train", "test"):
        (tmp_path / f"{split}.tsv").write_text('text\tlabel\n"x"\ta\ny\tb\n"z"\ta\n')
    assert Hub(batch_size=4, path=str(tmp_path), quoting="minimal").load().train.texts == ["x", "y", "z"]


def test_declared_types_of_a_hub_folder_count(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(
        "---\ndataset_info:\n  features:\n  - name: text\n    dtype: string\n  - name: label\n    dtype:\n"
        "      class_label:\n        names:\n          '0': b\n          '1': a\n---\n"
    )
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text("text,label\nNone,1\n7,0\n")
    corpus = Hub(batch_size=4, path=str(tmp_path)).load()
    assert corpus.label_names == ["b", "a"] and corpus.train.labels.tolist() == [1, 0]
    assert corpus.train.texts == ["None", "7"]


def test_rows_wider_than_the_header_of_a_hub_folder_are_named(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text("text,label\nx,a,1\ny,b,2\n")
    with pytest.raises(UserError, match="the train split has rows with one value more than there are columns"):
        Hub(batch_size=4, path=str(tmp_path)).load()


def hub_folder(folder: Path, **splits: str) -> str:
    """A folder with a split for each keyword, of one row for each label."""
    for split, labels in splits.items():
        rows = "".join(f"{split} {i},{label}\n" for i, label in enumerate(labels.split()))
        (folder / f"{split}.csv").write_text(f"text,label\n{rows}")
    return str(folder)


def test_a_validation_split_that_is_the_test_split_does_not_validate(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = hub_folder(tmp_path, train="0 1 0 1", validation="0 1", test="-1 -1")
    corpus = Hub(batch_size=4, path=path, test="validation").load()
    assert corpus.val is None and corpus.test.texts == ["validation 0", "validation 1"] and not caplog.records
    corpus = Hub(batch_size=4, path=path, val="validation", test="validation").load()
    assert corpus.val is not None and "Validating on the test set (data.val=validation)" in caplog.text


@pytest.mark.parametrize("labels", ["-1 -1", "- -"])
def test_a_test_split_without_labels_is_named(labels: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = hub_folder(tmp_path, train="0 1 0 1", validation="0 1", test=labels)
    if labels == "- -":
        (tmp_path / "test.csv").write_text("text,label\nx,\ny,\n")
    corpus = Hub(batch_size=4, path=path).load()
    assert corpus.test.texts == [] and len(corpus.train.texts) == 4
    message = caplog.records[0].getMessage()
    assert message.startswith("the test split has no labels, so nothing is tested: src/predict.py predicts them.")
    assert message.endswith("name one that has them with data.test=<other>; there is also validation")
    with pytest.raises(UserError, match=r"^the test split has no labels; name one .* data\.val=<other>"):
        Hub(batch_size=4, path=path, val="test", test="validation").load()


def test_an_unlabelled_split_of_named_classes(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["b", "a"])})
    for split, labels in (("train", [0, 1]), ("test", [-1, -1])):
        datasets.Dataset.from_dict({"text": ["x", "y"], "label": labels}, features=features).to_parquet(
            str(tmp_path / f"{split}.parquet")
        )
    assert not Hub(batch_size=4, path=str(tmp_path)).load().test.texts
    train, test = str(tmp_path / "train.parquet"), str(tmp_path / "test.parquet")
    assert not Files(batch_size=4, train=train, test=test).load().test.texts
    corpus = Files(batch_size=4, train=train, test=train).load()
    assert corpus.label_names == ["b", "a"] and corpus.train.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"val": "test"}, "Validating on the test set (data.val=test): the test score will be optimistic"),
        ({"test": "train"}, "Testing on the training set (data.test=train): the test score will be optimistic"),
        ({"val": "train"}, "Validating on the training set (data.val=train): the validation scores will be optimistic"),
    ],
)
def test_one_split_for_two_ends_is_said(
    keys: dict[str, str], message: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Hub(batch_size=4, path=hub_folder(tmp_path, train="0 1", test="0 1"), **keys).load()  # type: ignore[arg-type]
    assert [record.getMessage() for record in caplog.records] == [message]


def test_one_file_for_two_ends_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "sub").mkdir()
    files(tmp_path, test=str(tmp_path / "sub" / ".." / "train.jsonl")).load()
    assert "Testing on the training set" in caplog.text


def test_a_test_set_alone_is_enough_for_a_trained_model(tmp_path: Path) -> None:
    corpus = Hub(batch_size=4, path=hub_folder(tmp_path, test="1 0 1")).load(["test"])
    assert corpus.label_names == ["0", "1"] and corpus.test.labels.tolist() == [1, 0, 1] and not corpus.train.texts
    corpus = files(tmp_path, train=None).load(["test"])
    assert corpus.label_names == ["sport", "weather"] and not corpus.train.texts
    for train, message in ((None, "data.train is needed and has no default"), ("", "data.train is empty; if it came")):
        with pytest.raises(UserError, match=message):
            files(tmp_path, train=train).load()


def test_columns_may_be_named_by_numbers(tmp_path: Path) -> None:
    (tmp_path / "numbers.csv").write_text("0,1\nx,a\ny,b\n")
    path = str(tmp_path / "numbers.csv")
    corpus = Files(batch_size=4, train=path, test=path, text=0, label=1).load()
    assert corpus.train.texts == ["x", "y"] and corpus.label_names == ["a", "b"]
    for split in ("train", "test"):
        (tmp_path / "hub").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "hub" / f"{split}.csv")
    assert Hub(batch_size=4, path=str(tmp_path / "hub"), text=0, label=1).load().train.texts == ["x", "y"]


@pytest.mark.parametrize(
    ("name", "quoting", "texts", "message"),
    [
        ("t.csv", None, ["a\nb", "c"], "t.csv: 1 texts hold a line break, the first in row 0; if .* data.quoting=none"),
        ("t.csv", "minimal", ["a\nb", "c"], "1 texts hold a line break"),
        ("t.tsv", "minimal", ["a\nb", "c"], "1 texts hold a line break"),
        ("u.csv", "none", ['"a"', '"c"'], "u.csv: 2 texts begin and end with a quotation mark, .*data.quoting=minimal"),
        ("u.tsv", None, ['"a"', '"c"'], "2 texts begin and end with a quotation mark"),
        ("u.csv", None, ["a", "c"], ""),
        ("u.tsv", "minimal", ["a", "c"], ""),
    ],
)
def test_quoting(
    name: str, quoting: Any, texts: list[str], message: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    separator = "\t" if name.endswith("tsv") else ","
    first = '"a\nb"' if name.startswith("t") else '"a"'
    path = tmp_path / name
    path.write_text(f'text{separator}label\n{first}{separator}x\n"c"{separator}y\n')
    corpus = Files(batch_size=4, train=str(path), test=str(path), quoting=quoting).load(["test"])
    assert corpus.test.texts == texts
    assert len(caplog.records) == bool(message) and re.search(message, caplog.text)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("empty", r"can't load data\.path=.*empty: .*; give one CSV, JSON or parquet file a split"),
        ("nowhere/x", r"can't load data\.path=.*nowhere/x: the folder does not exist$"),
    ],
)
def test_advice_for_a_folder_is_not_about_the_network(path: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=message) as caught:
        Hub(batch_size=4, path=str(tmp_path / path)).load()
    assert "network" not in str(caught.value)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "texts.csv").mkdir()
    with pytest.raises(UserError, match=r"data\.train=.*texts\.csv is a folder; give a file.* data=hub data\.path="):
        files(tmp_path, train=str(tmp_path / "texts.csv")).load()


def test_a_cache_that_cannot_be_written_is_named_and_not_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    (tmp_path / "cache").write_text("a file where a folder should be")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache" / "datasets")
    path = hub_folder(tmp_path, train="0 1", test="0 1")
    with pytest.raises(UserError, match=r"the cache .*cache/datasets can't be written: .*; give another .*HF_HOME="):
        Hub(batch_size=4, path=path).load()


def test_without_network_two_ways_out_are_named() -> None:
    with pytest.raises(UserError, match=r"fancyzhx/ag_news.*data\.path=<folder>.*data=headlines"):
        Hub(batch_size=4, path="fancyzhx/ag_news").load()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": "topic"}, r"data\.label=topic is not a column of .*train\.jsonl; it has body, kind"),
        ({"text": "title"}, r"data\.text=title is not a column"),
        ({"train": "nowhere.csv"}, r"data\.train=nowhere\.csv does not exist"),
        ({"train": "notes.txt"}, r"data\.train=notes\.txt does not exist"),
        ({"train_rows": [*ROWS, {"body": " ", "kind": "sport"}]}, r"train\.jsonl: 1 of 7 rows have no text \(row 6\)"),
        (
            {"test_rows": [{"body": "x", "kind": "chess"}]},
            r"test\.jsonl, row 0: the label 'chess' does not occur in the training set; give it one of sport, weather",
        ),
        (
            {"train_rows": [{"body": "x", "kind": {"a": 1}}] * 2},
            r"data\.label=kind of .*train\.jsonl holds \{'a': '1'\}; labels are",
        ),
        (
            {"train_rows": [{"body": ["x"], "kind": "a"}] * 2},
            r"data\.text=body of .*train\.jsonl holds list \(row 0\), not text",
        ),
    ],
)
def test_what_cannot_be_used_is_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    rows = {split: changes.pop(f"{split}_rows", ROWS) for split in ("train", "test")}
    with pytest.raises(UserError, match=message):
        files(tmp_path, rows["train"], rows["test"], **changes).load()


@pytest.mark.parametrize(
    "settings",
    [
        {"noise": 1.5},
        {"order_share": -0.1},
        {"train_size": 0},
        {"validation": 0.9},
        {"validation": "dev"},
        {"limit": 0},
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"data\.{next(iter(settings))}="):
        Headlines(**({"batch_size": 4, "train_size": 9, "test_size": 9, "noise": 0.0, "order_share": 0.0} | settings))


def test_headlines_know_their_ceilings() -> None:
    corpus = Headlines(batch_size=4, train_size=40, test_size=20, noise=0.0, order_share=0.5).load()
    assert corpus.ceilings == {"ceiling/order_aware": 1.0, "ceiling/order_blind": 0.75}
    assert np.bincount(corpus.train.labels).tolist() == [10] * 4 and len(corpus.test.texts) == 20


def test_labels_that_differ_in_case_or_white_space_alone_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"body": f"text {i}", "kind": kind} for i, kind in enumerate(["World", "world ", "Sport"] * 3)]
    assert len(files(tmp_path, rows, rows).load().label_names) == 3
    assert "are classes of their own: World, world " in caplog.text
    caplog.clear()
    files(tmp_path).load()
    assert "classes of their own" not in caplog.text
