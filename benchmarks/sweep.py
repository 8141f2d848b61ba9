"""Many small runs: twenty of 500 documents of the built-in corpus and one epoch, from prompt to end.

Ours as it comes and one after another, and a loop over the transformers Trainer and over plain Lightning, which keep
the best weights and test them as ours do. Plain Lightning in two processes of one thread, half of the runs each, is the
least that a sweep over it can take here. The overhead of a run of ours, with W&B offline too, and what
Hydra, Lightning and matplotlib take for the least that can be called a run.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from attnlab.data.datamodule import TextDataModule
from benchmarks.common import QUIET, Row, compare, config_of, data_of, in_turn, run

RUNS = 20
SMALL = ["data.train_size=500", "data.test_size=500", "trainer.max_epochs=1"]
ATTENTION = ["experiment=notebook/positions", "pe=learned"]
REPETITIONS = 1


def measure() -> list[Row]:
    print(f"{RUNS} small runs, seconds")
    overheads: dict[str, list[float]] = {}

    def ours(name: str, *arguments: str) -> Callable[[], float]:
        def sweep() -> float:
            with tempfile.TemporaryDirectory() as folder:
                given = [*ATTENTION, *QUIET, *SMALL, *arguments, f"seed=range({RUNS})"]
                seconds, _ = run("-m", *given, f"hydra.sweep.dir={folder}", threads=None)
                overheads.setdefault(name, []).append(besides_training(Path(folder)))
            return seconds

        return sweep

    systems = {
        "ours": ours("side by side"),
        "one by one": ours("one by one", "hydra.launcher.jobs=1"),
        "with W&B": ours("with W&B", "hydra.launcher.jobs=1", "logger=wandb"),
        "transformers": lambda: loop("transformers"),
        "Lightning": lambda: loop("lightning"),
        "Lightning in two": two_loops,
    }
    figures = in_turn(systems, REPETITIONS)
    ours_seconds = figures["ours"]
    peers = {"one by one": 0.55, "transformers": 0.33, "Lightning": None, "Lightning in two": None}
    what = f"{RUNS} small runs against "
    rows = [
        compare(what + peer, "s", ours_seconds, figures[peer], target=target, at_least=False)
        for peer, target in peers.items()
    ]
    rows += [
        compare(f"Lightning in two against {peer}", "s", figures["Lightning in two"], figures[peer])
        for peer, target in peers.items()
        if target is not None
    ]
    plain, tracked = (statistics.median(overheads[name][1:]) for name in ("one by one", "with W&B"))
    rows.append(Row("overhead of a run", plain, None, plain, "s", 0.25, False))
    least = statistics.median(least_of_a_run() for _ in range(5))
    rows.append(Row("of it the least that Hydra, Lightning and matplotlib take", least, None, least, "s"))
    more = tracked - plain
    return [*rows, Row("W&B offline, more", tracked, plain, more, "s", 0.5, False)]


def loop(peer: str, first: int = 0, step: int = 1, threads: int | None = None) -> float:
    """Seconds of every `step`th run from the `first` on, in one process."""
    return run("-m", "benchmarks.sweep", peer, str(first), str(step), script=None, threads=threads)[0]


def two_loops() -> float:
    """Seconds of all runs of plain Lightning, in two processes."""
    with ThreadPoolExecutor(2) as pool:
        return max(pool.map(lambda first: loop("lightning", first, 2, threads=1), range(2)))


def besides_training(sweep: Path) -> float:
    """Seconds a run from the end of the one before it, less those of training: the median of a sweep one by one."""
    ends = [(sweep / str(job) / "metrics.json") for job in range(RUNS)]
    times = [file.stat().st_mtime for file in ends]
    trained = [json.loads(file.read_text())["train/seconds"] for file in ends]
    return statistics.median(
        end - start - seconds for start, end, seconds in zip(times, times[1:], trained[1:], strict=False)
    )


def least_of_a_run() -> float:
    """Seconds to compose a config, fit and test one linear layer on one row, and save two figures of empty axes."""
    from lightning.pytorch import Trainer
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.demos.boring_classes import BoringModel
    from matplotlib.figure import Figure

    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        config_of(*ATTENTION, *QUIET, *SMALL)
        trainer = Trainer(
            accelerator="cpu",
            max_steps=1,
            limit_val_batches=1,
            limit_test_batches=1,
            default_root_dir=folder,
            callbacks=[ModelCheckpoint()],
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(model := BoringModel())
        trainer.test(model, ckpt_path="best", verbose=False)
        for number_of_axes in (1, 2):
            figure = Figure()
            figure.subplots(1, number_of_axes)
            figure.savefig(Path(folder) / "figure.png")
        return time.perf_counter() - start


def with_transformers(config: dict[str, Any], seeds: range) -> None:
    from benchmarks.speed import transformers_trainer

    train = transformers_trainer("attention", config, data_of(config), evaluate=True)
    for _ in seeds:
        train()


def with_lightning(config: dict[str, Any], seeds: range) -> None:
    """The same batches, model and optimizer."""
    from lightning.pytorch import LightningModule, Trainer, seed_everything
    from lightning.pytorch.callbacks import ModelCheckpoint
    from torch import Tensor
    from torch.nn import functional as F
    from torchmetrics.classification import MulticlassAccuracy

    from attnlab.config import instantiate
    from attnlab.data.batching import Batch
    from benchmarks.speed import new_module

    class Classifier(LightningModule):
        def __init__(self, data: TextDataModule) -> None:
            super().__init__()
            self.model = new_module(config, data).model
            self.acc = MulticlassAccuracy(len(data.label_names))

        def _loss(self, batch: Batch, stage: str) -> Tensor:
            logits = self.model(batch.input_ids, batch.attention_mask)
            loss = F.cross_entropy(logits, batch.labels)
            self.log(f"{stage}/loss", loss, batch_size=len(batch.labels))
            if stage != "train":
                self.acc(logits, batch.labels)
                self.log(f"{stage}/acc", self.acc, batch_size=len(batch.labels))
            return loss

        def training_step(self, batch: Batch) -> Tensor:
            return self._loss(batch, "train")

        def validation_step(self, batch: Batch) -> None:
            self._loss(batch, "val")

        def test_step(self, batch: Batch) -> None:
            self._loss(batch, "test")

        def configure_optimizers(self) -> Any:
            return instantiate(config["optimizer"], params=self.parameters())

    for seed in seeds:
        seed_everything(seed, verbose=False)
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(
                accelerator="cpu",
                max_epochs=1,
                default_root_dir=folder,
                callbacks=[ModelCheckpoint(monitor="val/loss", save_last=True)],
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            data = data_of(config)  # a loader goes on where it has come to
            trainer.fit(Classifier(data), data)
            trainer.test(datamodule=data, ckpt_path="best", verbose=False)


if __name__ == "__main__":
    loops = {"transformers": with_transformers, "lightning": with_lightning}
    loops[sys.argv[1]](config_of(*ATTENTION, *QUIET, *SMALL), range(int(sys.argv[2]), RUNS, int(sys.argv[3])))
