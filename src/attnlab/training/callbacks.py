"""Lightning callbacks of our own, and a profiler."""

import sys
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar
from lightning.pytorch.profilers import PassThroughProfiler

SHOWN = ("train/loss", "val/loss", "val/acc")


class PlainProgress(ProgressBar):
    """One line an epoch, for logs and other outputs that are no terminal."""

    enabled = True

    def disable(self) -> None:
        """Lightning does so in all processes of a distributed run but the first."""
        self.enabled = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_train_epoch_start(trainer, pl_module)  # a run that is resumed in mid-epoch has no other start

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.epoch_start = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.enabled:
            return
        metrics, seconds = trainer.callback_metrics, time.monotonic() - self.epoch_start
        shown = "  ".join(f"{key} {metrics[key]:.4f}" for key in SHOWN if key in metrics)
        of = "" if trainer.max_epochs is None or trainer.max_epochs < 0 else f"/{trainer.max_epochs}"
        print(f"epoch {trainer.current_epoch + 1}{of}  {seconds:.1f} s  {shown}", flush=True)


def progress() -> ProgressBar:
    """A progress bar on a terminal, plain lines elsewhere."""
    return RichProgressBar(leave=True) if sys.stdout.isatty() else PlainProgress()


class Stopwatch(Callback):
    """Seconds of training without those of validation, also over interruptions.

    No `Timer`: a Timer of any kind among the callbacks would switch `trainer.max_time` off.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.since: float | None = None  # when the clock began to run; None while it stands
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


NOTHING = nullcontext()


class NoProfiler(PassThroughProfiler):
    """Lightning's own way to measure nothing makes a new context for each callback's every hook, 50 times a step."""

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        return NOTHING
