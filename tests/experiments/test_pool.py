"""Sweeps and searches of which a process is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import ROOT, TINY, output_of

LONG = [*TINY, "trainer.max_epochs=12", "callbacks.early_stopping=null", "data.train_size=1500"]


def start(*overrides: str, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "src" / "train.py"), "-m", *LONG, *overrides]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def kill_job(folder: Path) -> None:
    os.kill(process_of(folder), signal.SIGKILL)


def process_of(folder: Path) -> int:
    """The process that writes into this job's output.log, once the job has a checkpoint."""
    output, end = folder / "output.log", time.monotonic() + 120
    while time.monotonic() < end:
        if (folder / "checkpoints" / "last.ckpt").exists():
            for process in Path("/proc").glob("[0-9]*"):
                if int(process.name) != os.getpid() and _writes(process, output):
                    return int(process.name)
        time.sleep(0.05)
    raise AssertionError(f"nobody trained in {folder}")


def _writes(process: Path, file: Path) -> bool:
    try:
        return any(os.path.realpath(link) == str(file.resolve()) for link in (process / "fd").iterdir())
    except OSError:
        return False


def found(parent: Path) -> Path:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if folders := list(parent.glob("*")):
            return folders[0]
        time.sleep(0.05)
    raise AssertionError(f"nothing in {parent}")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="finds a job's process in /proc")
def test_a_killed_job_costs_one_job_and_a_sweep_goes_on(tmp_path: Path) -> None:
    undisturbed = start("seed=0,1,2", "hydra.sweep.dir=undisturbed", folder=tmp_path)
    assert undisturbed.wait(300) == 0, undisturbed.stdout and undisturbed.stdout.read()
    sweep = start("seed=0,1,2", "hydra.launcher.jobs=2", folder=tmp_path)
    folder = found(tmp_path / "logs" / "train" / "multiruns")
    kill_job(folder / "1")
    said = output_of(sweep, 300)[0]
    assert sweep.returncode == 1 and "1 of 3 jobs failed; #1: its process has ended" in said and "Traceback" not in said
    assert {path.parent.name for path in folder.glob("*/metrics.json")} == {"0", "2"}
    kept = (folder / "0" / "metrics.json").stat().st_mtime_ns
    again = start("seed=0,1,2", "resume=latest", folder=tmp_path)
    said = output_of(again, 300)[0]
    assert again.returncode == 0 and "3 done" in said, said
    assert (folder / "0" / "metrics.json").stat().st_mtime_ns == kept
    assert list((tmp_path / "logs" / "train" / "multiruns").iterdir()) == [folder]
    for job in "012":
        for name in ("metrics.csv", "predictions.parquet"):
            read = pd.read_csv if name.endswith("csv") else pd.read_parquet
            ours, theirs = (read(place / job / name) for place in (folder, tmp_path / "undisturbed"))
            pd.testing.assert_frame_equal(ours.filter(regex="^(?!.*second)"), theirs.filter(regex="^(?!.*second)"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="finds a job's process in /proc")
def test_jobs_do_not_outlive_their_sweep(tmp_path: Path) -> None:
    """One that did would train in a folder in which the sweep that goes on trains too."""
    sweep = start("seed=0,1", "hydra.launcher.jobs=2", "trainer.max_epochs=1000", folder=tmp_path)
    folder = found(tmp_path / "logs" / "train" / "multiruns")
    jobs = [process_of(folder / name) for name in "01"]
    sweep.kill()
    end = time.monotonic() + 30
    while alive := [job for job in jobs if Path(f"/proc/{job}/fd/1").exists()]:
        assert time.monotonic() < end, alive
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="finds a job's process in /proc")
@pytest.mark.parametrize(
    "search", [[], ["hparams_search=random", "hparams_search.n_jobs=2", "hparams_search.n_trials=4"]]
)
def test_ctrl_c_ends_what_runs_with_a_checkpoint_and_starts_nothing(search: list[str], tmp_path: Path) -> None:
    jobs = search or ["seed=0,1,2,3", "hydra.launcher.jobs=2"]
    multirun = start(*jobs, "trainer.max_epochs=1000", folder=tmp_path)
    folder = found(tmp_path / "logs" / "train" / ("searches" if search else "multiruns"))
    processes = [process_of(folder / name) for name in "01"]
    multirun.send_signal(signal.SIGINT)  # not to its jobs, as `kill` does; the terminal would reach these too
    said = output_of(multirun, 100)[0]
    assert not any(Path(f"/proc/{process}/fd/1").exists() for process in processes), said
    assert said.count("  interrupted  ") == 2 and "Traceback" not in said, said
    assert {path.name for path in folder.glob("[0-9]*")} == {"0", "1"}
    for name in "01":
        assert "Stopped after step" in (folder / name / "output.log").read_text()


@pytest.mark.slow
def test_a_sweep_that_goes_on_may_grow(tmp_path: Path) -> None:
    first = start("seed=0,1", "trainer.max_epochs=1", folder=tmp_path)
    assert first.wait(200) == 0
    folder = found(tmp_path / "logs" / "train" / "multiruns")
    more = start("seed=0,1", "pe=none,learned", "trainer.max_epochs=1", f"resume={folder}", folder=tmp_path)
    assert more.wait(200) == 0
    assert len(list(folder.glob("*/metrics.json"))) == 6
    nowhere = start("seed=0,1", "resume=nowhere", folder=tmp_path)
    assert nowhere.wait(100) == 1 and nowhere.stdout and "there is no such sweep" in nowhere.stdout.read()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="finds a job's process in /proc")
def test_a_killed_trial_goes_on_and_the_search_does_not_notice(tmp_path: Path) -> None:
    settings = ["hparams_search=random", "hparams_search/pruner=none", "hparams_search.n_trials=4"]
    search = start(*settings, "hparams_search.n_jobs=2", folder=tmp_path)
    folder = found(tmp_path / "logs" / "train" / "searches")
    kill_job(folder / "1")
    said = output_of(search, 300)[0]
    assert search.returncode == 0 and "#1" in said, said
    assert {path.parent.name for path in folder.glob("[0-9]/metrics.json")} == {"0", "1", "2", "3"}
    curve = pd.read_csv(folder / "1" / "metrics.csv")
    assert curve["epoch"].dropna().nunique() == 12 and curve["val/loss"].notna().sum() == 12


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "null"])
def test_trials_that_have_no_process_of_their_own_take_turns(jobs: str, tmp_path: Path) -> None:
    """Side by side in one process they would share its folder and its seeds."""
    settings = ["hparams_search=random", "hparams_search/pruner=none", "hparams_search.n_trials=4"]
    short = ["hparams_search.n_jobs=2", f"hydra.launcher.jobs={jobs}", "trainer.max_epochs=1"]
    said = start(*settings, *short, folder=tmp_path).communicate(timeout=300)[0]
    assert "4 trials: 4 complete" in said, said
    (folder,) = (tmp_path / "logs" / "train" / "searches").iterdir()
    assert len({file.read_text() for file in folder.glob("[0-9]/metrics.json")}) == 4
