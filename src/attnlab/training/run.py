"""One training run, from a config to the results on disk."""

import json
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import Timer
from omegaconf import DictConfig

from attnlab.checking import check_config, check_parts
from attnlab.config import instantiate, resolve
from attnlab.data.audit import print_preview
from attnlab.data.datamodule import TextDataModule
from attnlab.data.file_access import TOKENIZER
from attnlab.data.sources import with_absolute_paths
from attnlab.data.tokenization import Pretrained
from attnlab.errors import UserError, first_line
from attnlab.models.pretrained import PretrainedClassifier
from attnlab.paths import rank, shown, started_again
from attnlab.process import give_memory_back, use_threads
from attnlab.progress import in_multirun, told
from attnlab.redaction import redact
from attnlab.runs import RunFolder, make_run_dir, whole_file
from attnlab.training import results, tracking
from attnlab.training.attribution import attends
from attnlab.training.beside import TellProgress, own_output
from attnlab.training.callbacks import Stopwatch
from attnlab.training.checkpoints import PREVIOUS, Stopped, find_last, keep_calibration
from attnlab.training.embedding import place_vectors, settle_embedding
from attnlab.training.encoder import cache_encoder_features, model_settings
from attnlab.training.environment import write_environment
from attnlab.training.faults import OutOfMemory, in_one_line
from attnlab.training.module import TextClassification
from attnlab.training.rehearsal import check_settings
from attnlab.training.report import report
from attnlab.training.resume import Changes, ResumeState, check_resume, resumed_config, resumed_folder
from attnlab.training.selection import check_selection, name_the_best
from attnlab.training.settings import CHECKED, Settings
from attnlab.training.trainer import make_trainer
from attnlab.training.warm_start import place_weights, with_whole_paths

log = logging.getLogger(__name__)

FEW = 10_000  # documents
HARMLESS_WARNINGS = (
    ".*does not have many workers",  # batches are slices of a memory-mapped array: processes would only cost
    ".*treespec, LeafSpec",  # Lightning 2.6 under torch 2.13
    "The `srun` command is available",  # on every machine of a cluster; `make_trainer` says so where it helps
    r"Found \d+ module\(s\) in eval mode",  # a frozen encoder
    "Sparse invariant checks are implicitly disabled",  # by torch's own Adagrad
    r"The number of training batches \(\d+\) is smaller than the logging interval",  # an epoch's mean is logged
    r"Precision \w+-mixed is not supported by the model summary",  # which counts 32 bits a weight, as there are
)


LEAVE_SECONDS = 90.0  # in which a job whose sweep or whose node is gone has written its checkpoint and ended


@dataclass(frozen=True)
class Fitted:
    """A run that has trained, and was tested where it is to be."""

    trainer: Trainer
    module: TextClassification
    datamodule: TextDataModule
    metrics: results.Metrics


def train(cfg: DictConfig) -> results.Metrics:
    """Train the model that `cfg` describes, test its best checkpoint (with `test`), and write the run's folder.

    Returns:
        what `metrics.json` holds.

    Raises:
        UserError: the config asks for something that can't be done; nothing has been trained.
    """
    with own_output(cfg.monitor.metric) as metrics:
        try:
            metrics |= _finished_before(cfg) or _train(cfg)
        except Stopped as stopped:
            if rank() == 0:
                log.warning(stopped.how_to_resume)
            raise
    return metrics


def _finished_before(cfg: DictConfig) -> results.Metrics:
    """What a job of a multirun that goes on found when it ran; nothing where it is still to do."""
    file = Path(HydraConfig.get().runtime.output_dir, "metrics.json") if in_multirun() and cfg.get("resume") else None
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file and file.is_file() else {}


def _train(cfg: DictConfig) -> results.Metrics:
    resumed = resumed_folder(cfg)
    changes: Changes = {}
    if resumed is None or in_multirun():  # whose jobs are found by their settings
        given = resolve(cfg)
    else:
        given, changes = resumed_config(resumed, cfg)
    config = _checked(given)
    with tidy_process(), in_one_line(config):
        config["data"] = with_absolute_paths(config["data"])
        config["tokenizer"], config["model"] = (
            with_absolute_paths(config["tokenizer"]),
            with_whole_paths(config["model"]),
        )
        if resumed is None or in_multirun():  # the checkpoint of a run that goes on has all vectors
            settle_embedding(config)
        has_encoder = "path" in config["model"]
        check_settings(config, model_settings(config["model"], find_last(resumed) if resumed and has_encoder else None))
        if config.get("preview"):
            print_preview(_make_datamodule(config, resumed))
            return {}
        patience = LEAVE_SECONDS if in_multirun() or started_again() else 0.0
        with RunFolder.open(resumed or make_run_dir(config), new=resumed is None, patience=patience) as run:
            return _finish(config, run.path, _fit_or_halve(config, run.path, resumed is not None, changes))


