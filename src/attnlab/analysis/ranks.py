"""The same settings on several data sets: which is better across them (Demsar, 2006).

A score on one set says little of its size on another, so settings are ranked on each set by their mean over seeds, and
the ranks compared: Friedman's test for whether any differ, then every pair of settings (Nemenyi's test). A setting
that was named before the scores were seen can be the control of all others (Dunn's test after Holm), which finds more;
the one that came out best can't, as it was chosen by the very scores that are tested.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from scipy import stats
from statsmodels.stats.multitest import multipletests

from attnlab.analysis.factors import as_text, find_factors, short_name
from attnlab.errors import UserError, relative_to_cwd
from attnlab.metrics import Direction, direction
from attnlab.reports.comparison_figures import draw_ranks
from attnlab.reports.drawing import save
from attnlab.runs import RunFolder, write_whole

FEWEST = 3  # data sets


@dataclass(frozen=True)
class Ranks:
    """k settings on N data sets.

    Attributes:
        scores: [k, N] means over seeds, by setting and data set.
        table: a row for each setting, the best first: its mean `rank`, `p` against the control, or without one against
            the first, corrected for all that are tested, and `verdict`.
        p: of Friedman's test, that all are alike.
        critical: how far apart the mean ranks of any two must be to differ (Nemenyi).
        control: the setting that the others are compared with; None where every pair is.
    """

    scores: pd.DataFrame
    table: pd.DataFrame
    p: float
    critical: float
    control: str | None


def rank_settings(
    runs: list[RunFolder], metric: str, alpha: float, mode: Direction | None = None, reference: Any = None
) -> Ranks:
    """Compare the settings that were run on every data set.

    Args:
        reference: the control, by factors and their values or, of one factor, its value; None to test every pair.

    Raises:
        UserError: these are fewer than two, or the sets fewer than three, or the reference is none of them.
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
    # Friedman's statistic requires three; the sign of two goes by Wilcoxon's ranks.
    test = stats.friedmanchisquare(*scores.to_numpy()) if number > 2 else stats.wilcoxon(*scores.to_numpy())
    table = pd.DataFrame({"rank": ranks.mean(axis=1)}).sort_values("rank")
    control = None if reference is None else _control(own.assign(setting=names).set_index("setting"), table, reference)
    first = control or table.index[0]
    others = table.index != first
    apart = table["rank"] - table.loc[first, "rank"]
    table["p"] = np.nan
    table.loc[others, "p"] = (
        float(test.pvalue) if number == 2 else corrected(apart[others].to_numpy(), sets, control is not None)
    )
    words = np.where(table["p"] >= alpha, "not told apart", np.where(apart > 0, "worse", "better"))
    table["verdict"] = np.where(others, words, "control" if control else "lowest rank")
    critical = stats.studentized_range.isf(alpha, number, np.inf) / np.sqrt(2) * _error(number, sets) + 0.5 / sets
    return Ranks(scores, table, float(test.pvalue), float(critical), control)


def _error(settings: int, sets: int) -> float:
    """Of the difference of two mean ranks."""
    return float(np.sqrt(settings * (settings + 1) / (6 * sets)))


def corrected(apart: npt.NDArray[np.float64], sets: int, control: bool) -> npt.NDArray[np.float64]:
    """p-values of the differences of all other settings' mean ranks from one, which may have been named in advance.

    They are corrected for the comparisons with this `control` (Dunn, Holm), or for those of all pairs (Nemenyi). Mean
    ranks go in steps of 1 / sets: of few sets the normal approximation errs too often without half a step.
    """
    settings = len(apart) + 1
    z = np.maximum(np.abs(apart) - 0.5 / sets, 0) / _error(settings, sets)
    if control:
        return np.asarray(multipletests(2 * stats.norm.sf(z), method="holm")[1])
    return np.asarray(stats.studentized_range.sf(z * np.sqrt(2), settings, np.inf))


def _control(values: pd.DataFrame, table: pd.DataFrame, reference: Any) -> str:
    """The one setting of the table that has these values; values: a row for each run, by its setting's name."""
    values = values.loc[~values.index.duplicated()].loc[table.index]
    keys = list(values)
    wanted = reference if isinstance(reference, dict) else {keys[0]: reference} if len(keys) == 1 else {}
    asked = {short_name(key, keys): as_text(value) for key, value in wanted.items()}
    own = values.rename(columns=lambda key: short_name(key, keys))
    fits = own[[all(row.get(key) == value for key, value in asked.items()) for _, row in own.iterrows()]]
    if len(fits) != 1 or not asked:
        raise UserError(
            f"reference: {reference} fits {len(fits) if asked else 'no'} settings; give values that single one out, "
            f"like {{pe: none}}, of: {'; '.join(table.index[:8])}"
        )
    return str(fits.index[0])


def write_ranks(folder: Path, ranks: Ranks, metric: str, warnings: Sequence[str] = ()) -> None:
    """ranks.csv and the critical-difference picture, and what they say on the terminal."""
    table = ranks.table.join(ranks.scores)
    write_whole(folder / "ranks.csv", table.rename_axis("setting").to_csv())
    save(draw_ranks(ranks.table["rank"], ranks.critical), folder / "ranks.png", dpi=150)
    number, sets = ranks.scores.shape
    console = Console()
    for warning in warnings:
        console.print(f"[yellow]warning:[/] {escape(warning)}", highlight=False)
    console.print(f"{number} settings on {sets} data sets by {metric}; that all are alike: p = {ranks.p:.3g}")
    tested = (
        f"{number - 1} settings against {ranks.control} (Holm)"
        if ranks.control
        else f"all {number * (number - 1) // 2} pairs (Nemenyi); p and verdict against the first"
        if number > 2
        else "one pair (Wilcoxon)"
    )
    console.print(f"Tested: {tested}", highlight=False, markup=False)
    shown_table = Table("setting", "mean rank", "p", "verdict", pad_edge=False, box=None)
    for name, row in ranks.table.iterrows():
        p = "" if np.isnan(row["p"]) else f"{row['p']:.3f}"
        shown_table.add_row(escape(str(name)), f"{row['rank']:.2f}", p, row["verdict"])
    console.print(shown_table)
    console.print(f"Everything is in {relative_to_cwd(folder)}: ranks.csv, ranks.png", soft_wrap=True, highlight=False)
