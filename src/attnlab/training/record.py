"""What a run records of itself: at its start what it is, after training how that went, at its end the results."""

import json
import logging
import math
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer

from attnlab.data.datamodule import TextDataModule
from attnlab.data.file_access import TOKENIZER
from attnlab.environment import code, environment
from attnlab.errors import UserError
from attnlab.process import give_memory_back
from attnlab.redaction import redact
from attnlab.runs import CHECKPOINTS, ENVIRONMENT, whole_file, write_whole
from attnlab.training.attribution import attends
from attnlab.training.checkpoints import PREVIOUS
from attnlab.training.loggers import SETTING, log_results, run_artifacts, setting_of_run
from attnlab.training.module import TextClassification
from attnlab.training.results import Metrics, print_summary, resume_run, write_config, write_report, write_results
from attnlab.validation import Settings

log = logging.getLogger(__name__)

FEW_DOCUMENTS = 10_000


def record_start(config: Settings, run_dir: Path, trainer: Trainer, datamodule: TextDataModule, resumes: bool) -> None:
    """Write config.yaml, tokenizer.json and environment.json, and pass the config to the loggers.

    Called once settings and data are known to fit together: what fails before leaves the folder as it was.
    """
    if trainer.is_global_zero:  # the other processes of a distributed run share its folder
        (resume_run if resumes else write_config)(run_dir, config)
        with whole_file(run_dir / TOKENIZER) as partial:
            datamodule.tokenizer.save(str(partial))
        # What runs must have in common to be repeats of each other, and what else can change a result.
        content = environment(trainer.precision, trainer.strategy.root_device)
        content |= {"code": code(), "data": datamodule.fingerprint, "devices": trainer.world_size}
        write_whole(run_dir / ENVIRONMENT, json.dumps(content, indent=2) + "\n")
    for logger in trainer.loggers:
        logger.log_hyperparams(redact({**config, SETTING: setting_of_run(run_dir)}))


def training_metrics(
    trainer: Trainer, module: TextClassification, datamodule: TextDataModule, seconds: float
) -> Metrics:
    """Epochs, documents, time and speed of a training of so many seconds, and the size of the model.

    Raises:
        UserError: not one step was trained.
    """
    if trainer.global_step == 0:
        raise UserError("no step was trained: trainer.max_time or a limit of the Trainer's is too small for one")
    num_batches = trainer.fit_loop.total_batch_idx + 1
    assert datamodule.train_loader is not None
    num_samples = num_batches * len(datamodule.splits["train"].texts) / len(datamodule.train_loader)
    return {
        # Includes an epoch that was ended early, which `trainer.current_epoch` counts or not depending on the cause.
        "train/epochs": trainer.fit_loop.epoch_progress.current.processed,  # type: ignore[attr-defined]
        "train/documents": len(datamodule.splits["train"].texts),
        "train/seconds": seconds,
        "train/samples_per_second": num_samples / seconds,
        "model/parameters": sum(parameter.numel() for parameter in module.model.parameters()),
        "model/learned": sum(p.numel() for p in module.model.parameters() if p.requires_grad),
    } | datamodule.audit


def log_how_training_ended(trainer: Trainer, settings: dict[str, Any]) -> None:
    """Log what falls short of what a reader of the results would take for granted; `settings`: of the Trainer."""
    for callback in trainer.early_stopping_callbacks:
        if reason := callback.stopping_reason_message:
            log.info("Stopped early: %s", reason.removesuffix(" Signaling Trainer to stop."))
    timer = next((callback for callback in trainer.callbacks if isinstance(callback, Timer)), None)  # type: ignore[attr-defined]
    if timer is not None and (timer.time_remaining() or math.inf) <= 0:
        log.warning("trainer.max_time=%s was reached after step %d", settings["max_time"], trainer.global_step)
    for stage in ("train", "val", "test"):
        limit = settings.get(f"limit_{stage}_batches")
        # 1 is one batch, 1.0 all of them.
        if limit not in (None, 1.0) or (limit == 1 and isinstance(limit, int)):
            log.warning("trainer.limit_%s_batches=%s: %s metrics cover only a subset", stage, limit, stage)


def record_results(
    config: Settings,
    run_dir: Path,
    trainer: Trainer,
    module: TextClassification,
    datamodule: TextDataModule,
    metrics: Metrics,
) -> None:
    """Write the results and the report, pass them to the loggers, and print a summary."""
    give_memory_back()
    if not trainer.is_global_zero:
        return
    (run_dir / CHECKPOINTS / PREVIOUS).unlink(missing_ok=True)  # the run has finished, and last.ckpt is intact
    predictions, task = module.predictions, module.task
    split = datamodule.splits["test"] if predictions else None
    write_results(run_dir, metrics, predictions, task, split)
    mistakes = write_report(run_dir, config, metrics, module, predictions, split)
    log_results(trainer.loggers, run_artifacts(run_dir, metrics, predictions, mistakes, task))
    print_summary(run_dir, metrics, len(predictions.index) if predictions else None)
    size = len(datamodule.splits["train"].texts)
    # The default model is attention, which learns less from few documents than much simpler models. On the generated
    # data, whose ceilings are known, it is there to be studied.
    if size < FEW_DOCUMENTS and not datamodule.ceilings and attends(module.model):
        few = f"{size:,} training documents are few for attention"
        log.info("%s: model=ngram_bag is often better on so few", few)
