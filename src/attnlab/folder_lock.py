"""One process at a time trains in a folder, on all machines that see it."""

import json
import logging
import os
import random
import secrets
import socket
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

from attnlab.errors import UserError, relative_to_cwd

log = logging.getLogger(__name__)

LOCK = ".lock-"  # and a number
HEARTBEAT, STALE = 5.0, 60.0  # seconds between two heartbeats, and without one until the owner is taken for dead


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
                f"{relative_to_cwd(self.folder)} can't be written to ({error.strerror}), and a run writes into its own "
                "folder: make it writable or free some space, or copy the run elsewhere"
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
        return relative_to_cwd(
            self.folder
        ), "another process" if owner is None else f"process {owner.pid} on {owner.host}"

    def _refusal(self, owner: Owner | None) -> str:
        folder, process = self._named(owner)
        return (
            f"{folder} is in use: {process} is training this run, and a run has one process at a time; wait until it "
            "has ended, stop it, or resume another run by its folder"
        )
