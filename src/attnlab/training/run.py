"""One training run, from a config to the results on disk."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Interval
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import WandbLogger
from omegaconf import DictConfig

from attnlab.checking import check_config
from attnlab.config import instantiate, resolve
from attnlab.data.datamodule import TextDataModule
from attnlab.errors import UserError, first_line
from attnlab.paths import make_run_dir, shown
from attnlab.training import results
from attnlab.training.callbacks import NoProfiler, Stopwatch
from attnlab.training.checkpoints import PREVIOUS, WholeCheckpointIO, find_last
from attnlab.training.environment import write_environment
from attnlab.training.faults import OutOfMemory, finish_wandb, in_one_line, outliving_wandb
from attnlab.training.module import TextClassification, validation_metrics
from attnlab.training.resume import resumed_config, resumed_folder

log = logging.getLogger(__name__)

HARMLESS_WARNINGS = (
    ".*does not have many workers",  # batches are slices of a memory-mapped array: processes would only cost
    "Experiment logs directory .* exists and is not empty",  # the run's folder holds more than metrics.csv
    ".*treespec, LeafSpec",  # Lightning 2.6 under torch 2.13
    "Sparse invariant checks are implicitly disabled",  # by torch's own Adagrad
)

# The settings of `conf/train.yaml` that belong to no part.
SETTINGS: dict[str, Any] = {
    "task_name": str,
    "seed": Annotated[int, Interval(ge=0, lt=2**32)],
    "monitor.metric": Literal["val/loss", "val/acc", "val/f1", "val/f1_macro"],
    "monitor.mode": Literal["min", "max"],
    "test": bool,
    "halve_batch_on_oom": bool,
    "tags": list[str],
    "paths.log_dir": str,
    "paths.cache_dir": str,
    "paths.run_dir": str | None,
}


def train(cfg: DictConfig) -> results.Metrics:
    """Train the model that `cfg` describes, test its best checkpoint (with `test`), and write the run's folder.

    Returns:
        what `metrics.json` holds.

    Raises:
        UserError: the config asks for something that can't be done; nothing has been trained.
    """
    folder = resumed_folder(cfg)
    config = resolve(cfg if folder is None else resumed_config(folder))
    check_config(config, SETTINGS)
    with tidy_process():
        while True:
            try:
                with in_one_line(config):
                    return _train(config, folder)
            except OutOfMemory as error:
                if not config["halve_batch_on_oom"] or config["data"]["batch_size"] == 1:
                    raise
                config["data"]["batch_size"] //= 2
                log.warning("%s: starting again with data.batch_size=%d", error, config["data"]["batch_size"])


def _train(config: dict[str, Any], resumed: Path | None) -> results.Metrics:
    recipe = instantiate(config["tokenizer"])
    source = instantiate(config["data"])
    _check_settings(config, recipe.max_length)
    run_dir = resumed or make_run_dir(config)
    checkpoint = find_last(run_dir) if resumed else None
    trainer = make_trainer(config, run_dir, stopwatch := Stopwatch())

    results.write_config(run_dir, config)
    datamodule = TextDataModule(source, recipe, Path(config["paths"]["cache_dir"]), config["seed"])
    datamodule.setup()
    datamodule.tokenizer.save(str(run_dir / "tokenizer.json"))
    write_environment(run_dir, trainer)

    seed_everything(config["seed"], workers=True, verbose=False)
    module = TextClassification(
        model=config["model"],
        optimizer=config["optimizer"],
        scheduler=config["scheduler"],
        label_names=datamodule.label_names,
        tokenizer=datamodule.tokenizer.to_str(),
    )
    for logger in trainer.loggers:
        logger.log_hyperparams(config)
    try:
        trainer.fit(module, datamodule, ckpt_path=checkpoint, weights_only=True)
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        if checkpoint and stopwatch.start_time() is None and not isinstance(error, torch.OutOfMemoryError):
            raise UserError(
                f"{shown(checkpoint)} is no checkpoint of this run ({type(error).__name__}: {first_line(error)}); "
                "put the run's own there, or remove it to go on from an older one"
            ) from error
        raise
    return _finish(config, trainer, module, datamodule, stopwatch, run_dir)


def _finish(
    config: dict[str, Any],
    trainer: Trainer,
    module: TextClassification,
    datamodule: TextDataModule,
    stopwatch: Stopwatch,
    run_dir: Path,
) -> results.Metrics:
    """Evaluate the best checkpoint and write everything down."""
    train_seconds = stopwatch.time_elapsed("train") - stopwatch.time_elapsed("validate")
    num_batches = trainer.fit_loop.total_batch_idx + 1
    assert datamodule.train_loader is not None
    num_samples = num_batches * len(datamodule.splits["train"].texts) / len(datamodule.train_loader)
    metrics: results.Metrics = {
        "train/epochs": trainer.current_epoch,
        "train/seconds": train_seconds,
        "train/samples_per_second": num_samples / train_seconds,
        "model/parameters": sum(parameter.numel() for parameter in module.model.parameters()),
        "data/test_duplicates": datamodule.num_duplicates,
    }
    best = getattr(trainer.checkpoint_callback, "best_model_path", "")
    if best:
        metrics |= torch.load(best, map_location="cpu", weights_only=True, mmap=True)["metrics"]
    else:  # fast_dev_run keeps no checkpoint; its last weights are its best
        metrics |= validation_metrics(trainer)
    predictions = None
    if config["test"]:
        metrics |= trainer.test(module, datamodule, ckpt_path=best or None, weights_only=True, verbose=False)[0]
        predictions = module.predictions()
    metrics |= datamodule.ceilings
    if trainer.is_global_zero:
        if (run_dir / "metrics.csv").exists():
            results.draw_curves(run_dir)
        (run_dir / "checkpoints" / PREVIOUS).unlink(missing_ok=True)  # the run is over and last.ckpt whole
        results.write_results(run_dir, metrics, predictions, datamodule.label_names)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                from attnlab.training.tracking import log_results

                texts = datamodule.splits["test"].texts
                with outliving_wandb():
                    log_results(logger, run_dir, metrics, predictions, texts, datamodule.label_names)
        results.print_summary(run_dir, metrics)
    return metrics


def make_trainer(config: dict[str, Any], run_dir: Path, *callbacks: Callback) -> Trainer:
    """The Trainer with the config's callbacks and loggers, and with `callbacks`.

    Raises:
        UserError: the machine has no such accelerator, or a distributed strategy was asked for in a multirun.
    """
    named = [instantiate(callback) for callback in config["callbacks"].values() if callback]
    # The checkpoint callback writes below the folder of the first logger, so `run_dir` need not stand in the config.
    loggers = [instantiate(logger, save_dir=str(run_dir)) for logger in config["logger"].values() if logger]
    objects: dict[str, Any] = {"callbacks": [*named, *callbacks], "logger": loggers, "plugins": [WholeCheckpointIO()]}
    if not config["trainer"].get("profiler"):
        objects["profiler"] = NoProfiler()
    try:
        trainer: Trainer = instantiate(config["trainer"], **objects)
    except MisconfigurationException as error:
        raise UserError(f"{first_line(error)} trainer=auto takes what this machine has") from error
    in_multirun = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    if in_multirun and trainer.world_size > 1:
        raise UserError(
            "a multirun can't train on several devices (trainer=ddp): their processes would start the whole sweep "
            "again; use trainer=gpu (one device a job), or one command for each setting"
        )
    return trainer


def _check_settings(config: dict[str, Any], max_length: int) -> None:
    """Build model and optimizer once at the smallest size, so that their mistakes show before data is read."""
    settings = config["trainer"]
    scaled = str(settings.get("precision")) in ("16", "16-mixed")
    if scaled and settings.get("gradient_clip_val") and config["optimizer"].get("fused"):
        raise UserError(
            f"trainer.precision={settings['precision']} scales gradients, which then can't be clipped for a fused "
            "optimizer; add optimizer.fused=false, or use trainer.precision=bf16-mixed"
        )
    model = instantiate(config["model"], vocab_size=1, num_classes=2, pad_id=0, max_length=max_length)
    optimizer = instantiate(config["optimizer"], params=model.parameters())
    instantiate(config["scheduler"], optimizer=optimizer, total_steps=1)
    try:
        model(torch.zeros(1, 3, dtype=torch.int64), torch.ones(1, 3, dtype=torch.bool)).sum().backward()
        optimizer.step()
    except RuntimeError as error:
        raise UserError(
            f"this model and optimizer can't make a step: {first_line(error)}; sparse gradients (model=ngram_bag) want "
            "optimizer=adagrad"
        ) from error


@contextmanager
def tidy_process() -> Iterator[None]:
    """Leave nothing behind for the next job of a multirun: no open W&B run, no environment variable of this one."""
    environment, exit_code = dict(os.environ), 1
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)  # which devices there are not, and tips
    try:
        with warnings.catch_warnings():
            for message in HARMLESS_WARNINGS:
                warnings.filterwarnings("ignore", message=message)
            yield
        exit_code = 0
    finally:
        finish_wandb(exit_code)
        os.environ.clear()
        os.environ.update(environment)
