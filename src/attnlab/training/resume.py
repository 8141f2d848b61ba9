"""Resuming a run in its own folder: `python src/train.py resume=<run folder>`, or `resume=latest`.

What may change on resume takes effect and is printed, all else is refused: config.yaml says what was used.
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

from attnlab.config import read_config
from attnlab.errors import UserError
from attnlab.paths import shown, started_again
from attnlab.progress import in_multirun
from attnlab.redaction import HIDDEN, redact
from attnlab.runs import CONFIG, choose_run_dir

log = logging.getLogger(__name__)

Changes = dict[str, tuple[Any, Any]]  # settings given anew: key to old and new value

# What may be given anew: how the run is trained from here on, and where its data lies now, whose content the checkpoint
# knows. All else decided what the run has learnt so far.
MAY_CHANGE = ("trainer.*", "callbacks.*", "logger.*", "test", "tags", "data.num_workers")
PLACES = ("data.path", "data.train", "data.val", "data.test", "tokenizer.path", "model.path", "paths.cache_dir")
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


def resumed_folder(config: DictConfig) -> Path | None:
    """The folder of the run to go on with, or None for a new run. A job that Slurm starts again goes on with its own.

    A job of a multirun goes on with what was begun in its folder, where the multirun does or as a trial's second try.

    Raises:
        UserError: there is no such run.
    """
    here = Path(HydraConfig.get().runtime.output_dir) if HydraConfig.initialized() else None
    asked = config.get("resume") or OmegaConf.select(config, "hparams_search.trial") is not None
    if here and (here / CONFIG).is_file() and (started_again() or (in_multirun() and asked)):
        return here.absolute()
    if in_multirun() or not config.get("resume"):
        return None
    runs = str(Path(config.paths.log_dir, config.task_name, "runs"))
    in_python = "hydra" in config  # of a job of Hydra's its folder was chosen so
    folder = Path(choose_run_dir(config.resume, runs) if in_python else _hydra_node(config).runtime.output_dir)
    if not (folder / CONFIG).is_file():
        raise UserError(
            f"resume={config.resume}: there is no such run; give the folder of one, as in {runs}, or latest"
        )
    return folder.absolute()


def resumed_config(folder: Path, given: DictConfig) -> tuple[dict[str, Any], Changes]:
    """The config of the run in `folder`, with what the command or the composed config `given` gives anew.

    Raises:
        UserError: the run has finished, or a setting was given that can't change on resume.
    """
    stored = read_config(folder / CONFIG)
    config = OmegaConf.create(stored)
    anew = [] if started_again() else _given_anew(given, config)  # what it gave stands there already
    changes: Changes = {}
    with open_dict(config):
        for key, value in anew:
            part = key.rpartition(".")[0]
            if part and not isinstance(OmegaConf.select(config, part), DictConfig):
                raise UserError(f"{key} can't be given with resume=: the run has no {part}; leave it out")
            if (before := OmegaConf.select(config, key)) != value:
                changes[key] = before, value
                OmegaConf.update(config, key, value)
    if (folder / "metrics.json").exists() and not anew:
        raise UserError(
            f"the run in {shown(folder)} has finished; to train it further give a higher limit: trainer.max_epochs=20"
        )
    return cast(dict[str, Any], OmegaConf.to_container(config)), changes


def _hydra_node(config: DictConfig) -> DictConfig | HydraConf:
    """What Hydra knows of the command, or of how `config` was composed."""
    if "hydra" in config:
        return cast(DictConfig, config.hydra)
    if HydraConfig.initialized():
        return HydraConfig.get()
    raise UserError("resume= from Python has to know what is given anew: compose(..., return_hydra_config=True)")


def _given_anew(command: DictConfig, stored: DictConfig) -> list[tuple[str, Any]]:
    """The settings on the command line. Raises `UserError` for one that can't change on resume."""
    given, hydra = [], _hydra_node(command)
    for override in OverridesParser.create().parse_overrides(list(hydra.overrides.task)):
        key = override.key_or_group
        allowed = any(fnmatch(key, pattern) for pattern in (*MAY_CHANGE, *PLACES))
        if key.split(".")[0] in ABOUT_THE_COMMAND and not allowed:
            continue
        hidden = HIDDEN in str(OmegaConf.select(stored, key))  # a secret is not stored
        line = str(override.input_line).lstrip("+")
        if override.is_delete() or key in hydra.runtime.choices or not (allowed or hidden):
            raise UserError(
                f"{line} can't be given with resume=: the run keeps its parts and settings; only "
                f"{', '.join((*MAY_CHANGE, *PLACES))} can change, one by one"
            )
        if reason := next((reason for pattern, reason in FIXED.items() if fnmatch(key, pattern)), None):
            raise UserError(f"{line} can't be given with resume=: {reason}; leave it out, or train anew with it")
        value = override.value()
        given.append((key, OmegaConf.select(command, key) if "${" in str(value) else value))
    return given


def check_resume(checkpoint: Path, folder: Path, changes: Changes) -> int:
    """Print where the run in `folder` resumes and what was changed.

    Returns:
        the number of optimizer steps that it has trained.

    Raises:
        UserError: a limit that would change nothing: the run has passed it, or has stopped for another reason.
    """
    found = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    step, epochs = int(found["global_step"]), found["loops"]["fit_loop"]["epoch_progress"]["current"]["ready"]
    for key, trained in (("trainer.max_epochs", epochs), ("trainer.max_steps", step)):
        if key in changes and 0 <= (changes[key][1] or -1) < trained:
            raise UserError(f"{key}={changes[key][1]}: the run has trained {trained} already; give at least as many")
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
    log.info("Resuming %s after step %d (epoch %d)", shown(folder), step, epochs)
    for key, values in changes.items():
        before, now = (redact({key: value})[key] for value in values)
        log.info("Changed: %s=%s (was %s)", key, now, before)
    return step


class ResumeState(Callback):
    """What Lightning's checkpoint lacks for a run to resume exactly: whether it was about to stop.

    And what it has too much of: settings of callbacks, such as the patience of early stopping. The config's count.

    Args:
        changes: settings that were given anew.
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
            # With max_steps, Lightning would count an empty epoch before the next one (its issue 19617).
            loop.reset_restart_stage()
            loop.epoch_progress.increment_completed()
            loop.epoch_loop.restarting = False
        for callback, name, value in self.configured:
            setattr(callback, name, value)
        stoppers = trainer.early_stopping_callbacks
        waited = any(0 < callback.wait_count >= callback.patience for callback in stoppers)
        decides_anew = any(key.startswith(("trainer.max_", "trainer.min_", "callbacks.")) for key in self.changes)
        trainer.should_stop = waited if decides_anew or self.should_stop is None else self.should_stop
        if not trainer.should_stop:
            for callback in stoppers:
                callback.stopped_epoch, callback.stopping_reason_message = 0, None
                callback.stopping_reason = EarlyStoppingReason.NOT_STOPPED
