from collections.abc import Callable

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

from attnlab.errors import UserError
from attnlab.training.optimization import constant, cosine, linear


def course(schedule: Callable[..., LambdaLR], total_steps: int, warmup: float) -> list[float]:
    """The learning rate of each step, as a share of the optimizer's."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = schedule(optimizer, total_steps=total_steps, warmup=warmup)
    rates = []
    for _ in range(total_steps + 1):
        rates.append(float(scheduler.get_last_lr()[0]) / 2)
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        (constant, 0.0, [1, 1, 1, 1, 1]),
        (constant, 0.5, [0, 0.5, 1, 1, 1]),
        (linear, 0.0, [1, 0.75, 0.5, 0.25, 0]),
        (linear, 0.5, [0, 0.5, 1, 0.5, 0]),
        (cosine, 0.0, [1, 0.853553, 0.5, 0.146447, 0]),
        (cosine, 0.5, [0, 0.5, 1, 0.5, 0]),
    ],
)
def test_courses(schedule: Callable[..., LambdaLR], warmup: float, expected: list[float]) -> None:
    assert course(schedule, 4, warmup) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("warmup", [-0.1, 1.0])
def test_an_impossible_warmup_is_refused(warmup: float) -> None:
    with pytest.raises(UserError, match=r"scheduler\.warmup="):
        course(linear, 4, warmup)
