"""One training run, from a config to the results on disk."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import WandbLogger
from omegaconf import DictConfig, OmegaConf

from attnlab.data.datamodule import TextDataModule
from attnlab.errors import UserError
from attnlab.instantiate import instantiate
from attnlab.training import results
from attnlab.training.module import TextClassification

log = logging.getLogger(__name__)

HARMLESS_WARNINGS = (
    ".*does not have many workers",  # batches are slices of a memory-mapped array: processes would only cost
    "Experiment logs directory .* exists and is not empty",  # the run's folder holds more than metrics.csv
    ".*treespec, LeafSpec",  # Lightning 2.6 under torch 2.13
)


def train(cfg: DictConfig) -> results.Metrics:
    """Train the model that `cfg` describes, test its best checkpoint once, and write the run's folder.

    Returns:
        what `metrics.json` holds.

    Raises:
        UserError: the config asks for something that can't be done; nothing has been trained.
    """
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
    run_dir = Path(config["paths"]["run_dir"])
    with _tidy_process():
        recipe = instantiate(config["tokenizer"])
        source = instantiate(config["data"])
        _check_model(config, recipe.max_length)
        trainer = make_trainer(config, timer := Timer())

        run_dir.mkdir(parents=True, exist_ok=True)
        results.write_config(run_dir, config)
        datamodule = TextDataModule(source, recipe, Path(config["paths"]["cache_dir"]), config["seed"])
        datamodule.setup()
        datamodule.tokenizer.save(str(run_dir / "tokenizer.json"))

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
        with misconfiguration_as_user_error():
            trainer.fit(module, datamodule)
        return _finish(trainer, module, datamodule, timer, run_dir)


def _finish(
    trainer: Trainer, module: TextClassification, datamodule: TextDataModule, timer: Timer, run_dir: Path
) -> results.Metrics:
    """Evaluate the best checkpoint and write everything down."""
    train_seconds = timer.time_elapsed("train") - timer.time_elapsed("validate")
    num_batches = trainer.fit_loop.total_batch_idx + 1
    num_samples = num_batches * len(datamodule.splits["train"].texts) / len(datamodule.train_dataloader())
    metrics: results.Metrics = {
        "train/epochs": trainer.current_epoch,
        "train/seconds": train_seconds,
        "train/samples_per_second": num_samples / train_seconds,
        "model/parameters": sum(parameter.numel() for parameter in module.model.parameters()),
        "data/test_duplicates": datamodule.num_duplicates,
    }
    # fast_dev_run keeps no checkpoint; its weights are as good as any.
    best = getattr(trainer.checkpoint_callback, "best_model_path", "") or None
    metrics |= trainer.validate(module, datamodule, ckpt_path=best, weights_only=True, verbose=False)[0]
    metrics |= trainer.test(module, datamodule, verbose=False)[0]
    metrics |= datamodule.ceilings
    predictions = module.predictions()
    if trainer.is_global_zero:
        results.write_results(run_dir, metrics, predictions, datamodule.label_names)
        if (run_dir / "metrics.csv").exists():
            results.draw_curves(run_dir)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                from attnlab.training.tracking import log_results

                log_results(logger, run_dir, predictions, datamodule.splits["test"].texts, datamodule.label_names)
        results.print_summary(run_dir, metrics)
    return metrics


def make_trainer(config: dict[str, Any], timer: Timer) -> Trainer:
    """The Trainer with its callbacks and loggers.

    Raises:
        UserError: the machine has no such accelerator, or a distributed strategy was asked for in a multirun.
    """
    in_multirun = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    if in_multirun and "ddp" in str(config["trainer"].get("strategy")):
        raise UserError(
            "trainer=ddp can't run inside a multirun, whose child processes would start the whole sweep again; "
            "use trainer=gpu (one device a job), or one command for each setting"
        )
    callbacks = [instantiate(callback) for callback in config["callbacks"].values() if callback]
    loggers = [instantiate(logger) for logger in config["logger"].values() if logger]
    with misconfiguration_as_user_error():
        return instantiate(config["trainer"], callbacks=[*callbacks, timer], logger=loggers)


def _check_model(config: dict[str, Any], max_length: int) -> None:
    """Build the model and its optimizer once at the smallest size, so that their mistakes show before data is read."""
    model = instantiate(config["model"], vocab_size=1, num_classes=2, pad_id=0, max_length=max_length)
    optimizer = instantiate(config["optimizer"], params=model.parameters())
    instantiate(config["scheduler"], optimizer=optimizer, total_steps=1)


@contextmanager
def misconfiguration_as_user_error() -> Iterator[None]:
    try:
        yield
    except MisconfigurationException as error:
        raise UserError(str(error)) from error


@contextmanager
def _tidy_process() -> Iterator[None]:
    """Leave nothing behind for the next job of a multirun: no open W&B run, no environment variable of this one."""
    environment = dict(os.environ)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)  # which devices there are not, and tips
    try:
        with warnings.catch_warnings():
            for message in HARMLESS_WARNINGS:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        if "wandb" in sys.modules:
            sys.modules["wandb"].finish()
        os.environ.clear()
        os.environ.update(environment)
