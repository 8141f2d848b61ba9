"""One training run, from a config to the results on disk."""

import logging
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import torch
from annotated_types import Interval
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    Checkpoint,
    LearningRateFinder,
    ModelSummary,
    ProgressBar,
    Timer,
)
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from attnlab.checking import check_config, check_parts
from attnlab.config import instantiate, resolve
from attnlab.data.datamodule import TextDataModule
from attnlab.data.sources import located
from attnlab.errors import UserError, first_line
from attnlab.paths import make_run_dir, shown
from attnlab.training import results
from attnlab.training.averaging import refuse_other_averages
from attnlab.training.callbacks import NoProfiler, Stopwatch
from attnlab.training.checkpoints import PREVIOUS, WholeCheckpointIO, find_last
from attnlab.training.environment import write_environment
from attnlab.training.faults import OutOfMemory, finish_wandb, in_one_line, outliving_wandb
from attnlab.training.module import TextClassification
from attnlab.training.resume import resumed_config, resumed_folder
from attnlab.training.selection import MONITORED, check_selection, name_the_best

log = logging.getLogger(__name__)

HARMLESS_WARNINGS = (
    ".*does not have many workers",  # batches are slices of a memory-mapped array: processes would only cost
    ".*treespec, LeafSpec",  # Lightning 2.6 under torch 2.13
    "Sparse invariant checks are implicitly disabled",  # by torch's own Adagrad
)

# Arguments of Lightning's Trainer that would work against what this program does itself.
NOT_OURS = {
    "default_root_dir": "a run writes into its own folder; give paths.run_dir=<folder>",
    "overfit_batches": "debug=overfit, or data.limit=<number of documents>, learns a few documents by heart",
    "barebones": "it keeps nothing of a run; debug=fast looks whether one works",
}

# The settings of `conf/train.yaml` that belong to no part.
SETTINGS: dict[str, Any] = {
    "task_name": str,
    "seed": Annotated[int, Interval(ge=0, lt=2**32)],
    "monitor.metric": Literal[MONITORED],
    "monitor.mode": Literal["min", "max"],
    "test": bool,
    "halve_batch_on_oom": bool,
    "tags": list[str],
    "paths.log_dir": str,
    "paths.cache_dir": str,
    "paths.run_dir": str | None,
}


@dataclass(frozen=True)
class Fitted:
    """A run that has trained: the checkpoint that is its best, None where the last weights are."""

    trainer: Trainer
    module: TextClassification
    datamodule: TextDataModule
    best: Path | None
    metrics: results.Metrics


def train(cfg: DictConfig) -> results.Metrics:
    """Train the model that `cfg` describes, test its best checkpoint (with `test`), and write the run's folder.

    Returns:
        what `metrics.json` holds.

    Raises:
        UserError: the config asks for something that can't be done; nothing has been trained.
    """
    resumed = resumed_folder(cfg)
    config = resolve(cfg if resumed is None else resumed_config(resumed, cfg))
    config.pop("hydra", None)  # of a config that was composed with it
    check_parts(config)
    check_config(config, SETTINGS)
    check_selection(config)
    with tidy_process(), in_one_line(config):
        config["data"] = located(config["data"])
        _check_settings(config)
        run_dir = resumed or make_run_dir(config)
        if not rank_zero_only.rank:  # type: ignore[attr-defined]  # the other processes of a distributed run share its folder
            if resumed is None:
                results.claim(run_dir, config)
            else:
                results.remove_results(run_dir)
                results.write_config(run_dir, config)
        return _finish(config, run_dir, _fit_or_halve(config, run_dir, resumed is not None))


def _fit_or_halve(config: dict[str, Any], run_dir: Path, resumed: bool) -> Fitted:
    """With `halve_batch_on_oom` start again with half of the batch as often as memory does not suffice."""
    while True:
        try:
            with in_one_line(config):
                return _fit(config, run_dir, resumed)
        except OutOfMemory as error:
            if not config["halve_batch_on_oom"] or config["data"]["batch_size"] == 1:
                raise
            config["data"]["batch_size"] //= 2
            log.warning("%s: starting again with data.batch_size=%d", error, config["data"]["batch_size"])
            results.write_config(run_dir, config)
            if not resumed:
                results.remove_training(run_dir)


