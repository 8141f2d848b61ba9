"""One decision: the direction of a metric, the best checkpoint, the weights that are tested."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import DictConfig

from attnlab.errors import UserError
from attnlab.training.evaluate import evaluate
from attnlab.training.train import train
from tests.training.test_train import curve

Compose = Callable[..., DictConfig]
MODEL_CHECKPOINT = "+callbacks.mine._target_=lightning.pytorch.callbacks.ModelCheckpoint"


def test_a_direction_follows_from_each_callbacks_own_metric(tiny_config: Compose) -> None:
    config = tiny_config("monitor.metric=val/acc", "callbacks.early_stopping.monitor=val/loss")
    assert (config.monitor.mode, config.callbacks.best_checkpoint.mode) == ("max", "max")
    assert config.callbacks.early_stopping.mode == "min"


OWN_TASK = ["task._target_=tests.parts.Measured", "model=bag", "optimizer.lr=0.5", "callbacks.early_stopping=null"]


@pytest.mark.usefixtures("own_parts")
def test_a_metric_of_a_task_of_ones_own_chooses_the_highest(tiny_config: Compose, tmp_path: Path) -> None:
    """torchmetrics says the direction of the one, the user that of the other."""
    settings = [*OWN_TASK, "trainer.max_epochs=4", "data.train_size=400", "monitor.metric=val/mcc"]
    other = ["callbacks.best_checkpoint.monitor=val/agreement", "callbacks.best_checkpoint.mode=max"]
    for name, metric, given in (("a", "val/mcc", []), ("b", "val/agreement", other)):
        metrics = train(tiny_config(*settings, *given, f"paths.run_dir={tmp_path}/{name}"))
        scores = curve(tmp_path / name, metric)
        assert metrics[metric] == pytest.approx(max(scores)) and len(set(scores)) > 1
    kept = yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())
    assert kept["monitor"]["mode"] == kept["callbacks"]["best_checkpoint"]["mode"] == "max"


@pytest.mark.usefixtures("own_parts")
def test_a_metric_whose_direction_nobody_says_is_refused(tiny_config: Compose) -> None:
    with pytest.raises(UserError, match=r"val/agreement is better is not known: give monitor\.mode=min"):
        train(tiny_config(*OWN_TASK, "monitor.metric=val/agreement"))
    alone = [*OWN_TASK, "callbacks.best_checkpoint.monitor=val/agreement"]
    with pytest.raises(UserError, match=r"give callbacks\.best_checkpoint.mode=min"):
        train(tiny_config(*alone))
    with pytest.raises(UserError, match=r"monitor\.mode=upwards should be .min. or .max."):
        train(tiny_config("monitor.mode=upwards"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["monitor.metric=val/acc", "monitor.mode=min"],
            "monitor.mode=min contradicts val/acc, of which more is better",
        ),
        (["monitor.mode=max"], "monitor.mode=max contradicts val/loss, of which less is better"),
        (["callbacks.early_stopping.mode=max"], "callbacks.early_stopping.mode=max contradicts val/loss"),
        ([MODEL_CHECKPOINT, "+callbacks.mine.monitor=val/acc", "+callbacks.mine.mode=min"], "callbacks.mine.mode=min"),
        (["callbacks.early_stopping.monitor=val/accuracy"], "val/accuracy is not measured; choose one of val/loss, "),
        (["+trainer.limit_val_batches=0"], "callbacks.early_stopping=null too"),
        (["callbacks.best_checkpoint.filename='{epoch}-{val/los}'"], "'val/los' is not one of epoch, step, val/loss"),
        (["callbacks.best_checkpoint.filename=kept/best"], "must be the name of a file"),
        (["+callbacks.best_checkpoint.dirpath=elsewhere"], "a run keeps its checkpoints in its own folder"),
        (
            ["+callbacks.best_checkpoint.every_n_train_steps=2"],
            "would save other weights than val/loss",
        ),
        (["+callbacks.best_checkpoint.save_on_train_epoch_end=true"], "would save other weights than val/loss"),
    ],
)
def test_what_would_choose_wrongly_is_refused(overrides: list[str], message: str, tiny_config: Compose) -> None:
    with pytest.raises(UserError, match=message):
        train(tiny_config(*overrides))


def test_a_callback_without_a_mode_gets_its_metrics(tiny_config: Compose, tmp_path: Path) -> None:
    """Lightning's default is the minimum, of an accuracy too."""
    settings = ["optimizer.lr=0.05", "trainer.max_epochs=5", "data.train_size=600", "callbacks.early_stopping=null"]
    mine = [MODEL_CHECKPOINT, "+callbacks.mine.monitor=val/acc", "+callbacks.mine.filename=most"]
    train(tiny_config(*settings, *mine, f"paths.run_dir={tmp_path}"))
    most = torch.load(tmp_path / "checkpoints" / "most.ckpt", weights_only=True)
    scores = curve(tmp_path, "val/acc")
    assert most["metrics"]["val/acc"] == pytest.approx(max(scores)) and max(scores) > scores[0]


