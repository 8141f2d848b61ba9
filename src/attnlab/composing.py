"""The config of a program, from its command line or from Python. Importing this registers what `conf/` may compute.

from attnlab.composing import compose
from attnlab.training.train import train

train(compose("model.pooling=max", "pe=learned"))
"""

import os
import re
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from textwrap import fill
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_visitor import HydraOverrideVisitor
from hydra.types import TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

import attnlab.metrics  # noqa: F401  (registers `direction`)
from attnlab.config import EXECUTION_WHITELIST, escape
from attnlab.errors import CONF, UserError, report_in_one_line
from attnlab.process import rank
from attnlab.redaction import hide_secrets
from attnlab.run_dirs import choose_job_dir, choose_run_dir, choose_sweep_dir, hydra_subdir

FREE_TEXT = {"predict": ("text", "text_pair")}  # by program: settings in which every character counts
PART_SETTING = re.compile(r"(?!hydra\.|paths\.)[a-z_]+\.[\w.]+=")  # a setting of a part, not the choice of one
FOLDERS = ("hydra.run.dir", "hydra.sweep.dir", "paths.log_dir")  # Hydra creates them before it calls our code

if not CONF.is_dir():
    raise UserError(f"{CONF} is missing: attnlab trains from a checkout; install that with pip install -e <checkout>")


def run(name: str, main: TaskFunction) -> None:
    """Run the program `src/<name>.py`: call `main` with the config of the command line, in a multirun with each one."""
    report_in_one_line()
    sys.argv[1:] = read_arguments(name, sys.argv[1:])
    hydra.main(config_path=str(CONF), config_name=name, execution_whitelist=EXECUTION_WHITELIST)(main)()


def compose(*overrides: str, name: str = "train") -> DictConfig:
    """The config of `python src/<name>.py <overrides>`.

    That of a run also has the files of `conf/` that it was composed of (`choices`): there is no `.hydra` folder.
    """
    with hydra.initialize_config_dir(str(CONF)):
        config = hydra.compose(name, quote_free_text(name, overrides), return_hydra_config=True)
    with open_dict(config):
        choices = config.pop("hydra").runtime.choices
        if name == "train":
            config.choices = {key: value for key, value in choices.items() if value and not key.startswith("hydra/")}
    return config


def read_arguments(program: str, arguments: Sequence[str]) -> list[str]:
    """The arguments of `src/<program>.py` in Hydra's grammar, with free text quoted and secrets hidden.

    Raises:
        UserError: one of them is invalid; Hydra's own message would not say what to do.
    """
    quoted = quote_free_text(program, arguments)
    multirun = "-m" in quoted or "--multirun" in quoted
    for argument in quoted:
        _validate_argument(argument, multirun)
    safe = [argument if _is_free_text(program, argument) else hide_secrets(argument) for argument in quoted]
    if program == "train" and not multirun and any(re.match("resume=(?!null)", argument) for argument in safe):
        # A setting given on resume changes the config of the run, which may have keys that the one composed here lacks.
        safe = [f"++{argument}" if PART_SETTING.match(argument) else argument for argument in safe]
    return safe


def quote_free_text(program: str, arguments: Sequence[str]) -> list[str]:
    """The arguments, with free text quoted so that Hydra and OmegaConf read each character as it is.

    Raises:
        UserError: a text is not in UTF-8.
    """
    return [_quoted(argument) if _is_free_text(program, argument) else argument for argument in arguments]


def _is_free_text(program: str, argument: str) -> bool:
    return argument.partition("=")[0].lstrip("+") in FREE_TEXT.get(program, ())


def _quoted(argument: str) -> str:
    from hydra.core.override_parser.types import Quote, QuotedString

    key, _, text = argument.partition("=")
    try:
        text = os.fsencode(text).decode()  # the bytes of the shell, whatever encoding the locale has
    except UnicodeError as error:
        raise UserError(
            f"{_printable(argument)} is not in UTF-8; input=<file> data.encoding=latin-1 reads texts in other encodings"
        ) from error
    return f"{key}={QuotedString(escape(text), Quote.single).with_quotes()}"


