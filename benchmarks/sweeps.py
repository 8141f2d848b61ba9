"""What many jobs cost besides their training: sweeps of jobs that do nothing, and a search of jobs that only wait.

A sweep of 50, 100 and 200 jobs, one by one, on a terminal with its table: begun, and gone on with (`resume=latest`)
when all have finished. Hydra's own launcher with a task that does nothing is the peer; what is left is ours. It is time
of the processor, so that other work counts less. Then how long two slots of a search stand idle while its trials take 1
and 10 seconds by the clock.
"""

import json
import os
import pty
import random
import sys
import time
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

import attnlab.composing  # noqa: F401  (what the config may compute)
from attnlab.config import EXECUTION_WHITELIST
from benchmarks.common import ROOT, Row, folder

NUMBERS = (50, 100, 200)
REPETITIONS = 1
TRIALS, SLOTS, SECONDS = 24, 2, (1, 10)
TASK = "ATTNLAB_BENCHMARK_TASK"  # what a job does: nothing, pretend that it has trained, or wait before that


def measure() -> list[Row]:
    print(f"sweeps of {NUMBERS} jobs that do nothing, seconds of the processor")
    spent = {name: dict.fromkeys(NUMBERS, float("inf")) for name in ("begun", "gone on with", "Hydra's")}
    for _ in range(REPETITIONS):
        for number in NUMBERS:
            for name, seconds in sweeps(number).items():
                spent[name][number] = min(spent[name][number], seconds)
            print("  ".join(f"{name} {of[number]:.1f}" for name, of in spent.items()), flush=True)
    few, middle, many = NUMBERS
    theirs, rows = slope(spent["Hydra's"], few, many), []
    for name in ("begun", "gone on with"):
        ours, first, last = (slope(spent[name], *of) for of in ((few, many), (few, middle), (middle, many)))
        rows.append(Row(f"a job of a sweep {name}, besides Hydra", ours, theirs, ours - theirs, "ms", 50, False))
        rows.append(
            Row(f"the same, the last {middle} against those before", last, first, last / first, "ms", 1.2, False)
        )
    idle = idle_share()
    return [*rows, Row(f"idle share of {SLOTS} slots, trials of 1 and 10 s", idle, None, idle, "", 0.15, False)]


def slope(spent: dict[int, float], fewer: int, more: int) -> float:
    """Milliseconds a job."""
    return 1000 * (spent[more] - spent[fewer]) / (more - fewer)


def sweeps(number: int) -> dict[str, float]:
    """Seconds of the processor that each of the three takes."""
    with folder() as place:
        jobs = f"seed=range({number})"
        ours = [jobs, f"paths.log_dir={place}/ours", "hydra.launcher.jobs=1"]
        plain = [jobs, "hydra/launcher=basic", f"hydra.sweep.dir={place}/plain", "hydra.sweep.subdir=${hydra.job.num}"]
        return {
            "begun": seconds("pretend", *ours),
            "gone on with": seconds("pretend", *ours, "resume=latest"),
            "Hydra's": seconds("nothing", *plain),
        }


def idle_share() -> float:
    """Of the time of all slots, from the first trial's begin to the last one's end, that in which none was at work."""
    with folder() as place:
        search = ["hparams_search=random", "hparams_search/pruner=none", f"hparams_search.n_trials={TRIALS}"]
        seconds("wait", *search, f"hparams_search.n_jobs={SLOTS}", f"paths.log_dir={place}", "test=false")
        times = [json.loads(file.read_text()) for file in place.glob("train/searches/*/*/metrics.json")]
    assert len(times) == TRIALS
    begin, end = min(time["began"] for time in times), max(time["ended"] for time in times)
    return 1 - sum(time["ended"] - time["began"] for time in times) / (SLOTS * (end - begin))


def seconds(task: str, *arguments: str) -> float:
    """Of the processor, for a multirun of this file on a terminal, its processes included."""
    process, terminal = pty.fork()
    if process == 0:
        os.environ[TASK] = task
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.sweeps", "-m", *arguments])
    said = bytearray()
    try:
        while read := os.read(terminal, 1 << 16):
            said += read
    except OSError:  # it has hung up
        pass
    os.close(terminal)
    _, status, used = os.wait4(process, 0)
    if status:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{said.decode(errors='replace')[-2000:]}")
    return used.ru_utime + used.ru_stime


@hydra.main(config_path=str(ROOT / "conf"), config_name="train", execution_whitelist=EXECUTION_WHITELIST)
def main(cfg: DictConfig) -> float | None:
    """As `src/train.py`, with a training of its own."""
    if os.environ[TASK] == "nothing":
        return 0.0
    from attnlab.training import train as spine

    setattr(spine, "_train", pretend)  # noqa: B010  (a constant name, so that mypy lets it be)
    return spine.train(cfg)["val/loss"]


def pretend(_: DictConfig) -> dict[str, float]:
    """Leave the result that a sweep looks for."""
    began, job = time.time(), HydraConfig.get()
    if os.environ[TASK] == "wait":
        time.sleep(random.Random(job.job.num).choice(SECONDS))
    metrics = {"val/loss": 1.0 + job.job.num, "began": began, "ended": time.time()}
    Path(job.runtime.output_dir, "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    return metrics


if __name__ == "__main__":
    main()
