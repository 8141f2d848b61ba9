"""What a user can write under trainer, callbacks and optimizer: each value works or is one line, never a traceback."""

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch
import pytest
import torch
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.callbacks import Checkpoint, ModelSummary, ProgressBar
from omegaconf import DictConfig, OmegaConf

from attnlab.config import resolve
from attnlab.errors import UserError
from attnlab.training.train import train
from attnlab.training.trainer import make_trainer

Compose = Callable[..., DictConfig]
WORKS = None  # in place of a message

# Every argument of Lightning's Trainer, with values and what becomes of them.
TRAINER: dict[str, list[tuple[Any, str | None]]] = {
    "accelerator": [("cpu", WORKS), ("tpu", "torch_xla"), ("foo", "invalid accelerator name")],
    "strategy": [
        ("auto", WORKS),
        ("fsdp", "requires a GPU"),
        ("ddp_spawn", "use ddp"),
        ("foo", "invalid strategy name"),
    ],
    "devices": [
        ("auto", WORKS),
        ("-1", "int > 0"),
        ("0", "takes what this machine has"),
        ("1.5", "devices=1.5 should"),
    ],
    "num_nodes": [("1", WORKS)],
    "precision": [("bf16-true", WORKS), ("64-true", WORKS), ("foo", "precision=foo should be")],
    "logger": [("false", WORKS)],
    "callbacks": [("null", WORKS)],
    "fast_dev_run": [("3", WORKS), ("-1", "not a valid configuration")],
    "max_epochs": [("1", WORKS), ("0", "trains nothing"), ("-1", "scheduler=none"), ("-2", "max_epochs=-2 should")],
    "min_epochs": [("5", WORKS)],
    "max_steps": [("5", WORKS), ("0", "trains nothing"), ("-2", "must be a non-negative integer")],
    "min_steps": [("100", WORKS)],
    "max_time": [("00:00:01:00", WORKS), ("1", "max_time=1 should"), ("foo", "max_time=foo should")],
    "limit_train_batches": [("0.5", WORKS), ("2", WORKS), ("0", "trains nothing"), ("-1", "invalid value")],
    "limit_val_batches": [
        ("1", WORKS),
        ("0.5", "Please increase"),
        ("0", "nothing to measure"),
        ("-1", "invalid value"),
    ],
    "limit_test_batches": [("1", WORKS), ("0", "test=false"), ("-1", "invalid value")],
    "limit_predict_batches": [("1", WORKS)],
    "overfit_batches": [("1", "debug=overfit"), ("0", WORKS)],
    "val_check_interval": [
        ("0.5", WORKS),
        ("2", WORKS),
        ("0", "should be"),
        ("100", "must be less than"),
        ("1.5", "should"),
    ],
    "check_val_every_n_epoch": [("2", WORKS), ("null", WORKS), ("0", "should be greater"), ("-1", "should be greater")],
    "num_sanity_val_steps": [("2", WORKS)],
    "log_every_n_steps": [("1", WORKS), ("1000", WORKS), ("0", "should be greater")],
    "enable_checkpointing": [("false", WORKS)],
    "enable_progress_bar": [("false", WORKS)],
    "enable_model_summary": [("true", WORKS), ("false", WORKS)],
    "accumulate_grad_batches": [("4", WORKS), ("100", WORKS), ("0", "should be greater"), ("1.5", "valid integer")],
    "gradient_clip_val": [("null", WORKS), ("-1", "should be greater")],
    "gradient_clip_algorithm": [("value", WORKS), ("foo", "is invalid")],
    "deterministic": [("warn", WORKS), ("foo", "deterministic=foo should")],
    "benchmark": [("true", WORKS)],
    "inference_mode": [("false", WORKS)],
    "use_distributed_sampler": [("true", WORKS)],
    "profiler": [("simple", WORKS), ("foo", "can only be one of")],
    "detect_anomaly": [("true", WORKS)],
    "barebones": [("true", "debug=fast")],
    "plugins": [("null", WORKS), ("foo", "should be a valid array")],
    "sync_batchnorm": [("true", WORKS)],
    "reload_dataloaders_every_n_epochs": [("1", WORKS), ("-1", "should be an int >= 0")],
    "default_root_dir": [("elsewhere", "use paths.run_dir")],
    "enable_autolog_hparams": [("false", WORKS)],
    "model_registry": [("foo", WORKS)],
}
QUIET = ["trainer.enable_model_summary=false", "callbacks.model_summary=null", "callbacks.progress=null"]


def assert_works_or_is_one_line(config: DictConfig, message: str | None) -> None:
    if message is WORKS:
        assert 0 <= train(config)["test/acc"] <= 1
        return
    with pytest.raises(UserError) as caught:
        train(config)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_profile_stands_in_the_folder_of_its_run(tiny_config: Compose, tmp_path: Path) -> None:
    train(tiny_config("debug=profile", f"paths.run_dir={tmp_path}/run"))
    for stage, hook in (("fit", "training_step"), ("test", "test_step")):
        table = (tmp_path / "run" / f"{stage}-profile.txt").read_text()
        assert re.search(rf"Strategy\.{hook}\s+\|\s+[\d.e-]+\s+\|\s+[1-9]", table), table


