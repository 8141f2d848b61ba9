import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from attnlab.data.sources import Files, Headlines, Hub
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
            writer = csv.DictWriter(file, rows[0], delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return str(path)


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
    with pytest.raises(UserError, match=r"data\.test=dev is no split .*train, validation, test"):
        Hub(batch_size=4, path=str(tmp_path), test="dev").load()


def test_without_network_two_ways_out_are_named() -> None:
    with pytest.raises(UserError, match=r"fancyzhx/ag_news.*data\.path=<folder>.*data=headlines"):
        Hub(batch_size=4, path="fancyzhx/ag_news").load()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": "topic"}, r"data\.label=topic is no column of .*train\.jsonl; it has body, kind"),
        ({"text": "title"}, r"data\.text=title is no column"),
        ({"train": "nowhere.csv"}, r"data\.train=nowhere\.csv is no file"),
        ({"train": "notes.txt"}, r"data\.train=notes\.txt: files end in one of \.csv, \.tsv"),
        ({"train_rows": [*ROWS, {"body": " ", "kind": "sport"}]}, r"train\.jsonl, row 6: the text is empty"),
        (
            {"test_rows": [{"body": "x", "kind": "chess"}]},
            r"test\.jsonl, row 0: the label 'chess' is none of the training set; give it one of sport, weather",
        ),
        ({"train_rows": [{"body": "x", "kind": 0.5}]}, r"data\.label=kind of .*train\.jsonl holds 0\.5"),
        (
            {"train_rows": [{"body": 1, "kind": "a"}]},
            r"data\.text=body of .*train\.jsonl holds int \(row 0\), no text",
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
