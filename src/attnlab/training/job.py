"""A run as one job of several: its output and its progress go into its folder, and it leaves the process clean."""

import logging
import math
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import format_exc

import torch
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch import Callback, LightningModule, Trainer
from omegaconf import DictConfig

from attnlab import progress
from attnlab.errors import UserError, first_line
from attnlab.process import rank
from attnlab.redaction import redact, redact_message
from attnlab.runs import RunFolder
from attnlab.training.checkpoints import Stopped
from attnlab.training.loggers import finish_wandb
from attnlab.training.results import Metrics
from attnlab.validation import Settings

log = logging.getLogger(__name__)

DISPLAYED = ("val/loss", "val/acc", "test/acc")
INTERVAL = 1.0  # seconds between two reports of a job
HARMLESS_WARNINGS = (
    ".*does not have many workers",  # batches are slices of a memory-mapped array: processes would only cost
    ".*treespec, LeafSpec",  # Lightning 2.6 under torch 2.13
    "The `srun` command is available",  # on every machine of a cluster; `make_trainer` says so where it helps
    r"Found \d+ module\(s\) in eval mode",  # a frozen encoder
    "Sparse invariant checks are implicitly disabled",  # by torch's own Adagrad
    r"The number of training batches \(\d+\) is smaller than the logging interval",  # an epoch's mean is logged
    r"Precision \w+-mixed is not supported by the model summary",  # it counts 32 bits a weight, which is right
)


@contextmanager
def redirect_job_output(monitor: str) -> Iterator[Metrics]:
    """In a multirun, send everything that a job prints into output.log in its folder, and report its start and end.

    Outside of a multirun it does nothing.

    Yields:
        a dict for the results, from which `monitor` and the usual scores are reported.
    """
    metrics: Metrics = {}
    if not progress.in_multirun():
        yield metrics
        return
    hydra, start = HydraConfig.get(), time.monotonic()
    folder = Path(hydra.runtime.output_dir)
    with progress.redirect_output(folder / progress.OUTPUT), progress.reporting(folder):
        print(redact(f"#{hydra.job.num} {' '.join(hydra.overrides.task)}"), flush=True)
        progress.report(state="starting")
        end = {"state": "interrupted"}
        try:
            yield metrics
            end["state"] = "done"
        except Exception as error:
            end = {"state": "failed", "reason": first_line(error)}
            print(f"error: {error}" if isinstance(error, UserError) else redact_message(format_exc()))
            raise
        finally:
            scores = {key: metrics[key] for key in dict.fromkeys((monitor, *DISPLAYED)) if key in metrics}
            progress.report(**end, metrics=scores, seconds=time.monotonic() - start, left=None)


def finished_metrics(cfg: DictConfig) -> Metrics:
    """The results of a job that had finished before its multirun was resumed; empty where it still has to run."""
    if not progress.in_multirun() or not cfg.get("resume"):
        return {}
    return RunFolder(Path(HydraConfig.get().runtime.output_dir)).metrics


def progress_callbacks(config: Settings) -> list[Callback]:
    """What reports the progress of a job; nothing outside of a multirun, where nobody reads it."""
    return [ReportProgress(**config["monitor"])] if progress.is_reporting() else []


class ReportProgress(Callback):
    """Reports epoch, best score so far and the time left of a job, at most once a second."""

    def __init__(self, metric: str, mode: str) -> None:
        self.metric, self.better = metric, min if mode == "min" else max
        self.best: float | None = None
        self.next = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.start, self.first_step = time.monotonic(), trainer.global_step
        self.last_step = trainer.estimated_stepping_batches
        self._report(trainer)

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        if time.monotonic() >= self.next:
            self._report(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        value = trainer.callback_metrics.get(self.metric)
        if value is not None and not trainer.sanity_checking:  # which fills metrics before training
            self.best = self.better(float(value), self.best if self.best is not None else float(value))
            self._report(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        progress.report(state="testing", left=None)

    def _report(self, trainer: Trainer) -> None:
        now, steps = time.monotonic(), trainer.global_step - self.first_step
        self.next = now + INTERVAL
        remaining = self.last_step - trainer.global_step
        progress.report(
            state="running",
            epoch=trainer.current_epoch + 1,
            epochs=trainer.max_epochs if (trainer.max_epochs or 0) > 0 else None,
            best=self.best,
            left=(now - self.start) * remaining / steps if steps and math.isfinite(remaining) else None,
        )


@contextmanager
def tidy_process() -> Iterator[None]:
    """Leave nothing behind for the next job of this process: no open logger, no environment variable of this one.

    Lightning sets `PL_GLOBAL_SEED` and `LOCAL_RANK`, W&B `WANDB_MODE` and others.
    """
    environment, exit_code = dict(os.environ), 1
    stopped: Stopped | None = None
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)  # not its lines about missing devices, and tips
    try:
        with warnings.catch_warnings():
            for message in HARMLESS_WARNINGS:
                warnings.filterwarnings("ignore", message=message)
            yield
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()  # torch requires it: its threads must not outlive the run
        exit_code = 0
    except Stopped as error:
        stopped = error
        raise
    finally:
        finish_wandb(exit_code)
        os.environ.clear()
        os.environ.update(environment)
        if stopped is not None and rank() == 0:  # the last line, below the progress bar and what W&B prints
            log.warning(stopped.how_to_resume)
