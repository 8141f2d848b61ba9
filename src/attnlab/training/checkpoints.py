"""Checkpoints: how one is written, which one is the best, and the last one, from which a run resumes exactly."""

import logging
import re
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, cast

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from attnlab.errors import UserError, first_line, relative_to_cwd
from attnlab.runs import BEST, CHECKPOINTS, LAST, whole_file
from attnlab.tasks import Task
from attnlab.training.loggers import CurvesLogger
from attnlab.validation import monitorable

log = logging.getLogger(__name__)

PREVIOUS = "previous.ckpt"  # the one before last.ckpt
CURVES = "metrics.csv"  # key in a checkpoint: the length of the curves when it was written
# What a shell reports for Ctrl-C; and "try again later" (EX_TEMPFAIL of sysexits.h), for a scheduler to requeue.
EXIT_STATUS = {signal.SIGINT: 130} | dict.fromkeys((signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2), 75)


class Stopped(SystemExit):
    """A signal has ended a run, with a checkpoint. `how_to_resume` is printed once the progress bar has gone."""

    def __init__(self, status: int, how_to_resume: str) -> None:
        super().__init__(status)
        self.how_to_resume = how_to_resume


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes to a temporary file and renames it, so that after a kill or with a full disk the old file is intact.

    The last checkpoint but one is kept as `previous.ckpt`.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        assert storage_options is None
        with _replacing(Path(path)) as partial, partial.open("wb") as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True) -> Any:
        """Plain data only. Paths in it are changed to the folder that the checkpoint is in now.

        A run's folder may have been copied, and Lightning deletes the files that a checkpoint names as older ones: it
        must not delete those of the original.
        """
        checkpoint = super().load_checkpoint(path, map_location, weights_only=True)
        folder = Path(path).parent
        for state in checkpoint.get("callbacks", {}).values():
            if "best_model_path" in state:  # of a ModelCheckpoint
                state["dirpath"] = str(folder)
                for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
                    state[key] = str(folder / Path(state[key]).name) if state[key] else ""
                best = state["best_k_models"].items()
                state["best_k_models"] = {str(folder / Path(name).name): score for name, score in best}
        return checkpoint


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary file that replaces `path` once it is complete. Raises `UserError` where the disk is full."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path, previous=path.with_name(PREVIOUS) if path.name == LAST else None) as partial:
            yield partial
    except (OSError, RuntimeError) as error:  # torch's writer turns the first into the second
        raise UserError(
            f"can't write {relative_to_cwd(path)}: {first_line(error.__context__ or error)}. The checkpoint before it "
            f"is intact: free some space, then resume with resume={relative_to_cwd(path.parent.parent)}"
        ) from error


def link_checkpoint(checkpoint: Path, other: Path) -> None:
    """Make `other` a hard link to it, which takes no space; a copy where the file system has no hard links."""
    with _replacing(other) as partial:
        with suppress(OSError):
            partial.hardlink_to(checkpoint)
        if not partial.exists():
            shutil.copy(checkpoint, partial)


