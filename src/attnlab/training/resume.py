"""Going on with a run in its own folder: `python src/train.py resume=<run folder>`, or `resume=latest`."""

from pathlib import Path
from typing import Any, cast

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from attnlab.config import read_config
from attnlab.errors import UserError
from attnlab.paths import CONFIG, choose_run_dir, shown, started_again
from attnlab.progress import in_multirun
from attnlab.redaction import HIDDEN

# What may be given anew; all else decided what the run has learnt so far.
MAY_CHANGE = ("trainer", "callbacks", "logger", "test", "tags", "data.num_workers")
ABOUT_THE_COMMAND = ("resume", "hydra", "paths")
# What a config of an earlier version names, and what has taken its place.
REPLACED = {
    "lightning.pytorch.loggers.CSVLogger": "attnlab.training.curves.CurvesLogger",
    "lightning.pytorch.loggers.TensorBoardLogger": "attnlab.training.tracking.TensorBoard",
    "lightning.pytorch.callbacks.ModelCheckpoint": "attnlab.training.selection.BestCheckpoint",
}


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


def resumed_config(folder: Path, given: DictConfig) -> dict[str, Any]:
    """The config of the run in `folder`, with what the command or the composed config `given` gives anew.

    Raises:
        UserError: the run has finished, or a setting was given that can't change in mid-run.
    """
    stored = read_config(folder / CONFIG)
    for parts in (stored.get("callbacks"), stored.get("logger")):
        for part in filter(None, (parts or {}).values()):
            part["_target_"] = REPLACED.get(part["_target_"], part["_target_"])
    config = OmegaConf.create(stored)
    anew = [] if started_again() else _given_anew(given, config)  # what it gave stands there already
    with open_dict(config):
        for key, value in anew:
            OmegaConf.update(config, key, value)
    if (folder / "metrics.json").exists() and not anew:
        raise UserError(
            f"the run in {shown(folder)} has finished; to train it further give a higher limit: trainer.max_epochs=20"
        )
    return cast(dict[str, Any], OmegaConf.to_container(config))


def _hydra_node(config: DictConfig) -> DictConfig | HydraConf:
    """What Hydra knows of the command, or of how `config` was composed."""
    if "hydra" in config:
        return cast(DictConfig, config.hydra)
    if HydraConfig.initialized():
        return HydraConfig.get()
    raise UserError("resume= from Python has to know what is given anew: compose(..., return_hydra_config=True)")


def _given_anew(command: DictConfig, stored: DictConfig) -> list[tuple[str, Any]]:
    """The settings on the command line."""
    given, hydra = [], _hydra_node(command)
    for override in OverridesParser.create().parse_overrides(list(hydra.overrides.task)):
        key = override.key_or_group
        if key.split(".")[0] in ABOUT_THE_COMMAND:
            continue
        changes = key.startswith(MAY_CHANGE) or HIDDEN in str(OmegaConf.select(stored, key))  # a secret is not stored
        if override.is_delete() or key in hydra.runtime.choices or not changes:
            raise UserError(
                f"{override.input_line} can't be given with resume=: the run keeps its parts and settings; only those "
                f"under {', '.join(MAY_CHANGE)} can change, one by one"
            )
        value = override.value()
        given.append((key, OmegaConf.select(command, key) if "${" in str(value) else value))
    return given
