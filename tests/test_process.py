"""How many threads compute and how they wait, decided where nobody else has."""

import ctypes
import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from unittest.mock import Mock

import pytest
import torch

from attnlab import process
from attnlab.process import DECIDES_NUMBER, DECIDES_WAITING, WAITING, available, large_imports, share, use_threads


@pytest.fixture
def untouched(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """An environment that says nothing of threads, on four cores; torch's number is put back."""
    for name in (*DECIDES_NUMBER, *DECIDES_WAITING, "SLURM_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(process, "available", lambda: 4)
    before = torch.get_num_threads()
    yield monkeypatch
    torch.set_num_threads(before)


def said_of_waiting(code: str, **environment: str) -> str:
    """What a fresh process prints that runs `code`."""
    plain = {name: value for name, value in os.environ.items() if name not in DECIDES_WAITING} | environment
    command = [sys.executable, "-c", f"{code}; from attnlab.process import waiting; print(waiting())"]
    return subprocess.run(command, env=plain, capture_output=True, text=True, check=True).stdout.strip()


def test_importing_attnlab_decides_how_threads_wait() -> None:
    ours = " ".join(f"{name}={value}" for name, value in WAITING.items())
    assert said_of_waiting("import attnlab, torch") == ours


@pytest.mark.parametrize("name", DECIDES_WAITING)
def test_what_the_user_has_set_wins(name: str) -> None:
    assert said_of_waiting("import attnlab", **{name: "1"}) == f"{name}=1"


def test_after_torch_it_is_too_late_and_said(untouched: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    process.wait_gently()  # torch is imported here
    assert process.waiting() is None
    use_threads(2)
    assert "import attnlab first" in caplog.text
    caplog.clear()
    untouched.setenv("OMP_WAIT_POLICY", "ACTIVE")
    use_threads(2)
    assert caplog.text == ""


@pytest.fixture
def unfrozen() -> Iterator[None]:
    gc.unfreeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("unfrozen")
def test_the_collector_sleeps_while_large_imports_run_and_leaves_them_alone_afterwards() -> None:
    with pytest.raises(ImportError), large_imports():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()
    assert (frozen := gc.get_freeze_count()) > 0
    with large_imports():  # of the next job in this process: what the one before has left is garbage
        assert gc.isenabled()
    assert gc.get_freeze_count() == frozen


@pytest.mark.usefixtures("unfrozen")
def test_in_a_process_of_somebody_else_nothing_is_left_out_of_the_collectors_sight() -> None:
    with large_imports(our_process=False):
        assert not gc.isenabled()
    assert gc.isenabled() and gc.get_freeze_count() == 0


def test_torchmetrics_brings_nothing_that_no_run_uses() -> None:
    code = "with large_imports(): from attnlab.training.train import train"
    found = "print([name for name in ('scipy', 'transformers', 'datasets', 'wandb') if name in sys.modules])"
    lines = f"import sys\nfrom attnlab.process import large_imports\n{code}\n{found}"
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.usefixtures("unfrozen")
def test_who_has_switched_the_collector_off_keeps_it_off() -> None:
    gc.disable()
    try:
        with large_imports():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.usefixtures("untouched")
def test_a_setting_counts_and_without_one_all_cores() -> None:
    assert use_threads(3) == 1
    assert torch.get_num_threads() == 3
    assert use_threads(None) == 1
    assert torch.get_num_threads() == 4
    assert use_threads(None, Mock(threads=1)) == 4
    assert torch.get_num_threads() == 1
    assert use_threads(3, Mock(threads=1)) == 1
    assert torch.get_num_threads() == 3


def test_the_environment_counts_more_than_the_cores(untouched: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(2)  # as OpenMP does by what the environment says
    untouched.setenv("OMP_NUM_THREADS", "2")
    assert use_threads(None, Mock(threads=1)) == 1
    assert torch.get_num_threads() == 2


def test_cores_are_what_slurm_and_joblib_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("joblib.cpu_count", lambda **_: 8)
    assert available() == 8
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    assert available() == 3
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "16")
    assert available() == 8


@pytest.mark.parametrize(
    ("jobs", "asked", "threads_each", "on_gpu", "expected"),
    [
        (20, None, None, False, (4, 1)),
        (2, None, None, False, (2, 2)),
        (1, None, None, False, (1, 4)),
        (20, 2, None, False, (2, 2)),
        (20, 8, None, False, (8, 1)),
        (20, None, 2, False, (2, 2)),
        (20, None, 8, False, (1, 8)),
        (20, None, None, True, (1, 4)),
        (20, 2, None, True, (2, 2)),
    ],
)
def test_jobs_share_the_cores(
    jobs: int,
    asked: int | None,
    threads_each: int | None,
    on_gpu: bool,
    expected: tuple[int, int],
    untouched: pytest.MonkeyPatch,
) -> None:
    untouched.setattr(process, "version", lambda _: "2.13.0")
    untouched.setattr("torch.accelerator.is_available", lambda: on_gpu)
    assert share(jobs, asked, {"accelerator": "auto", "threads": threads_each}) == expected
    if asked is None and threads_each is None:
        assert share(jobs, asked, {"accelerator": "cpu"})[0] == min(4, jobs)


def test_jobs_have_the_threads_that_the_environment_says(untouched: pytest.MonkeyPatch) -> None:
    untouched.setenv("OMP_NUM_THREADS", "2,1")
    assert share(20, None, {"accelerator": "cpu"}) == (2, 2)


# glibc's `mallinfo2` says how much of what is held would go back to the system at once: its fifth number.
MAPPED = """
import ctypes, {imported}
class Info(ctypes.Structure):
    _fields_ = [(str(number), ctypes.c_size_t) for number in range(10)]
libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Info
bytearray(28 << 20)  # of which glibc learns to keep pieces of this size
piece = bytearray(24 << 20)
print(getattr(libc.mallinfo2(), "4") >> 20)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="not glibc")
def test_large_pieces_of_memory_go_back_at_once() -> None:
    def mapped(imported: str, **environment: str) -> int:
        command = [sys.executable, "-c", MAPPED.format(imported=imported)]
        plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
        result = subprocess.run(command, env=plain | environment, capture_output=True, text=True, check=True)
        return int(result.stdout)

    assert mapped("attnlab") >= 24
    assert mapped("sys") < 24 and mapped("attnlab", MALLOC_MMAP_THRESHOLD_=str(31 << 20)) < 24
