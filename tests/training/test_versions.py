"""Runs of versions before: tests/training/version_1 is a run of two epochs that it made, killed before its test."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from attnlab.analysis.comparison import make_study
from attnlab.errors import UserError
from attnlab.training.evaluation import evaluate
from attnlab.training.module import TextClassification
from attnlab.training.run import train
from attnlab.training.saved import FORMAT, load_weights

Compose = Callable[..., DictConfig]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The folder of the old run, with its last checkpoint as its best."""
    run = tmp_path / "old"
    shutil.copytree(Path(__file__).with_name("version_1"), run)
    shutil.copy(run / "checkpoints" / "last.ckpt", run / "checkpoints" / "best.ckpt")
    return run


def test_its_checkpoint_is_of_one_class_a_document_and_scores_as_it_did(old: Path, compose_config: Compose) -> None:
    assert "format" not in torch.load(old / "checkpoints" / "last.ckpt", weights_only=True)
    module = load_weights(old / "checkpoints" / "last.ckpt", TextClassification)
    assert type(module.task).__name__ == "SingleLabel" and module.task.label_names[0] == "World"
    metrics = evaluate(compose_config("trainer=cpu", f"ckpt_path={old}", name="evaluate"))
    assert metrics["test/loss"] == pytest.approx(1.4208799600601196, rel=1e-5)
    assert metrics["test/acc"] == 0.25 and metrics["test/f1"] == pytest.approx(0.1)
    assert metrics["test/temperature"] == module.task.temperature == 1
    assert metrics["test/log_loss"] == pytest.approx(metrics["test/loss"])


def test_it_goes_on(old: Path, resume: Compose) -> None:
    metrics = train(resume(old, "trainer.max_epochs=3"))
    assert metrics["train/epochs"] == 3 and metrics["test/acc"] >= 0
    with (old / "metrics.csv").open() as file:
        rows = [row["epoch"] for row in csv.DictReader(file) if row["val/loss"]]
    assert rows == ["0", "1", "2"]
    last = torch.load(old / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["format"] == FORMAT and "temperature" in last


def test_its_own_config_trains_again_and_compares_with_todays(old: Path, tmp_path: Path) -> None:
    config = OmegaConf.load(old / "config.yaml")
    assert isinstance(config, DictConfig) and "task" not in config
    config.paths = {
        "log_dir": f"{tmp_path}/logs",
        "cache_dir": f"{tmp_path}/cache",
        "run_dir": f"{tmp_path}/runs/again",
    }
    train(config)
    finished = json.loads((tmp_path / "runs/again/metrics.json").read_text())
    shutil.copytree(old, tmp_path / "runs" / "old")
    (tmp_path / "runs/old/metrics.json").write_text(json.dumps(finished))
    table = pd.read_parquet(tmp_path / "runs/again/predictions.parquet")
    table.drop(columns="correct").to_parquet(tmp_path / "runs/old/predictions.parquet")  # as it was written then
    again = OmegaConf.load(tmp_path / "runs/again/config.yaml")
    OmegaConf.save(OmegaConf.merge(again, {"model": {"pooling": "max"}}), tmp_path / "runs/again/config.yaml")
    (comparison,) = make_study([tmp_path / "runs"]).comparisons
    assert comparison.by == ["model.pooling"] and comparison.rows["p"].iloc[1] == 1


def test_a_checkpoint_of_a_later_version_is_one_line(old: Path, tmp_path: Path) -> None:
    checkpoint = torch.load(old / "checkpoints" / "last.ckpt", weights_only=True) | {"format": FORMAT + 1}
    torch.save(checkpoint, tmp_path / "later.ckpt")
    with pytest.raises(UserError, match=f"is of format {FORMAT + 1}, and this version reads {FORMAT} and below"):
        load_weights(tmp_path / "later.ckpt", TextClassification)


def test_a_checkpoint_of_format_2_has_no_temperature(
    tiny_config: Compose, compose_config: Compose, resume: Compose, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    unsure = ["model=bag", "optimizer.lr=0.02", "data.train_size=600", "task.label_smoothing=0.4"]
    first = train(tiny_config(*unsure, f"paths.run_dir={run}"))
    for file in (run / "checkpoints").iterdir():
        checkpoint = torch.load(file, weights_only=True) | {"format": 2}
        del checkpoint["temperature"]
        file.unlink()  # it may be another name of the other
        torch.save(checkpoint, file)
    metrics = evaluate(compose_config("trainer=cpu", f"ckpt_path={run}", name="evaluate"))
    assert metrics["test/temperature"] == 1 != first["test/temperature"]
    assert metrics["test/log_loss"] == pytest.approx(first["test/log_loss_uncalibrated"])
    train(resume(run, "trainer.max_epochs=3"))
    assert "temperature" in torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), "much", [1.0]])
def test_another_kind_of_temperature_is_one_line(value: object, old: Path) -> None:
    file = old / "checkpoints" / "best.ckpt"
    torch.save(torch.load(file, weights_only=True) | {"temperature": value}, file)
    with pytest.raises(UserError, match=r"temperature is .* should be a number above 0|is no checkpoint of attnlab"):
        load_weights(file, TextClassification)
