"""Optimizers, gradient clipping, and learning-rate schedules.

Schedules are stepped after every batch; each file in `conf/scheduler` configures one. All rise linearly from 0 during
the warm-up, the first `warmup` share of the steps, and then follow their own curve.
"""

import inspect
import math
from collections.abc import Callable
from types import MethodType
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from attnlab.config import instantiate
from attnlab.errors import UserError


def make_optimizer(config: dict[str, Any], params: Any) -> Optimizer:
    """The optimizer of a config. One whose `step` takes no closure gets a `step` that does: Lightning passes one."""
    optimizer: Optimizer = instantiate(config, params=params)
    parameters = inspect.signature(optimizer.step).parameters.values()
    if not any(parameter.name == "closure" or parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        plain_step = optimizer.step

        def step(self: Optimizer, closure: Any = None) -> Any:  # noqa: ARG001
            loss = None if closure is None else closure()
            plain_step()
            return loss

        optimizer.step = MethodType(step, optimizer)  # type: ignore[method-assign]
    return optimizer


def clip_grad_norm(parameters: list[nn.Parameter], max_norm: float) -> None:
    """`torch.nn.utils.clip_grad_norm_` that also handles sparse gradients, which torch does not."""
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.is_sparse:
            # A row that occurs several times in a batch has several entries: the norm is that of their sum.
            parameter.grad = parameter.grad.coalesce()
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not any(gradient.is_sparse for gradient in gradients):
        nn.utils.clip_grad_norm_(parameters, max_norm)
        return
    values = [gradient.values() if gradient.is_sparse else gradient for gradient in gradients]
    factor = (max_norm / (nn.utils.get_total_norm(values) + 1e-6)).clamp(max=1.0)
    for value in values:
        value.mul_(factor)


def constant(optimizer: Optimizer, total_steps: float, warmup: float) -> LambdaLR:
    """Keep the optimizer's learning rate."""
    if total_steps == math.inf and warmup == 0:
        return LambdaLR(optimizer, lambda step: 1.0)  # noqa: ARG005
    return _with_warmup(optimizer, total_steps, warmup, lambda progress: 1.0)  # noqa: ARG005


def linear(optimizer: Optimizer, total_steps: float, warmup: float) -> LambdaLR:
    """Decrease linearly to 0 at the last step."""
    return _with_warmup(optimizer, total_steps, warmup, lambda progress: 1.0 - progress)


def cosine(optimizer: Optimizer, total_steps: float, warmup: float) -> LambdaLR:
    """Decrease along half a cosine to 0 at the last step (Loshchilov and Hutter, 2017, without restarts)."""
    return _with_warmup(optimizer, total_steps, warmup, lambda progress: (1 + math.cos(math.pi * progress)) / 2)


def _with_warmup(optimizer: Optimizer, total_steps: float, warmup: float, curve: Callable[[float], float]) -> LambdaLR:
    """`curve` maps the share of the steps since the warm-up, from 0 to 1, to a factor of the learning rate."""
    if total_steps == math.inf:
        raise UserError(
            "a schedule requires a known number of steps: set trainer.max_epochs or trainer.max_steps, or use "
            "scheduler=none without warmup"
        )
    if not 0 <= warmup < 1:
        raise UserError(f"scheduler.warmup={warmup} is a share of all steps: it must be at least 0 and below 1")
    warmup_steps = round(total_steps * warmup)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return step / warmup_steps
        return curve(min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps)))

    return LambdaLR(optimizer, factor)