@pytest.mark.usefixtures("own_parts")
@pytest.mark.parametrize("kept", ["3", "-1"])
def test_best_is_the_best_however_many_are_kept(kept: str, tiny_config: Compose, tmp_path: Path) -> None:
    """With a late epoch that is worse than an earlier one."""
    settings = ["monitor.metric=val/acc", "trainer.max_epochs=4", "+callbacks.forgets._target_=tests.parts.Forgets"]
    kept_too = [f"callbacks.best_checkpoint.save_top_k={kept}", f"paths.run_dir={tmp_path}/run"]
    metrics = train(tiny_config(*settings, *kept_too, "data.train_size=600"))
    files = {file.name: torch.load(file, weights_only=True) for file in (tmp_path / "run" / "checkpoints").iterdir()}
    several = {name: content for name, content in files.items() if name.startswith("epoch_")}
    assert len(several) == (3 if kept == "3" else 4)
    scores = {name: content["metrics"]["val/acc"] for name, content in several.items()}
    assert files["best.ckpt"]["metrics"]["val/acc"] == max(scores.values()) == metrics["val/acc"]
    assert files["best.ckpt"]["epoch"] < 3
    again = evaluate_with(tmp_path, f"ckpt_path={tmp_path}/run")
    assert again["test/loss"] == pytest.approx(metrics["test/loss"], rel=1e-5)


def evaluate_with(folder: Path, *overrides: str) -> dict[str, float]:
    from hydra import compose, initialize_config_dir

    from tests.conftest import ROOT

    with initialize_config_dir(str(ROOT / "conf")):
        every = ["trainer=cpu", f"paths.log_dir={folder}/logs", *overrides]
        return evaluate(compose("evaluate", overrides=every))


def test_a_filename_of_ones_own(tiny_config: Compose, resume: Compose, tmp_path: Path) -> None:
    """Its metric has a slash in it; the run can be evaluated and resumed all the same."""
    name = "callbacks.best_checkpoint.filename='{epoch}-{val/loss:.3f}'"
    metrics = train(tiny_config(name, f"paths.run_dir={tmp_path}/run"))
    folder = tmp_path / "run" / "checkpoints"
    expected = f"epoch_{metrics['train/epochs'] - 1}-val_loss_{metrics['val/loss']:.3f}.ckpt"
    assert {file.name for file in folder.iterdir()} == {"best.ckpt", "last.ckpt", expected}
    assert evaluate_with(tmp_path, f"ckpt_path={tmp_path}/run")["test/loss"] == pytest.approx(metrics["test/loss"])
    assert train(resume(tmp_path / "run", "trainer.max_epochs=3"))["train/epochs"] == 3


@pytest.mark.parametrize(
    "overrides",
    [
        ["callbacks.best_checkpoint=null"],
        ["callbacks.best_checkpoint=null", "+trainer.check_val_every_n_epoch=5"],
        ["+trainer.check_val_every_n_epoch=5"],
    ],
)
def test_without_a_best_checkpoint_the_last_weights_are_tested_and_said_to_be(
    overrides: list[str], tiny_config: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = train(tiny_config(*overrides, f"paths.run_dir={tmp_path}/run"))
    assert "No best checkpoint was kept, so the last weights are tested" in caplog.text
    assert metrics["val/loss"] > 0 and json.loads((tmp_path / "run" / "metrics.json").read_text()) == metrics
    again = evaluate_with(tmp_path, f"ckpt_path={tmp_path}/run")
    assert again["test/loss"] == pytest.approx(metrics["test/loss"], rel=1e-5)


def test_a_limit_of_steps_ends_with_a_validation(tiny_config: Compose, tmp_path: Path) -> None:
    metrics = train(tiny_config("+trainer.max_steps=9", f"paths.run_dir={tmp_path}"))
    best: dict[str, Any] = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["global_step"] == 9 and best["metrics"]["val/loss"] == metrics["val/loss"]
