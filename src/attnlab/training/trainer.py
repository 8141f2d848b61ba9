"""The Trainer of a run: Lightning's, with the callbacks and loggers of the config and what this program needs of it."""

import logging
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelSummary, ProgressBar
from lightning.pytorch.profilers import PassThroughProfiler

from attnlab import progress
from attnlab.config import instantiate
from attnlab.errors import UserError, first_line
from attnlab.training.checkpoints import AtomicCheckpointIO

log = logging.getLogger(__name__)

# Callbacks that Lightning adds by itself, by the name of the Trainer's flag `enable_<name>`.
ADDED_BY_LIGHTNING = {"checkpointing": Checkpoint, "model_summary": ModelSummary, "progress_bar": ProgressBar}
NO_CONTEXT = nullcontext()


class NoProfiler(PassThroughProfiler):
    """Lightning's makes a new context for each hook of each callback, 50 times a step."""

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        return NO_CONTEXT


def make_trainer(config: Mapping[str, Any], run_dir: Path, *callbacks: Callback) -> Trainer:
    """The Trainer with the callbacks and loggers of the config, and with `callbacks`.

    Raises:
        UserError: settings that Lightning refuses, or several devices where one is required.
    """
    settings = {key: value for key, value in config["trainer"].items() if key != "threads"}  # ours, not Lightning's
    own = [instantiate(callback) for callback in (config["callbacks"] or {}).values() if callback]
    for flag, kind in ADDED_BY_LIGHTNING.items():
        # A flag that is false removes our callback too, which Lightning would refuse. Without a callback of the kind,
        # as after callbacks.progress=null, Lightning must not add its own.
        if settings.get(f"enable_{flag}") is False:
            own = [callback for callback in own if not isinstance(callback, kind)]
        elif not any(isinstance(callback, kind) for callback in own):
            settings[f"enable_{flag}"] = False
    loggers = [instantiate(logger, save_dir=str(run_dir)) for logger in (config["logger"] or {}).values() if logger]
    objects: dict[str, Any] = {"callbacks": [*own, *callbacks], "logger": loggers, "default_root_dir": str(run_dir)}
    if not settings.get("profiler"):
        objects["profiler"] = NoProfiler()
    try:
        trainer: Trainer = instantiate(settings, **objects, plugins=[AtomicCheckpointIO(), *_cluster(settings)])
    except (MisconfigurationException, RuntimeError) as error:  # the latter from the variables of a cluster
        no_such_device = any(word in str(error) for word in ("accelerator", "backend", "device"))
        advice = "; trainer=auto takes what this machine has" if no_such_device else ""
        raise UserError(f"{first_line(error).rstrip('.')}{advice}") from error
    if settings.get("profiler"):
        # Lightning would log the table, which is wider than a terminal, at a level that is not displayed.
        profiler: Any = trainer.profiler  # type: ignore[attr-defined]
        profiler.dirpath, profiler.filename = profiler.dirpath or run_dir, profiler.filename or "profile"
        log.info("The profile is written to fit-%s.txt and test-%s.txt", profiler.filename, profiler.filename)
    if trainer.world_size > 1:
        _validate_distributed(config)
    return trainer


def _validate_distributed(config: Mapping[str, Any]) -> None:
    if config.get("halve_batch_on_oom"):
        raise UserError(
            "halve_batch_on_oom=true works on one device: on several the others would wait for the one that ran out of "
            "memory; leave it out and set a smaller data.batch_size"
        )
    # Lightning starts its other processes with this command line: with -m each would start the whole sweep.
    if progress.in_multirun():
        raise UserError(
            "a multirun can't train on several devices (trainer=ddp): their processes would start the whole sweep "
            "again; use trainer=gpu (one device a job), or one command for each setting"
        )


def _cluster(settings: dict[str, Any]) -> list[SLURMEnvironment]:
    """Slurm where this is one of its tasks; without Lightning's requeueing, which would precede our checkpoint."""
    if (nodes := settings.get("num_nodes") or 1) > 1 and not os.environ.keys() & {"SLURM_STEP_ID", "MASTER_ADDR"}:
        raise UserError(
            f"trainer.num_nodes={nodes} requires one process on each node: srun -K -N{nodes} --ntasks-per-node=1 "
            "python ..."
        )
    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []
