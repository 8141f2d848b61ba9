"""Passwords and keys stay in memory: what keeps them out of files, dashboards and messages."""

import logging
import os
import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"
PREFIX = "ATTNLAB_SECRET_"  # of the environment variables in which secrets of the command line are kept
NAMES = r"(?:api_?key|access_?key|(?:access|auth|hf)_?token|passw(?:or)?d|secret)"
SECRET_KEY = re.compile(rf"(?:^|[._]){NAMES}$|(?:^|\.)token$", re.IGNORECASE)
SECRET_VARIABLE = re.compile(rf"^{PREFIX}|{NAMES}$|_TOKEN$", re.IGNORECASE)
MIN_LENGTH = 8  # of a value that is looked for in messages; a shorter one may be an ordinary word
# What stands before a secret, and the secret.
IN_URL = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(://[^\s:/@'\"]*:)([^\s@'\"]+)(?=@)",  # user:password@host
        r"(https?://)([^\s:/@'\"]+)(?=@)",  # token@host
        rf"((?:^|[?&.+_\s]){NAMES}=['\"]?)([^\s&'\",\]}}]+)",  # ?password=...
    )
]
IN_MAPPING = re.compile(rf"((?:[{{,_\s]){NAMES}: *['\"]?)([^\s'\",}}]+)", re.IGNORECASE)  # {password: ...}


def redact(value: Any) -> Any:
    """Plain data with `***` for the values of settings that are called as secrets are, and for those in URLs."""
    if isinstance(value, Mapping):
        return {
            key: HIDDEN if isinstance(own, str) and own and SECRET_KEY.search(str(key)) else redact(own)
            for key, own in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact(own) for own in value]
    if isinstance(value, str):
        for pattern in IN_URL:
            value = pattern.sub(rf"\1{HIDDEN}", value)
    return value


def redact_message(text: str) -> str:
    """The same for a message, which may also quote a secret of the environment by itself."""
    text = str(redact(text))
    for name, secret in os.environ.items():
        if len(secret) >= MIN_LENGTH and SECRET_VARIABLE.search(name):
            text = text.replace(secret, HIDDEN)
    return text


def hide_secrets(argument: str) -> str:
    """An argument of the command line with its secrets in environment variables, which processes of its jobs inherit.

    Hydra, W&B and launchers write the command line down; they find `${oc.env:ATTNLAB_SECRET_<setting>}` there.
    """
    key, equals, value = argument.partition("=")
    name = PREFIX + re.sub(r"\W+", "_", key).strip("_").upper()
    if equals and SECRET_KEY.search(key) and value != "null":
        return f"{key}=" + _move(value.strip("\"'"), name)
    for number, pattern in enumerate([*IN_URL, IN_MAPPING]):
        for found in reversed(list(pattern.finditer(value))):
            value = value[: found.start(2)] + _move(found[2], f"{name}_{number}") + value[found.end(2) :]
    return key + equals + value


def _move(secret: str, name: str) -> str:
    """An interpolation in its place; where it is one already, it stays."""
    if not secret or "${" in secret:
        return secret
    while os.environ.get(name, secret) != secret:  # two of one setting
        name += "_"
    os.environ[name] = secret
    return f"${{oc.env:{name}}}"


class RedactingFormatter(logging.Formatter):
    """For log files and the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return redact_message(super().format(record))
