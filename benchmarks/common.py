"""What the measurements share: the data, two threads, turns, and rows that know their target."""

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir

import attnlab.composing  # noqa: F401  (what the config may compute)
from attnlab.config import instantiate, resolve
from attnlab.data.datamodule import TextDataModule

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
AG_NEWS = os.environ.get("AG_NEWS_PATH")
DATA = ["data=ag_news", f"data.path={AG_NEWS}"] if AG_NEWS else ["data=headlines", "data.train_size=20000"]
DATA_NAME = "AG News part" if AG_NEWS else "built-in corpus"
THREADS = 2
REPETITIONS = 5
QUIET = ["callbacks.model_summary=null", "+trainer.enable_model_summary=false", "trainer=cpu"]


@dataclass(frozen=True)
class Row:
    """One measurement. `ratio` is what the target is about: `at_least`, or else at most, `target`."""

    what: str
    ours: float
    peer: float | None
    ratio: float
    unit: str
    target: float | None = None
    at_least: bool = True

    @property
    def passed(self) -> bool | None:
        """None where there is no target."""
        if self.target is None:
            return None
        return self.ratio >= self.target if self.at_least else self.ratio <= self.target


def in_turn(systems: dict[str, Callable[[], float]], repetitions: int = REPETITIONS) -> dict[str, list[float]]:
    """Each system's figure, once to warm up and then `repetitions` times, one system after the other."""
    figures: dict[str, list[float]] = {name: [] for name in systems}
    for repetition in range(repetitions + 1):
        for name, measure in systems.items():
            figure = measure()
            if repetition:
                figures[name].append(figure)
        if repetition:
            print("  " + "  ".join(f"{name} {values[-1]:,.3g}" for name, values in figures.items()), flush=True)
    return figures


def compare(what: str, unit: str, ours: list[float], peer: list[float], **target: Any) -> Row:
    """Medians, and the median of the ratios within a turn."""
    ratio = statistics.median(a / b for a, b in zip(ours, peer, strict=True))
    return Row(what, statistics.median(ours), statistics.median(peer), ratio, unit, **target)


def config_of(*overrides: str) -> dict[str, Any]:
    """The resolved config of a training run."""
    with initialize_config_dir(str(ROOT / "conf")):
        return resolve(compose("train", overrides=["paths.run_dir=/nowhere", *overrides]))


def data_of(config: dict[str, Any]) -> TextDataModule:
    """Its data, tokenised."""
    cache = ROOT / "logs" / "cache"
    data = TextDataModule(instantiate(config["data"]), instantiate(config["tokenizer"]), cache, config["seed"])
    data.setup()
    return data


@contextmanager
def folder() -> Iterator[Path]:
    """A place for a run, gone afterwards."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


# A small process between: a child's peak memory begins with what its parent holds.
WATCH = """
import resource, subprocess, sys, time
start = time.perf_counter()
status = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
sys.exit(status)
"""


def run(*arguments: str, script: str | None = "train.py", threads: int | None = THREADS) -> tuple[float, float]:
    """Seconds that a process takes from prompt to end, and its peak memory in MB; `threads` None: of its own choice."""
    command = [sys.executable, *([str(ROOT / "src" / script)] if script else []), *arguments]
    environment = {**os.environ, "WANDB_MODE": "offline", "HF_HUB_OFFLINE": "1"}
    environment.pop("OMP_NUM_THREADS", None)
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    watch = [sys.executable, "-c", WATCH, *command]
    result = subprocess.run(watch, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{result.stderr}")
    seconds, memory = map(float, result.stdout.split())
    return seconds, memory
