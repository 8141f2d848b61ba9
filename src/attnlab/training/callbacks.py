"""Callbacks that every run has: progress on the terminal, the table of the model, and the training time."""

import sys
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelSummary, ProgressBar, RichProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

DISPLAYED = ("train/loss", "val/loss", "val/acc")


class PlainProgress(ProgressBar):
    """One line per epoch, for logs and other outputs that are not a terminal."""

    enabled = True

    def disable(self) -> None:
        """Called by Lightning in all processes of a distributed run but the first."""
        self.enabled = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_train_epoch_start(trainer, pl_module)  # a run that resumes within an epoch has no other start

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.epoch_start = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.enabled:
            return
        metrics, seconds = trainer.callback_metrics, time.monotonic() - self.epoch_start
        scores = "  ".join(f"{key} {metrics[key]:.4f}" for key in DISPLAYED if key in metrics)
        of = "" if trainer.max_epochs is None or trainer.max_epochs < 0 else f"/{trainer.max_epochs}"
        print(f"epoch {trainer.current_epoch + 1}{of}  {seconds:.1f} s  {scores}", flush=True)


class Scores(ProgressColumn):
    """The metrics of each epoch, behind its bar; cut off where a terminal is too narrow, never on a second line."""

    def __init__(self) -> None:
        super().__init__(Column(no_wrap=True, overflow="ellipsis"))
        self.texts: dict[int | None, str] = {}  # by the id of the bar

    def render(self, task: Task) -> Text:
        return Text(self.texts.get(task.id, ""))


class TerminalProgress(RichProgressBar):
    """Lightning's bar in one line of 80 columns: epoch (from 1), steps, time left, and the metrics `DISPLAYED`."""

    def __init__(self) -> None:
        super().__init__(leave=True)
        self.scores: Scores

    def configure_columns(self, trainer: Trainer) -> list[ProgressColumn]:
        left = TimeRemainingColumn(compact=True, elapsed_when_finished=True)
        self.scores = Scores()  # ids of bars start at 0 again in a test
        return [TextColumn("{task.description}"), BarColumn(12), MofNCompleteColumn(), left, self.scores]

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """None for Lightning's own column, which wraps."""
        metrics = trainer.callback_metrics
        known = (f"{key.removeprefix('train/')} {float(metrics[key]):.3f}" for key in DISPLAYED if key in metrics)
        self.scores.texts[self.train_progress_bar_id] = " ".join(known)
        return {}

    def _get_train_description(self, current_epoch: int) -> str:
        epochs = self.trainer.max_epochs
        return f"Epoch {current_epoch + 1}" + (f"/{epochs}" if epochs is not None and epochs > 0 else "")


def progress() -> ProgressBar:
    """A progress bar on a terminal, plain lines elsewhere."""
    return TerminalProgress() if sys.stdout.isatty() else PlainProgress()


class ModelTable(ModelSummary):
    """The parts of the model and their parameters: Lightning's table without metrics, modes and FLOPs."""

    @staticmethod
    def summarize(
        summary_data: list[tuple[str, list[str]]],
        total_parameters: int,
        trainable_parameters: int,
        model_size: float,
        *_: Any,
        **__: Any,
    ) -> None:
        columns = dict(summary_data)
        table = Table("part", "class", "parameters")
        table.columns[-1].justify = "right"
        for name, kind, number in zip(columns["Name"], columns["Type"], columns["Params"], strict=True):
            if name.partition(".")[0] == "model":
                table.add_row(name, kind, number.strip().removeprefix("0"))
        console = Console()
        console.print(table)
        size = f"{model_size:,.1f} MB of weights"
        console.print(f"{trainable_parameters:,} of {total_parameters:,} parameters learn; {size}", highlight=False)


class Stopwatch(Callback):
    """Seconds of training, without validation and including the time before an interruption.

    Not a `Timer`: a Timer of any kind among the callbacks disables `trainer.max_time`.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.since: float | None = None  # None while it is stopped
        self.began = False

    @property
    def elapsed(self) -> float:
        """Seconds so far."""
        return self.seconds if self.since is None else self.seconds + time.monotonic() - self.since

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.since, self.began = time.monotonic(), True

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds, self.paused, self.since = self.elapsed, self.since is not None, None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.since = time.monotonic() if self.paused else None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds, self.since = self.elapsed, None

    def state_dict(self) -> dict[str, float]:
        return {"seconds": self.elapsed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds = state_dict.get("seconds", 0.0)
