"""What can end a run early: errors of torch, Lightning and loggers as one clear line, and less memory than it needs."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from traceback import extract_tb
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from attnlab.errors import UserError, first_line, relative_to_cwd
from attnlab.training.callbacks import Stopwatch
from attnlab.training.loggers import finish_wandb, wandb_advice
from attnlab.training.results import Metrics, restart_run
from attnlab.training.resume import Changes
from attnlab.validation import Settings

log = logging.getLogger(__name__)

Fit = Callable[[Settings, Path, Path | None, Changes], Metrics]

# Parts of the messages of torch.distributed when one process is gone.
PEER_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL", "gloo", "wait timeout")


class OutOfMemory(UserError):
    """The batch or the model does not fit into memory."""


@contextmanager
def as_user_errors(config: Mapping[str, Any]) -> Iterator[None]:
    """Turn errors that a user can do something about into a `UserError` that says what."""
    try:
        yield
    except MisconfigurationException as error:
        raise UserError(first_line(error)) from error
    except (TypeError, ValueError) as error:
        # Only Lightning's own, about settings that do not fit each other: any other may be a bug, with its traceback.
        if isinstance(error, UserError) or not _raised_in_lightning(error):
            raise
        raise UserError(first_line(error)) from error
    except (MemoryError, RuntimeError) as error:  # torch's OutOfMemoryError is a RuntimeError
        message = first_line(error)
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in message:
            raise OutOfMemory(
                f"out of memory with data.batch_size={config['data']['batch_size']}; give a smaller one, a smaller "
                "model or tokenizer.max_length, or halve_batch_on_oom=true"
            ) from error
        if "DataLoader worker" in message:
            raise UserError(
                f"a process that builds batches died ({message}); data.num_workers=0 does without them, and "
                "resume=latest resumes the run"
            ) from error
        if any(word in message for word in PEER_LOST):
            raise UserError(
                f"another process of this run has died or can't be reached ({message[:80]}); the one that failed says "
                "why, and resume=latest resumes the run"
            ) from error
        raise
    except Exception as error:
        if advice := wandb_advice(error):
            raise UserError(advice) from error
        raise


def _raised_in_lightning(error: Exception) -> bool:
    return "/lightning/" in Path(extract_tb(error.__traceback__)[-1].filename).as_posix()


@contextmanager
def checkpoint_errors(checkpoint: Path | None, stopwatch: Stopwatch) -> Iterator[None]:
    """Turn what a damaged or foreign checkpoint raises, before training continues from it, into a `UserError`."""
    try:
        yield
    except UserError:
        raise
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        if checkpoint is None or stopwatch.began or isinstance(error, torch.OutOfMemoryError):
            raise
        raise UserError(
            f"{relative_to_cwd(checkpoint)} is not a checkpoint of this run ({type(error).__name__}: "
            f"{first_line(error)}); put the run's own there, or remove it to resume from an older one"
        ) from error


def halve_batch_on_oom(fit: Fit, config: Settings, run_dir: Path, checkpoint: Path | None, changes: Changes) -> Metrics:
    """Call `fit`, and with `halve_batch_on_oom` start again with half the batch as often as memory is not enough."""
    while True:
        try:
            with as_user_errors(config):
                return fit(config, run_dir, checkpoint, changes)
        except OutOfMemory as error:
            if not config["halve_batch_on_oom"] or config["data"]["batch_size"] == 1:
                raise
            if checkpoint is not None:  # its place in the epoch and its schedule are those of its batch size
                raise UserError(
                    f"out of memory with data.batch_size={config['data']['batch_size']}, which a resumed run keeps: "
                    "free some memory and resume again, or train a new run with a smaller one"
                ) from error
            config["data"]["batch_size"] //= 2
            log.warning("%s: starting again with data.batch_size=%d", error, config["data"]["batch_size"])
            finish_wandb(1)
            restart_run(run_dir, config)
