"""What goes wrong in mid-run, said in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from attnlab.errors import UserError, first_line


class OutOfMemory(UserError):
    """The batch or the model does not fit."""


@contextmanager
def in_one_line(config: dict[str, Any]) -> Iterator[None]:
    """Say what the user can do where a run ends for want of memory, of a worker, a server or sensible settings."""
    try:
        yield
    except MisconfigurationException as error:
        raise UserError(str(error)) from error
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
        if type(error).__module__.startswith("wandb."):  # which is imported only where it is used
            raise UserError(
                f"W&B: {first_line(error)}; logger.wandb.mode=offline keeps the run in its folder, and `wandb sync` "
                "sends it later"
            ) from error
        raise
