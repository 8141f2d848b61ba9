from pathlib import Path

import numpy as np
import pytest
from tokenizers import normalizers

from attnlab.data.audit import document_keys
from attnlab.data.datamodule import TextDataModule
from attnlab.data.sources import Corpus, Split
from attnlab.data.tokenization import BPE, TokenizerRecipe, WordLevel
from tests.data.corpora import Given


def audit_of(tmp_path: Path, train: list[str], test: list[str], recipe: TokenizerRecipe) -> dict[str, float]:
    """Of texts of two classes in turn; the first two documents of train validate."""
    labels = np.arange(100) % 2
    rest, tested, val = (Split(texts, labels[: len(texts)]) for texts in (train[2:], test, train[:2]))
    given = Corpus(["a", "b"], rest, tested, val)
    data = TextDataModule(Given(batch_size=4, corpus=given), recipe, tmp_path)
    data.setup()
    return data.audit


def test_duplicates_are_counted_but_for_case_and_space() -> None:
    asked, known = document_keys(["a  CAT", "a cat", "a cow"]), document_keys(["A cat", "a dog"])
    assert np.isin(asked, known).sum() == 2


def test_truncation_is_measured_and_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    long, short = "one two three four five six seven eight", "one two"
    train, test = [short] * 2 + [long, *[short] * 3], [long, long, short, "three"]
    metrics = audit_of(tmp_path, train, test, WordLevel(vocab_size=50, max_length=6))  # four words
    assert metrics["data/train_documents_cut"] == 1 / 4 and metrics["data/train_tokens_cut"] == 4 / 14
    assert metrics["data/test_documents_cut"] == 2 / 4 and metrics["data/test_tokens_cut"] == 8 / 19
    assert metrics["data/val_documents_cut"] == metrics["data/val_tokens_cut"] == 0
    assert "Data: documents truncated at tokenizer.max_length: 50 % of test; raise it" in " ".join(caplog.text.split())
    assert "Data: tokens truncated at tokenizer.max_length: 29 % of train, 42 % of test; raise it" in " ".join(
        caplog.text.split()
    )


def test_unknown_tokens_are_measured_and_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train, test = ["one two", "two one", "two one", "one two"], ["one six", "eins zwei", "two two two", "one"]
    metrics = audit_of(tmp_path, train, test, WordLevel(vocab_size=50))
    assert metrics["data/train_unknown_tokens"] == 0 and metrics["data/test_unknown_tokens"] == 3 / 8
    assert "unknown tokens: 38 % of test; try tokenizer=bpe or raise tokenizer" in " ".join(caplog.text.split())


def test_documents_that_the_tokenizer_leaves_empty_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained = WordLevel(vocab_size=50).train(["one two"])
    trained.normalizer = normalizers.Replace("-", "")
    split = Split(["one", "--", "two"], np.array([0, 1, 0]))
    data = TextDataModule(Given(batch_size=4, corpus=Corpus(["a", "b"], split, split, split)), trained, tmp_path)
    data.setup()
    assert [data.audit[f"data/{name}_empty_documents"] for name in ("train", "val", "test")] == [1, 1, 1]
    assert "documents without any token: 1 in train, 1 in val, 1 in test; remove them" in " ".join(caplog.text.split())


def test_documents_in_two_splits_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train, test = ["one two", "six", "a b", "ONE  two", "c d"], ["A B", "c  d", "one", "x y"]
    metrics = audit_of(tmp_path, train, test, WordLevel(vocab_size=50))
    assert metrics["data/test_duplicates"] == 2 and metrics["data/val_duplicates"] == 1
    assert "documents that are also in train: 2 in test; remove them" in " ".join(caplog.text.split())


def test_validation_documents_in_train_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def texts(name: str, labels: list[int], distinct: int) -> Split:
        return Split([f"{name} {i % distinct}" for i in range(len(labels))], np.array(labels))

    for distinct, said in ((10, True), (40, False)):
        caplog.clear()
        whole = Corpus(["a", "b"], texts("train", [0, 1] * 20, distinct), texts("test", [0, 1], 2))
        data = TextDataModule(Given(batch_size=4, corpus=whole), BPE(vocab_size=60), tmp_path)
        data.setup()
        assert ("validation documents are also in train, so model selection" in " ".join(caplog.text.split())) == said