def _fit(config: dict[str, Any], run_dir: Path, resumed: bool) -> Fitted:
    checkpoint = find_last(run_dir) if resumed else None
    trainer = make_trainer(config, run_dir, stopwatch := Stopwatch())
    source, recipe = instantiate(config["data"]), instantiate(config["tokenizer"])
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
    except UserError:
        raise
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        if checkpoint and not stopwatch.began and not isinstance(error, torch.OutOfMemoryError):
            raise UserError(
                f"{shown(checkpoint)} is no checkpoint of this run ({type(error).__name__}: {first_line(error)}); "
                "put the run's own there, or remove it to go on from an older one"
            ) from error
        raise
    _say_where_it_ended(trainer, config["trainer"])
    if trainer.global_step == 0:
        raise UserError("no step was trained: trainer.max_time or a limit of the Trainer's is too small for one")
    metrics = _training_metrics(trainer, module, datamodule, stopwatch.elapsed)
    best = name_the_best(trainer)
    if best is not None:
        metrics |= torch.load(best, map_location="cpu", weights_only=True, mmap=True)["metrics"]
    else:
        log.warning("No best checkpoint was kept, so the last weights are tested")
        metrics |= (trainer.validate(module, datamodule, verbose=False) or [{}])[0]
    if config["test"]:
        metrics |= trainer.test(module, datamodule, ckpt_path=best, weights_only=True, verbose=False)[0]
    return Fitted(trainer, module, datamodule, best, metrics | datamodule.ceilings)


def _say_where_it_ended(trainer: Trainer, settings: dict[str, Any]) -> None:
    """Of what comes short of what a reader of the results would take for granted."""
    timer = next((callback for callback in trainer.callbacks if isinstance(callback, Timer)), None)  # type: ignore[attr-defined]
    if timer is not None and (timer.time_remaining() or math.inf) <= 0:
        log.warning("trainer.max_time=%s is over after step %d", settings["max_time"], trainer.global_step)
    for stage in ("train", "val", "test"):
        limit = settings.get(f"limit_{stage}_batches")
        if limit not in (None, 1.0) or (limit == 1 and isinstance(limit, int)):
            log.warning("trainer.limit_%s_batches=%s: what is said of %s is said of a part", stage, limit, stage)


def _training_metrics(
    trainer: Trainer, module: TextClassification, datamodule: TextDataModule, seconds: float
) -> results.Metrics:
    num_batches = trainer.fit_loop.total_batch_idx + 1
    assert datamodule.train_loader is not None
    num_samples = num_batches * len(datamodule.splits["train"].texts) / len(datamodule.train_loader)
    return {
        "train/epochs": trainer.current_epoch,
        "train/seconds": seconds,
        "train/samples_per_second": num_samples / seconds,
        "model/parameters": sum(parameter.numel() for parameter in module.model.parameters()),
    } | datamodule.losses


def _finish(config: dict[str, Any], run_dir: Path, fitted: Fitted) -> results.Metrics:
    """Write everything down."""
    trainer, metrics, label_names = fitted.trainer, fitted.metrics, fitted.datamodule.label_names
    predictions = fitted.module.predictions() if config["test"] else None
    if trainer.is_global_zero:
        (run_dir / "checkpoints" / PREVIOUS).unlink(missing_ok=True)  # the run is over and last.ckpt whole
        results.write_results(run_dir, metrics, predictions, label_names)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                from attnlab.training.tracking import log_results

                texts = fitted.datamodule.splits["test"].texts
                with outliving_wandb():
                    log_results(logger, run_dir, metrics, predictions, texts, label_names)
        results.print_summary(run_dir, metrics)
    return metrics


