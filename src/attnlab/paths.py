"""Which process this is, and how folders are named to a user."""

import os
from pathlib import Path


def rank() -> int:
    """Of this process among those of a distributed run, as Slurm, torchrun or Lightning started it."""
    return max(int(os.environ.get(name, 0)) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


def started_again() -> bool:
    """Whether Slurm has put this job into its queue again, after a preemption or a time limit."""
    return os.environ.get("SLURM_RESTART_COUNT", "0") != "0"


def log_file(file: str) -> str:
    """Where messages go besides the terminal: those of rank 0 alone."""
    return os.devnull if rank() else file


def console_level() -> str:
    """What is worth the terminal: of other ranks, which would say all once more, what only they can know."""
    return "ERROR" if rank() else "NOTSET"


def shown(folder: Path) -> Path:
    """The folder as a user who stands in the working directory would name it."""
    here = Path.cwd()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder
