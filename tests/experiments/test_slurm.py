"""What is made of a job of Slurm that died; `tests/cluster` has a real Slurm."""

import inspect
from pathlib import Path

import pytest

pytest.importorskip("submitit")
from submitit.slurm import slurm

from attnlab.experiments.pool import Died
from attnlab.experiments.slurm import Job, interrupt, use_these_jobs


def answer(program: str, text: str, folder: Path) -> None:
    file = folder / program
    file.write_text(f"#!/bin/sh\nprintf '{text}'\n")
    file.chmod(0o755)


def test_a_job_that_left_no_result_has_died(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    answer("sacct", "JobID|State|NodeList\\n8|FAILED|n1\\n", tmp_path)
    monkeypatch.setattr(Job, "_results_timeout_s", 0)
    (result,) = Job(tmp_path, "8").results()
    assert isinstance(result._return_value, Died) and "8" in str(result._return_value)


def test_ctrl_c_takes_jobs_out_of_the_queue_and_has_those_that_run_write_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    (tmp_path / "scancel").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/said\n')
    (tmp_path / "scancel").chmod(0o755)
    interrupt()
    assert not (tmp_path / "said").exists()

    def press(_: Job) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Job, "wait", press)
    with pytest.raises(KeyboardInterrupt):
        Job(tmp_path, "8_3").results()
    assert (tmp_path / "said").read_text().splitlines() == ["--state=PENDING 8", "--signal=INT 8"]


def test_submitit_makes_these_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "SlurmJob", slurm.SlurmJob)
    monkeypatch.setattr(slurm.SlurmExecutor, "job_class", slurm.SlurmExecutor.job_class)
    assert "SlurmJob(folder=" in inspect.getsource(slurm.SlurmExecutor._internal_process_submissions)
    use_these_jobs()
    assert slurm.SlurmJob is Job and slurm.SlurmExecutor.job_class is Job
