import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attnlab.data.datamodule import TextDataModule
from attnlab.data.sources import Headlines
from attnlab.data.tokenization import BPE
from attnlab.errors import UserError
from tests.data.corpora import Given, corpus


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
        r"Truncated, % of documents/tokens \(unknown\): train 89/2\d \(0\.0\), val 100/2\d \(0\.0\), test ", said
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
    assert data.audit == {key: value for key, value in plain.audit.items() if "/test" in key and "dup" not in key}
    named, renumbered = ([d.label_names[i] for i in d.splits["test"].labels] for d in (plain, data))
    assert named == renumbered
    with pytest.raises(UserError, match=r"classes .*Sports.* does not know; it knows x, y"):
        make(label_names=["x", "y"]).setup("test")


def test_the_fingerprint_is_that_of_texts_labels_and_splits(tmp_path: Path) -> None:
    def fingerprint(labels: list[int], **settings: Any) -> str:
        data = TextDataModule(Given(batch_size=4, corpus=corpus(labels), **settings), BPE(vocab_size=60), tmp_path)
        data.setup()
        return data.fingerprint

    first = fingerprint([0, 1] * 20)
    assert fingerprint([0, 1] * 20) == first
    others = [fingerprint([1, 0] * 20), fingerprint([0, 1] * 21), fingerprint([0, 1] * 20, limit=10)]
    assert len({first, *others}) == 4
