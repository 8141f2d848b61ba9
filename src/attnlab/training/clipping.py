"""Clipping of sparse gradients, which torch leaves out."""

from torch import nn


def clip_grad_norm(parameters: list[nn.Parameter], max_norm: float) -> None:
    """`torch.nn.utils.clip_grad_norm_`, for sparse gradients too."""
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()  # one value a row: what the norm is of
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not any(gradient.is_sparse for gradient in gradients):
        nn.utils.clip_grad_norm_(parameters, max_norm)
        return
    values = [gradient.values() if gradient.is_sparse else gradient for gradient in gradients]
    factor = (max_norm / (nn.utils.get_total_norm(values) + 1e-6)).clamp(max=1.0)
    for value in values:
        value.mul_(factor)
