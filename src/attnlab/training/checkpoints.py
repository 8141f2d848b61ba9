"""Checkpoints: each is on disk whole or not at all, and a run goes on from the last one exactly."""

import logging
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from attnlab.errors import UserError, first_line
from attnlab.paths import shown
from attnlab.runs import LAST, whole_file
from attnlab.tasks import Task
from attnlab.training.curves import CurvesLogger

log = logging.getLogger(__name__)

PREVIOUS = "previous.ckpt"  # the one before last.ckpt
CURVES = "metrics.csv"  # how far it had come at the time of the checkpoint
# What a shell shows for Ctrl-C; and "try again later" (EX_TEMPFAIL of sysexits.h), for a scheduler to requeue.
EXIT_STATUS = {signal.SIGINT: 130} | dict.fromkeys((signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2), 75)


class Stopped(SystemExit):
    """A signal has ended a run, with a checkpoint; `how_to_resume` is shown once the progress bar has gone."""

    def __init__(self, status: int, how_to_resume: str) -> None:
        super().__init__(status)
        self.how_to_resume = how_to_resume


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes beside the file and renames, so that a kill or a full disk leaves the file that was there.

    Of `last.ckpt` the one before is kept as `previous.ckpt`.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Raises `UserError` where the disk is full or can't be written; the old file stays."""
        assert storage_options is None
        with _in_place_of(Path(path)) as partial, partial.open("wb") as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True) -> Any:
        """Never anything but plain data. Paths in it are those of the folder that it lies in now.

        Lightning deletes the files that a checkpoint names as older ones, so it must not name others.
        """
        checkpoint = super().load_checkpoint(path, map_location, weights_only=True)
        for state in checkpoint.get("callbacks", {}).values():
            if "best_model_path" in state:
                _point_to(Path(path).parent, state)
        return checkpoint


