"""A run of two processes on the CPU: one folder, exact resume, and an end for all where one dies."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT, TINY, output_of
from tests.training.test_resume import LONG, assert_same_run

pytestmark = pytest.mark.slow
TWO = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "callbacks.progress=null"]


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, str(ROOT / "src" / "train.py"), *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def begin(folder: Path) -> subprocess.Popen[str]:
    return start(folder, *[override for override in TINY if override != "trainer=cpu"], *TWO, *LONG)


def the_run(folder: Path) -> Path:
    """The one run folder."""
    (run,) = (folder / "logs" / "train" / "runs").iterdir()
    return run


def wait_for_checkpoint(folder: Path) -> None:
    end = time.monotonic() + 120
    while not list(folder.glob("logs/train/runs/*/checkpoints/last.ckpt")):
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two") / "whole"
    process = begin(folder)
    _, errors = output_of(process, 300)
    assert process.returncode == 0, errors
    return the_run(folder)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_of_two_processes_goes_on_exactly(number: signal.Signals, whole: Path, tmp_path: Path) -> None:
    process = begin(tmp_path)
    wait_for_checkpoint(tmp_path)
    if number == signal.SIGKILL:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)  # the other process is told by this one
    output_of(process, 60)
    assert process.returncode == (75 if number == signal.SIGTERM else -signal.SIGKILL)
    states = torch.load(the_run(tmp_path) / "checkpoints" / "last.ckpt", weights_only=True)["ranks"]
    assert len(states) == 2 and not torch.equal(*(state["train_loss"][0] for state in states))
    again = start(tmp_path, "resume=latest")
    said, errors = output_of(again, 300)
    assert said.count("4 classes;") == 1  # rank 0 alone says it
    assert again.returncode == 0, errors
    assert_same_run(whole, the_run(tmp_path))
    assert len(list(the_run(tmp_path).glob("*.log"))) == 1  # rank 0's


def test_one_that_dies_ends_the_other(tmp_path: Path) -> None:
    process = begin(tmp_path)
    wait_for_checkpoint(tmp_path)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (other,) = [int(child) for child in children if b"train.py" in Path(f"/proc/{child}/cmdline").read_bytes()]
    os.kill(other, signal.SIGKILL)
    _, errors = output_of(process, 60)
    assert process.returncode == 1
    assert "error: another process of this run has died" in errors and "Traceback" not in errors