def test_every_argument_of_the_trainer_has_a_row() -> None:
    assert TRAINER.keys() == inspect.signature(lightning.pytorch.Trainer.__init__).parameters.keys() - {"self"}


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        pytest.param(argument, value, message, marks=pytest.mark.slow if message is WORKS else ())
        for argument, rows in TRAINER.items()
        for value, message in rows
    ],
)
def test_an_argument_of_the_trainer(argument: str, value: str, message: str | None, tiny_config: Compose) -> None:
    quiet = [f"+{QUIET[0]}", *QUIET[1:]]
    assert_works_or_is_one_line(tiny_config(*quiet, f"++trainer.{argument}={value}"), message)


# Every callback that Lightning ships, with its settings and what becomes of it.
CALLBACKS: dict[str, list[tuple[dict[str, Any], str | None]]] = {
    "BackboneFinetuning": [({}, "requires a model with a backbone")],
    "BaseFinetuning": [({}, "requires a model with a backbone")],
    "BasePredictionWriter": [({}, WORKS)],
    "BatchSizeFinder": [({}, "search instead")],
    "Callback": [({}, WORKS)],
    "Checkpoint": [({}, WORKS)],
    "DeviceStatsMonitor": [({}, WORKS)],
    "EMAWeightAveraging": [({}, "callbacks=ema")],
    "EarlyStopping": [({"monitor": "val/acc"}, WORKS), ({"monitor": "foo"}, "is not measured"), ({}, "monitor")],
    "GradientAccumulationScheduler": [
        ({"scheduling": {0: 2}}, WORKS),
        ({"scheduling": {"x": 2}}, "should be an int"),
        ({}, "scheduling"),
    ],
    "LambdaCallback": [({}, WORKS)],
    "LearningRateFinder": [({}, "search instead")],
    "LearningRateMonitor": [({}, WORKS), ({"logging_interval": "foo"}, "should be")],
    "ModelCheckpoint": [
        ({}, WORKS),
        ({"monitor": "val/acc", "save_top_k": 2}, WORKS),
        ({"save_top_k": -5}, "save_top_k"),
    ],
    "ModelPruning": [({"pruning_fn": "l1_unstructured", "amount": 0.1}, "reads directly"), ({}, "reads directly")],
    "ModelSummary": [({}, WORKS)],
    "OnExceptionCheckpoint": [({"dirpath": "exceptions"}, WORKS)],
    "ProgressBar": [({}, WORKS)],
    "RichModelSummary": [({}, WORKS)],
    "RichProgressBar": [({}, WORKS)],
    "SpikeDetection": [({}, "ends a run anyway")],
    "StochasticWeightAveraging": [({"swa_lrs": 0.1}, "callbacks=swa")],
    "TQDMProgressBar": [({}, WORKS), ({"refresh_rate": -1}, WORKS)],
    "ThroughputMonitor": [({}, "batch_size_fn")],
    "Timer": [({"duration": "00:01:00:00"}, WORKS), ({"duration": "x"}, "not a valid duration")],
    "WeightAveraging": [({}, "callbacks=ema")],
}


