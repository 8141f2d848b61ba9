"""A job of a multirun: its output goes into its own folder, and it tells there how far it is."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import format_exc

from hydra.core.hydra_config import HydraConfig
from lightning.pytorch import Callback, LightningModule, Trainer

from attnlab import progress
from attnlab.errors import UserError, first_line
from attnlab.redaction import redact, redact_message
from attnlab.training.results import Metrics

SHOWN = ("val/loss", "val/acc", "test/acc")
SECONDS = 1.0  # between two words of a job


@contextmanager
def own_output(monitor: str) -> Iterator[Metrics]:
    """Of a job of a multirun, send what it prints into output.log in its folder, and tell how it began and ended.

    Yields:
        a place for the results, of which it tells `monitor` and the usual ones.
    """
    metrics: Metrics = {}
    if not progress.in_multirun():
        yield metrics
        return
    hydra, start = HydraConfig.get(), time.monotonic()
    folder = Path(hydra.runtime.output_dir)
    with progress.output_into(folder / progress.OUTPUT), progress.job(folder):
        print(redact(f"#{hydra.job.num} {' '.join(hydra.overrides.task)}"), flush=True)
        progress.tell(state="starting")
        end = {"state": "interrupted"}
        try:
            yield metrics
            end["state"] = "done"
        except Exception as error:
            end = {"state": "failed", "reason": first_line(error)}
            print(f"error: {error}" if isinstance(error, UserError) else redact_message(format_exc()))
            raise
        finally:
            shown = {key: metrics[key] for key in dict.fromkeys((monitor, *SHOWN)) if key in metrics}
            progress.tell(**end, metrics=shown, seconds=time.monotonic() - start, left=None)


class TellProgress(Callback):
    """Tells epoch, best score so far and the time left, at most once a second."""

    def __init__(self, metric: str, mode: str) -> None:
        self.metric, self.better = metric, min if mode == "min" else max
        self.best: float | None = None
        self.next = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.start, self.first_step = time.monotonic(), trainer.global_step
        self.last_step = trainer.estimated_stepping_batches
        self._tell(trainer)

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        if time.monotonic() >= self.next:
            self._tell(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        value = trainer.callback_metrics.get(self.metric)
        if value is not None and not trainer.sanity_checking:
            self.best = self.better(float(value), self.best if self.best is not None else float(value))
            self._tell(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        progress.tell(state="testing", left=None)

    def _tell(self, trainer: Trainer) -> None:
        now, steps = time.monotonic(), trainer.global_step - self.first_step
        self.next = now + SECONDS
        ahead = self.last_step - trainer.global_step
        progress.tell(
            state="running",
            epoch=trainer.current_epoch + 1,
            epochs=trainer.max_epochs if (trainer.max_epochs or 0) > 0 else None,
            best=self.best,
            left=(now - self.start) * ahead / steps if steps and math.isfinite(ahead) else None,
        )
