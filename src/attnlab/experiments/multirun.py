"""The command line of a multirun: its ranges, the configs of its jobs, and a name made of its settings."""

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from attnlab.errors import UserError
from attnlab.validation import PARTS

# Parts that every run reads from its config; another one counts where one of these refers to it.
READ_BY_RUNS = (*PARTS, "callbacks", "embedding", "logger")
ELSEWHERE = ("hydra", "logger", "paths", "resume")  # what the name of a multirun does not depend on


def check_devices(config: DictConfig, what: str, job: str) -> None:
    """Raises `UserError` if a `job` of `what` would start several processes."""
    if (strategy := config.trainer.get("strategy", "auto")) != "auto":
        raise UserError(
            f"{what} can't train on several devices (trainer.strategy={strategy}): their processes would start it all "
            f"again; use trainer=gpu (one device a {job}), and hydra/launcher for several {job}s at once"
        )


def name_by_settings(config: DictConfig, group: str, free: Sequence[str], more: dict[str, Any]) -> str:
    """Made of all settings but those of `group` that are `free`, and of `more`: the same for the same command."""
    settings = {key: value for key, value in config.items_ex(resolve=False) if key not in ELSEWHERE} | more
    settings[group] = {key: value for key, value in config[group].items_ex(resolve=False) if key not in free}
    ranges = sorted(str(override.input_line) for override in sweeps(config.hydra.overrides.task))
    text = json.dumps([OmegaConf.to_container(OmegaConf.create(settings)), ranges], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def is_used(config: DictConfig, group: str) -> bool:
    """Whether a run with this config uses a part: by itself, or through another one, as a model does by `${pe}`."""
    if group in READ_BY_RUNS or group not in config:
        return True
    others = {key: value for key, value in config.items_ex(resolve=False) if key not in (group, "hydra")}
    return re.search(rf"\$\{{{re.escape(group)}[.}}]", OmegaConf.to_yaml(OmegaConf.create(others))) is not None


def sweeps(arguments: Sequence[str]) -> list[Override]:
    """The overrides that give several values."""
    return [override for override in parse(arguments) if override.is_sweep_override()]


def parse(arguments: Sequence[str]) -> list[Override]:
    """As Hydra reads the command line."""
    return OverridesParser.create().parse_overrides(list(arguments))


def compose_job(loader: ConfigLoader, config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The config of a job, as Hydra composes it from that of the multirun. Raises `UserError` if it can't."""
    try:
        return loader.load_sweep_config(config, list(overrides))
    except HydraException as error:
        raise UserError(" ".join(str(error).split())) from error
