"""A trained model's answers, from Python."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from omegaconf import DictConfig

from attnlab.config import instantiate, resolve
from attnlab.errors import UserError
from attnlab.inference import Predictor
from attnlab.inference.predictor import TOKENS_AT_ONCE, batches
from attnlab.training.run import train

Compose = Callable[..., DictConfig]


@pytest.mark.parametrize("parts", [["model=bag"], ["model.pooling=max", "pe=rotary", "model.num_heads=2"]])
def test_probabilities_are_those_of_the_test(parts: list[str], tiny_config: Compose, tmp_path: Path) -> None:
    config = tiny_config(*parts, f"paths.run_dir={tmp_path}/run")
    train(config)
    test = instantiate(resolve(config)["data"]).load().test
    predictor = Predictor.load(tmp_path / "run")
    predictions = predictor(test.texts)
    written = pyarrow.parquet.read_table(tmp_path / "run" / "predictions.parquet")
    expected = np.stack([written[f"p({name})"].to_numpy() for name in predictor.label_names], axis=1)
    assert predictions.probabilities == pytest.approx(expected, abs=1e-6)
    assert predictions.labels == written["predicted"].to_pylist()
    # Whatever stands beside a text, and in whatever order.
    some = [3, 1, 7]
    assert predictor([test.texts[row] for row in some]).probabilities == pytest.approx(expected[some], abs=1e-6)


def test_an_empty_text_has_no_answer(tiny_config: Compose, tmp_path: Path) -> None:
    train(tiny_config("model=bag", f"paths.run_dir={tmp_path}/run"))
    predictor = Predictor.load(tmp_path / "run" / "checkpoints" / "best.ckpt")
    predictions = predictor(["", "oil prices", " \n"])
    assert predictions.labels[0] is predictions.labels[2] is None and predictions.labels[1] in predictor.label_names
    assert np.isnan(predictions.probabilities[[0, 2]]).all()
    assert predictions.probabilities[1].sum() == pytest.approx(1)
    assert predictor([]).labels == [] and predictor([]).probabilities.shape == (0, 4)


def test_several_labels_are_answered_by_the_thresholds_of_training(tiny_config: Compose, tmp_path: Path) -> None:
    train(tiny_config("model=bag", "task=multi_label", "data.topics=all", f"paths.run_dir={tmp_path}/run"))
    written = pyarrow.parquet.read_table(tmp_path / "run" / "predictions.parquet")
    config = resolve(tiny_config("data.topics=all"))
    predictions = Predictor.load(tmp_path / "run")(instantiate(config["data"]).load().test.texts)
    assert predictions.labels == written["predicted"].to_pylist()


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
    with pytest.raises(UserError, match="is no checkpoint"):
        Predictor.load(tmp_path / "x.ckpt")


def test_it_wants_neither_lightning_nor_a_data_module() -> None:
    code = "import sys, attnlab.inference; print([name for name in ('lightning', 'datasets', 'pandas', 'torchmetrics')"
    command = [sys.executable, "-c", f"{code} if name in sys.modules])"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"