class BestCheckpoint(ModelCheckpoint):
    """Lightning's, whose best is `checkpoints/best.ckpt` however many are kept and whatever their names are.

    A single one has only this name; of several, or with a `filename`, each has its own and best.ckpt is a hard link to
    the best. In names made from `filename`, "=" and "/" become "_": a Hydra command line can't take a path with "=".
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raises `UserError` for a folder other than the run's, and for an unknown metric in `filename`."""
        early = [key for key in ("every_n_train_steps", "train_time_interval") if getattr(self, f"_{key}")]
        if self._save_on_train_epoch_end:
            early.append("save_on_train_epoch_end")
        if stage == "fit" and self.monitor and early:
            raise UserError(
                f"{early[0]} would save other weights than {self.monitor} was measured of; to validate more often set "
                "trainer.val_check_interval, to save more often callbacks.last_checkpoint"
            )
        if stage == "fit" and self.dirpath is None:
            self.filename = self._template(("epoch", "step", *monitorable(cast(Task, pl_module.task))))
            self.auto_insert_metric_name = False
        elif stage == "fit":
            raise UserError(f"dirpath={self.dirpath}: a run keeps its checkpoints in its own folder; leave it out")
        super().setup(trainer, pl_module, stage)

    def _template(self, known: tuple[str, ...]) -> str:
        if self.filename in (None, "best"):
            return "best" if self.save_top_k in (0, 1) else "epoch_{epoch:02d}-step_{step}"
        names = re.findall(r"\{([^:}]*)", self.filename)
        if unknown := [name for name in names if name not in known]:
            raise UserError(f"filename={self.filename}: {unknown[0]!r} is not one of {', '.join(known)}")
        template = re.sub(
            r"\{([^:}]*)", lambda found: f"{found[1].replace('/', '_')}_{{{found[1]}", self.filename.replace("=", "_")
        )
        if "/" in re.sub(r"\{.*?\}", "", template):
            raise UserError(f"filename={self.filename} must be the name of a file, without a folder")
        return template

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        link_best_checkpoint(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        link_best_checkpoint(trainer)


def link_best_checkpoint(trainer: Trainer) -> Path | None:
    """Make best.ckpt a link to the best checkpoint, and return the latter; None where none was kept.

    Of several checkpoint callbacks the first decides, as in Lightning.
    """
    path = getattr(trainer.checkpoint_callback, "best_model_path", "")
    if not path or not Path(path).exists():
        return None
    kept, best = Path(path), Path(path).with_name(BEST)
    if trainer.is_global_zero and kept != best and not (best.exists() and best.samefile(kept)):
        link_checkpoint(kept, best)
    return kept


class LastCheckpoint(Checkpoint):
    """Keeps `checkpoints/last.ckpt`: after every epoch, every so many steps or minutes, and when a signal ends the run.

    A run that resumes from it ends as one that was never interrupted. On SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 it
    finishes the step, saves and exits with 75, on Ctrl-C with 130; a second signal ends the run at once, with the
    checkpoint before. Where submitit handles SIGUSR2, it gets that signal after the checkpoint and requeues the job.
    All processes of a distributed run save and end together, whichever of them got the signal.

    Args:
        every_n_steps, every_n_minutes: in addition to the ends of epochs.
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
                if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP, and that must stay so
                    self.handlers[number] = signal.signal(number, self._on_signal)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches or trainer.global_step == self.saved_step:
            return
        # Not between a step and the validation that follows it: a run that resumes there would skip the validation.
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
        """The length of the curves, so that those of a resumed run have no gap and no step twice."""
        for logger in trainer.loggers:
            if isinstance(logger, CurvesLogger):
                checkpoint[CURVES] = logger.position()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != TrainerFn.FITTING:  # testing the best epoch must not remove the epochs after it
            return
        for logger in trainer.loggers:
            if isinstance(logger, CurvesLogger) and isinstance(position := checkpoint.get(CURVES), dict):
                logger.truncate(position)

    def _is_due(self, trainer: Trainer) -> bool:
        minutes = (time.monotonic() - self.saved_time) / 60
        late = self.every_n_minutes is not None and minutes >= self.every_n_minutes
        self.signal, late_anywhere = _max_over_processes(trainer, self.signal, late)
        return bool(
            self.signal
            or late_anywhere
            or (self.every_n_steps is not None and trainer.global_step % self.every_n_steps == 0)
        )

    def _save(self, trainer: Trainer) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        folder = Path(trainer.default_root_dir)
        last = folder / CHECKPOINTS / LAST
        (self.signal,) = _max_over_processes(trainer, self.signal)
        best = trainer.checkpoint_callback
        # Where the best checkpoint was written after this very step, last.ckpt is a link to it and costs nothing.
        if (
            isinstance(best, ModelCheckpoint)
            and not best.save_weights_only
            and best._should_save_on_train_epoch_end(trainer)  # otherwise other callbacks have run in between
            and best._last_global_step_saved == trainer.global_step
        ):
            if trainer.is_global_zero:
                # Of several that are kept, the one of this step: not always the best one.
                link_checkpoint(Path(best._last_checkpoint_saved), last)
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
                f"Stopped after step {trainer.global_step}. Resume with\nresume={relative_to_cwd(folder)}",
            )

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore_handlers()  # a second signal ends the process at once
        log.warning("%s: stopping after this step, with a checkpoint", signal.Signals(number).name)

    def _restore_handlers(self) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        self.handlers = {}


def _max_over_processes(trainer: Trainer, *numbers: int) -> list[int]:
    """The maximum of each number over all processes of a distributed run."""
    if trainer.world_size == 1:
        return list(numbers)
    highest = torch.tensor(numbers, device=trainer.strategy.root_device)
    torch.distributed.all_reduce(highest, torch.distributed.ReduceOp.MAX)
    return [int(number) for number in highest.tolist()]


def store_calibration(run_dir: Path, task: Task) -> None:
    """Put the temperature and thresholds of a validation that ran after last.ckpt was written into that file."""
    file = run_dir / CHECKPOINTS / LAST
    if file.exists():  # a debug run keeps none
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        checkpoint["temperature"] = task.temperature
        checkpoint["state_dict"] |= {f"task.{name}": value.cpu() for name, value in task.state_dict().items()}
        AtomicCheckpointIO().save_checkpoint(checkpoint, file)


def find_last(run_dir: Path) -> Path | None:
    """The newest checkpoint of a run that can be read; None where the run has written none.

    Raises:
        UserError: every checkpoint is damaged.
    """
    files = [file for name in (LAST, PREVIOUS) if (file := run_dir / CHECKPOINTS / name).exists()]
    for file in files:
        try:
            torch.load(file, map_location="cpu", weights_only=True)["loops"]  # without it Lightning starts at step 0
        except Exception as error:  # a damaged file can fail in any way
            log.warning("%s is damaged (%s); trying the one before it", relative_to_cwd(file), first_line(error))
        else:
            return file
    if files:
        raise UserError(
            f"every checkpoint in {relative_to_cwd(run_dir / 'checkpoints')} is damaged: remove that folder to train "
            "from scratch"
        )
    return None
