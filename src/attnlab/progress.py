"""The progress of a job of a multirun: a small file in its folder, which the live table reads.

A file works for jobs in this process, in other processes and on other machines that share the file system.
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
OUTPUT = "output.log"  # what a job printed, in its folder; what the sweep itself printed, in the sweep's

_reports: dict[Path, dict[str, Any]] = {}  # of the job of this process, if it runs one


def in_multirun() -> bool:
    """Whether Hydra started this run as one of several."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


@contextmanager
def reporting(folder: Path) -> Iterator[None]:
    """While this lasts, `report` writes into `folder`."""
    _reports[folder] = {}
    try:
        yield
    finally:
        del _reports[folder]


def report(**values: Any) -> None:
    """Add to the report of this process's job: `state`, `epoch`, `epochs`, `best`, `left` (seconds), `metrics`,
    `reason`. Outside a multirun nothing is written."""
    for folder, values_so_far in _reports.items():
        values_so_far |= values
        write_whole(folder / FILE, json.dumps(values_so_far), sync=False)


def is_reporting() -> bool:
    """Whether a live table reads the reports of this process."""
    return bool(_reports)


def read(folder: Path) -> dict[str, Any]:
    """The report of the job in `folder`; empty if it has not started."""
    try:
        return dict(json.loads((folder / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError):  # a shared file system may show files late
        return {}


@contextmanager
def redirect_output(file: Path) -> Iterator[TextIO]:
    """Send all output to `file`, also of libraries and child processes. Yields the output as it was before."""
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