def _validate_argument(argument: str, multirun: bool) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    if any("\ud800" <= character <= "\udfff" for character in argument):
        raise UserError(f"{_printable(argument)} is not in this locale's encoding; LC_ALL=C.UTF-8 sets UTF-8")
    key, equals, value = argument.partition("=")
    if argument.startswith("-") or not equals:
        return
    try:
        override = OverridesParser.create().parse_override(argument)
    except HydraException as error:
        quoted = value.replace("'", "\\'")
        raise UserError(
            f"{argument} can't be parsed; quote the value, once more for the shell: \"{key}='{quoted}'\""
        ) from error
    if override.value() is None and (CONF / key).is_dir():
        raise UserError(f"{argument}: a group takes the name of a part; ~{key} removes the part")
    if key == "resume" and multirun and value not in ("latest", "null") and not Path(value, "multirun.yaml").is_file():
        raise UserError(f"{argument}: there is no such sweep; give a folder of logs/train/multiruns, or latest")
    folder = str(override.value())
    if key.lstrip("+") in FOLDERS and "${" not in folder and not override.is_sweep_override():
        if override.value() is None or not folder.strip():
            raise UserError(f"{argument}: give a folder, or leave it out")
        parent = next(parent for parent in (Path(folder), *Path(folder).absolute().parents) if parent.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            why = "can't be written to" if parent.is_dir() else "is not a directory"
            raise UserError(f"{argument} can't be created, as {parent} {why}; give another folder")


def _printable(argument: str) -> str:
    """The argument, with bytes that are no characters as \\xe9."""
    return os.fsencode(argument).decode(errors="backslashreplace")


def _key_as_typed(self: HydraOverrideVisitor, context: Any) -> str:
    """A key of `{key: value}`, such as the name of a class: 1_0 is not 10, and Hydra has no quotes for keys."""
    key = self._createPrimitive(context)
    return key if isinstance(key, str) else context.getText().strip()


def vector_width(path: str | None) -> int:
    """`attnlab.data.vectors.vector_width`, imported only when it is needed."""
    if path is None:
        raise UserError("embedding=static requires embedding.path=<file or folder of vectors>")
    from attnlab.data.vectors import vector_width

    return vector_width(path)


@cache  # launchers resolve it in copies of the config: each would get a folder of its own
def sweep_dir(resume: str | None, parent: str) -> str:
    return choose_sweep_dir(resume, parent, sys.argv[1:])


def job_dir(resume: str | None, sweep: str, number: int, *, _root_: DictConfig) -> str:
    return choose_job_dir(resume, sweep, number, _root_.hydra.overrides.task)


def scaled(key: str, factor: float | int, less: int = 0, *, _root_: DictConfig) -> int | None:
    """`factor` times the setting `key` of this config, minus `less`; None where it is None."""
    value = OmegaConf.select(_root_, key)
    return None if value is None else max(1 - less, int(value * factor) - less)


def config_groups() -> str:
    """The options of each group, in lines of 80 columns: for `--help`, in place of Hydra's $APP_CONFIG_GROUPS."""
    lines = GlobalHydra.instance().hydra.format_config_groups(lambda group: group.split("/")[0] != "hydra")  # type: ignore[union-attr]
    return "\n".join(fill(line, 80, subsequent_indent="  ", break_on_hyphens=False) for line in lines.splitlines())


def log_file(file: str) -> str:
    """The file for log messages, to which rank 0 alone writes."""
    return os.devnull if rank() else file


def console_level() -> str:
    """The log level of the terminal: other ranks would repeat all that rank 0 says, so they report errors alone."""
    return "ERROR" if rank() else "NOTSET"


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
