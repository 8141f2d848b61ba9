"""Learning-rate schedules, stepped after every batch. Each file in `conf/scheduler` configures one.

All rise linearly from 0 over the first `warmup` share of the steps, then follow their own course.
"""

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from attnlab.errors import UserError


def constant(optimizer: Optimizer, total_steps: float, warmup: float) -> LambdaLR:
    """Stay at the optimizer's learning rate."""
    if total_steps == math.inf and warmup == 0:
        return LambdaLR(optimizer, lambda step: 1.0)  # noqa: ARG005
    return _with_warmup(optimizer, total_steps, warmup, lambda progress: 1.0)  # noqa: ARG005


def linear(optimizer: Optimizer, total_steps: float, warmup: float) -> LambdaLR:
    """Fall in a straight line to 0 at the last step."""
    return _with_warmup(optimizer, total_steps, warmup, lambda progress: 1.0 - progress)


def cosine(optimizer: Optimizer, total_steps: float, warmup: float) -> LambdaLR:
    """Fall along half a cosine to 0 at the last step (Loshchilov and Hutter, 2017, without restarts)."""
    return _with_warmup(optimizer, total_steps, warmup, lambda progress: (1 + math.cos(math.pi * progress)) / 2)


def _with_warmup(optimizer: Optimizer, total_steps: float, warmup: float, course: Callable[[float], float]) -> LambdaLR:
    """`course` maps the share of the steps after the warm-up, from 0 to 1, to a factor on the learning rate."""
    if total_steps == math.inf:
        raise UserError(
            "a schedule has to know how many steps there will be: give trainer.max_epochs or trainer.max_steps, or use "
            "scheduler=none without warmup"
        )
    if not 0 <= warmup < 1:
        raise UserError(f"scheduler.warmup={warmup} is a share of all steps: give a number from 0 to below 1")
    warmup_steps = round(total_steps * warmup)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return step / warmup_steps
        return course(min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps)))

    return LambdaLR(optimizer, factor)
