"""On a real Slurm of two nodes on this machine, which the test sets up: `make test-cluster`, as root."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, TINY
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


def start_again(folder: Path) -> None:
    """Not after the two minutes that Slurm waits with a job that it starts again."""
    end = time.monotonic() + 60
    while not (jobs := run("squeue", "-h", "-t", "pending", "-o", "%i", folder=folder).split()):
        assert time.monotonic() < end
        time.sleep(0.5)
    for job in jobs:
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
    start_again(tmp_path)
    file = wait_for("logs/train/runs/*/metrics.json", tmp_path)
    time.sleep(5)
    assert_same_run(tmp_path / "whole", file.parent)
    assert len(list((tmp_path / "logs" / "train" / "runs").iterdir())) == 1


def test_a_preempted_job_of_a_sweep_goes_on_exactly(tmp_path: Path) -> None:
    arguments = [*TINY, *LONG, *PLAIN]
    run("srun", "python", str(ROOT / "src" / "train.py"), *arguments, "hydra.run.dir=whole", folder=tmp_path)
    slurm = "hydra/launcher=slurm hydra.launcher.partition=debug hydra.launcher.cpus_per_task=1"
    command = [sys.executable, str(ROOT / "src" / "train.py"), "-m", *shlex.split(slurm), "seed=0,1", *arguments]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL) as sweep:
        wait_for("logs/train/multiruns/*/0/checkpoints/last.ckpt", tmp_path)
        jobs = run("squeue", "-h", "-r", "-t", "running", "-o", "%i", folder=tmp_path).split()
        run("scancel", "--signal=USR2", sorted(jobs)[0], folder=tmp_path)
        start_again(tmp_path)
        assert sweep.wait(400) == 0
    (folder,) = (tmp_path / "logs" / "train" / "multiruns").iterdir()
    assert "requeue" in "".join(file.read_text() for file in (folder / ".submitit").rglob("*_0_log.err"))
    assert_same_run(tmp_path / "whole", folder / "0")
