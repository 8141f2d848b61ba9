"""What goes wrong in mid-run, said in one line."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import extract_tb
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from attnlab.errors import UserError, first_line

log = logging.getLogger(__name__)


class OutOfMemory(UserError):
    """The batch or the model does not fit."""


@contextmanager
def in_one_line(config: dict[str, Any]) -> Iterator[None]:
    """Say what the user can do where a run ends for want of memory, of a worker, a server or sensible settings."""
    try:
        yield
    except MisconfigurationException as error:
        raise UserError(first_line(error)) from error
    except (TypeError, ValueError) as error:
        if isinstance(error, UserError) or not _is_lightnings(error):
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
                "resume=latest goes on with the run"
            ) from error
        raise
    except Exception as error:
        if isinstance(error, ConnectionError) and "wandb" in sys.modules:  # all that is connected while training
            raise UserError(f"W&B's own process has died ({error}); resume=latest goes on with the run") from error
        if type(error).__module__.startswith("wandb."):  # which is imported only where it is used
            raise UserError(
                f"W&B: {first_line(error)}; logger.wandb.mode=offline keeps the run in its folder, and `wandb sync` "
                "sends it later"
            ) from error
        raise


def _is_lightnings(error: Exception) -> bool:
    """Whether Lightning itself raised it, to say that settings don't fit each other or the data."""
    return "/lightning/" in Path(extract_tb(error.__traceback__)[-1].filename).as_posix()


@contextmanager
def outliving_wandb() -> Iterator[None]:
    """The results of a run are in its folder by now: what happens to W&B is said and no more."""
    try:
        yield
    except Exception as error:
        log.warning("W&B: %s; `wandb sync --include-online <run>/wandb/run-*` sends the rest", first_line(error))


def finish_wandb(exit_code: int) -> None:
    """End the open run of W&B, if there is one."""
    if "wandb" in sys.modules:
        import wandb

        with outliving_wandb():
            try:
                wandb.finish(exit_code)
            except ConnectionError:  # its own process has died, and W&B would say so again at our exit
                wandb.teardown()
