"""The Trainer of a run: the config's callbacks and loggers, less what would work against this program."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    BatchSizeFinder,
    Checkpoint,
    LearningRateFinder,
    ModelPruning,
    ModelSummary,
    ProgressBar,
    SpikeDetection,
    StochasticWeightAveraging,
    Timer,
    WeightAveraging,
)
from lightning.pytorch.profilers import Profiler

from attnlab import progress
from attnlab.config import instantiate
from attnlab.errors import UserError, first_line
from attnlab.training.averaging import WeightAverage
from attnlab.training.callbacks import NoProfiler
from attnlab.training.checkpoints import WholeCheckpointIO

log = logging.getLogger(__name__)

# Arguments of Lightning's Trainer that would work against what this program does itself.
NOT_OURS = {
    "default_root_dir": "a run writes into its own folder; give paths.run_dir=<folder>",
    "overfit_batches": "debug=overfit, or data.limit=<number of documents>, learns a few documents by heart",
    "barebones": "it keeps nothing of a run; debug=fast looks whether one works",
}

# Callbacks of Lightning's likewise.
OTHER_WEIGHTS = "it tests other weights than it chooses or saves; use callbacks=ema or callbacks=swa"
SEARCH = "it trains beside the run; search instead: -m hparams_search=optuna"
REFUSED: dict[type[Callback], str] = {
    WeightAveraging: OTHER_WEIGHTS,
    StochasticWeightAveraging: OTHER_WEIGHTS,
    BatchSizeFinder: SEARCH,
    LearningRateFinder: SEARCH,
    BaseFinetuning: "it wants a model with a backbone that was trained before",
    ModelPruning: "it replaces weights that the model reads directly",
    SpikeDetection: "a loss that is no number ends a run anyway",
}

# What the Trainer's `enable_` flags are about.
KINDS = {"checkpointing": Checkpoint, "model_summary": ModelSummary, "progress_bar": ProgressBar}


def make_trainer(config: Mapping[str, Any], run_dir: Path, *callbacks: Callback) -> Trainer:
    """The Trainer with the config's callbacks and loggers, and with `callbacks`.

    Raises:
        UserError: settings that Lightning refuses, or a distributed strategy in a multirun.
    """
    settings = {key: value for key, value in config["trainer"].items() if key != "threads"}  # ours
    named = {name: instantiate(callback) for name, callback in (config["callbacks"] or {}).items() if callback}
    named = {name: callback for name, callback in named.items() if not _is_off(callback, settings)}
    _refuse(named)
    for flag, kind in KINDS.items():  # null takes a part away, where Lightning would put its own
        if not any(isinstance(callback, kind) for callback in named.values()):
            settings[f"enable_{flag}"] = False
    timers = [name for name, callback in named.items() if isinstance(callback, Timer)]
    if timers and settings.get("max_time") is not None:
        raise UserError(f"callbacks.{timers[0]} would switch trainer.max_time off: leave one of them out")
    for key, advice in NOT_OURS.items():
        if settings.get(key):
            raise UserError(f"trainer.{key}={settings[key]} is not for this program: {advice}")
    if any(kind in str(settings.get("strategy")) for kind in ("spawn", "fork", "notebook")):
        raise UserError(f"trainer.strategy={settings['strategy']} trains where this process can't see it; use ddp")
    loggers = [instantiate(logger, save_dir=str(run_dir)) for logger in (config["logger"] or {}).values() if logger]
    objects: dict[str, Any] = {"callbacks": [*named.values(), *callbacks], "logger": loggers}
    objects["default_root_dir"] = str(run_dir)
    if not settings.get("profiler"):
        objects["profiler"] = NoProfiler()
    try:
        trainer: Trainer = instantiate(settings, **objects, plugins=[WholeCheckpointIO(), *_cluster(settings)])
    except (MisconfigurationException, RuntimeError) as error:  # the latter of a cluster's variables
        no_such_device = any(word in str(error) for word in ("accelerator", "backend", "device"))
        advice = "; trainer=auto takes what this machine has" if no_such_device else ""
        raise UserError(f"{first_line(error).rstrip('.')}{advice}") from error
    if settings.get("profiler"):
        _into_a_file(trainer.profiler, run_dir)  # type: ignore[attr-defined]
    if trainer.world_size > 1 and config.get("halve_batch_on_oom"):
        raise UserError(
            "halve_batch_on_oom=true works on one device: on several the others would wait for the one that ran out of "
            "memory; leave it out and give a smaller data.batch_size"
        )
    if progress.in_multirun() and trainer.world_size > 1:
        raise UserError(
            "a multirun can't train on several devices (trainer=ddp): their processes would start the whole sweep "
            "again; use trainer=gpu (one device a job), or one command for each setting"
        )
    return trainer


def _into_a_file(profiler: Profiler, run_dir: Path) -> None:
    """Lightning would log the table, wider than a terminal, among what is not shown."""
    profiler.dirpath, profiler.filename = profiler.dirpath or run_dir, profiler.filename or "profile"
    log.info("Where the time went will stand in fit-%s.txt and test-%s.txt", profiler.filename, profiler.filename)


def _cluster(settings: dict[str, Any]) -> list[SLURMEnvironment]:
    """Slurm where this is one of its tasks; Lightning's way to requeue a job would come before our checkpoint."""
    if (nodes := settings.get("num_nodes") or 1) > 1 and not os.environ.keys() & {"SLURM_STEP_ID", "MASTER_ADDR"}:
        raise UserError(
            f"trainer.num_nodes={nodes} wants a process on each node: srun -K -N{nodes} --ntasks-per-node=1 python ..."
        )
    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []


def _refuse(callbacks: dict[str, Callback]) -> None:
    for name, callback in callbacks.items():
        for kind, advice in REFUSED.items():
            if isinstance(callback, kind) and not isinstance(callback, WeightAverage):
                raise UserError(f"callbacks.{name}: {type(callback).__name__} is not for this program: {advice}")


def _is_off(callback: Callback, settings: dict[str, Any]) -> bool:
    """Whether a flag of the Trainer's, which would refuse the callback, switches it off."""
    return any(settings.get(f"enable_{flag}") is False and isinstance(callback, kind) for flag, kind in KINDS.items())
