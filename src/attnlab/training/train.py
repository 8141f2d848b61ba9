"""One training run: `train(cfg)`, read from top to bottom, is everything that happens in it.

The steps are those of lightning-hydra-template: Trainer with callbacks and loggers, data, module, fit, test, results.
"""

from pathlib import Path

from omegaconf import DictConfig

from attnlab.data.preview import print_preview
from attnlab.run_dirs import make_run_dir
from attnlab.runs import RunFolder
from attnlab.training.build import make_datamodule, make_module
from attnlab.training.callbacks import Stopwatch
from attnlab.training.dry_run import dry_run_step
from attnlab.training.encoder import cache_encoder_features
from attnlab.training.evaluate import evaluate_best
from attnlab.training.failures import as_user_errors, checkpoint_errors, halve_batch_on_oom
from attnlab.training.job import finished_metrics, progress_callbacks, redirect_job_output, tidy_process
from attnlab.training.record import log_how_training_ended, record_results, record_start, training_metrics
from attnlab.training.results import Metrics
from attnlab.training.resume import (
    Changes,
    ResumeState,
    announce_resume,
    checkpoint_to_resume,
    make_paths_absolute,
    resumed_folder,
    run_config,
    seconds_to_wait,
)
from attnlab.training.trainer import make_trainer
from attnlab.validation import Settings, validate, validate_embedding


def train(cfg: DictConfig) -> Metrics:
    """Train the model that `cfg` describes, test its best checkpoint (with `test`), and write the run's folder.

    Returns:
        the content of `metrics.json`.

    Raises:
        UserError: the config asks for something impossible; nothing has been trained.
    """
    with redirect_job_output(cfg.monitor.metric) as metrics:
        metrics |= finished_metrics(cfg) or _train(cfg)
    return metrics


def _train(cfg: DictConfig) -> Metrics:
    resumed = resumed_folder(cfg)  # None: a new run
    composed, changes = run_config(cfg, resumed)
    config = validate(composed)
    with tidy_process(), as_user_errors(config):
        # What is wrong with the settings shows here, before data is read and before the run has a folder.
        make_paths_absolute(config)
        if resumed is None:
            validate_embedding(config)
        dry_run_step(config, resumed)
        if config.get("preview"):
            print_preview(make_datamodule(config, resumed))
            return {}
        folder = resumed or make_run_dir(config)
        with RunFolder.open(folder, new=resumed is None, patience=seconds_to_wait()):
            checkpoint = checkpoint_to_resume(folder, config) if resumed else None
            return halve_batch_on_oom(_fit_and_test, config, folder, checkpoint, changes)


def _fit_and_test(config: Settings, folder: Path, checkpoint: Path | None, changes: Changes) -> Metrics:
    """Train from `checkpoint`, or from the first step, then test and record; `changes`: settings given on resume."""
    stopwatch = Stopwatch()
    trainer = make_trainer(config, folder, *progress_callbacks(config), ResumeState(changes), stopwatch)
    if checkpoint is not None:
        announce_resume(checkpoint, folder, changes, trainer)
    datamodule = make_datamodule(config, folder if checkpoint else None)
    module = make_module(config, datamodule, checkpoint)  # seeds everything first
    encoding = cache_encoder_features(module.model, datamodule, trainer, config["test"])
    record_start(config, folder, trainer, datamodule, resumes=checkpoint is not None)

    with checkpoint_errors(checkpoint, stopwatch):
        trainer.fit(module, datamodule, ckpt_path=checkpoint, weights_only=True)
    log_how_training_ended(trainer, config["trainer"])

    metrics = training_metrics(trainer, module, datamodule, stopwatch.elapsed) | encoding
    metrics |= evaluate_best(trainer, module, datamodule, folder, config["test"])
    metrics |= datamodule.ceilings
    record_results(config, folder, trainer, module, datamodule, metrics)
    return metrics
