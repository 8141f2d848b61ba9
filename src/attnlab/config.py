"""The one door from configuration to code: only what is listed here is ever called by a config."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import hydra.utils
import yaml
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from attnlab.errors import UserError, as_user_error, first_line, own_place

# Add your own package here to name its classes in a config. Narrow on purpose: configs also come out of checkpoints
# that others made, and a package listed whole would let them call anything in it.
EXECUTION_WHITELIST = [
    "attnlab.data.sources.*",
    "attnlab.data.tokenization.*",
    "attnlab.data.vectors.StaticVectors",
    "attnlab.models.*",
    "attnlab.redaction.RedactingFormatter",
    "attnlab.runs.RemoveUnused",
    "attnlab.tasks.multi_label.MultiLabel",
    "attnlab.tasks.single_label.SingleLabel",
    "attnlab.training.averaging.*",
    "attnlab.training.callbacks.*",
    "attnlab.training.pruning.ReportToStudy",
    "attnlab.training.checkpoints.LastCheckpoint",
    "attnlab.training.curves.CurvesLogger",
    "attnlab.training.schedules.*",
    "attnlab.training.selection.BestCheckpoint",
    "attnlab.training.tracking.TensorBoard",
    "attnlab.training.tracking.wandb_logger",
    "lightning.pytorch.callbacks.*",
    "lightning.pytorch.loggers.*",
    "lightning.pytorch.profilers.*",
    "lightning.pytorch.trainer.trainer.Trainer",
    "lightning.pytorch.Trainer",
    "optuna.pruners.*",
    "optuna.samplers.*",
    "torch.optim.*",
]


def resolve(config: DictConfig) -> dict[str, Any]:
    """The config as plain dicts, lists, strings and numbers.

    Raises:
        UserError: a mandatory value is missing, or an interpolation leads nowhere.
    """
    try:
        return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key} is needed and has no default: give {error.full_key}=<value>") from error
    except OmegaConfBaseException as error:
        inner: BaseException | None = error
        while inner is not None and not isinstance(inner, UserError):  # of one of our own resolvers
            inner = inner.__context__
        raise UserError(str(inner) if inner else first_line(error)) from error


def read_config(file: Path) -> dict[str, Any]:
    """The config.yaml of a run or a record of Hydra's, as it stands: an interpolation in it stays text.

    Configs are written resolved, so only one that somebody else has changed would read the environment by it.

    Raises:
        UserError: the file can't be read, or holds no settings.
    """
    with as_user_error(f"{file} can't be read", only=(OSError, ValueError, yaml.YAMLError, OmegaConfBaseException)):
        config = OmegaConf.load(file)
        if not isinstance(config, DictConfig):
            raise ValueError("no settings in it")
        return cast(dict[str, Any], OmegaConf.to_container(config))


def _literal(value: Any) -> Any:
    """Plain data whose every "${" is text to OmegaConf, which would take it for an interpolation."""
    if isinstance(value, Mapping):
        return {key: _literal(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_literal(inner) for inner in value]
    return escape(value) if isinstance(value, str) else value


def escape(text: str) -> str:
    """The text so that OmegaConf takes no "${" in it for an interpolation."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def find_allowed(name: object) -> Any:
    """The class or function that a config names; a name that is not on the whitelist is not even imported.

    Raises:
        UserError: the name is not on the whitelist, or there is nothing of that name.
    """
    if not isinstance(name, str):
        raise UserError(f"_target_={name} should be the name of a class, such as attnlab.data.sources.Files")
    return instantiate({"_target_": name}, _partial_=True).func


def instantiate(config: Any, **arguments: Any) -> Any:
    """Call what `config["_target_"]` names with the config's other entries, which are resolved, and `arguments`.

    Raises:
        UserError: the target is not on the whitelist, or refuses its arguments.
    """
    name = config.get("_target_") if isinstance(config, Mapping) else config
    with as_user_error(str(name), only=(InstantiationException, ImportError, TypeError, ValueError)):
        try:
            return hydra.utils.instantiate(_literal(config), **arguments, _execution_whitelist_=EXECUTION_WHITELIST)
        except (InstantiationException, TypeError) as error:
            bug = error.__cause__ or error
            if isinstance(bug, ValueError | OSError | ImportError) or own_place(bug) is None:
                raise
            failed = bug
    raise failed  # of the called class itself: with its traceback, which leads to the place
