"""Configs composed for a program or from Python, and what `conf/` may compute: importing this registers it.

from attnlab.composing import compose
from attnlab.training.run import train

train(compose("model.pooling=max", "pe=learned"))
"""

import sys
from functools import cache
from textwrap import fill
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_visitor import HydraOverrideVisitor
from hydra.types import TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

import attnlab.metrics  # noqa: F401  (registers `direction`)
from attnlab.arguments import quote_free_text, read_arguments
from attnlab.config import EXECUTION_WHITELIST
from attnlab.errors import CONF, UserError, report_in_one_line
from attnlab.paths import console_level, log_file
from attnlab.runs import choose_job_dir, choose_run_dir, choose_sweep_dir, hydra_subdir

if not CONF.is_dir():
    raise UserError(f"{CONF} is missing: attnlab trains from a checkout; install that with pip install -e <checkout>")


def run(name: str, main: TaskFunction) -> None:
    """Be the program `src/<name>.py`: call `main` with the config that the command line asks for, or with each one."""
    report_in_one_line()
    sys.argv[1:] = read_arguments(name, sys.argv[1:])
    hydra.main(config_path=str(CONF), config_name=name, execution_whitelist=EXECUTION_WHITELIST)(main)()


def compose(*overrides: str, name: str = "train") -> DictConfig:
    """The config of `python src/<name>.py <overrides>`.

    That of a run holds which files of `conf/` it was made of (`choices`), as there is no `.hydra` folder to say it.
    """
    with hydra.initialize_config_dir(str(CONF)):
        config = hydra.compose(name, quote_free_text(name, overrides), return_hydra_config=True)
    with open_dict(config):
        choices = config.pop("hydra").runtime.choices
        if name == "train":
            config.choices = {key: value for key, value in choices.items() if value and not key.startswith("hydra/")}
    return config


def _key_as_typed(self: HydraOverrideVisitor, context: Any) -> str:
    """A key of `{key: value}`, such as a class's name: 1_0 is no 10, and Hydra has no quotes for keys."""
    key = self._createPrimitive(context)
    return key if isinstance(key, str) else context.getText().strip()


def vector_width(path: str | None) -> int:
    """As in `attnlab.data.vectors`, which is imported where it is needed."""
    if path is None:
        raise UserError("embedding=static wants embedding.path=<file or folder of vectors>")
    from attnlab.data.vectors import vector_width

    return vector_width(path)


@cache  # launchers resolve it in copies of the config, each of which would make another; their jobs find it in theirs
def sweep_dir(resume: str | None, parent: str) -> str:
    return choose_sweep_dir(resume, parent, sys.argv[1:])


def job_dir(resume: str | None, sweep: str, number: int, *, _root_: DictConfig) -> str:
    return choose_job_dir(resume, sweep, number, _root_.hydra.overrides.task)


def scaled(key: str, factor: float | int, less: int = 0, *, _root_: DictConfig) -> int | None:
    """`factor` times the setting `key` of this config, minus `less`; None where it has none."""
    value = OmegaConf.select(_root_, key)
    return None if value is None else max(1 - less, int(value * factor) - less)


def config_groups() -> str:
    """For `--help`, what Hydra has as $APP_CONFIG_GROUPS: the options of each group, in lines of 80 columns."""
    lines = GlobalHydra.instance().hydra.format_config_groups(lambda group: group.split("/")[0] != "hydra")  # type: ignore[union-attr]
    return "\n".join(fill(line, 80, subsequent_indent="  ", break_on_hyphens=False) for line in lines.splitlines())


HydraOverrideVisitor.visitDictKey = _key_as_typed  # type: ignore[method-assign, assignment]
OmegaConf.register_resolver("config_groups", config_groups, replace=True)
OmegaConf.register_resolver("sweep_dir", sweep_dir, use_cache=True, replace=True)
OmegaConf.register_resolver("job_dir", job_dir, replace=True)
OmegaConf.register_resolver("scaled", scaled, replace=True)
OmegaConf.register_resolver("run_dir", choose_run_dir, use_cache=True, replace=True)
OmegaConf.register_resolver("hydra_subdir", hydra_subdir, replace=True)
OmegaConf.register_resolver("log_file", log_file, replace=True)
OmegaConf.register_resolver("console_level", console_level, replace=True)
OmegaConf.register_resolver("vector_width", vector_width, replace=True)
