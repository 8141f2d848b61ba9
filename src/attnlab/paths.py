"""Where a run writes."""

import secrets
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from attnlab.errors import UserError

CONFIG = "config.yaml"  # a run's resolved config, the first file that it writes
BEST, LAST = "best.ckpt", "last.ckpt"  # in the folder checkpoints/ of a run


def run_id() -> str:
    """`<date>_<time>_<short id>`: two runs that start in the same second do not share a folder."""
    return f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{secrets.token_hex(2)}"


def choose_run_dir(resume: str | None, parent: str) -> str:
    """The folder of the run to go on with (the newest below `parent` for "latest"), or a new one below `parent`.

    Where there is no such run, a new one too: Hydra has no short way to say so at this point, `resumed_folder` has.
    """
    runs = sorted(Path(parent).glob("*/config.yaml")) if resume == "latest" else [Path(resume or "", "config.yaml")]
    if resume is not None and runs and runs[-1].is_file():
        return str(runs[-1].parent)
    return str(Path(parent, run_id()))


def make_run_dir(config: dict[str, Any]) -> Path:
    """Make the folder of this run: `paths.run_dir`, or that of Hydra's job, or where there is none a new one.

    Raises:
        UserError: none can be made there.
    """
    if config["paths"]["run_dir"]:
        folder = Path(config["paths"]["run_dir"])
    elif HydraConfig.initialized():
        folder = Path(HydraConfig.get().runtime.output_dir)
    else:
        folder = Path(config["paths"]["log_dir"], config["task_name"], "runs", run_id())
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"paths.run_dir={folder}: no folder can be made there ({error.strerror})") from error
    return folder


def holds_a_run(folder: Path) -> bool:
    """Whether a run has begun there; a folder belongs to one run."""
    return any((folder / name).exists() for name in (CONFIG, "metrics.json", "checkpoints"))


def taken(folder: Path) -> UserError:
    """For a new run in the folder of another."""
    return UserError(
        f"{shown(folder)} holds another run, whose results would stand beside this one's config: give another folder "
        f"with hydra.run.dir=<folder> (-m: hydra.sweep.dir), go on with that run with resume={shown(folder)}, or "
        "remove it"
    )


def hydra_subdir(output_dir: str) -> str | None:
    """Where Hydra writes its record of a job: nowhere in a folder that holds a run, whose own record stays."""
    return None if holds_a_run(Path(output_dir)) else ".hydra"


def shown(folder: Path) -> Path:
    """The folder as a user who stands in the working directory would name it."""
    here = Path.cwd()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder
