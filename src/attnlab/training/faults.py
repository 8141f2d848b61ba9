"""What goes wrong in mid-run, said in one line."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from traceback import extract_tb
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from attnlab.errors import UserError, first_line
from attnlab.training import tracking

# How the backends of torch.distributed say that one process is gone.
PEER_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL", "gloo", "wait timeout")


class OutOfMemory(UserError):
    """The batch or the model does not fit."""


@contextmanager
def in_one_line(config: Mapping[str, Any]) -> Iterator[None]:
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
        if any(word in message for word in PEER_LOST):
            raise UserError(
                f"another process of this run has died or can't be reached ({message[:80]}); the one that failed says "
                "why, and resume=latest goes on with the run"
            ) from error
        raise
    except Exception as error:
        if advice := tracking.explained(error):
            raise UserError(advice) from error
        raise


def _is_lightnings(error: Exception) -> bool:
    """Whether Lightning itself raised it, to say that settings don't fit each other or the data."""
    return "/lightning/" in Path(extract_tb(error.__traceback__)[-1].filename).as_posix()
