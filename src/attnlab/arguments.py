"""The command line, before Hydra reads it: free text is quoted, and mistakes that Hydra says little about are named."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from attnlab.config import escape
from attnlab.errors import CONF, UserError
from attnlab.redaction import hide_secrets

FREE_TEXT = {"predict": ("text", "text_pair")}  # by program: settings in which every character counts
SETTING = re.compile(r"(?!hydra\.|paths\.)[a-z_]+\.[\w.]+=")  # of a part, not a part itself
FOLDERS = ("hydra.run.dir", "hydra.sweep.dir", "paths.log_dir")  # which Hydra makes, before any code of ours


def read_arguments(program: str, arguments: Sequence[str]) -> list[str]:
    """The arguments of `src/<program>.py` in Hydra's grammar, free text as the shell handed it over, and no secrets.

    Raises:
        UserError: one of them can't be read.
    """
    read = quote_free_text(program, arguments)
    multirun = "-m" in read or "--multirun" in read
    for argument in read:
        _check(argument, multirun)
    read = [argument if _is_free_text(program, argument) else hide_secrets(argument) for argument in read]
    if program == "train" and not multirun and any(re.match("resume=(?!null)", argument) for argument in read):
        # What is given on resume changes the run's own config, not the one that Hydra composes here.
        read = [f"++{argument}" if SETTING.match(argument) else argument for argument in read]
    return read


def quote_free_text(program: str, arguments: Sequence[str]) -> list[str]:
    """The arguments, with free text so that Hydra and OmegaConf read each character as it stands.

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
        text = os.fsencode(text).decode()  # the locale may be none of UTF-8
    except UnicodeError as error:
        raise UserError(
            f"{_visible(argument)} is not in UTF-8; input=<file> data.encoding=latin-1 reads texts in other encodings"
        ) from error
    return f"{key}={QuotedString(escape(text), Quote.single).with_quotes()}"


def _check(argument: str, multirun: bool) -> None:
    """Raises `UserError` for what Hydra would refuse in a way that helps nobody."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    if any("\ud800" <= character <= "\udfff" for character in argument):
        raise UserError(f"{_visible(argument)} is not in this locale's encoding; LC_ALL=C.UTF-8 sets UTF-8")
    key, equals, value = argument.partition("=")
    if argument.startswith("-") or not equals:
        return
    try:
        override = OverridesParser.create().parse_override(argument)
    except HydraException as error:
        quoted = value.replace("'", "\\'")
        raise UserError(
            f"{argument} can't be read as it stands; quote the value, once more for the shell: \"{key}='{quoted}'\""
        ) from error
    if override.value() is None and (CONF / key).is_dir():
        raise UserError(f"{argument}: a group takes a name; ~{key} is for none of it")
    if key == "resume" and multirun and value not in ("latest", "null") and not Path(value, "multirun.yaml").is_file():
        raise UserError(f"{argument}: there is no such sweep; give a folder of logs/train/multiruns, or latest")
    folder = str(override.value())
    if key.lstrip("+") in FOLDERS and "${" not in folder and not override.is_sweep_override():
        if override.value() is None or not folder.strip():
            raise UserError(f"{argument}: give a folder, or leave it out")
        there = next(parent for parent in (Path(folder), *Path(folder).absolute().parents) if parent.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            why = "can't be written to" if there.is_dir() else "is not a directory"
            raise UserError(f"{argument}: no folder can be made there, as {there} {why}; give another")


def _visible(argument: str) -> str:
    """The argument, with bytes that are no characters as \\xe9."""
    return os.fsencode(argument).decode(errors="backslashreplace")
