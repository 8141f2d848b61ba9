"""Runs that begin with vectors from a file."""

import logging
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from tokenizers import Tokenizer

from attnlab.errors import UserError
from attnlab.inference import Predictor
from attnlab.training.train import train
from tests.conftest import TINY
from tests.training.test_resume import assert_same_run, start

Compose = Callable[..., DictConfig]
WIDTH = 8


@pytest.fixture
def static(compose_config: Compose, tmp_path: Path) -> Compose:
    """The config of a tiny run with vectors for a part of its vocabulary."""
    words = ("the", "in", "of", "on", "to", "and", "game", "Price", "new", "she")
    lines = [f"{word} {' '.join(f'{(i * 5 + j * 3) % 7 - 3}' for j in range(WIDTH))}\n" for i, word in enumerate(words)]
    (tmp_path / "glove.txt").write_text("".join(lines))
    tiny = [word for word in TINY if not word.startswith("model.embed_dim")]
    path = f"embedding.path={tmp_path}/glove.txt"
    return lambda *overrides: compose_config("embedding=static", path, *tiny, *overrides)


def table_of(run: Path) -> torch.Tensor:
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    return checkpoint["state_dict"]["model.embedding.weight"]


@pytest.mark.parametrize("model", ["bag", "ngram_bag", "attention", "transformer"])
def test_every_model_begins_with_the_vectors_and_predicts_without_the_file(
    model: str, static: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    small = ["model.buckets=500"] if model == "ngram_bag" else []
    frozen = ["embedding.freeze=true", "embedding.scale=0.5", "trainer.max_epochs=1", f"paths.run_dir={run}"]
    with caplog.at_level(logging.INFO):
        train(static(f"model={model}", *frozen, *small))
    said = r"8 values each, for [23]\.\d % of the vocabulary and \d+\.\d % of train's tokens; the others are random"
    assert re.search(said, caplog.text)
    table, tokenizer = table_of(run), Tokenizer.from_file(str(run / "tokenizer.json"))
    rows = {line.split()[0]: line.split()[1:] for line in (tmp_path / "glove.txt").read_text().splitlines()}
    found = [token for token in rows if tokenizer.token_to_id(token) is not None]
    theirs = torch.tensor([[float(value) for value in rows[token]] for token in found])
    ours = table[[tokenizer.token_to_id(token) for token in found]]
    ratio = (ours / theirs)[theirs != 0]
    assert len(found) > 5 and ratio.min() > 0
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), atol=1e-5, rtol=0)
    if model == "ngram_bag":  # n-grams have learned, beyond what they were drawn from
        assert table[tokenizer.get_vocab_size() :].abs().max() > 1 / WIDTH
    else:
        assert table[tokenizer.token_to_id("[PAD]")].count_nonzero() == 0
    (tmp_path / "glove.txt").unlink()
    assert Predictor.load(run)(["oil prices fall"]).labels[0] is not None


def test_vectors_learn_unless_they_are_frozen(static: Compose, tmp_path: Path) -> None:
    tables = []
    for name, more in (("0", ["embedding.freeze=true"]), ("1", []), ("2", ["optimizer.lr=0.1"])):
        train(static("model=bag", "test=false", "trainer.max_epochs=1", f"paths.run_dir={tmp_path}/{name}", *more))
        tables.append(table_of(tmp_path / name))
    assert 0 < (tables[0] - tables[1]).abs().max() < (tables[0] - tables[2]).abs().max()


def test_a_killed_run_goes_on_without_the_file(static: Compose, resume: Compose, tmp_path: Path) -> None:
    settings = ["model=ngram_bag", "model.buckets=500", "embedding.freeze=true", "data.train_size=800"]
    settings += ["trainer.max_epochs=4", "callbacks.last_checkpoint.every_n_steps=2"]
    train(static(*settings, f"paths.run_dir={tmp_path}/whole"))
    process = start(static(*settings, f"paths.run_dir={tmp_path}/killed"))
    while process.is_alive() and not (tmp_path / "killed/checkpoints/last.ckpt").exists():
        time.sleep(0.01)
    process.kill()
    process.join()
    (tmp_path / "glove.txt").unlink()
    train(resume(tmp_path / "killed"))
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.embed_dim=100"], "model.embed_dim=100, but the vectors of .* have 8 values: leave it out"),
        (["model.num_heads=3"], "model.num_heads=3 does not divide model.embed_dim=8"),
        (["embedding.path=null"], "^embedding=static requires embedding.path=<file or folder of vectors>$"),
        (["embedding.path=nowhere"], "^embedding.path=nowhere is neither a file nor a folder$"),
    ],
)
def test_what_does_not_fit_is_one_line(overrides: list[str], message: str, static: Compose) -> None:
    with pytest.raises(UserError, match=message):
        train(static(*overrides))


def test_a_path_that_is_left_unread_is_said(tiny_config: Compose, caplog: pytest.LogCaptureFixture) -> None:
    """A sweep over embedding=random,static gives it to both."""
    train(tiny_config("embedding.path=glove.txt", "test=false", "trainer.max_epochs=1"))
    assert "embedding=random reads no vectors: embedding.path=glove.txt is for embedding=static" in caplog.text