def make_trainer(config: dict[str, Any], run_dir: Path, *callbacks: Callback) -> Trainer:
    """The Trainer with the config's callbacks and loggers, and with `callbacks`.

    Raises:
        UserError: settings that Lightning refuses, or a distributed strategy in a multirun.
    """
    settings = config["trainer"]
    named = {name: instantiate(callback) for name, callback in (config["callbacks"] or {}).items() if callback}
    named = {name: callback for name, callback in named.items() if not _is_off(callback, settings)}
    refuse_other_averages(named)
    for name, callback in named.items():
        if isinstance(callback, BatchSizeFinder | LearningRateFinder):
            raise UserError(
                f"callbacks.{name}: {type(callback).__name__} trains beside the run; search instead: "
                "-m hparams_search=optuna optimizer.lr=... data.batch_size=..."
            )
    timers = [name for name, callback in named.items() if isinstance(callback, Timer)]
    if timers and settings.get("max_time") is not None:
        raise UserError(f"callbacks.{timers[0]} would switch trainer.max_time off: leave one of them out")
    for key, advice in NOT_OURS.items():
        if settings.get(key):
            raise UserError(f"trainer.{key}={settings[key]} is not for this program: {advice}")
    loggers = [instantiate(logger, save_dir=str(run_dir)) for logger in (config["logger"] or {}).values() if logger]
    objects: dict[str, Any] = {"callbacks": [*named.values(), *callbacks], "logger": loggers}
    objects |= {"plugins": [WholeCheckpointIO()], "default_root_dir": str(run_dir)}
    if not settings.get("profiler"):
        objects["profiler"] = NoProfiler()
    try:
        trainer: Trainer = instantiate(settings, **objects)
    except (MisconfigurationException, RuntimeError) as error:  # the latter of a cluster's variables
        no_such_device = any(word in str(error) for word in ("accelerator", "backend", "device"))
        advice = "; trainer=auto takes what this machine has" if no_such_device else ""
        raise UserError(f"{first_line(error).rstrip('.')}{advice}") from error
    in_multirun = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    if in_multirun and trainer.world_size > 1:
        raise UserError(
            "a multirun can't train on several devices (trainer=ddp): their processes would start the whole sweep "
            "again; use trainer=gpu (one device a job), or one command for each setting"
        )
    return trainer


def _check_settings(config: dict[str, Any]) -> None:
    """Build model and optimizer once at the smallest size, so that their mistakes show before data is read."""
    settings = config["trainer"]
    for key in ("max_epochs", "max_steps", "limit_train_batches"):
        if settings.get(key) == 0:
            raise UserError(f"trainer.{key}=0 trains nothing; to test a trained model use src/evaluate.py")
    if config["test"] and settings.get("limit_test_batches") == 0:
        raise UserError("trainer.limit_test_batches=0 leaves nothing to test; to train without a test give test=false")
    scaled = str(settings.get("precision")) in ("16", "16-mixed")
    if scaled and settings.get("gradient_clip_val") and config["optimizer"].get("fused"):
        raise UserError(
            f"trainer.precision={settings['precision']} scales gradients, which then can't be clipped for a fused "
            "optimizer; add optimizer.fused=false, or use trainer.precision=bf16-mixed"
        )
    instantiate(config["data"])
    max_length = instantiate(config["tokenizer"]).max_length
    model = instantiate(config["model"], vocab_size=1, num_classes=2, pad_id=0, max_length=max_length)
    optimizer = instantiate(config["optimizer"], params=model.parameters())
    endless = settings.get("max_epochs") == -1 and settings.get("max_steps", -1) == -1
    instantiate(config["scheduler"], optimizer=optimizer, total_steps=math.inf if endless else 1)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = model(torch.zeros(1, 3, dtype=torch.int64), torch.ones(1, 3, dtype=torch.bool)).sum()
        value.backward()
        if settings.get("gradient_clip_algorithm") == "value" and any(p.grad.is_sparse for p in model.parameters()):
            raise UserError("sparse gradients can be clipped by their norm alone: trainer.gradient_clip_algorithm=norm")
        return cast(torch.Tensor, value)

    try:
        optimizer.step(loss)
    except RuntimeError as error:
        advice = "; sparse gradients (model=ngram_bag) want optimizer=adagrad" if "sparse" in str(error) else ""
        raise UserError(f"this model and optimizer can't make a step: {first_line(error)}{advice}") from error


def _is_off(callback: Callback, settings: dict[str, Any]) -> bool:
    """Whether a flag of the Trainer's, which would refuse the callback, switches it off."""
    kinds = {"checkpointing": Checkpoint, "model_summary": ModelSummary, "progress_bar": ProgressBar}
    return any(settings.get(f"enable_{flag}") is False and isinstance(callback, kind) for flag, kind in kinds.items())


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
