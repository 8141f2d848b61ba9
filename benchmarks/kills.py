"""Kills at random moments: a sweep of 12 jobs and a search of 20 trials end as undisturbed ones do.

    python -m benchmarks.kills       # 25, half of them of each; half an hour on two cores
    python -m benchmarks.kills 4

Killed are the process of one job, the command alone, it and all its processes, each by SIGKILL; and the command by
SIGTERM. What ends by it is begun again by the same command, with `resume=latest` for a sweep, as often as it takes. In
the end every job's curve, metrics and predictions have to be those of the same command without a kill, to the bit, and
so have those of each trial of the search, which is a grid.
"""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from benchmarks.common import ROOT, folder

TINY = ["trainer=cpu", "trainer.max_epochs=3", "data.train_size=800", "data.test_size=60", "data.batch_size=16"]
TINY += ["tokenizer.vocab_size=300", "model.embed_dim=8", "model.dropout=0.3", "callbacks.early_stopping=null"]
TINY += ["trainer.log_every_n_steps=5", "callbacks.last_checkpoint.every_n_steps=20", "hydra.launcher.jobs=2"]
GRID = ["optimizer.lr=choice(0.001,0.002,0.003,0.004,0.005)", "model.pooling=mean,max", "pe=none,learned"]
SWEEP = [*TINY, "seed=range(12)", "resume=latest"]
SEARCH = [*TINY, *GRID, "hparams_search=grid", "hparams_search/pruner=none", "hparams_search.n_trials=20"]
SEARCH += ["hparams_search.n_jobs=2", "hparams_search.study_name=kills", "hparams_search.space=null"]
KINDS = ("a job", "the command", "all its processes", "the command, by SIGTERM")
TIMES = {"train/seconds", "train/samples_per_second"}
LATEST = 45.0  # seconds after which the next kill comes at the latest
ATTEMPTS = 40  # of one sweep
MOMENTS = random.Random(0)
SETTINGS = ("seed", "optimizer.lr", "model.pooling", "pe")  # in which the jobs differ


def main(kills: int) -> None:
    for name, arguments, count, share in (
        ("sweep of 12 jobs", SWEEP, 12, kills - kills // 2),
        ("search of 20 trials", SEARCH, 20, kills // 2),
    ):
        with folder() as place:
            begin = time.monotonic()
            run(place / "undisturbed", arguments, [])
            wanted = results(place / "undisturbed")
            print(f"{name}, undisturbed: {len(wanted)} jobs in {time.monotonic() - begin:.0f} s", flush=True)
            assert len(wanted) == count
            ahead, survived, rounds = kinds(share), Counter[str](), 0
            while ahead:
                done = run(place / f"killed-{rounds}", arguments, ahead)
                found = results(place / f"killed-{rounds}")
                different = [job for job in wanted if found.get(job) != wanted[job]]
                if different or len(found) != count:
                    print(f"DIFFERENT after {done}: {different}, {len(found)} jobs", flush=True)
                else:
                    survived += Counter(done)
                rounds += 1
            tried = Counter(kinds(share))
            for kind in KINDS:
                print(f"| {name} | {kind} | {tried[kind]} | {survived[kind]} |", flush=True)


def kinds(number: int) -> list[str]:
    return [KINDS[i % len(KINDS)] for i in range(number)]


def run(place: Path, arguments: list[str], ahead: list[str]) -> list[str]:
    """Run a command to its end, again where it was ended, and kill it as `ahead` says; what of that came to pass."""
    place.mkdir()
    command = [sys.executable, str(ROOT / "src" / "train.py"), "-m", *arguments, f"paths.log_dir={place}/logs"]
    done: list[str] = []
    for _ in range(ATTEMPTS):
        with (place / "said").open("ab") as said:
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            process = subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True, env=environment)
        while ahead and not ends_within(process, MOMENTS.uniform(3, LATEST)):
            if kill(process, ahead[0]):
                done.append(ahead.pop(0))
        if process.wait() == 0:
            return done
    raise SystemExit(f"no end after {ATTEMPTS} attempts; killed: {done}\n{(place / 'said').read_text()[-3000:]}")


def ends_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def kill(process: subprocess.Popen[bytes], kind: str) -> bool:
    """Whether there was something to kill."""
    if kind == "a job":
        if not (jobs := processes_of_jobs(process.pid)):
            return False
        os.kill(MOMENTS.choice(jobs), signal.SIGKILL)
    elif kind == "all its processes":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.send_signal(signal.SIGTERM if kind.endswith("SIGTERM") else signal.SIGKILL)
    return True


def processes_of_jobs(command: int) -> list[int]:
    """Those that the command has started and that write into a job's output.log."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.getpgid(int(process.name)) == command != int(process.name):
                written = str((process / "fd" / "1").readlink())
                if re.search(r"/[0-9]+/output\.log$", written):
                    found.append(int(process.name))
    return found


def results(place: Path) -> dict[str, Any]:
    """By the settings of each job: its curve, its predictions and its metrics, but for the time that it took."""
    found: dict[str, Any] = {}
    for file in (place / "logs").glob("train/*/*/[0-9]*/metrics.json"):  # not best/ of a search
        given = OmegaConf.to_container(OmegaConf.load(file.parent / ".hydra" / "overrides.yaml"))
        assert isinstance(given, list)
        settings = " ".join(sorted(str(one) for one in given if str(one).split("=")[0] in SETTINGS))
        metrics = {key: value for key, value in json.loads(file.read_text()).items() if key not in TIMES}
        files = [file.parent / name for name in ("metrics.csv", "predictions.parquet")]
        result = (metrics, [one.read_bytes() for one in files if one.exists()])
        assert found.setdefault(settings, result) == result, f"{settings}: two trials with different results"
    return found


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 25)
