"""How far a job of a multirun has come: a small file in its folder, which whoever waits for it reads.

A file works for jobs in this process, in others beside it and on other machines that share the file system.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from attnlab.runs import write_whole

FILE = "progress.json"
OUTPUT = "output.log"  # what a job printed, in its folder; and what the sweep itself did, in the sweep's

_told: dict[Path, dict[str, Any]] = {}  # of the job of this process, if it is at one


def in_multirun() -> bool:
    """Whether Hydra started this run as one of several."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


@contextmanager
def job(folder: Path) -> Iterator[None]:
    """While this lasts, `tell` writes into `folder`."""
    _told[folder] = {}
    try:
        yield
    finally:
        del _told[folder]


def tell(**values: Any) -> None:
    """Add to what is known of this process's job: `state`, `epoch`, `epochs`, `best`, `left` (seconds), `metrics`,
    `reason`. Outside a multirun nothing is written."""
    for folder, told in _told.items():
        told |= values
        write_whole(folder / FILE, json.dumps(told), sync=False)


def told() -> bool:
    """Whether anybody waits for what is told."""
    return bool(_told)


def read(folder: Path) -> dict[str, Any]:
    """What the job in `folder` has told; nothing where it has not begun."""
    try:
        return dict(json.loads((folder / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError):  # of a file system that shows files late
        return {}


@contextmanager
def output_into(file: Path) -> Iterator[TextIO]:
    """All that is printed goes to `file`, by libraries and child processes too. Yields what was the output before."""
    with file.open("ab") as log, os.fdopen(os.dup(1), "w") as terminal:
        before = [os.dup(descriptor) for descriptor in (1, 2)]
        _flush()
        try:
            for descriptor in (1, 2):
                os.dup2(log.fileno(), descriptor)
            yield terminal
        finally:
            _flush()
            for descriptor, old in zip((1, 2), before, strict=True):
                os.dup2(old, descriptor)
                os.close(old)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
