"""On a Ray cluster of two nodes on this machine, which the test sets up: `make test-cluster`."""

import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import output_of
from tests.experiments.test_pool import found, kill_job, start

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(find_spec("ray") is None, reason="wants the extra [ray]"),
]
ADDRESS = "127.0.0.1:6399"
ON_RAY = [
    "hydra/launcher=ray",
    f"hydra.launcher.ray.init.address={ADDRESS}",
    "callbacks.progress=null",
    "callbacks.model_summary=null",
]


def ray(*arguments: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "ray.scripts.scripts", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="module", autouse=True)
def nodes() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray("start", "--head", f"--port={ADDRESS.split(':')[1]}", "--num-cpus=1", "--include-dashboard=false")
        try:
            ray("start", f"--address={ADDRESS}", "--num-cpus=1")
            yield
        finally:
            ray("stop", "--force")


def test_a_killed_job_of_a_sweep_costs_one_and_goes_on(tmp_path: Path) -> None:
    sweep = start("seed=0,1,2", *ON_RAY, folder=tmp_path)
    folder = found(tmp_path / "logs" / "train" / "multiruns")
    kill_job(folder / "1")
    said = output_of(sweep, 300)[0]
    assert sweep.returncode == 1 and "1 of 3 jobs failed; #1" in said and "Traceback" not in said, said
    assert {path.parent.name for path in folder.glob("*/metrics.json")} == {"0", "2"}
    again = start("seed=0,1,2", "resume=latest", *ON_RAY, folder=tmp_path)
    said = output_of(again, 300)[0]
    assert again.returncode == 0 and "3 done" in said, said
    assert pd.read_csv(folder / "1" / "metrics.csv")["val/loss"].notna().sum() == 12


def test_a_search_goes_on_over_a_killed_job(tmp_path: Path) -> None:
    settings = ["hparams_search=random", "hparams_search/pruner=none", "hparams_search.n_trials=4"]
    search = start(*settings, "hparams_search.n_jobs=2", *ON_RAY, folder=tmp_path)
    folder = found(tmp_path / "logs" / "train" / "searches")
    kill_job(folder / "1")
    said = output_of(search, 400)[0]
    assert search.returncode == 0, said
    assert {path.parent.name for path in folder.glob("[0-9]/metrics.json")} == {"0", "1", "2", "3"}
    assert pd.read_csv(folder / "1" / "metrics.csv")["val/loss"].notna().sum() == 12
