"""The folder of a run: its name, who may write in it, and how files get there whole.

One process at a time trains in a folder: `RunFolder.open` locks it. Every result file is written by `whole_file` or
`write_whole`, which leave the old file or the new one, on disk, whenever the machine stops.
"""

import json
import logging
import os
import random
import secrets
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, cast

from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, ListConfig, OmegaConf

from attnlab.errors import UserError
from attnlab.paths import rank, shown, started_again

log = logging.getLogger(__name__)

SWEEP = "multirun.yaml"  # Hydra's record of a sweep, in its folder
CONFIG = "config.yaml"  # a run's resolved config, written when its training begins
LOCK = ".lock-"  # and a number
NAME_TIME = "%Y-%m-%d_%H-%M-%S"
BEST, LAST = "best.ckpt", "last.ckpt"  # in the folder checkpoints/ of a run
PATIENCE = 120.0  # seconds in which a folder shows up on all nodes
HEARTBEAT, STALE = 5.0, 60.0  # seconds between two heartbeats, and without one until the owner is taken for dead


@contextmanager
def whole_file(path: Path, previous: Path | None = None, sync: bool = True) -> Iterator[Path]:
    """A file to be written beside `path`, whose place it takes once it is whole and on disk.

    Args:
        previous: where the file that was there goes.
        sync: wait until the disk has it; what only matters while the program runs does without.
    """
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)  # of a run that was killed; it may be a second name of another file
    try:
        yield partial
        if sync:
            _sync(partial)
        if previous is not None and path.exists():
            path.replace(previous)
        partial.replace(path)
        if sync:
            _sync(path.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_whole(path: Path, text: str, sync: bool = True) -> None:
    """Write a text file by `whole_file`."""
    with whole_file(path, sync=sync) as partial:
        partial.write_text(text, encoding="utf-8")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # some file systems can't do it for a folder
            raise
    finally:
        os.close(descriptor)


@cache
def _machine() -> str:
    """Where a process number has one meaning: the host, since it was booted, within a container."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _start_time(pid: int) -> str:
    """When a process started, in the system's own words; "" where it has ended or can't be looked at."""
    if Path("/proc/self/stat").exists():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return ""
        return "" if fields[0] in "ZX" else fields[19]  # dead, but its parent has not asked yet
    return subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()


@dataclass(frozen=True)
class Owner:
    """The process that has locked a folder, as its lock file names it."""

    host: str = field(default_factory=socket.gethostname)
    machine: str = field(default_factory=_machine)
    pid: int = field(default_factory=os.getpid)
    started: str = field(default_factory=lambda: _start_time(os.getpid()))
    token: str = field(default_factory=lambda: secrets.token_hex(8))

    def runs(self) -> bool:
        """Whether this process of our own machine still runs; another one may have got its number."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # another user's, whose start may be hidden
            return _start_time(self.pid) in ("", self.started)
        return _start_time(self.pid) == self.started


class Lock:
    """Held by at most one process on all machines that see the folder.

    A lock file is created exclusively, which is safe on network file systems where flock is not, and names its owner;
    the time of its last change is the owner's heartbeat. An owner on this machine is looked up by number and start
    time. One on another machine is taken for dead after `STALE` seconds without a heartbeat, measured by the clock of
    the process that waits, as clocks of machines differ. Who finds only dead owners creates the lock of the next number
    and looks again: of two processes that did so, at least the later one sees the other's lock and withdraws.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder
        self.owner = Owner()
        self.descriptor = -1
        self.watched: dict[Path, tuple[Owner | None, int, float]] = {}  # owner, heartbeat, since when
        self.released, self.heart = threading.Event(), threading.Thread(target=self._beat, daemon=True)

    def acquire(self, patience: float = 0.0) -> None:
        """Lock the folder; wait up to `patience` seconds for an owner that is about to end.

        Raises:
            UserError: another process has it, or nothing can be written there.
        """
        begin = time.monotonic()
        while True:
            found = self._locks()
            alive = [(owner, self._is_alive(file, owner, beat)) for file, (owner, beat) in found.items()]
            running = [owner for owner, runs in alive if runs]
            if running and time.monotonic() - begin >= patience:
                raise UserError(self._refusal(running[0]))
            if all(runs is False for _, runs in alive) and self._create(found):
                break
            time.sleep(random.uniform(0.05, 0.15))
        for file in found:
            file.unlink(missing_ok=True)
        self.heart.start()

    def release(self) -> None:
        """Unlock the folder."""
        self.released.set()
        self.heart.join()
        os.close(self.descriptor)
        self.file.unlink(missing_ok=True)

    def _create(self, dead: dict[Path, tuple[Owner | None, int]]) -> bool:
        """Whether our lock is the only one beside those that are `dead`."""
        number = max((int(file.name.removeprefix(LOCK)) for file in dead), default=0) + 1
        self.file = self.folder / f"{LOCK}{number}"
        try:
            self.descriptor = os.open(self.file, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
        except FileExistsError:
            return False
        except OSError as error:
            raise UserError(
                f"{shown(self.folder)} can't be written to ({error.strerror}), and a run writes into its own folder: "
                "make it writable or free some space, or copy the run elsewhere"
            ) from error
        os.write(self.descriptor, json.dumps(asdict(self.owner)).encode())
        os.fsync(self.descriptor)
        others = {(file, owner) for file, (owner, _) in self._locks().items()} - {(self.file, self.owner)}
        if others <= {(file, owner) for file, (owner, _) in dead.items()}:
            return True
        os.close(self.descriptor)
        self.file.unlink()
        return False

    def _is_alive(self, file: Path, owner: Owner | None, beat: int) -> bool | None:
        """Whether the owner of a lock still runs; None while that is not known yet."""
        if owner is not None and owner.machine == self.owner.machine:
            return owner.runs()
        now = time.monotonic()
        before = self.watched.get(file)
        if before is None or before[:2] != (owner, beat):
            self.watched[file] = (owner, beat, now)
            if before is not None and before[0] == owner:
                return True
            if owner is not None:
                log.info("%s is locked by %s: waiting for its heartbeat, up to %.0f s", *self._named(owner), STALE)
            return None
        return False if now - before[2] > STALE else None

    def _beat(self) -> None:
        while not self.released.wait(HEARTBEAT):
            with suppress(OSError):
                os.utime(self.descriptor)

    def _locks(self) -> dict[Path, tuple[Owner | None, int]]:
        """Each lock's owner, None where it is not yet written down, and the time of its last heartbeat.

        Files are opened each time: NFS answers from its cache otherwise.
        """
        found: dict[Path, tuple[Owner | None, int]] = {}
        for file in self.folder.glob(f"{LOCK}*"):
            with suppress(FileNotFoundError), file.open(encoding="utf-8") as opened:
                beat, text = os.fstat(opened.fileno()).st_mtime_ns, opened.read()
                found[file] = None, beat
                with suppress(ValueError, TypeError):
                    found[file] = Owner(**json.loads(text)), beat
        return found

    def _named(self, owner: Owner | None) -> tuple[Path, str]:
        return shown(self.folder), "another process" if owner is None else f"process {owner.pid} on {owner.host}"

    def _refusal(self, owner: Owner | None) -> str:
        folder, process = self._named(owner)
        return (
            f"{folder} is in use: {process} is training this run, and a run has one process at a time; wait until it "
            "has ended, stop it, or resume another run by its folder"
        )


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run, which this process alone writes to while it is open."""

    path: Path

    @classmethod
    @contextmanager
    def open(cls, path: Path, new: bool, patience: float = 0.0) -> Iterator["RunFolder"]:
        """Lock a folder for as long as the run lasts. The processes of a distributed run share the lock of rank 0.

        Args:
            new: the run is a new one, so the folder must not hold another.
            patience: seconds to wait for a process that is about to end.

        Raises:
            UserError: another process trains there, or a new run would be in the folder of another.
        """
        if rank():
            yield cls(path)
            return
        lock = Lock(path)
        lock.acquire(patience)
        try:
            if new and holds_a_run(path):
                raise taken(path)
            yield cls(path)
        finally:
            lock.release()


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
        f"rank 0 has made no folder in {parent} that this node can see; a distributed run wants paths.log_dir on a "
        "file system that all nodes share"
    )


