"""Resuming a run in its own folder: `python src/train.py resume=<run folder>`, or `resume=latest`.

A setting that may change on resume takes effect and is printed, any other is refused, so that config.yaml is true.
"""

import logging
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, cast

import torch
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from omegaconf import DictConfig, OmegaConf, open_dict

from attnlab.config import resolve
from attnlab.data.sources import with_absolute_paths
from attnlab.errors import UserError, relative_to_cwd
from attnlab.process import is_slurm_restart, rank
from attnlab.progress import in_multirun
from attnlab.redaction import HIDDEN, redact
from attnlab.run_dirs import choose_run_dir
from attnlab.runs import CONFIG, RunFolder
from attnlab.training.checkpoints import find_last
from attnlab.training.encoder import with_absolute_weight_paths
from attnlab.training.loggers import TensorBoard
from attnlab.training.results import restart_run
from attnlab.validation import Settings

log = logging.getLogger(__name__)

Changes = dict[str, tuple[Any, Any]]  # settings changed on resume: key to old and new value

# What may change: how the run is trained from here on, and where its data is now (the checkpoint has its fingerprint).
# Anything else has had an effect on the weights so far.
MAY_CHANGE = ("trainer.*", "callbacks.*", "logger.*", "test", "tags", "data.num_workers")
PATHS = ("data.path", "data.train", "data.val", "data.test", "tokenizer.path", "model.path", "paths.cache_dir")
# Exceptions, with the reason.
FIXED = {
    "callbacks.*.monitor": "the epochs so far were judged by another metric",
    "callbacks.*.mode": "the epochs so far were judged by another metric",
    "callbacks.best_checkpoint*": "it has kept the best epoch so far",
    "callbacks.weight_average*": "it has made the average so far",
    "trainer.accumulate_grad_batches": "the schedule counts steps of that many batches",
    "trainer.limit_train_batches": "the run has its place in an epoch of that length",
    "trainer.limit_val_batches": "the best epoch so far was chosen on that part",
    "trainer.fast_dev_run": "it would end the run without results",
}
ABOUT_THE_COMMAND = ("resume", "hydra", "paths")
MAX_WAIT = 90.0  # seconds in which a job whose sweep or node has died writes its checkpoint and ends


def resumed_folder(config: DictConfig) -> Path | None:
    """The folder of the run to resume, or None for a new run.

    A job that Slurm has requeued resumes its own. A job of a multirun resumes what its folder holds, if the multirun is
    resumed or it is the second attempt of a trial.

    Raises:
        UserError: there is no such run.
    """
    here = Path(HydraConfig.get().runtime.output_dir) if HydraConfig.initialized() else None
    asked = config.get("resume") or OmegaConf.select(config, "hparams_search.trial") is not None
    if here and (here / CONFIG).is_file() and (is_slurm_restart() or (in_multirun() and asked)):
        return here.absolute()
    if in_multirun() or not config.get("resume"):
        return None
    runs = str(Path(config.paths.log_dir, config.task_name, "runs"))
    composed_in_python = "hydra" in config  # for a command, Hydra has resolved the folder already
    folder = Path(choose_run_dir(config.resume, runs) if composed_in_python else _hydra_node(config).runtime.output_dir)
    if not (folder / CONFIG).is_file():
        raise UserError(
            f"resume={config.resume}: there is no such run; give the folder of one, as in {runs}, or latest"
        )
    return folder.absolute()


def run_config(cfg: DictConfig, resumed: Path | None) -> tuple[dict[str, Any], Changes]:
    """The resolved config of a run, and what is changed in it on resume.

    A new run has that of the command, and so has a job of a multirun: the job's folder was found by its settings.
    """
    if resumed is None or in_multirun():
        return resolve(cfg), {}
    return resumed_config(resumed, cfg)


def resumed_config(folder: Path, given: DictConfig) -> tuple[dict[str, Any], Changes]:
    """The config of the run in `folder`, with the changes of the command or of the composed config `given`.

    Raises:
        UserError: the run has finished, or a setting was given that can't change on resume.
    """
    run = RunFolder(folder)
    config = OmegaConf.create(run.config)
    overrides = [] if is_slurm_restart() else _overrides(given, config)  # of a requeued job, they are in the config
    changes: Changes = {}
    with open_dict(config):
        for key, value in overrides:
            part = key.rpartition(".")[0]
            if part and not isinstance(OmegaConf.select(config, part), DictConfig):
                raise UserError(f"{key} can't be given with resume=: the run has no {part}; leave it out")
            if (before := OmegaConf.select(config, key)) != value:
                changes[key] = before, value
                OmegaConf.update(config, key, value)
    if run.is_finished and not overrides:
        raise UserError(
            f"the run in {relative_to_cwd(folder)} has finished; to train it further raise the limit, as in "
            "trainer.max_epochs=20"
        )
    return cast(dict[str, Any], OmegaConf.to_container(config)), changes


def _hydra_node(config: DictConfig) -> DictConfig | HydraConf:
    """Hydra's settings of the command, or of the call that composed `config`."""
    if "hydra" in config:
        return cast(DictConfig, config.hydra)
    if HydraConfig.initialized():
        return HydraConfig.get()
    raise UserError("resume= from Python requires a config composed with compose(..., return_hydra_config=True)")


