"""Training beside other work: quiet, and with one and two busy processes on the same two cores.

Ours; ours with one thread; ours with the threads as torch starts them; and the transformers Trainer, each in a process
of its own that lives through the measurement, since how threads wait is settled when torch is imported. They take
turns. `GOMP_SPINCOUNT` in the environment is that of ours.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from attnlab.data.datamodule import TextDataModule
from benchmarks.common import DATA, QUIET, ROOT, Row, compare, config_of, data_of, folder, in_turn

SECONDS = 3.0  # of one turn
REPETITIONS = 2
MODELS = {
    "attention": ["experiment=notebook/positions", "pe=learned"],
    "mean": ["experiment=notebook/baseline"],
    "default": [],
    "transformer": ["model=transformer"],
}
# GNU's and LLVM's own: what a process does that sets nothing.
AS_TORCH_COMES = {"GOMP_SPINCOUNT": "300000", "KMP_BLOCKTIME": "200"}
SYSTEMS: dict[str, dict[str, str]] = {
    "ours": {},
    "one thread": {"OMP_NUM_THREADS": "1"},
    "torch's own": AS_TORCH_COMES,
    "transformers": AS_TORCH_COMES,
}


def measure() -> list[Row]:
    rows: list[Row] = []
    for model in MODELS:
        with ExitStack() as stack:
            workers = {name: stack.enter_context(worker(model, name, SYSTEMS[name])) for name in SYSTEMS}
            figures: dict[int, dict[str, list[float]]] = {}
            for load in (0, 1, 2):
                print(f"{model} model beside {load} busy processes, samples/s")
                with busy(load):
                    figures[load] = in_turn(workers, REPETITIONS)
        rows.extend(judge(model, figures))
    return rows


def judge(model: str, figures: dict[int, dict[str, list[float]]]) -> Iterator[Row]:
    """The rows of one model, from samples a second by number of busy processes and system."""
    row = partial(compare, unit="samples/s")
    quiet = figures[0]
    yield row(f"{model}, quiet, against torch's own", ours=quiet["ours"], peer=quiet["torch's own"], target=0.97)
    yield row(f"{model}, quiet, one thread against ours", ours=quiet["one thread"], peer=quiet["ours"])
    for load in (1, 2):
        ours, where = figures[load]["ours"], f"{model} beside {load}"
        share, times = (0.4, 5.0) if load == 2 else (None, None)
        yield row(f"{where}, against quiet", ours=ours, peer=quiet["ours"], target=share)
        yield row(f"{where}, one thread against quiet", ours=figures[load]["one thread"], peer=quiet["ours"])
        yield row(f"{where}, against transformers", ours=ours, peer=figures[load]["transformers"], target=times)
        yield row(f"{where}, against torch's own", ours=ours, peer=figures[load]["torch's own"])


@contextmanager
def busy(number: int) -> Iterator[None]:
    """With so many processes beside this one that never wait."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


@contextmanager
def worker(model: str, system: str, variables: dict[str, str]) -> Iterator[Callable[[], float]]:
    """A process that trains for `SECONDS` whenever it is asked and says how many samples a second it did."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.busy", model, system],
        cwd=ROOT,
        env=environment | variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def ask() -> float:
        stdin.write("\n")
        stdin.flush()
        for line in stdout:
            if line.startswith("samples/s "):
                return float(line.split()[1])
        raise SystemExit(f"{system} with the {model} model has ended")

    try:
        yield ask
    finally:
        process.kill()
        process.wait()


def ours(config: dict[str, Any], data: TextDataModule, policy: bool) -> float:
    """As `src/train.py` trains it; without `policy` with one thread a core whatever the model."""
    from lightning.pytorch import seed_everything

    from attnlab.process import use_threads
    from attnlab.training.callbacks import Stopwatch
    from attnlab.training.job import tidy_process
    from attnlab.training.trainer import make_trainer
    from benchmarks.speed import new_module

    with folder() as place, tidy_process():
        seed_everything(0, verbose=False)
        trainer, module = make_trainer(config, place, stopwatch := Stopwatch()), new_module(config, data)
        use_threads(config["trainer"]["threads"], module.model if policy else None)
        trainer.fit(module, data)
        return trainer.global_step * config["data"]["batch_size"] / stopwatch.elapsed


def main(model: str, system: str) -> None:
    """The process of one system: a line in, a line out."""
    from benchmarks.speed import transformers_trainer

    settings = ["trainer.max_epochs=1000", f"trainer.max_time=00:00:00:{SECONDS:02.0f}", "+trainer.limit_val_batches=0"]
    settings += ["data.batch_size=32", "data.limit=12800", "callbacks.early_stopping=null"]
    settings += ["callbacks.best_checkpoint=null", "callbacks.last_checkpoint=null", "callbacks.progress=null"]
    settings += ["+trainer.enable_checkpointing=false", "+trainer.enable_progress_bar=false"]
    config = config_of(*DATA, *MODELS[model], *QUIET, *settings)
    data = data_of(config)
    theirs = system == "transformers"
    train = (
        transformers_trainer(model, config, data, SECONDS)
        if theirs
        else partial(ours, config, data, system != "torch's own")
    )
    for _ in sys.stdin:
        print("samples/s", train(), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