def _choose(resume: str | None, parent: str) -> str:
    """Where there is no such run, a new one: Hydra has no short way to say so at this point, `resumed_folder` has."""
    runs = _newest_first(Path(parent).glob(f"*/{CONFIG}")) if resume == "latest" else [Path(resume or "", CONFIG)]
    if resume is not None and runs and runs[0].is_file():
        return str(runs[0].parent)
    return str(Path(parent, run_id()))


def choose_sweep_dir(resume: str | None, parent: str, overrides: Sequence[str]) -> str:
    """The folder of the sweep to go on with, for "latest" the newest below `parent` of this command; or a new one."""
    if resume not in (None, "latest"):
        return str(resume)
    if resume == "latest":
        for file in _newest_first(Path(parent).glob(f"*/{SWEEP}")):
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


def as_given(overrides: Iterable[str]) -> list[str]:
    """Overrides as they stand: a record of Hydra's names variables of the command that it was made by."""
    plain = OmegaConf.to_container(overrides) if isinstance(overrides, ListConfig) else overrides
    return list(map(str, cast(Iterable[str], plain)))


def _asked(overrides: Iterable[str]) -> list[str]:
    """What a command wants to be trained, but not how it is to be run."""
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


def began_by(folder: Path) -> DictConfig | HydraConf | None:
    """Hydra's settings of the command that began the run, also where another one resumes it; None from Python."""
    if (record := folder / ".hydra" / "hydra.yaml").is_file():
        return cast(DictConfig, OmegaConf.load(record).hydra)
    return HydraConfig.get() if HydraConfig.initialized() else None


def holds_a_run(folder: Path) -> bool:
    """Whether a run has begun there; a folder belongs to one run."""
    return any((folder / name).exists() for name in (CONFIG, "metrics.json", "checkpoints"))


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