@contextmanager
def _in_place_of(path: Path) -> Iterator[Path]:
    """A file to be written beside `path`, whose place it takes once it is whole."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path, previous=path.with_name(PREVIOUS) if path.name == LAST else None) as partial:
            yield partial
    except (OSError, RuntimeError) as error:  # torch's writer turns the one into the other
        raise UserError(
            f"can't write {shown(path)}: {first_line(error.__context__ or error)}. What was there before is whole: "
            f"free some space, then go on with resume={shown(path.parent.parent)}"
        ) from error


def name_again(checkpoint: Path, other: Path) -> None:
    """Let `other` be a second name of it, which takes no space; a copy where the file system has no hard links."""
    with _in_place_of(other) as partial:
        with suppress(OSError):
            partial.hardlink_to(checkpoint)
        if not partial.exists():
            shutil.copy(checkpoint, partial)


def _point_to(folder: Path, state: dict[str, Any]) -> None:
    """Have the state of a ModelCheckpoint name files of this folder alone."""
    state["dirpath"] = str(folder)
    for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
        state[key] = str(folder / Path(state[key]).name) if state[key] else ""
    state["best_k_models"] = {str(folder / Path(name).name): score for name, score in state["best_k_models"].items()}


class LastCheckpoint(Checkpoint):
    """Keeps `checkpoints/last.ckpt`: after every epoch, every so many steps or minutes, and when a signal ends the run.

    A run that resumes from it ends as one that was never interrupted. SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 finish the
    step, write it and exit with 75, Ctrl-C with 130; a second one ends at once, with the checkpoint before. Where
    submitit waits for SIGUSR2, it is told of that and of SIGTERM after the checkpoint, and puts the job into the queue
    again. Of a distributed run all processes write and end together, whichever was told.

    Args:
        every_n_steps, every_n_minutes: besides the ends of epochs.
    """

    def __init__(self, every_n_steps: int | None = None, every_n_minutes: float | None = None) -> None:
        for name, number in (("every_n_steps", every_n_steps), ("every_n_minutes", every_n_minutes)):
            if number is not None and number <= 0:
                raise UserError(f"callbacks.last_checkpoint.{name}={number} must be above 0, or null for epochs only")
        self.every_n_steps, self.every_n_minutes = every_n_steps, every_n_minutes
        self.signal = 0
        self.handlers: dict[int, Any] = {}
        self.saved_step, self.saved_time = -1, time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.saved_step, self.saved_time = trainer.global_step, time.monotonic()
        if threading.current_thread() is threading.main_thread():
            for number in EXIT_STATUS:
                if signal.getsignal(number) != signal.SIG_IGN:  # as nohup does with SIGHUP
                    self.handlers[number] = signal.signal(number, self._on_signal)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches or trainer.global_step == self.saved_step:
            return
        # Where a validation follows, the checkpoint waits for it, so as not to come between the two.
        every = trainer.val_check_batch
        validates = trainer.is_last_batch or (every is not None and (batch_idx + 1) % every == 0)
        if not validates and self._is_due(trainer):
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore_handlers()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore_handlers()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """How far the curves have come, so that a run that goes on has no gap and no step twice."""
        for logger in trainer.loggers:
            if isinstance(logger, CurvesLogger):
                checkpoint[CURVES] = logger.mark()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != TrainerFn.FITTING:  # testing the best epoch must not take away what came after it
            return
        for logger in trainer.loggers:
            if isinstance(logger, CurvesLogger) and isinstance(mark := checkpoint.get(CURVES), dict):
                logger.go_back(mark)

    def _is_due(self, trainer: Trainer) -> bool:
        minutes = (time.monotonic() - self.saved_time) / 60
        late = self.every_n_minutes is not None and minutes >= self.every_n_minutes
        self.signal, anywhere_late = _highest(trainer, self.signal, late)
        return bool(
            self.signal
            or anywhere_late
            or (self.every_n_steps is not None and trainer.global_step % self.every_n_steps == 0)
        )

    def _save(self, trainer: Trainer) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        folder = Path(trainer.default_root_dir)
        last = folder / "checkpoints" / LAST
        (self.signal,) = _highest(trainer, self.signal)
        best = trainer.checkpoint_callback
        if (
            isinstance(best, ModelCheckpoint)
            and not best.save_weights_only
            and best._should_save_on_train_epoch_end(trainer)  # otherwise other callbacks had a turn in between
            and best._last_global_step_saved == trainer.global_step
        ):
            if trainer.is_global_zero:
                name_again(Path(best._last_checkpoint_saved), last)  # of several kept, not always the best one
            trainer.strategy.barrier()
        else:
            trainer.save_checkpoint(last)
        self.saved_step, self.saved_time = trainer.global_step, time.monotonic()
        if self.signal:
            self._restore_handlers()
            if self.signal != signal.SIGINT and callable(signal.getsignal(signal.SIGUSR2)):
                signal.raise_signal(signal.SIGUSR2)  # submitit ends the process
            raise Stopped(
                EXIT_STATUS[signal.Signals(self.signal)],
                f"Stopped after step {trainer.global_step}. Resume with\nresume={shown(folder)}",
            )

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore_handlers()  # the next one is not waited for
        log.warning("%s: stopping after this step, with a checkpoint", signal.Signals(number).name)

    def _restore_handlers(self) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        self.handlers = {}


def _highest(trainer: Trainer, *numbers: int) -> list[int]:
    """Of each number the highest that any process of the run has."""
    if trainer.world_size == 1:
        return list(numbers)
    highest = torch.tensor(numbers, device=trainer.strategy.root_device)
    torch.distributed.all_reduce(highest, torch.distributed.ReduceOp.MAX)
    return [int(number) for number in highest.tolist()]


def keep_calibration(run_dir: Path, task: Task) -> None:
    """Put into last.ckpt what a validation after it was written has chosen: the temperature, and thresholds."""
    file = run_dir / "checkpoints" / LAST
    if file.exists():  # a debug run keeps none
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        checkpoint["temperature"] = task.temperature
        checkpoint["state_dict"] |= {f"task.{name}": value.cpu() for name, value in task.state_dict().items()}
        WholeCheckpointIO().save_checkpoint(checkpoint, file)


def find_last(run_dir: Path) -> Path | None:
    """The newest checkpoint of a run that can be read, and None where there is none yet.

    Raises:
        UserError: there are some, and all are damaged.
    """
    files = [file for name in (LAST, PREVIOUS) if (file := run_dir / "checkpoints" / name).exists()]
    for file in files:
        try:
            torch.load(file, map_location="cpu", weights_only=True)["loops"]  # or Lightning would begin at step 0
        except Exception as error:  # a damaged file can fail in any way
            log.warning("%s is damaged (%s); trying the one before it", shown(file), first_line(error))
        else:
            return file
    if files:
        raise UserError(
            f"every checkpoint in {shown(run_dir / 'checkpoints')} is damaged: remove that folder to train anew"
        )
    return None
