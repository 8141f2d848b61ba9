from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from omegaconf import DictConfig

from attnlab.data.datamodule import TextDataModule
from attnlab.data.folds import cut_fold, fold_numbers
from attnlab.data.sources import Corpus, Headlines, Split
from attnlab.data.tokenization import BPE
from attnlab.errors import UserError
from attnlab.study.comparison import make_study
from attnlab.training.evaluation import evaluate
from attnlab.training.run import train


def source(folds: int | None = 5, fold: int = 0) -> Headlines:
    return Headlines(batch_size=4, train_size=100, test_size=20, noise=0.0, order_share=0.3, folds=folds, fold=fold)


def test_each_document_is_tested_once_and_classes_are_divided() -> None:
    labels = np.repeat([0, 1, 2], [53, 31, 16])
    numbers = fold_numbers(labels, 5, seed=3)
    for fold in range(5):
        counts = np.bincount(labels[numbers == fold])
        assert (abs(counts - np.array([53, 31, 16]) / 5) < 1).all()
    assert (numbers == fold_numbers(labels, 5, seed=3)).all() and (numbers != fold_numbers(labels, 5, seed=4)).any()


def test_a_fold_is_tested_and_the_sets_own_test_is_left_alone(tmp_path: Path) -> None:
    corpus = source(None).load()
    tested: list[str] = []
    for fold in range(5):
        data = TextDataModule(source(fold=fold), BPE(vocab_size=200, max_length=40), tmp_path)
        data.setup()
        texts = {name: set(split.texts) for name, split in data.splits.items()}
        assert len(texts["test"]) == 20 and len(texts["val"]) == 8 and len(texts["train"]) == 72
        assert not texts["test"] & (texts["train"] | texts["val"]) and not texts["test"] & set(corpus.test.texts)
        places = data.splits["test"].places
        assert places is not None and [corpus.train.texts[i] for i in places] == data.splits["test"].texts
        tested += data.splits["test"].texts
    assert sorted(tested) == sorted(corpus.train.texts)


def test_a_validation_split_takes_part() -> None:
    train, val, test = (Split([f"{name}{i}" for i in range(10)], np.arange(10) % 2) for name in ("a", "b", "c"))
    cut = cut_fold(Corpus(["x", "y"], train, test, val), source(folds=2))
    assert cut.val is None and {text[0] for text in cut.train.texts + cut.test.texts} == {"a", "b"}


@pytest.mark.parametrize(
    ("folds", "fold", "message"),
    [(5, 5, "data.fold=5 wants data.folds, more than 5"), (None, 1, "data.fold=1 wants data.folds, a number of them")],
)
def test_a_fold_that_there_is_not_is_one_line(folds: int | None, fold: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        source(folds, fold)


@pytest.mark.slow
def test_folds_are_trained_evaluated_and_compared(
    tiny_config: Callable[..., DictConfig], compose_config: Callable[..., DictConfig], tmp_path: Path
) -> None:
    indices: list[int] = []
    for pooling in ("mean", "max"):
        for fold in range(3):
            folder = f"paths.run_dir={tmp_path}/runs/{pooling}{fold}"
            overrides = "model=bag", f"model.pooling={pooling}", "data.folds=3", f"data.fold={fold}"
            metrics = train(tiny_config(*overrides, "trainer.max_epochs=1", folder))
            if pooling == "mean":
                indices += pd.read_parquet(tmp_path / f"runs/mean{fold}/predictions.parquet")["index"].tolist()
    assert sorted(indices) == list(range(200))
    again = evaluate(compose_config("trainer=cpu", f"ckpt_path={tmp_path}/runs/max2", name="evaluate"))
    assert again["test/loss"] == pytest.approx(metrics["test/loss"], rel=1e-5)
    study = make_study([tmp_path / "runs"])
    (comparison,) = study.comparisons
    assert comparison.by == ["model.pooling"] and comparison.rows["pairs"].iloc[1] == 3
    assert comparison.rows["p"].notna().iloc[1] and "predictions" not in "".join(study.warnings)
