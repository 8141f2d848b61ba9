"""From a config to code: it is resolved to plain data, and only what the whitelist names is imported and called."""

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

# Add your own package here to name its classes in a config. It is narrow on purpose: configs also come from checkpoints
# that others made, and a whole package would let them call anything in it.
EXECUTION_WHITELIST = [
    "attnlab.data.sources.*",
    "attnlab.data.tokenization.*",
    "attnlab.data.vectors.StaticVectors",
    "attnlab.models.*",
    "attnlab.redaction.RedactingFormatter",
    "attnlab.run_dirs.RemoveUnused",
    "attnlab.tasks.multi_label.MultiLabel",
    "attnlab.tasks.single_label.SingleLabel",
    "attnlab.training.averaging.*",
    "attnlab.training.callbacks.*",
    "attnlab.training.checkpoints.BestCheckpoint",
    "attnlab.training.checkpoints.LastCheckpoint",
    "attnlab.training.loggers.CurvesLogger",
    "attnlab.training.loggers.TensorBoard",
    "attnlab.training.loggers.wandb_logger",
    "attnlab.training.optimization.constant",
    "attnlab.training.optimization.cosine",
    "attnlab.training.optimization.linear",
    "attnlab.training.pruning.ReportToStudy",
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
        # An error of one of our own resolvers says more than OmegaConf, which has wrapped it.
        while inner is not None and not isinstance(inner, UserError):
            inner = inner.__context__
        raise UserError(str(inner) if inner else first_line(error)) from error


class _Loader(yaml.CSafeLoader):
    """Reads 1e-3 as a number, as OmegaConf does and YAML 1.1 does not."""


_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?e[-+]?\d+$", re.IGNORECASE)
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+0123456789"))


def read_config(file: Path) -> dict[str, Any]:
    """The config.yaml of a run or a record of Hydra's, as it is: an interpolation in it stays text.

    Configs are written resolved; one that somebody has changed could otherwise read the environment.

    Raises:
        UserError: the file can't be read, or holds no settings.
    """
    with as_user_error(f"{file} can't be read", only=(OSError, ValueError, yaml.YAMLError, OmegaConfBaseException)):
        text = file.read_text(encoding="utf-8")
        # By libyaml alone it takes an eighth of the time, which counts with hundreds of runs. OmegaConf limits how much
        # a few aliases (`*name`) can expand to; configs that it has written have none.
        config = OmegaConf.to_container(OmegaConf.create(text)) if "&" in text else yaml.load(text, _Loader)
        if not isinstance(config, dict):
            raise ValueError("it has no settings")
        return cast(dict[str, Any], config)


def _literal(value: Any) -> Any:
    """Plain data in which OmegaConf reads every "${" as text and not as an interpolation."""
    if isinstance(value, Mapping):
        return {key: _literal(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_literal(inner) for inner in value]
    return escape(value) if isinstance(value, str) else value


def escape(text: str) -> str:
    """The text, escaped so that OmegaConf reads no "${" in it as an interpolation."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def find_allowed(name: object) -> Any:
    """The class or function that a config names. A name that is not on the whitelist is not even imported.

    Raises:
        UserError: the name is not on the whitelist, or does not exist.
    """
    if not isinstance(name, str):
        raise UserError(f"_target_={name} must be the name of a class, such as attnlab.data.sources.Files")
    return instantiate({"_target_": name}, _partial_=True).func


def instantiate(config: Any, **arguments: Any) -> Any:
    """Call what `config["_target_"]` names with the config's other entries and `arguments`.

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
    # A bug in the called class itself keeps its traceback, which Hydra would hide.
    raise failed
