import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import normalizers

from attnlab.data.datamodule import TextDataModule
from attnlab.data.losses import keys_of
from attnlab.data.sources import SPLITS, Corpus, Headlines, Source, Split
from attnlab.data.tokenization import BPE, TokenizerRecipe, WordLevel
from attnlab.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Given(Source):
    """A source for a corpus that a test made."""

    corpus: Corpus | None = None

    def load(self, splits: Collection[str] = SPLITS) -> Corpus:
        assert self.corpus is not None and set(splits) <= set(SPLITS)
        return self.corpus


def corpus(train: list[int], test: list[int] = [0, 1], val: list[int] | None = None) -> Corpus:  # noqa: B006
    def split(name: str, labels: list[int]) -> Split:
        return Split([f"{name} {i}" for i in range(len(labels))], np.array(labels, dtype=np.int64))

    return Corpus(
        ["a", "b"], split("train", train), split("test", test), split("val", val) if val is not None else None
    )


def test_duplicates_are_counted_but_for_case_and_space() -> None:
    asked, known = keys_of(["a  CAT", "a cat", "a cow"]), keys_of(["A cat", "a dog"])
    assert np.isin(asked, known).sum() == 2


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., TextDataModule]:
    def module(**keys: object) -> TextDataModule:
        source = Headlines(batch_size=8, train_size=100, test_size=40, noise=0.0, order_share=0.3)
        return TextDataModule(source, BPE(vocab_size=200), tmp_path, **keys)  # type: ignore[arg-type]

    return module


def test_batches_of_every_split(make: Callable[..., TextDataModule], caplog: pytest.LogCaptureFixture) -> None:
    data = make()
    with caplog.at_level("INFO", "attnlab"):
        data.setup()
    assert "Data: 90 train, 10 val, 40 test documents; 4 classes" in caplog.text
    said = " ".join(caplog.text.split())
    assert re.search(
        r"Cut, % of documents/tokens \(unknown\): train 89/2\d \(0\.0\), val 100/2\d \(0\.0\), test ", said
    )
    loaders = (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
    assert [sum(len(batch.labels) for batch in loader) for loader in loaders] == [90, 10, 40]
    for batch in data.test_dataloader():
        assert batch.labels.tolist() == data.splits["test"].labels[batch.indices].tolist()
        texts = [data.splits["test"].texts[i] for i in batch.indices]
        assert batch.input_ids[0, : batch.attention_mask[0].sum()].tolist() == data.tokenizer.encode(texts[0]).ids


def test_for_testing_only_the_test_split_is_read_and_numbered_like_the_model(
    make: Callable[..., TextDataModule],
) -> None:
    plain = make()
    plain.setup()
    tokenizer = plain.tokenizer
    data = TextDataModule(
        plain.source, tokenizer, plain.cache_dir, label_names=["Sports", "World", "Sci/Tech", "Business"]
    )
    data.setup("test")
    assert list(data.splits) == ["test"]
    assert data.losses == {key: value for key, value in plain.losses.items() if "/test" in key and "dup" not in key}
    named, renumbered = ([d.label_names[i] for i in d.splits["test"].labels] for d in (plain, data))
    assert named == renumbered
    with pytest.raises(UserError, match=r"classes .*Sports.* does not know; it knows x, y"):
        make(label_names=["x", "y"]).setup("test")


def losses_of(tmp_path: Path, train: list[str], test: list[str], recipe: TokenizerRecipe) -> dict[str, float]:
    """Of texts of two classes in turn; the first two documents of train validate."""
    labels = np.arange(100) % 2
    rest, tested, val = (Split(texts, labels[: len(texts)]) for texts in (train[2:], test, train[:2]))
    given = Corpus(["a", "b"], rest, tested, val)
    data = TextDataModule(Given(batch_size=4, corpus=given), recipe, tmp_path)
    data.setup()
    return data.losses


def test_what_is_cut_off_is_measured_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    long, short = "one two three four five six seven eight", "one two"
    train, test = [short] * 2 + [long, *[short] * 3], [long, long, short, "three"]
    losses = losses_of(tmp_path, train, test, WordLevel(vocab_size=50, max_length=6))  # four words
    assert losses["data/train_documents_cut"] == 1 / 4 and losses["data/train_tokens_cut"] == 4 / 14
    assert losses["data/test_documents_cut"] == 2 / 4 and losses["data/test_tokens_cut"] == 8 / 19
    assert losses["data/val_documents_cut"] == losses["data/val_tokens_cut"] == 0
    assert "Data: documents cut at tokenizer.max_length: 50 % of test; raise it" in caplog.text
    assert "Data: tokens cut off at tokenizer.max_length: 29 % of train, 42 % of test; raise it" in caplog.text


def test_unknown_tokens_are_measured_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train, test = ["one two", "two one", "two one", "one two"], ["one six", "eins zwei", "two two two", "one"]
    losses = losses_of(tmp_path, train, test, WordLevel(vocab_size=50))
    assert losses["data/train_unknown_tokens"] == 0 and losses["data/test_unknown_tokens"] == 3 / 8
    assert "unknown tokens: 38 % of test; try tokenizer=bpe or raise tokenizer" in caplog.text


def test_documents_that_the_tokenizer_leaves_empty_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained = WordLevel(vocab_size=50).train(["one two"])
    trained.normalizer = normalizers.Replace("-", "")
    split = Split(["one", "--", "two"], np.array([0, 1, 0]))
    data = TextDataModule(Given(batch_size=4, corpus=Corpus(["a", "b"], split, split, split)), trained, tmp_path)
    data.setup()
    assert [data.losses[f"data/{name}_empty_documents"] for name in ("train", "val", "test")] == [1, 1, 1]
    assert "documents without any token: 1 in train, 1 in val, 1 in test; remove them" in caplog.text


def test_documents_that_stand_in_two_splits_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train, test = ["one two", "six", "a b", "ONE  two", "c d"], ["A B", "c  d", "one", "x y"]
    losses = losses_of(tmp_path, train, test, WordLevel(vocab_size=50))
    assert losses["data/test_duplicates"] == 2 and losses["data/val_duplicates"] == 1
    assert "documents that also stand in train: 2 in test; remove them" in caplog.text


def test_validation_that_stands_in_train_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def texts(name: str, labels: list[int], distinct: int) -> Split:
        return Split([f"{name} {i % distinct}" for i in range(len(labels))], np.array(labels))

    for distinct, said in ((10, True), (40, False)):
        caplog.clear()
        whole = Corpus(["a", "b"], texts("train", [0, 1] * 20, distinct), texts("test", [0, 1], 2))
        data = TextDataModule(Given(batch_size=4, corpus=whole), BPE(vocab_size=60), tmp_path)
        data.setup()
        assert ("validation documents also stand in train, so what is chosen on them" in caplog.text) == said


def test_the_fingerprint_is_that_of_texts_labels_and_splits(tmp_path: Path) -> None:
    def fingerprint(labels: list[int], **settings: Any) -> str:
        data = TextDataModule(Given(batch_size=4, corpus=corpus(labels), **settings), BPE(vocab_size=60), tmp_path)
        data.setup()
        return data.fingerprint

    first = fingerprint([0, 1] * 20)
    assert fingerprint([0, 1] * 20) == first
    others = [fingerprint([1, 0] * 20), fingerprint([0, 1] * 21), fingerprint([0, 1] * 20, limit=10)]
    assert len({first, *others}) == 4
