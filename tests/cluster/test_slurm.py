"""On a real Slurm of two nodes on this machine, which the test sets up: `make test-cluster`, as root."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import ROOT, TINY, output_of
from tests.experiments.test_pool import kill_job
from tests.training.test_resume import LONG, assert_same_run

pytestmark = pytest.mark.cluster
SCRIPT = str(ROOT / "tests" / "cluster" / "slurm.sh")
PLAIN = ["callbacks.progress=null", "callbacks.model_summary=null"]


@pytest.fixture(scope="module", autouse=True)
def slurm() -> Iterator[None]:
    if not all(map(shutil.which, ("slurmctld", "slurmdbd", "mariadbd", "munged"))) or os.getuid():
        pytest.skip("wants root and Debian's slurm-wlm munge slurmdbd mariadb-server")
    folder = Path("/tmp", f"attnlab-slurm-{os.getpid()}")  # the database's user can't enter pytest's folders
    try:
        subprocess.run([SCRIPT, "up", folder], check=True, timeout=180)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
            patch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
            yield
    finally:
        subprocess.run([SCRIPT, "down", folder], check=True, timeout=60)


def run(*command: str, folder: Path) -> str:
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=500, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def wait_for(pattern: str, folder: Path) -> Path:
    end = time.monotonic() + 240
    while not (found := sorted(folder.glob(pattern))):
        assert time.monotonic() < end, pattern
        time.sleep(0.1)
    return found[0]


def start_again(folder: Path, job: str) -> None:
    """Not after the two minutes that Slurm waits with a job that it starts again."""
    end = time.monotonic() + 120
    while run("squeue", "-h", "-j", job, "-o", "%T", folder=folder).strip() != "PENDING":
        assert time.monotonic() < end
        time.sleep(0.5)
    time.sleep(10)  # at once, Slurm would refuse it: "Job credential revoked"
    run("scontrol", "update", f"jobid={job}", "StartTime=now", folder=folder)


def test_two_nodes_train_one_model_in_one_folder(tmp_path: Path) -> None:
    train = ["python", str(ROOT / "src" / "train.py")]
    tiny = ["trainer=ddp", "trainer.num_nodes=2", "trainer.accelerator=cpu", *TINY[1:], *PLAIN]
    run("srun", "-K", "-N2", "--ntasks-per-node=1", *train, *tiny, folder=tmp_path)
    (folder,) = (tmp_path / "logs" / "train" / "runs").iterdir()
    again = ["resume=latest", "trainer.max_epochs=3"]
    run("srun", "-K", "-N2", "--ntasks-per-node=1", *train, *again, folder=tmp_path)
    assert list((tmp_path / "logs" / "train" / "runs").iterdir()) == [folder]
    assert json.loads((folder / "metrics.json").read_text())["train/epochs"] == 3


def test_a_job_at_its_time_limit_is_started_again_and_goes_on_exactly(tmp_path: Path) -> None:
    (tmp_path / "src").symlink_to(ROOT / "src")
    arguments = [*TINY, *LONG, *PLAIN]
    run("srun", "python", "src/train.py", *arguments, "hydra.run.dir=whole", folder=tmp_path)
    job = run("sbatch", "--parsable", str(ROOT / "docs" / "slurm.sh"), *arguments, folder=tmp_path).strip()
    wait_for("logs/train/runs/*/checkpoints/last.ckpt", tmp_path)
    run("scancel", "--signal=TERM", job, folder=tmp_path)  # what Slurm sends two minutes before the limit
    start_again(tmp_path, job)
    file = wait_for("logs/train/runs/*/metrics.json", tmp_path)
    time.sleep(5)
    assert_same_run(tmp_path / "whole", file.parent)
    assert len(list((tmp_path / "logs" / "train" / "runs").iterdir())) == 1


def start_on_slurm(*arguments: str, folder: Path) -> subprocess.Popen[str]:
    slurm = ["hydra/launcher=slurm", "hydra.launcher.partition=debug", "hydra.launcher.cpus_per_task=1"]
    command = [sys.executable, str(ROOT / "src" / "train.py"), "-m", *slurm, *TINY, *LONG, *PLAIN, *arguments]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def preempt_and_kill(folder: Path) -> None:
    """Of the jobs of the first two, once both have a checkpoint; `scancel --signal=KILL` would be gentle before."""
    kill_job(wait_for("logs/train/*/*/1/checkpoints/last.ckpt", folder).parents[1])
    wait_for("logs/train/*/*/0/checkpoints/last.ckpt", folder)
    running = run("squeue", "-h", "-r", "-t", "running", "-o", "%i", folder=folder).split()
    preempted = min(running, key=lambda job: [int(number) for number in job.split("_")])
    run("scancel", "--signal=USR2", preempted, folder=folder)
    start_again(folder, preempted)


def test_a_preempted_job_of_a_sweep_goes_on_exactly_and_a_killed_one_costs_one(tmp_path: Path) -> None:
    arguments = [*TINY, *LONG, *PLAIN]
    run("srun", "python", str(ROOT / "src" / "train.py"), *arguments, "hydra.run.dir=whole", folder=tmp_path)
    with start_on_slurm("seed=0,1,2", "hydra.launcher.array_parallelism=2", folder=tmp_path) as sweep:
        preempt_and_kill(tmp_path)
        said = output_of(sweep, 400)[0]
    assert sweep.returncode == 1 and "1 of 3 jobs failed; #1" in said and "Traceback" not in said, said
    (folder,) = (tmp_path / "logs" / "train" / "multiruns").iterdir()
    assert "DUE TO JOB REQUEUE" in "".join(file.read_text() for file in (folder / ".submitit").rglob("*_0_log.err"))
    assert_same_run(tmp_path / "whole", folder / "0")
    assert {file.parent.name for file in folder.glob("*/metrics.json")} == {"0", "2"}


def test_a_search_goes_on_over_a_preempted_and_a_killed_job(tmp_path: Path) -> None:
    settings = ["hparams_search=random", "hparams_search/pruner=none", "hparams_search.n_trials=4"]
    space = ["hparams_search.space=null", "optimizer.lr=tag(log,interval(1e-4,1e-2))"]
    with start_on_slurm(*settings, *space, "hparams_search.n_jobs=2", folder=tmp_path) as search:
        preempt_and_kill(tmp_path)
        said = output_of(search, 500)[0]
    assert search.returncode == 0, said
    (folder,) = (tmp_path / "logs" / "train" / "searches").iterdir()
    assert {file.parent.name for file in folder.glob("[0-9]*/metrics.json")} == {"0", "1", "2", "3"}
    for job in "01":
        curve = pd.read_csv(folder / job / "metrics.csv")
        assert curve["val/loss"].notna().sum() == 3 and curve["step"].is_monotonic_increasing


def test_an_ablation_trains_there_too(tmp_path: Path) -> None:
    settings = ["ablation=parts", "ablation.change={pe: [none]}", "ablation.seeds=2", "ablation.max_seeds=3"]
    with start_on_slurm(*settings, "ablation.n_jobs=2", folder=tmp_path) as ablation:
        said = output_of(ablation, 500)[0]
    assert ablation.returncode == 0, said
    (folder,) = (tmp_path / "logs" / "train" / "ablations").iterdir()
    assert (folder / "ablation.html").is_file() and list((folder / ".submitit").rglob("*_log.out"))
    assert len(list(folder.glob("*/metrics.json"))) >= 4
