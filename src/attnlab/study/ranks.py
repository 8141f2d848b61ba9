"""The same settings on several data sets: which is better across them (Demsar, 2006).

A score on one set says little of its size on another, so settings are ranked on each set by their mean over seeds, and
the ranks compared: Friedman's test for whether any differ, then each setting against the reference, after Holm.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from scipy import stats
from statsmodels.stats.multitest import multipletests

from attnlab.errors import UserError
from attnlab.metrics import Direction, direction
from attnlab.paths import shown
from attnlab.study.factors import find_factors
from attnlab.study.runs import Run

FEWEST = 3  # data sets


@dataclass(frozen=True)
class Ranks:
    """k settings on N data sets.

    Attributes:
        scores: [k, N] means over seeds, by setting and data set.
        table: a row for each setting, the best first: its mean `rank`, `p_holm` against the first, `verdict`.
        p: of Friedman's test, that all are alike.
        critical: how far apart the mean ranks of any two must be to differ (Nemenyi).
    """

    scores: pd.DataFrame
    table: pd.DataFrame
    p: float
    critical: float


def rank_settings(runs: list[Run], metric: str, alpha: float, mode: Direction | None = None) -> Ranks:
    """Compare the settings that were run on every data set.

    Raises:
        UserError: these are fewer than two, or the sets fewer than three.
    """
    values = find_factors(runs).values
    own = values[[name for name in values if not (name == "data" or str(name).startswith("data."))]]
    names = [", ".join(f"{key}={value}" for key, value in row.items()) for _, row in own.iterrows()]
    frame = pd.DataFrame({"setting": names, "set": [run.data_set for run in runs]})
    frame["score"] = [run.metrics.get(metric, np.nan) for run in runs]
    scores = frame.groupby(["setting", "set"])["score"].mean().unstack().dropna()
    number, sets = scores.shape
    if sets < FEWEST or number < 2:
        raise UserError(
            f"across=true found {number} settings with {metric} on all of {sets} data sets; it takes 2 on {FEWEST} or "
            "more"
        )
    ranks = scores.rank(ascending=direction(metric, mode) == "min")
    # Friedman's statistic wants three; the sign of two goes by Wilcoxon's ranks.
    test = stats.friedmanchisquare(*scores.to_numpy()) if number > 2 else stats.wilcoxon(*scores.to_numpy())
    table = pd.DataFrame({"rank": ranks.mean(axis=1)}).sort_values("rank")
    error = np.sqrt(number * (number + 1) / (6 * sets))
    apart = 2 * stats.norm.sf((table["rank"] - table["rank"].iloc[0]).iloc[1:] / error)
    table["p_holm"] = [np.nan, *(multipletests(apart, method="holm")[1] if number > 2 else [float(test.pvalue)])]
    table["verdict"] = ["best", *("worse" if p < alpha else "not told apart" for p in table["p_holm"].iloc[1:])]
    critical = float(stats.studentized_range.isf(alpha, number, np.inf) / np.sqrt(2) * error)
    return Ranks(scores, table, float(test.pvalue), critical)


def write_ranks(folder: Path, ranks: Ranks, metric: str) -> None:
    """ranks.csv and the critical-difference picture, and what they say on the terminal."""
    table = ranks.table.join(ranks.scores)
    table.rename_axis("setting").to_csv(folder / "ranks.csv")
    draw_ranks(ranks).savefig(folder / "ranks.png", dpi=150)
    number, sets = ranks.scores.shape
    console = Console()
    console.print(f"{number} settings on {sets} data sets by {metric}; that all are alike: p = {ranks.p:.3g}")
    shown_table = Table("setting", "mean rank", "p (Holm)", "verdict", pad_edge=False, box=None)
    for name, row in ranks.table.iterrows():
        p = "" if np.isnan(row["p_holm"]) else f"{row['p_holm']:.3f}"
        shown_table.add_row(str(name), f"{row['rank']:.2f}", p, row["verdict"])
    console.print(shown_table)
    console.print(f"Everything is in {shown(folder)}: ranks.csv, ranks.png", soft_wrap=True, highlight=False)


def draw_ranks(ranks: Ranks) -> Figure:
    """Mean ranks on a line; a bar joins those that are nearer than the critical difference."""
    order = ranks.table["rank"]
    figure = Figure(figsize=(7, 1.4 + 0.25 * len(order)), layout="constrained")
    axes = figure.add_subplot(xlabel=f"mean rank (1 is best); critical difference {ranks.critical:.2f}")
    for y, (name, rank) in enumerate(order.items()):
        axes.plot([rank, rank], [0, -y - 1], color="tab:grey", linewidth=0.8)
        axes.plot(rank, 0, "D", color="tab:blue", markersize=5)
        axes.annotate(str(name), (rank, -y - 1), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
    groups = {(low, order[order <= low + ranks.critical].max()) for low in order}
    widest = sorted(
        group for group in groups if not any(a <= group[0] and group[1] <= b and (a, b) != group for a, b in groups)
    )
    for level, (low, high) in enumerate(group for group in widest if group[1] > group[0]):
        axes.plot([low - 0.03, high + 0.03], [0.4 + 0.3 * level] * 2, color="black", linewidth=3, solid_capstyle="butt")
    axes.set_xlim(0.8, len(order) + 1.2)
    axes.yaxis.set_visible(False)
    axes.spines[["left", "right", "top"]].set_visible(False)
    return figure
