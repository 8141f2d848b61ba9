"""Several labels a document, in each of the forms in which they are written."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest

from attnlab.data.corpus import count_labels, renumber
from attnlab.data.sources import Corpus, Files, Headlines, Hub, Split
from attnlab.data.splits import split_corpus, stratified_mask
from attnlab.errors import UserError

SETS = [["rude"], [], ["rude", "threat"], ["threat"]]
TEXTS = ["a b", "c d", "e f", "g h"]
EXPECTED = [[1, 0], [0, 0], [1, 1], [0, 1]]


def write_lists(folder: Path) -> Files:
    for split in ("train", "test"):
        rows = (json.dumps({"text": text, "label": labels}) for text, labels in zip(TEXTS, SETS, strict=True))
        (folder / f"{split}.jsonl").write_text("\n".join(rows))
    return Files(batch_size=2, train=f"{folder}/train.jsonl", test=f"{folder}/test.jsonl")


def write_parquet(folder: Path) -> Files:
    for split in ("train", "test"):
        pd.DataFrame({"text": TEXTS, "label": SETS}).to_parquet(folder / f"{split}.parquet")
    return Files(batch_size=2, train=f"{folder}/train.parquet", test=f"{folder}/test.parquet")


def write_separated(folder: Path) -> Files:
    for split in ("train", "test"):
        table = pd.DataFrame({"text": TEXTS, "label": ["; ".join(labels) for labels in SETS]})
        table.to_csv(folder / f"{split}.csv", index=False)
    return Files(batch_size=2, train=f"{folder}/train.csv", test=f"{folder}/test.csv", label_separator=";")


def write_flags(folder: Path) -> Files:
    for split in ("train", "test"):
        flags = {name: [int(name in labels) for labels in SETS] for name in ("rude", "threat")}
        pd.DataFrame({"text": TEXTS, **flags}).to_csv(folder / f"{split}.csv", index=False)
    return Files(batch_size=2, train=f"{folder}/train.csv", test=f"{folder}/test.csv", label=["rude", "threat"])


def write_fasttext(folder: Path) -> Files:
    lines = ["".join(f"__label__{name} " for name in names) + text for text, names in zip(TEXTS, SETS, strict=True)]
    for split in ("train", "test"):
        (folder / f"{split}.txt").write_text("\n".join(lines))
    return Files(batch_size=2, train=f"{folder}/train.txt", test=f"{folder}/test.txt")


def write_hub(folder: Path) -> Hub:
    classes = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": datasets.List(datasets.ClassLabel(names=["rude", "threat"])),
        }
    )
    for split in ("train", "test"):
        rows = {"text": TEXTS, "label": SETS}
        datasets.Dataset.from_dict(rows, features=classes).to_parquet(folder / f"{split}.parquet")
    return Hub(batch_size=2, path=str(folder))


@pytest.mark.parametrize("write", [write_lists, write_parquet, write_separated, write_flags, write_fasttext, write_hub])
def test_every_form_is_the_same_labels(write: Callable[[Path], Files | Hub], tmp_path: Path) -> None:
    corpus = write(tmp_path).load()
    assert corpus.label_names == ["rude", "threat"]
    for split in (corpus.train, corpus.test):
        assert split.labels.dtype == np.float32 and split.labels.tolist() == EXPECTED


def test_columns_of_flags_are_said_to_be_labels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "attnlab"):
        write_flags(tmp_path).load()
    assert "text from text, label from [rude,threat]" in " ".join(caplog.text.split())


def test_a_class_that_train_lacks_and_a_flag_that_is_none_are_one_line(tmp_path: Path) -> None:
    files = write_separated(tmp_path)
    (tmp_path / "test.csv").write_text("text,label\nx,rude;odd\n")
    with pytest.raises(
        UserError, match=r"row 0: the label 'odd' does not occur in the training set; give it one of rude, th"
    ):
        files.load()
    files = write_flags(tmp_path)
    (tmp_path / "test.csv").write_text("text,rude,threat\nx,1,0\ny,0,maybe\n")
    with pytest.raises(UserError, match=r"row 1: data\.label=\[rude,threat\] are columns of 0 and 1, and threat holds"):
        files.load()


def test_all_topics_of_the_built_in_corpus() -> None:
    settings = {"batch_size": 4, "train_size": 400, "test_size": 100, "noise": 0.0, "order_share": 0.3}
    several, one = (Headlines(**settings, topics=topics).load() for topics in ("all", None))  # type: ignore[arg-type]
    assert several.train.texts == one.train.texts and several.ceilings == {}
    assert several.train.labels[np.arange(400), one.train.labels].all()
    assert several.train.labels.sum() == 400 * 1.3  # a share of 0.3 tells of two


def test_rare_classes_and_combinations_are_divided_in_proportion() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((2000, 4)) < [0.5, 0.2, 0.05, 0.02]).astype(np.float32)
    chosen = stratified_mask(labels, 200, seed=1)
    assert chosen.sum() == 200
    assert count_labels(labels[chosen], 4) == pytest.approx(count_labels(labels, 4) / 10, abs=5)
    assert abs(count_labels(labels[chosen], 4)[3] - labels[:, 3].sum() / 10) <= 1  # the rarest comes first


def test_splits_and_numbers_of_a_trained_model() -> None:
    labels = np.array(EXPECTED * 10, dtype=np.float32)
    corpus = Corpus(["rude", "threat"], Split([f"{i} a" for i in range(40)], labels), Split(TEXTS, labels[:4]))
    splits = split_corpus(corpus)
    assert splits["val"].labels.shape == (4, 2) and splits["train"].labels.shape == (36, 2)
    theirs = renumber(corpus, ["odd", "threat", "rude"]).test.labels
    assert theirs.tolist() == [[0, threat, rude] for rude, threat in EXPECTED]
