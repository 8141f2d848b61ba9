from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from omegaconf import DictConfig

from attnlab.analysis.comparison import make_study
from attnlab.data.datamodule import TextDataModule
from attnlab.data.sources import Corpus, Headlines, Split
from attnlab.data.splits import cut_fold, fold_numbers, group_mask, split_corpus, split_mask, stratified_mask
from attnlab.data.tokenization import BPE
from attnlab.errors import UserError
from attnlab.training.evaluate import evaluate
from attnlab.training.train import train
from tests.data.corpora import corpus


def test_validation_is_a_part_of_train_and_stays_when_train_is_limited() -> None:
    whole = split_corpus(corpus([0, 1] * 50))
    limited = split_corpus(corpus([0, 1] * 50), limit=20)
    assert len(whole["val"].texts) == 10 and len(whole["train"].texts) == 90
    assert not set(whole["val"].texts) & set(whole["train"].texts)
    assert limited["val"].texts == whole["val"].texts and np.bincount(limited["train"].labels).tolist() == [10, 10]
    other = split_corpus(corpus([0, 1] * 50), seed=1)
    assert other["val"].texts != whole["val"].texts


def test_no_group_is_validated_on_that_is_trained_on() -> None:
    labels, groups = np.arange(200) % 2, [str(row // 4) for row in range(200)]
    whole = Corpus(["a", "b"], Split([f"text {row}" for row in range(200)], labels, groups), corpus([0]).test)
    splits = split_corpus(whole)
    assert splits["train"].groups is not None and splits["val"].groups is not None
    assert len(splits["val"].texts) == 20 and not set(splits["train"].groups) & set(splits["val"].groups)
    single = Corpus(["a", "b"], Split(whole.train.texts, labels, ["one"] * 200), whole.test)
    with pytest.raises(UserError, match=r"data\.group leaves no part of train to validate on"):
        split_corpus(single)


def test_a_validation_split_of_its_own_is_used() -> None:
    splits = split_corpus(corpus([0, 1], val=[1, 0, 1]))
    assert len(splits["val"].texts) == 3 and len(splits["train"].texts) == 2


def test_validating_on_test_warns(caplog: pytest.LogCaptureFixture) -> None:
    splits = split_corpus(corpus([0, 1] * 5), validation="test")
    assert splits["val"].texts == splits["test"].texts and len(splits["train"].texts) == 10
    assert "the test score will be optimistic" in caplog.text


@pytest.mark.parametrize(
    ("labels", "message"),
    [([], "training set is empty"), ([1, 1, 1], "one class only"), ([0, 1, 1, 1], r"have one document .*\(a\)")],
)
def test_what_cannot_be_split_is_named(labels: list[int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        split_corpus(corpus(labels))


def test_a_class_that_a_split_lacks_is_said(caplog: pytest.LogCaptureFixture) -> None:
    split_corpus(corpus([0] * 40 + [1] * 2, test=[0, 0]), limit=10)
    assert "No document of b in train" in caplog.text or "No document of b in val" in caplog.text
    assert "No document of b in test" in caplog.text
    caplog.clear()
    split_corpus(corpus([0, 1] * 20))
    assert "No document of" not in caplog.text


@pytest.mark.parametrize("size", [1, 7, 50, 99, 100])
def test_stratified_is_of_the_size_and_in_proportion(size: int) -> None:
    labels = np.array([0] * 60 + [1] * 30 + [2] * 10)
    chosen = stratified_mask(labels, size, seed=0)
    assert chosen.sum() == size
    assert np.abs(np.bincount(labels[chosen], minlength=3) - size * np.array([0.6, 0.3, 0.1])).max() <= 1


@pytest.mark.parametrize("seed", [0, 1])
def test_groups_stay_whole_and_classes_in_proportion(seed: int) -> None:
    """Groups of 1 to 9 documents, two in three of them of one class."""
    rng = np.random.default_rng(seed)
    groups = [str(number) for number in range(300) for _ in range(rng.integers(1, 10))]
    labels = np.array([0 if int(group) % 3 else rng.integers(1, 3) for group in groups])
    chosen = group_mask(labels, len(labels) // 5, seed, groups)
    inside, outside = ({g for g, c in zip(groups, chosen, strict=True) if c == side} for side in (True, False))
    assert not inside & outside
    shares = np.bincount(labels[chosen]) / np.bincount(labels)
    assert np.abs(shares - 0.2).max() < 0.03
    assert (chosen == group_mask(labels, len(labels) // 5, seed, groups)).all()
    assert (chosen != group_mask(labels, len(labels) // 5, seed + 2, groups)).any()


def test_documents_without_a_group_are_alone() -> None:
    labels = np.zeros(50, dtype=np.int64)
    assert group_mask(labels, 10, 0, [""] * 50).sum() == 10
    assert not group_mask(labels, 10, 0, ["one"] * 50).any()  # rather than all
    assert split_mask(labels, 10, 0).sum() == split_mask(labels, 10, 0, [""] * 50).sum() == 10


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
    cut = cut_fold(Corpus(["x", "y"], train, test, val), fold=0, folds=2, seed=0)
    assert cut.val is None and {text[0] for text in cut.train.texts + cut.test.texts} == {"a", "b"}


@pytest.mark.parametrize(
    ("folds", "fold", "message"),
    [
        (5, 5, "data.fold=5 requires data.folds, more than 5"),
        (None, 1, "data.fold=1 requires data.folds, a number of them"),
    ],
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