def _checked(config: dict[str, Any]) -> Settings:
    """Raises `UserError` for a value that can't be, or that does not go with another."""
    config.pop("hydra", None)  # of a config that was composed with it
    check_parts(config)
    check_config(config, CHECKED)
    check_selection(cast(Settings, config))
    return cast(Settings, config)


def _fit_or_halve(config: Settings, run_dir: Path, resumed: bool, changes: Changes) -> Fitted:
    """With `halve_batch_on_oom` start again with half of the batch as often as memory does not suffice."""
    checkpoint = find_last(run_dir) if resumed else None
    if resumed and checkpoint is None and not rank():
        results.begin_again(run_dir, config)
    begin = results.go_on if checkpoint else results.write_config
    while True:
        try:
            with in_one_line(config):
                return _fit(config, run_dir, checkpoint, changes, begin)
        except OutOfMemory as error:
            if not config["halve_batch_on_oom"] or config["data"]["batch_size"] == 1:
                raise
            if checkpoint is not None:  # its place in the epoch and its schedule are those of its batch size
                raise UserError(
                    f"out of memory with data.batch_size={config['data']['batch_size']}, which a resumed run keeps: "
                    "free some memory and resume again, or train anew with a smaller one"
                ) from error
            config["data"]["batch_size"] //= 2
            log.warning("%s: starting again with data.batch_size=%d", error, config["data"]["batch_size"])
            tracking.finish(1)
            results.begin_again(run_dir, config)


def _fit(
    config: Settings, run_dir: Path, checkpoint: Path | None, changes: Changes, begin: Callable[[Path, Settings], None]
) -> Fitted:
    """Train and test, from `checkpoint` where the run is resumed.

    Once settings and data are found to fit each other, `begin` writes the config into the folder: what fails before
    leaves the folder as it was.
    """
    teller = [TellProgress(**config["monitor"])] if told() else []
    trainer = make_trainer(config, run_dir, *teller, ResumeState(changes), stopwatch := Stopwatch())
    if checkpoint is not None:
        step = check_resume(checkpoint, run_dir, changes)
        for logger in trainer.loggers:
            if isinstance(logger, tracking.TensorBoard):
                logger.resume_at(step)
    datamodule = _make_datamodule(config, run_dir if checkpoint else None)
    module = _make_module(config, datamodule, checkpoint)
    use_threads(config["trainer"].get("threads"), module.model)
    encoding = {}
    if (frozen := _frozen(module)) is not None:
        splits = [split for split in datamodule.datasets if split != "test" or config["test"]]
        encoding["train/encoding_seconds"] = cache_encoder_features(frozen, datamodule, trainer, splits)
    if trainer.is_global_zero:  # the other processes of a distributed run share its folder
        begin(run_dir, config)
        with whole_file(run_dir / TOKENIZER) as partial:
            datamodule.tokenizer.save(str(partial))
        write_environment(run_dir, trainer, datamodule.fingerprint)
    for logger in trainer.loggers:
        logger.log_hyperparams(redact({**config, tracking.SETTING: tracking.setting(run_dir)}))
    with _fitting_checkpoint(checkpoint, stopwatch):
        trainer.fit(module, datamodule, ckpt_path=checkpoint, weights_only=True)
    _say_where_it_ended(trainer, config["trainer"])
    if trainer.global_step == 0:
        raise UserError("no step was trained: trainer.max_time or a limit of the Trainer's is too small for one")
    metrics = _training_metrics(trainer, module, datamodule, stopwatch.elapsed) | encoding
    give_memory_back()
    best = name_the_best(trainer)
    if best is not None:
        kept = torch.load(best, map_location="cpu", weights_only=True, mmap=True)
        metrics |= {"train/best_epoch": kept["epoch"] + 1} | kept["metrics"]
    else:
        log.warning("No best checkpoint was kept, so the last weights are tested")
        metrics |= (trainer.validate(module, datamodule, verbose=False) or [{}])[0]
        if trainer.is_global_zero:
            keep_calibration(run_dir, module.task)
    if config["test"] and "test" in datamodule.splits:  # which has none where it has no labels
        metrics |= trainer.test(module, datamodule, ckpt_path=best, weights_only=True, verbose=False)[0]
    return Fitted(trainer, module, datamodule, metrics | datamodule.ceilings)


