"""A trained model's answers, from Python."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
from omegaconf import DictConfig

from attnlab.config import instantiate, resolve
from attnlab.errors import UserError
from attnlab.inference import Predictor
from attnlab.inference.predictor import TOKENS_AT_ONCE, batches
from attnlab.training.train import train
from tests.conftest import ROOT, TINY

Compose = Callable[..., DictConfig]


PAIRS = [f"data.{key}={value}" for key, value in (("test", 0.2), ("text", "first"), ("text_pair", "second"))]


@pytest.mark.parametrize(
    "parts",
    [
        ["model=bag"],
        ["model.pooling=max", "pe=rotary", "model.num_heads=2"],
        ["model=ngram_bag", "model.pooling=attention", "model.buckets=100", "optimizer=adagrad"],
        pytest.param(["model=ngram_bag", "model.buckets=100", "optimizer=adagrad"], marks=pytest.mark.slow),
        pytest.param(["model=transformer", "model.num_heads=2", "pe=learned"], marks=pytest.mark.slow),
        ["model=bag", "task=multi_label", "data.topics=all"],
        ["model.num_heads=2", "data=files", *PAIRS],
    ],
    ids=lambda parts: " ".join(parts[:2]),
)
def test_probabilities_are_those_of_the_test(parts: list[str], compose_config: Compose, tmp_path: Path) -> None:
    tiny = [*TINY, "trainer.max_epochs=1", f"paths.run_dir={tmp_path}/run"]
    if "data=files" in parts:
        tiny = [override for override in tiny if not re.match("data.*_size=", override)]
        tiny += [f"data.train={write_pairs(tmp_path / 'pairs.csv')}", "tokenizer.vocab_size=90"]
    config = compose_config(*parts, *tiny)
    train(config)
    test = instantiate(resolve(config)["data"]).load().test
    predictor = Predictor.load(tmp_path / "run")
    documents: Any = test.documents
    predictions = predictor(documents)
    written = pyarrow.parquet.read_table(tmp_path / "run" / "predictions.parquet")
    expected = np.stack([written[f"p({name})"].to_numpy() for name in predictor.label_names], axis=1)
    assert predictions.probabilities == pytest.approx(expected, abs=1e-6)
    assert predictions.labels == written["predicted"].to_pylist()
    # Whatever stands beside a text, and in whatever order.
    some = [3, 1, 7]
    assert predictor([documents[row] for row in some]).probabilities == pytest.approx(expected[some], abs=1e-6)


def test_blocks_that_are_answered_side_by_side_come_in_order(tiny_config: Compose, tmp_path: Path) -> None:
    train(tiny_config("model=bag", f"paths.run_dir={tmp_path}/run"))
    predictor = Predictor.load(tmp_path / "run", threads=1)
    blocks = [[f"oil {n} of the moon " * (n % 7 + 1) for n in range(start, start + 50)] for start in range(0, 600, 50)]
    found = list(Predictor(predictor.trained, at_once=3).stream(iter(blocks)))
    assert len(found) == len(blocks)
    for block, predictions in zip(blocks, found, strict=True):
        assert predictions.probabilities == pytest.approx(predictor(block).probabilities, abs=1e-6)


def test_an_empty_text_has_no_answer(tiny_config: Compose, tmp_path: Path) -> None:
    train(tiny_config("model=bag", f"paths.run_dir={tmp_path}/run"))
    predictor = Predictor.load(tmp_path / "run" / "checkpoints" / "best.ckpt")
    predictions = predictor(["", "oil prices", " \n"])
    assert predictions.labels[0] is predictions.labels[2] is None and predictions.labels[1] in predictor.label_names
    assert np.isnan(predictions.probabilities[[0, 2]]).all()
    assert predictions.probabilities[1].sum() == pytest.approx(1)
    assert predictor("oil prices").labels == [predictions.labels[1]]
    assert predictor([]).labels == [] and predictor([]).probabilities.shape == (0, 4)


def test_after_a_fork_it_says_so_and_does_not_hang(
    tiny_config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny_config("model=bag", "trainer.max_epochs=1", f"paths.run_dir={tmp_path}/run"))
    predictor = Predictor.load(tmp_path / "run")
    predictor(["oil"])
    monkeypatch.setattr("os.getpid", lambda: -1)  # as in the child
    with pytest.raises(UserError, match="before the process forked"):
        predictor(["oil"])


@pytest.mark.slow
def test_processes_of_ones_own_answer_as_the_page_says(tiny_config: Compose, tmp_path: Path) -> None:
    train(tiny_config("model=bag", "trainer.max_epochs=1", f"paths.run_dir={tmp_path}/run"))
    page = (ROOT / "docs" / "using.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"```python\n(from multiprocessing .*?)```", page, re.DOTALL)
    predictor = Predictor.load(tmp_path / "run")
    expected = [predictor([text]).labels for text in ("Oil prices fall", "The team wins the cup")]
    lines = lines.replace("logs/train/runs/<run>", str(tmp_path / "run"))
    (tmp_path / "own.py").write_text(lines)
    command = [sys.executable, str(tmp_path / "own.py")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert result.stdout.strip() == str(expected), result.stderr


def write_pairs(path: Path) -> Path:
    """Pairs of texts of two classes."""
    words = ("oil", "team", "moon")
    rows = [(one, other, "same" if one == other else "other") for one in words for other in words] * 6
    lines = [f"{one} of the day,the {other} {n},{label}\n" for n, (one, other, label) in enumerate(rows)]
    path.write_text("first,second,label\n" + "".join(lines), encoding="utf-8")
    return path


def test_batches_hold_every_document_once_and_are_bounded() -> None:
    lengths = np.random.default_rng(0).integers(1, 400, 3000)
    found = batches(lengths)
    assert sorted(row for rows in found for row in rows) == list(range(3000))
    assert max(len(rows) * lengths[rows].max() for rows in found) <= TOKENS_AT_ONCE
    assert batches(np.array([5 * TOKENS_AT_ONCE, 3])) == [[0], [1]]


def test_what_is_no_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a checkpoint nor a run's folder"):
        Predictor.load(tmp_path)
    torch.save({"state_dict": {}, "hyper_parameters": {"model": {"_target_": "os.system"}}}, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match="is not a checkpoint"):
        Predictor.load(tmp_path / "x.ckpt")


def test_it_wants_neither_lightning_nor_a_data_module(tiny_config: Compose, tmp_path: Path) -> None:
    """Nor what else takes time to import, such as torch's compiler, which a model on `meta` brings in."""
    heavy = "lightning", "datasets", "pandas", "pyarrow", "torchmetrics", "sympy", "torch._dynamo"
    train(tiny_config("trainer.max_epochs=1", "model.num_heads=2", f"paths.run_dir={tmp_path}/run"))
    code = f"import sys; from attnlab.inference import Predictor; Predictor.load('{tmp_path}/run')(['oil'])"
    command = [sys.executable, "-c", f"{code}; print([name for name in {heavy} if name in sys.modules])"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"