def _overrides(command: DictConfig, stored: DictConfig) -> list[tuple[str, Any]]:
    """The settings on the command line. Raises `UserError` for one that can't change on resume."""
    given, hydra = [], _hydra_node(command)
    for override in OverridesParser.create().parse_overrides(list(hydra.overrides.task)):
        key = override.key_or_group
        allowed = any(fnmatch(key, pattern) for pattern in (*MAY_CHANGE, *PATHS))
        if key.split(".")[0] in ABOUT_THE_COMMAND and not allowed:
            continue
        hidden = HIDDEN in str(OmegaConf.select(stored, key))  # a secret is not stored
        line = str(override.input_line).lstrip("+")
        if override.is_delete() or key in hydra.runtime.choices or not (allowed or hidden):
            raise UserError(
                f"{line} can't be given with resume=: the run keeps its parts and settings; only "
                f"{', '.join((*MAY_CHANGE, *PATHS))} can change, one by one"
            )
        if reason := next((reason for pattern, reason in FIXED.items() if fnmatch(key, pattern)), None):
            raise UserError(f"{line} can't be given with resume=: {reason}; leave it out, or train a new run with it")
        value = override.value()
        given.append((key, OmegaConf.select(command, key) if "${" in str(value) else value))
    return given


def make_paths_absolute(config: Settings) -> None:
    """So that the files of a run are found when it resumes, from whatever directory."""
    config["data"] = with_absolute_paths(config["data"])
    config["tokenizer"] = with_absolute_paths(config["tokenizer"])
    config["model"] = with_absolute_weight_paths(config["model"])
    if "_target_" in config["embedding"]:
        config["embedding"] = with_absolute_paths(config["embedding"])


def seconds_to_wait() -> float:
    """How long to wait for the lock of a folder: a previous attempt of this job may still be writing its checkpoint."""
    return MAX_WAIT if in_multirun() or is_slurm_restart() else 0.0


def checkpoint_to_resume(folder: Path, config: Settings) -> Path | None:
    """The checkpoint to resume from. A run that was interrupted before its first one starts again: None."""
    checkpoint = find_last(folder)
    if checkpoint is None and rank() == 0:
        restart_run(folder, config)
    return checkpoint


def announce_resume(checkpoint: Path, folder: Path, changes: Changes, trainer: Trainer) -> None:
    """Log where the run in `folder` resumes and what was changed.

    Raises:
        UserError: a limit without effect: the run has passed it, or has stopped for another reason.
    """
    found = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    step, epochs = int(found["global_step"]), found["loops"]["fit_loop"]["epoch_progress"]["current"]["ready"]
    for key, trained in (("trainer.max_epochs", epochs), ("trainer.max_steps", step)):
        if key in changes and 0 <= (changes[key][1] or -1) < trained:
            raise UserError(
                f"{key}={changes[key][1]}: the run has trained {trained} already; it must be at least as high"
            )
    changed = {key.split(".")[-1] for key in changes}
    for state in found["callbacks"].values():
        stopped = found.get("should_stop", True) and "wait_count" in state and state["stopped_epoch"]
        patience = next((now for key, (_, now) in changes.items() if key.endswith(".patience")), state.get("patience"))
        limits = changed & {"max_epochs", "max_steps", "max_time", "patience"}
        if stopped and limits and 0 < state["wait_count"] >= patience and "min_epochs" not in changed:
            raise UserError(
                f"the run has stopped early, after {state['wait_count']} validations without a better one, so it would "
                f"not train further; give callbacks.early_stopping.patience={state['wait_count'] + 3} too"
            )
    log.info("Resuming %s after step %d (epoch %d)", relative_to_cwd(folder), step, epochs)
    for key, values in changes.items():
        before, now = (redact({key: value})[key] for value in values)
        log.info("Changed: %s=%s (was %s)", key, now, before)
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoard):
            logger.resume_at(step)


class ResumeState(Callback):
    """Corrects what Lightning restores, so that a run resumes exactly.

    A checkpoint of Lightning's lacks whether the run was about to stop. And it restores settings of callbacks, such as
    the patience of early stopping, where those of the config must apply.

    Args:
        changes: settings changed on resume.
    """

    def __init__(self, changes: Changes) -> None:
        self.changes = changes
        self.should_stop: bool | None = None
        self.configured: list[tuple[Callback, str, Any]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        names = {"patience"} | {key.split(".")[-1] for key in self.changes if key.startswith("callbacks.")}
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        self.configured = [(one, name, vars(one)[name]) for one in callbacks for name in names & vars(one).keys()]

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["should_stop"] = trainer.should_stop

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.should_stop = checkpoint.get("should_stop")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loop = trainer.fit_loop
        if loop.restarted_on_epoch_end:
            # With max_steps, Lightning counts an empty epoch before the next one (its issue 19617).
            loop.reset_restart_stage()
            loop.epoch_progress.increment_completed()
            loop.epoch_loop.restarting = False
        for callback, name, value in self.configured:
            setattr(callback, name, value)
        stoppers = trainer.early_stopping_callbacks
        waited = any(0 < callback.wait_count >= callback.patience for callback in stoppers)
        limits_changed = any(key.startswith(("trainer.max_", "trainer.min_", "callbacks.")) for key in self.changes)
        trainer.should_stop = waited if limits_changed or self.should_stop is None else self.should_stop
        if not trainer.should_stop:
            for callback in stoppers:
                callback.stopped_epoch, callback.stopping_reason_message = 0, None
                callback.stopping_reason = EarlyStoppingReason.NOT_STOPPED
