"""This process: its rank in a distributed run, and its threads and memory."""

import ctypes
import gc
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from typing import Any

log = logging.getLogger(__name__)

# GNU's and LLVM's OpenMP let threads spin while they wait for one another, so long that beside a busy process training
# falls to a fraction of its speed: who waits holds the core that the other needs. See `python -m benchmarks busy`.
WAITING = {"GOMP_SPINCOUNT": "3000", "KMP_BLOCKTIME": "0"}
DECIDES_WAITING = (*WAITING, "OMP_WAIT_POLICY", "KMP_LIBRARY")
M_MMAP_THRESHOLD = -3  # of malloc.h
MMAP_THRESHOLD = 16 << 20  # bytes
FOR_OTHER_METRICS = ("scipy", "transformers")
DECIDES_NUMBER = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def rank() -> int:
    """Of this process in a distributed run started by Slurm, torchrun or Lightning; 0 without one."""
    return max(int(os.environ.get(name, 0)) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


def is_slurm_restart() -> bool:
    """Whether Slurm has requeued this job, after a preemption or a time limit."""
    return os.environ.get("SLURM_RESTART_COUNT", "0") != "0"


def wait_gently() -> None:
    """Let the threads of this process and of its children sleep soon while they wait; it changes no result.

    It has to come before torch is imported. What the environment says already stays.
    """
    if "torch" not in sys.modules and not any(name in os.environ for name in DECIDES_WAITING):
        os.environ.update(WAITING)


def waiting() -> str | None:
    """What the environment says of waiting; None where OpenMP's own defaults hold."""
    return " ".join(f"{name}={os.environ[name]}" for name in DECIDES_WAITING if name in os.environ) or None


def hold_memory_together() -> None:
    """Have glibc give large pieces of memory back, where by and by it would keep all below 32 MB for itself.

    Batches differ in length, so what it keeps is in pieces that fit nothing. It changes no result; what the environment
    says already stays, and other systems have no such setting.
    """
    if not any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ) and sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "gnu_get_libc_version"):
            libc.mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD)


def give_memory_back() -> None:
    """Have glibc hand the system what was freed in small pieces, of which it keeps all that it once had."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


@contextmanager
def large_imports(our_process: bool = True) -> Iterator[None]:
    """Import without the garbage collector, which would go through all of torch and Lightning over and over.

    It takes a quarter of the imports' time, and a second when the process ends. In a process of ours what is in memory
    afterwards is left alone for good; so only the first call does it, before a run has left anything behind.
    """
    if gc.get_freeze_count() or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        with _unseen_by_torchmetrics() if our_process else nullcontext():
            yield
    finally:
        gc.freeze()
        if not our_process:
            gc.unfreeze()  # to where it looks most rarely
        gc.enable()


@contextmanager
def _unseen_by_torchmetrics() -> Iterator[None]:
    """Let it not find what it imports wherever that is installed, for metrics of sounds and of generated texts.

    They take 90 MB and as long as Lightning itself.
    """
    from lightning_utilities.core import imports

    before = {name: getattr(imports, name) for name in ("package_available", "RequirementCache")}

    class Requirement(imports.RequirementCache):
        def __bool__(self) -> bool:
            return not str(self.requirement).startswith(FOR_OTHER_METRICS) and super().__bool__()

    def package_available(name: str) -> bool:
        return name not in FOR_OTHER_METRICS and bool(before["package_available"](name))

    vars(imports).update(package_available=package_available, RequirementCache=Requirement)
    try:
        yield
    finally:
        vars(imports).update(before)


def available() -> int:
    """Cores that this process may use: by affinity, cgroup, `LOKY_MAX_CPU_COUNT` and Slurm's share."""
    from joblib import cpu_count

    share = os.environ.get("SLURM_CPUS_PER_TASK")
    return min(cpu_count(only_physical_cores=True), int(share) if share else sys.maxsize)


def use_threads(number: int | None, model: object = None) -> int:
    """Compute with so many threads; None: with what the environment says, or else one for each core at hand.

    A `model` that has no use for so many says so with an attribute `threads`.

    Returns:
        How many such computations there are cores for; one where the number was given.
    """
    import torch

    most = getattr(model, "threads", None)
    given = number or _from_environment()
    torch.set_num_threads(given or (1 if most == 1 else min(available(), most or sys.maxsize)))
    if waiting() is None and torch.get_num_threads() > 1:
        log.warning("torch was imported before attnlab: beside other processes it will be slow; import attnlab first")
    return 1 if given else max(1, available() // torch.get_num_threads())


def share(number: int, jobs: int | None, trainer: Mapping[str, Any]) -> tuple[int, int]:
    """How many of `number` jobs run at once on this machine, and with how many threads each.

    Args:
        jobs: as the user asks for, at most; None: as the cores allow, and one where `trainer` trains on a GPU.
        trainer: its settings.
    """
    cores = available()
    given = trainer.get("threads") or _from_environment()
    if jobs is None:
        jobs = 1 if _on_gpu(trainer.get("accelerator")) else max(1, cores // (given or 1))
    jobs = min(number, jobs)
    return jobs, given or max(1, cores // jobs)


def _from_environment() -> int | None:
    given = next((os.environ[name] for name in DECIDES_NUMBER if name in os.environ), "")
    first = given.split(",")[0]  # OpenMP takes a number for each level of nesting
    return int(first) if first.isdigit() else None


def _on_gpu(accelerator: str | None) -> bool:
    if accelerator == "cpu" or version("torch").endswith("+cpu"):
        return False  # without waiting for torch
    import torch

    return torch.accelerator.is_available()
