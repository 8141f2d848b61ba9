"""What a comparison of finished runs finds, for the tables, pages and figures that present it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from attnlab.metrics import Direction, is_share
from attnlab.runs import RunFolder

PRESENTED = (  # metrics in the tables, besides the one that decides
    *(f"test/{name}" for name in ("acc", "acc_balanced", "f1", "f1_micro", "f1_macro", "map", "loss", "ece")),
    *("val/acc", "val/loss"),
)
PLAN = "runs for "  # begins the name of a column that says how many runs would show a difference
MANY_RUNS = 200  # more than anyone plans for


@dataclass(frozen=True)
class Comparison:
    """Settings against a reference.

    Attributes:
        metric: which decides what is better.
        better: whether less or more of it.
        alpha: how often a difference is claimed where there is none, over all settings.
        by: the factors that make a setting.
        reference: the reference's value of each.
        rows: a row for each setting by its name, the reference first: the factors, `runs`, `seeds`, `<metric> mean`,
            `sd`, `low` and `high` (95 % interval of the mean) of each metric, the mean costs, what `compare_settings`
            says, `verdict`, and if asked for the columns that begin with `PLAN`.
        runs: those of each setting, by its name as in `rows`; runs that take no part are left out.
    """

    metric: str
    better: Direction
    alpha: float
    by: list[str]
    reference: dict[str, str]
    rows: pd.DataFrame
    runs: dict[str, list[RunFolder]]

    @property
    def title(self) -> str:
        return f"Only {self.by[0]} differs" if len(self.by) == 1 else "All settings"

    @property
    def all_runs(self) -> list[RunFolder]:
        return [run for runs in self.runs.values() for run in runs]

    @property
    def has_differences(self) -> bool:
        return "difference" in self.rows and bool(self.rows["difference"].notna().any())

    def pairs(self, name: str) -> npt.NDArray[np.float64]:
        """The difference from the reference of each run that has a counterpart there."""
        reference = {run.block: run.metrics[self.metric] for run in next(iter(self.runs.values()))}
        own = ((run.block, run.metrics[self.metric]) for run in self.runs[name])
        return np.array([value - reference[block] for block, value in own if block in reference])

    @property
    def axis(self) -> tuple[float, float]:
        """The limits of drawn differences: the wide interval of a few runs must not squeeze all others.

        A share can't rise by more than the reference lacks, nor fall by more than it has.
        """
        differences, halves = self.rows["difference"].abs(), (self.rows["high"] - self.rows["low"]) / 2
        widest = max(1.3 * float(differences.max()), 2 * float(np.nan_to_num(halves.median())), 1e-3)
        if not is_share(self.metric):
            return -widest, widest
        own = float(self.rows[f"{self.metric} mean"].iloc[0])
        return -min(widest, max(own, 1e-3)), min(widest, max(1 - own, 1e-3))

    @property
    def has_curves(self) -> bool:
        """Whether every run has one."""
        return all(run.curve("val/acc", "epoch") for run in self.all_runs)

    def curve(self, name: str) -> pd.DataFrame:
        """`mean` and `sd` of a setting's validation accuracy by epoch, from 1, as far as all of its runs go.

        Beyond the epoch at which one has stopped, the mean would be one of the others alone.
        """
        # A dict keeps the last of several validations in an epoch.
        curves = [pd.Series({i + 1: acc for i, acc in run.curve("val/acc", "epoch")}) for run in self.runs[name]]
        together = pd.concat(curves, axis=1).dropna()
        return pd.DataFrame({"mean": together.mean(axis=1), "sd": together.std(axis=1).fillna(0)})


@dataclass(frozen=True)
class Study:
    """What a report presents: the comparison asked for, then each factor alone with all else equal, and warnings."""

    runs: list[RunFolder]
    comparisons: list[Comparison]
    warnings: list[str]
    margin: float | None = None  # in the unit of the metric


def in_points(metric: str, value: float) -> str:
    """A difference of shares in points, any other as it is."""
    return f"{100 * value:.1f} points" if is_share(metric) else f"{value:.3g}"


def signed(metric: str, difference: float) -> str:
    """A difference in tables: points of a share to two places, any other to three digits."""
    return f"{100 * difference:+.2f}" if is_share(metric) else f"{difference:+.3g}"


def in_lines(name: str, settings: int) -> str:
    """A long name in lines of that many settings each."""
    pairs = name.split(", ")
    return "\n".join(", ".join(pairs[i : i + settings]) for i in range(0, len(pairs), settings))
