"""What a comparison finds, for the pages and figures that show it."""

from dataclasses import dataclass

import pandas as pd

from attnlab.metrics import is_share
from attnlab.study.runs import Run

METRICS = (
    *(f"test/{name}" for name in ("acc", "acc_balanced", "f1", "f1_micro", "f1_macro", "map", "loss", "ece")),
    *("val/acc", "val/loss"),
)


PLAN = "runs for "  # begins the name of a column that says how many would show a difference


@dataclass(frozen=True)
class Comparison:
    """Settings against a reference.

    Attributes:
        by: the factors that make a setting.
        reference: the reference's value of each.
        rows: a row for each setting by its name, the reference first: the factors, `runs`, `seeds`, `<metric> mean`,
            `sd`, `low` and `high` (95 % interval of the mean) of each metric, the mean costs, what `compare_settings`
            says, `verdict`, and where planned columns that begin with `PLAN`.
        names: the name of each run's setting, by the run's number; runs that take no part are left out.
    """

    by: list[str]
    reference: dict[str, str]
    rows: pd.DataFrame
    names: pd.Series

    @property
    def title(self) -> str:
        return f"Only {self.by[0]} differs" if len(self.by) == 1 else "All settings"


@dataclass(frozen=True)
class Study:
    """What a report shows: the comparison asked for, then each factor by itself with all else equal, and caveats."""

    runs: list[Run]
    metric: str
    comparisons: list[Comparison]
    warnings: list[str]


def in_points(metric: str, value: float) -> str:
    """A difference of shares in points, any other as it is."""
    return f"{100 * value:.1f} points" if is_share(metric) else f"{value:.3g}"