def test_every_callback_of_lightning_has_a_row() -> None:
    assert CALLBACKS.keys() == set(lightning_callbacks.__all__)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [(name, settings, message) for name, rows in CALLBACKS.items() for settings, message in rows],
)
def test_a_callback_of_lightning(
    name: str,
    settings: dict[str, Any],
    message: str | None,
    tiny_config: Compose,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    config = tiny_config(f"+{QUIET[0]}", *QUIET[1:])
    mine = {"_target_": f"lightning.pytorch.callbacks.{name}", **settings}
    OmegaConf.update(config, "callbacks.mine", mine, force_add=True)
    assert_works_or_is_one_line(config, message)
    assert {path.name for path in tmp_path.iterdir()} <= {"logs"}


# Every optimizer of torch, at its default learning rate or at 0.01; None: works.
KINDS = [kind for kind in vars(torch.optim).values() if isinstance(kind, type)]
OPTIMIZERS: dict[str, str | None] = {
    **{kind.__name__: WORKS for kind in KINDS if issubclass(kind, torch.optim.Optimizer)},
    "Muon": "only supports 2D parameters",
    "SparseAdam": "does not support dense gradients",
    "Optimizer": "Optimizer.__init__() got an unexpected keyword argument",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_of_torch(name: str, tiny_config: Compose) -> None:
    config = tiny_config(f"+{QUIET[0]}", *QUIET[1:])
    for settings, message in (({"lr": 0.01}, OPTIMIZERS[name]), ({"lr": "x"}, "x"), ({"lr": 0.01, "foo": 1}, "foo")):
        OmegaConf.update(config, "optimizer", {"_target_": f"torch.optim.{name}", **settings}, merge=False)
        assert_works_or_is_one_line(config, "Optimizer.__init__" if name == "Optimizer" else message)


def test_an_optimizer_that_asks_several_times_for_a_loss_writes_one_row_a_step(
    tiny_config: Compose, tmp_path: Path
) -> None:
    config = tiny_config(f"paths.run_dir={tmp_path}", "trainer.log_every_n_steps=1")
    OmegaConf.update(config, "optimizer", {"_target_": "torch.optim.LBFGS", "lr": 0.01, "max_iter": 3}, merge=False)
    metrics = train(config)
    assert len(steps(tmp_path)) == len(set(steps(tmp_path))) == 6 * metrics["train/epochs"]


def steps(run: Path) -> list[str]:
    import csv

    with (run / "metrics.csv").open() as file:
        return [row["step"] for row in csv.DictReader(file) if row["train/loss_step"]]


def test_accumulated_batches_make_one_row_with_their_mean(tiny_config: Compose, tmp_path: Path) -> None:
    """With a learning rate of 0 a step's loss is the mean of those of its batches, which a run without shows."""
    for name, batches in (("one", 1), ("three", 3)):
        more = [f"+trainer.accumulate_grad_batches={batches}", f"paths.run_dir={tmp_path}/{name}"]
        train(tiny_config("optimizer.lr=0.0", "trainer.log_every_n_steps=1", "trainer.max_epochs=1", *more))
    assert steps(tmp_path / "three") == ["0", "1"] and len(steps(tmp_path / "one")) == 6
    from tests.training.test_train import curve

    one, three = (curve(tmp_path / name, "train/loss_step") for name in ("one", "three"))
    assert three == pytest.approx([sum(one[:3]) / 3, sum(one[3:]) / 3], rel=1e-5)


@pytest.mark.parametrize("part", ["callbacks", "logger"])
def test_a_run_without_callbacks_or_loggers(part: str, tiny_config: Compose, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    config = tiny_config()
    OmegaConf.update(config, part, None)
    assert train(config)["test/acc"] >= 0
    OmegaConf.set_struct(config, False)
    del config[part]
    assert train(config)["test/acc"] >= 0
    assert {path.name for path in tmp_path.iterdir()} == {"logs"}


@pytest.mark.parametrize("part", ["model", "scheduler", "optimizer", "tokenizer", "data", "trainer"])
def test_a_part_that_every_run_has_is_named(part: str, tiny_config: Compose) -> None:
    config = tiny_config()
    OmegaConf.set_struct(config, False)
    del config[part]
    with pytest.raises(UserError, match=rf"{part} is missing|Interpolation key '{part}"):
        train(config)


def test_several_nodes_want_srun(tiny_config: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_STEP_ID", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="num_nodes=2 requires one process on each node: srun -K -N2"):
        train(tiny_config("trainer=ddp", "trainer.accelerator=cpu", "trainer.num_nodes=2"))


def test_the_variables_of_a_cluster_that_do_not_fit_are_one_line(
    tiny_config: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.setenv("SLURM_JOB_NAME", "job")
    with pytest.raises(UserError, match="--ntasks=2"):
        train(tiny_config())


@pytest.mark.parametrize(
    ("name", "kind"), [("model_summary", ModelSummary), ("progress", ProgressBar), ("best_checkpoint", Checkpoint)]
)
def test_null_takes_a_callback_away(
    name: str, kind: type, tiny_config: Callable[..., DictConfig], tmp_path: Path
) -> None:
    """Where Lightning would put one of its own."""
    config = resolve(tiny_config(f"callbacks.{name}=null", "callbacks.last_checkpoint=null"))
    kinds = [type(callback) for callback in make_trainer(config, tmp_path).callbacks]  # type: ignore[attr-defined]
    assert not any(issubclass(other, kind) for other in kinds)


def test_the_last_step_of_an_epoch_takes_the_mean_of_its_own_batches(tiny_config: Compose, tmp_path: Path) -> None:
    """Six batches are an epoch's only step, whether six or a hundred make one; with four there are two steps."""

    def weights(accumulated: int) -> torch.Tensor:
        run = tmp_path / str(accumulated)
        settings = ["optimizer=sgd", "optimizer.lr=0.5", "trainer.gradient_clip_val=null", "trainer.max_epochs=1"]
        settings += [f"+trainer.accumulate_grad_batches={accumulated}", "model.dropout=0.0", "scheduler=none"]
        train(tiny_config(*settings, f"paths.run_dir={run}"))
        state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        return torch.cat([value.flatten() for value in state.values() if value.is_floating_point()])

    whole = weights(6)
    torch.testing.assert_close(weights(100), whole, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(weights(4), whole)
