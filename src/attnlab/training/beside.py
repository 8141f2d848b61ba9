"""A job that runs beside others: its output goes into its own folder, and the terminal gets one line of it."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from pathlib import Path
from typing import TextIO

from hydra.core.hydra_config import HydraConfig

from attnlab.errors import first_line
from attnlab.training.results import Metrics

OUTPUT = "output.log"
SHOWN = ("val/loss", "val/acc", "test/acc")


@contextmanager
def own_output() -> Iterator[Metrics]:
    """Where this process is one of several that train, send what it prints into output.log in its run's folder.

    Yields:
        a place for the results, of which the line on the terminal tells.
    """
    metrics: Metrics = {}
    if parent_process() is None or not HydraConfig.initialized():
        yield metrics
        return
    hydra, start = HydraConfig.get(), time.monotonic()
    with _output_into(Path(hydra.runtime.output_dir, OUTPUT)) as terminal:
        said = "interrupted"
        try:
            yield metrics
            said = "  ".join(f"{key} {metrics[key]:.4f}" for key in SHOWN if key in metrics)
        except Exception as error:
            said = f"failed: {first_line(error)}"
            raise
        finally:
            print(f"#{hydra.job.num}  {said}  {time.monotonic() - start:.1f} s", file=terminal, flush=True)


@contextmanager
def _output_into(file: Path) -> Iterator[TextIO]:
    """All that is printed goes to `file`, by libraries and child processes too. Yields what was the output before."""
    sys.stdout.flush()
    sys.stderr.flush()
    before = [os.dup(descriptor) for descriptor in (1, 2)]
    with file.open("ab") as log, os.fdopen(os.dup(1), "w") as terminal:
        try:
            for descriptor in (1, 2):
                os.dup2(log.fileno(), descriptor)
            yield terminal
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, old in zip((1, 2), before, strict=True):
                os.dup2(old, descriptor)
                os.close(old)
