"""Lightning callbacks of our own, and a profiler."""

import sys
import time
from contextlib import AbstractContextManager, nullcontext

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar, Timer
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
        del trainer, pl_module
        self.epoch_start = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        del pl_module
        if not self.enabled:
            return
        metrics, seconds = trainer.callback_metrics, time.monotonic() - self.epoch_start
        shown = "  ".join(f"{key} {metrics[key]:.4f}" for key in SHOWN if key in metrics)
        print(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {seconds:.1f} s  {shown}", flush=True)


def progress() -> ProgressBar:
    """A progress bar on a terminal, plain lines elsewhere."""
    return RichProgressBar(leave=True) if sys.stdout.isatty() else PlainProgress()


class Stopwatch(Timer):
    """The time of training, also over interruptions; named apart from the Timer of `trainer.max_time`."""

    @property
    def state_key(self) -> str:
        return type(self).__qualname__


NOTHING = nullcontext()


class NoProfiler(PassThroughProfiler):
    """Lightning's own way to measure nothing makes a new context for each callback's every hook, 50 times a step."""

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        del action_name
        return NOTHING
