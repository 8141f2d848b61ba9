"""What a run measures: which way each of its numbers is better, and how it is written."""

import math
from statistics import NormalDist
from typing import Literal

from omegaconf import OmegaConf

from attnlab.errors import UserError

Direction = Literal["min", "max"]

SHARES = (
    *("acc", "acc_balanced", "f1", "f1_macro", "f1_micro", "map"),
    *("acc_kept_95", "acc_kept_90", "acc_kept_80"),
)
HIGHER_IS_BETTER = (*SHARES, "samples_per_second")
LOWER_IS_BETTER = (
    *("loss", "ece", "brier", "log_loss", "ece_uncalibrated", "brier_uncalibrated", "log_loss_uncalibrated"),
    *("seconds", "encoding_seconds", "epochs", "parameters", "learned"),
)


def direction(metric: str, given: Direction | None = None, key: str = "mode") -> Direction:
    """Whether less ("min") or more ("max") of `metric`, a key of metrics.json or of the curves, is better.

    Args:
        given: by the user, with the setting `key`; of a metric that this program does not measure itself it decides.

    Raises:
        UserError: nobody says it, or `given` contradicts the metric.
    """
    if given not in (None, "min", "max"):
        raise UserError(f"{key}={given} should be min (less is better) or max (more is better)")
    found = known_direction(metric) or given
    if found is None:
        raise UserError(
            f"whether less or more of {metric} is better is not known: give {key}=min (less) or {key}=max (more)"
        )
    if given not in (None, found):
        better = {"min": "less", "max": "more"}[found]
        raise UserError(f"{key}={given} contradicts {metric}, of which {better} is better; leave it out: it follows")
    return found


def known_direction(metric: str) -> Direction | None:
    """That of a metric which this program measures itself, None of any other."""
    if _name(metric) in HIGHER_IS_BETTER or metric.startswith("ceiling/"):
        return "max"
    return "min" if _name(metric) in LOWER_IS_BETTER or metric.startswith("data/") else None


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


OmegaConf.register_resolver("direction", known_direction, replace=True)
