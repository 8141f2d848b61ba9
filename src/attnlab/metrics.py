"""What a run measures: which way each of its numbers is better, and how it is written."""

import math
from statistics import NormalDist
from typing import Literal

from omegaconf import OmegaConf

SHARES = (
    *("acc", "acc_balanced", "f1", "f1_macro", "f1_micro", "map"),
    *("acc_kept_95", "acc_kept_90", "acc_kept_80"),
)
HIGHER_IS_BETTER = (*SHARES, "samples_per_second")


def direction(metric: str) -> Literal["min", "max"]:
    """Whether less or more of `metric`, a key of metrics.json or of the curves, is better."""
    return "max" if _name(metric) in HIGHER_IS_BETTER else "min"


def is_share(metric: str) -> bool:
    """Whether it goes from 0 to 1, so that differences are told in points."""
    return _name(metric) in SHARES


def interval(right: int, number: int) -> tuple[float, float]:
    """Of a share, `right` of `number`, over the choice of documents: 95 % (Wilson, 1927)."""
    z = NormalDist().inv_cdf(0.975)
    middle = (right + z**2 / 2) / (number + z**2)
    half = z / (number + z**2) * math.sqrt(right * (number - right) / number + z**2 / 4)
    return max(0.0, middle - half), min(1.0, middle + half)


def written(value: float) -> str:
    """As tables show it."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}" if abs(value) < 100 else f"{value:,.0f}"


def _name(metric: str) -> str:
    return metric.rsplit("/", 1)[-1]


OmegaConf.register_resolver("direction", direction, replace=True)
