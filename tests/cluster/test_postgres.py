"""Two searches of two workers each on one study, in a PostgreSQL server that the test starts."""

import getpass
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE

import optuna
import pytest

from tests.conftest import ROOT, TINY, output_of

pytestmark = pytest.mark.cluster


def server_programs() -> Path:
    """Where Debian puts initdb and pg_ctl; the package is installed where that is allowed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    if not found and getpass.getuser() == "root" and shutil.which("apt-get"):
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for arguments in (["update"], ["install", "--yes", "postgresql"]):
            subprocess.run(["apt-get", "--quiet", *arguments], env=environment, check=False, timeout=300)
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    if not found:
        pytest.skip("no PostgreSQL server (Debian package postgresql)")
    return found[-1].parent


@pytest.fixture
def postgres() -> Iterator[str]:
    """The URL of an empty database."""
    programs = server_programs()
    folder = Path(tempfile.mkdtemp(prefix="attnlab-postgres-"))  # the server's user can't enter pytest's folders
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # The server refuses to run as root.
    as_user = ["runuser", "-u", "postgres", "--"] if getpass.getuser() == "root" else []
    if as_user:
        shutil.chown(folder, "postgres")
    data = str(folder / "data")
    make = [*as_user, str(programs / "initdb"), "-D", data, "-U", "attnlab", "--auth=trust"]
    subprocess.run(make, check=True, cwd=folder)
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
    control = [*as_user, str(programs / "pg_ctl"), "-D", data]
    subprocess.run([*control, "-o", options, "-l", str(folder / "log"), "-w", "start"], check=True, cwd=folder)
    yield f"postgresql://attnlab@127.0.0.1:{port}/postgres"
    subprocess.run([*control, "-m", "immediate", "stop"], check=True, cwd=folder)
    shutil.rmtree(folder)


def test_two_searches_share_one_study(postgres: str, tmp_path: Path) -> None:
    n_trials = 10
    command = [sys.executable, str(ROOT / "src" / "train.py"), "-m", "hparams_search=optuna", *TINY]
    command += [f"hparams_search.storage={postgres}", "hparams_search.study_name=shared", "model.num_heads=1"]
    command += [f"hparams_search.n_trials={n_trials}", "hparams_search.n_jobs=2", "trainer.max_epochs=1"]
    searches = [subprocess.Popen(command, cwd=tmp_path, stdout=PIPE, stderr=PIPE, text=True) for _ in range(2)]
    outputs, errors = zip(*(output_of(search, 300) for search in searches), strict=True)
    assert [search.returncode for search in searches] == [0, 0], (outputs, errors)
    study = optuna.load_study(study_name="shared", storage=postgres)
    states = Counter(trial.state.name for trial in study.trials)
    assert states["COMPLETE"] + states["PRUNED"] == n_trials and states["RUNNING"] == states["WAITING"] == 0
    run_by = [len(re.findall(r"^#\d+ ", output, re.MULTILINE)) for output in outputs]
    assert sum(run_by) == n_trials and min(run_by) > 0  # none lost, none doubled, and both had a share
    folder = tmp_path / "logs" / "train" / "searches" / "shared"
    finished = {trial.number for trial in study.trials if trial.state.name in ("COMPLETE", "PRUNED")}
    assert {int(path.parent.name) for path in folder.glob("[0-9]*/metrics.json")} == finished