@contextmanager
def _fitting_checkpoint(checkpoint: Path | None, stopwatch: Stopwatch) -> Iterator[None]:
    """Raises `UserError` for what goes wrong with a checkpoint before training goes on: it is another run's."""
    try:
        yield
    except UserError:
        raise
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        if checkpoint is None or stopwatch.began or isinstance(error, torch.OutOfMemoryError):
            raise
        raise UserError(
            f"{shown(checkpoint)} is no checkpoint of this run ({type(error).__name__}: {first_line(error)}); "
            "put the run's own there, or remove it to go on from an older one"
        ) from error


def _make_datamodule(config: Settings, resumed: Path | None) -> TextDataModule:
    source, recipe = instantiate(config["data"]), instantiate(config["tokenizer"])
    if resumed is not None and isinstance(recipe, Pretrained) and (resumed / TOKENIZER).is_file():
        recipe = replace(recipe, path=str(resumed))  # the run's own copy
    datamodule = TextDataModule(source, recipe, Path(config["paths"]["cache_dir"]), config["seed"])
    datamodule.setup()
    return datamodule


def _make_module(config: Settings, datamodule: TextDataModule, checkpoint: Path | None) -> TextClassification:
    seed_everything(config["seed"], workers=True, verbose=False)
    module = TextClassification(
        model=model_settings(config["model"], checkpoint),
        optimizer=config["optimizer"],
        scheduler=config["scheduler"],
        label_names=datamodule.label_names,
        tokenizer=datamodule.tokenizer.to_str(),
        pairs=datamodule.pairs,
        task=config["task"],
        text_format=datamodule.source.text_format.plain(),
    )
    place_vectors(config["embedding"], module.model, datamodule, from_checkpoint=checkpoint is not None)
    if checkpoint is None:
        place_weights(config["model"], module)
    elif _frozen(module) is not None:  # it is asked before the Trainer brings its weights back
        weights = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
        module.load_state_dict(weights)
    module.task.fit(datamodule.splits["train"].labels)
    return module


def _frozen(module: TextClassification) -> PretrainedClassifier | None:
    """The model, where it is a head on an encoder that does not learn."""
    return module.model if isinstance(module.model, PretrainedClassifier) and module.model.frozen else None


def _say_where_it_ended(trainer: Trainer, settings: dict[str, Any]) -> None:
    """Of what comes short of what a reader of the results would take for granted."""
    for callback in trainer.early_stopping_callbacks:
        if reason := callback.stopping_reason_message:
            log.info("Stopped early: %s", reason.removesuffix(" Signaling Trainer to stop."))
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
        # The last one too that was broken off, which `current_epoch` counts or not by how the run ended.
        "train/epochs": trainer.fit_loop.epoch_progress.current.processed,  # type: ignore[attr-defined]
        "train/documents": len(datamodule.splits["train"].texts),
        "train/seconds": seconds,
        "train/samples_per_second": num_samples / seconds,
        "model/parameters": sum(map(torch.numel, module.model.parameters())),
        "model/learned": sum(p.numel() for p in module.model.parameters() if p.requires_grad),
    } | datamodule.audit


def _finish(config: Settings, run_dir: Path, fitted: Fitted) -> results.Metrics:
    """Write everything down."""
    give_memory_back()
    trainer, metrics, task, predictions = fitted.trainer, fitted.metrics, fitted.module.task, fitted.module.predictions
    if trainer.is_global_zero:
        (run_dir / "checkpoints" / PREVIOUS).unlink(missing_ok=True)  # the run is over and last.ckpt whole
        split = fitted.datamodule.splits["test"] if predictions else None
        results.write_results(run_dir, metrics, predictions, task, split)
        mistakes = report(run_dir, config, metrics, fitted.module, predictions, split)
        tracking.show(trainer.loggers, tracking.of_run(run_dir, metrics, predictions, mistakes, task))
        results.print_summary(run_dir, metrics, len(predictions.index) if predictions else None)
        if (few := _too_few_for_attention(fitted)) is not None:
            log.info(few)
    return metrics


def _too_few_for_attention(fitted: Fitted) -> str | None:
    """On data of one's own: attention, the default, learns from few documents worse than much simpler models."""
    size = len(fitted.datamodule.splits["train"].texts)
    if size >= FEW or fitted.datamodule.ceilings or not attends(fitted.module.model):
        return None
    return f"{size:,} training documents are few for attention: model=ngram_bag, of words and pairs, often does better"


@contextmanager
def tidy_process() -> Iterator[None]:
    """Leave nothing behind for the next job of a multirun: no open logger, no environment variable of this one."""
    environment, exit_code = dict(os.environ), 1
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)  # which devices there are not, and tips
    try:
        with warnings.catch_warnings():
            for message in HARMLESS_WARNINGS:
                warnings.filterwarnings("ignore", message=message)
            yield
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()  # as torch asks for: its threads must not outlive the run
        exit_code = 0
    finally:
        tracking.finish(exit_code)
        os.environ.clear()
        os.environ.update(environment)
