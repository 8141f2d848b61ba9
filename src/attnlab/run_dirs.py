"""Which folder a run, a sweep or a job has: a new one, or that of the run that resumes."""

import os
import secrets
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, cast

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, ListConfig, OmegaConf

from attnlab.errors import UserError
from attnlab.process import is_slurm_restart, rank
from attnlab.runs import CONFIG, RunFolder

SWEEP = "multirun.yaml"  # Hydra's record of a sweep, in its folder
NAME_TIME = "%Y-%m-%d_%H-%M-%S"
PATIENCE = 120.0  # seconds in which a folder shows up on all nodes


def run_id() -> str:
    """`<UTC date>_<time>_<short id>`: two runs that start in the same second do not share a folder."""
    return f"{datetime.now(UTC):{NAME_TIME}}_{secrets.token_hex(2)}"


def _newest_first(files: Iterable[Path]) -> list[Path]:
    """Files of runs or sweeps by the time in the names of their folders; of folders with other names by their own."""

    def began(file: Path) -> float:
        try:
            return datetime.strptime(file.parent.name[:19], NAME_TIME).replace(tzinfo=UTC).timestamp()
        except ValueError:
            return file.stat().st_mtime

    return sorted(files, key=lambda file: (began(file), file.parent.name), reverse=True)


def choose_run_dir(resume: str | None, parent: str) -> str:
    """The folder of the run to resume (the newest below `parent` for "latest"), or a new one below `parent`.

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
        marked = Path(parent).glob(f"*/{name}-*") if is_slurm_restart() else ()
        before = _newest_first(file for file in marked if (file.parent / CONFIG).is_file())
        folder = before[0].parent if before else Path(_choose(resume, parent))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / mark).touch()
        return str(folder)
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := next(Path(parent).glob(f"*/{mark}"), None):
            return str(found.parent)
        time.sleep(0.1)
    raise UserError(
        f"rank 0 has made no folder in {parent} that this node can see; a distributed run requires paths.log_dir on a "
        "file system that all nodes share"
    )


def _choose(resume: str | None, parent: str) -> str:
    """Where there is no such run, a new one: Hydra has no short way to say so at this point, `resumed_folder` has."""
    runs = _newest_first(Path(parent).glob(f"*/{CONFIG}")) if resume == "latest" else [Path(resume or "", CONFIG)]
    if resume is not None and runs and runs[0].is_file():
        return str(runs[0].parent)
    return str(Path(parent, run_id()))


def choose_sweep_dir(resume: str | None, parent: str, overrides: Sequence[str]) -> str:
    """The folder of the sweep to resume, for "latest" the newest below `parent` of this command; or a new one."""
    if resume not in (None, "latest"):
        return str(resume)
    if resume == "latest":
        for file in _newest_first(Path(parent).glob(f"*/{SWEEP}")):
            if _asked(OmegaConf.load(file).hydra.overrides.task) == _asked(overrides):
                return str(file.parent)
    return str(Path(parent, run_id()))


def choose_job_dir(resume: str | None, sweep_dir: str, number: int, overrides: Sequence[str]) -> str:
    """The name of a job's folder: its number, or in a resumed sweep that of the job with the same `overrides`."""
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


def as_given(overrides: Iterable[str]) -> list[str]:
    """Overrides as they stand: a record of Hydra's names variables of the command that it was made by."""
    plain = OmegaConf.to_container(overrides) if isinstance(overrides, ListConfig) else overrides
    return list(map(str, cast(Iterable[str], plain)))


def _asked(overrides: Iterable[str]) -> list[str]:
    """What a command asks to be trained, without how it is run."""
    return sorted(text for text in as_given(overrides) if not text.startswith(("-", "resume=", "hydra.", "hydra/")))


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


def hydra_settings_of(folder: Path) -> DictConfig | HydraConf | None:
    """Hydra's settings of the command that began the run, also where another one resumes it; None from Python."""
    if (record := folder / ".hydra" / "hydra.yaml").is_file():
        return cast(DictConfig, OmegaConf.load(record).hydra)
    return HydraConfig.get() if HydraConfig.initialized() else None


def remove_if_unused(folder: Path, log_file: str, log_dir: Path) -> None:
    """Remove what Hydra left for a command that has written nothing, and folders below `log_dir` that became empty.

    Args:
        log_file: the name of the log that Hydra began for the command; other files are not ours to remove.
    """
    if rank() or not folder.is_dir():
        return
    if any(path.name not in (".hydra", log_file) for path in folder.iterdir()):
        return
    shutil.rmtree(folder / ".hydra", ignore_errors=True)
    (folder / log_file).unlink(missing_ok=True)
    folder, log_dir = folder.absolute(), log_dir.absolute()
    with suppress(OSError):  # another run is there
        while folder.is_relative_to(log_dir) and folder != log_dir:
            folder.rmdir()
            folder = folder.parent


class RemoveUnused(Callback):
    """Called by Hydra at the end of a command, also of one that failed."""

    def on_run_end(self, config: DictConfig, **_: Any) -> None:
        folder, log_file = Path(config.hydra.runtime.output_dir), f"{config.hydra.job.name}.log"
        remove_if_unused(folder, log_file, Path(config.paths.log_dir))


def hydra_subdir(output_dir: str) -> str | None:
    """Where Hydra writes its record of a job: nowhere in a folder that holds a run, whose own record stays.

    Of a distributed run rank 0 alone writes.
    """
    return None if rank() or RunFolder(Path(output_dir)).has_begun else ".hydra"
