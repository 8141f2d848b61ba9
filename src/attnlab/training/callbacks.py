"""Lightning callbacks of our own."""

import sys
import time

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar


class PlainProgress(Callback):
    """One line an epoch, for logs and other outputs that are no terminal."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        del trainer, pl_module
        self.epoch_start = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        del pl_module
        if not trainer.is_global_zero:
            return
        metrics = trainer.callback_metrics
        shown = "  ".join(
            f"{key} {metrics[key]:.4f}" for key in ("train/loss", "val/loss", "val/acc") if key in metrics
        )
        seconds = time.monotonic() - self.epoch_start
        print(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {seconds:.1f} s  {shown}", flush=True)


def progress() -> Callback:
    """A progress bar on a terminal, plain lines elsewhere."""
    return RichProgressBar(leave=True) if sys.stdout.isatty() else PlainProgress()
