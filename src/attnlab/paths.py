"""Where a run writes."""

import os
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import ListConfig, OmegaConf

from attnlab.errors import UserError

SWEEP = "multirun.yaml"  # Hydra's record of a sweep, in its folder
CONFIG = "config.yaml"  # a run's resolved config, the first file that it writes
PATIENCE = 120.0  # seconds in which a folder shows up on all nodes
BEST, LAST = "best.ckpt", "last.ckpt"  # in the folder checkpoints/ of a run


def run_id() -> str:
    """`<date>_<time>_<short id>`: two runs that start in the same second do not share a folder."""
    return f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{secrets.token_hex(2)}"


def rank() -> int:
    """Of this process among those of a distributed run, as Slurm, torchrun or Lightning started it."""
    return max(int(os.environ.get(name, 0)) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


def started_again() -> bool:
    """Whether Slurm has put this job into its queue again, after a preemption or a time limit."""
    return os.environ.get("SLURM_RESTART_COUNT", "0") != "0"


def choose_run_dir(resume: str | None, parent: str) -> str:
    """The folder of the run to go on with (the newest below `parent` for "latest"), or a new one below `parent`.

    The processes of one `srun` have one folder: rank 0 chooses it and leaves a mark there that the others wait for. By
    that mark a job that Slurm starts again finds its folder.

    Raises:
        UserError: rank 0 has not shown its folder.
    """
    step = os.environ.get("SLURM_STEP_ID")
    if step is None or resume not in (None, "latest"):
        return _choose(resume, parent)
    name = f".slurm-{os.environ['SLURM_JOB_ID']}.{step}"
    mark = f"{name}-{os.environ.get('SLURM_STEP_LAUNCHER_PORT')}"  # the numbers of jobs come round again
    if rank() == 0:
        marked = Path(parent).glob(f"*/{name}-*") if started_again() else ()
        before = sorted(file.parent for file in marked if (file.parent / CONFIG).is_file())
        folder = before[-1] if before else Path(_choose(resume, parent))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / mark).touch()
        return str(folder)
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := next(Path(parent).glob(f"*/{mark}"), None):
            return str(found.parent)
        time.sleep(0.1)
    raise UserError(
        f"rank 0 has made no folder in {parent} that this node can see; a distributed run wants paths.log_dir on a "
        "file system that all nodes share"
    )


def _choose(resume: str | None, parent: str) -> str:
    """Where there is no such run, a new one: Hydra has no short way to say so at this point, `resumed_folder` has."""
    runs = sorted(Path(parent).glob("*/config.yaml")) if resume == "latest" else [Path(resume or "", "config.yaml")]
    if resume is not None and runs and runs[-1].is_file():
        return str(runs[-1].parent)
    return str(Path(parent, run_id()))


def choose_sweep_dir(resume: str | None, parent: str, overrides: Sequence[str]) -> str:
    """The folder of the sweep to go on with, for "latest" the newest below `parent` of this command; or a new one."""
    if resume not in (None, "latest"):
        return str(resume)
    if resume == "latest":
        for file in sorted(Path(parent).glob(f"*/{SWEEP}"), reverse=True):
            if _asked(OmegaConf.load(file).hydra.overrides.task) == _asked(overrides):
                return str(file.parent)
    return str(Path(parent, run_id()))


def choose_job_dir(resume: str | None, sweep_dir: str, number: int, overrides: Sequence[str]) -> str:
    """The name of a job's folder: its number, or in a sweep that goes on that of the job with the same `overrides`."""
    records = [] if resume is None else list(Path(sweep_dir).glob("*/.hydra/overrides.yaml"))
    wanted = _asked(overrides)
    for record in sorted(records, key=lambda record: record.parts[-3] != str(number)):
        if _asked_by(record) == wanted:
            return record.parts[-3]
    names = (str(number), *(f"{number}.{i}" for i in range(1, len(records) + 1)))
    return next(name for name in names if name not in {record.parts[-3] for record in records})


@cache  # a job's record stays as it is, and each job of a sweep asks for all of them
def _asked_by(record: Path) -> list[str]:
    return _asked(OmegaConf.load(record))


def _asked(overrides: Iterable[str]) -> list[str]:
    """What a command wants to be trained, but not how it is to be run."""
    if isinstance(overrides, ListConfig):  # as it stands: a record names variables of the command that it was made by
        overrides = cast(list[str], OmegaConf.to_container(overrides))
    return sorted(text for text in map(str, overrides) if not text.startswith(("-", "resume=", "hydra.", "hydra/")))


def make_run_dir(config: Mapping[str, Any]) -> Path:
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


def write_whole(file: Path, text: str) -> None:
    """Whole or not at all: who reads the file, or goes on after a kill, never finds a part of it."""
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(file)


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
    """Where Hydra writes its record of a job: nowhere in a folder that holds a run, whose own record stays.

    Of a distributed run rank 0 alone writes.
    """
    return None if rank() or holds_a_run(Path(output_dir)) else ".hydra"


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
