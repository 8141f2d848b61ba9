"""Pairs of texts, whose label neither text alone tells."""

from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from omegaconf import DictConfig

from attnlab.training.evaluate import evaluate
from attnlab.training.module import TextClassification
from attnlab.training.saved import load_weights
from attnlab.training.train import train

Compose = Callable[..., DictConfig]

WINS = {("rock", "scissors"), ("scissors", "paper"), ("paper", "rock")}


@pytest.fixture
def duels(tmp_path: Path) -> list[str]:
    """The overrides for 480 duels: who wins depends on both hands and on which of them is whose."""
    rng = np.random.default_rng(0)
    rows = [
        f"{said} show {mine},{said} {heard} {yours},{'win' if (mine, yours) in WINS else 'loss'}"
        for mine, yours in permutations(("rock", "paper", "scissors"), 2)
        for said, heard in rng.choice(["now", "here", "then", "again", "so"], (80, 2))
    ]
    (tmp_path / "duels.csv").write_text("\n".join(["mine,yours,result", *rows]))
    data = ["data=files", f"data.train={tmp_path}/duels.csv", "data.test=0.25", "data.text=mine", "data.label=result"]
    return [*data, "tokenizer=wordlevel", "trainer=cpu", "trainer.max_epochs=15", "callbacks.early_stopping=null"]


LEARNS = ["model=attention", "model.embed_dim=32", "model.pooling=max", "pe=none", "optimizer.lr=0.01"]


@pytest.mark.parametrize(
    "model",
    [
        [],
        pytest.param(["model=transformer", "model.feed_forward=64", "model.dropout=0"], marks=pytest.mark.slow),
    ],
)
def test_a_pair_is_learned_by_who_says_what(
    model: list[str], compose_config: Compose, duels: list[str], tmp_path: Path
) -> None:
    """Without positions, so that the embedding of the two texts alone tells whose hand is which."""
    pair = [*duels, "data.text_pair=yours", *LEARNS, *model, f"paths.run_dir={tmp_path}/pair"]
    metrics = train(compose_config(*pair))
    assert metrics["test/acc"] > 0.95
    module = load_weights(tmp_path / "pair" / "checkpoints" / "best.ckpt", TextClassification)
    assert module.pairs and module.model.segments is not None
    again = evaluate(compose_config("trainer=cpu", f"ckpt_path={tmp_path}/pair", name="evaluate"))
    assert again["test/loss"] == pytest.approx(metrics["test/loss"], rel=1e-5)
    other = ["data=files", f"data.test={tmp_path}/duels.csv", "data.label=result"]  # its columns are those of training
    assert (
        evaluate(compose_config("trainer=cpu", f"ckpt_path={tmp_path}/pair", *other, name="evaluate"))["test/acc"]
        > 0.95
    )


@pytest.mark.parametrize(
    "blind",
    [
        [*LEARNS],  # to the other text
        pytest.param(["data.text=[mine,yours]", *LEARNS], marks=pytest.mark.slow),  # to whose hand is which
        ["data.text_pair=yours", "model=bag", "optimizer.lr=0.01"],  # likewise
        ["data.text_pair=yours", "model=ngram_bag", "model.ngrams=1"],
    ],
)
def test_who_ignores_the_pair_is_at_chance(
    blind: list[str], compose_config: Compose, duels: list[str], tmp_path: Path
) -> None:
    metrics = train(compose_config(*duels, *blind, f"paths.run_dir={tmp_path}/run"))
    assert metrics["test/acc"] < 0.7
