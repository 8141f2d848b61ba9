"""The figures of a comparison."""

import math
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from attnlab.study.result import Comparison, Study, in_lines

ACCENT, QUIET = "#1f5fa8", "#8a8f98"
MAX_CURVES = 10  # more lines than that can't be told apart
STYLE: dict[str, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "font.size": 9,
    "svg.hashsalt": "attnlab",  # the same file for the same runs
}


def draw_figures(folder: Path, study: Study) -> dict[str, list[Path]]:
    """Write each figure as PNG and SVG and return the SVG files below their titles."""
    folder.mkdir(exist_ok=True)
    drawn: dict[str, list[Path]] = {}
    with matplotlib.rc_context(STYLE):
        for comparison in study.comparisons:
            name = comparison.by[0] if len(comparison.by) == 1 else "all"
            figures = {f"scores_{name}": draw_scores(comparison)}
            if len(comparison.rows) > 1 and "train/seconds" in comparison.rows and comparison is study.comparisons[0]:
                figures[f"time_{name}"] = draw_time(comparison)
            alone = len(comparison.by) == 1 or len(study.comparisons) == 1
            if alone and comparison.has_curves:
                figures[f"curves_{name}"] = draw_curves(comparison)
            for stem, figure in figures.items():
                save(figure, folder, stem)
                drawn.setdefault(comparison.title, []).append(folder / f"{stem}.svg")
    return drawn


def save(figure: Figure, folder: Path, name: str) -> None:
    """As PNG and SVG."""
    figure.savefig(folder / f"{name}.png", dpi=150)
    figure.savefig(folder / f"{name}.svg", metadata={"Date": None})


def draw_scores(comparison: Comparison) -> Figure:
    """The metric by setting: the mean with its 95 % interval, and every run as a dot."""
    rows, metric = comparison.rows, comparison.metric
    figure = Figure(figsize=(6.2, 0.34 * len(rows) + 1.1), layout="constrained")
    axes = figure.add_subplot(title=comparison.title, xlabel=f"{metric} (mean, 95 % interval, single seeds)")
    for y, (name, row) in enumerate(rows.iterrows()):
        color = QUIET if y == 0 else ACCENT
        values = [run.metrics[metric] for run in comparison.runs[str(name)]]
        axes.plot(values, [y] * len(values), ".", color=color, alpha=0.45, zorder=2)
        if np.isfinite(row[f"{metric} low"]):
            axes.hlines(y, row[f"{metric} low"], row[f"{metric} high"], color=color, linewidth=1.6, zorder=3)
        axes.plot(row[f"{metric} mean"], y, "D", color=color, markersize=5, zorder=4)
    axes.axvline(rows[f"{metric} mean"].iloc[0], color=QUIET, linestyle=":", zorder=1)
    axes.set_yticks(range(len(rows)), [in_lines(str(name), 3) for name in rows.index], fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    _frame(axes, rows, metric)
    return figure


def _frame(axes: Axes, rows: pd.DataFrame, metric: str) -> None:
    """A wide interval of two seeds must not squeeze all others together."""
    means, heights = rows[f"{metric} mean"], (rows[f"{metric} high"] - rows[f"{metric} low"]).dropna()
    margin = max(0.12 * (means.max() - means.min()), 2 * float(heights.median()) if len(heights) else 0.0, 1e-3)
    axes.set_xlim(means.min() - margin, means.max() + margin)


def draw_time(comparison: Comparison) -> Figure:
    """The metric against the training time; named is what nothing else beats in both."""
    rows, metric = comparison.rows, comparison.metric
    figure = Figure(figsize=(6.2, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="training time, seconds", ylabel=metric, xscale="log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    sign = 1 if comparison.better == "max" else -1
    for i, (name, row) in enumerate(rows.iterrows()):
        seconds, score = row["train/seconds"], row[f"{metric} mean"]
        better = (rows["train/seconds"] <= seconds) & (sign * rows[f"{metric} mean"] > sign * score)
        named = not better.any() or i == 0
        color = ACCENT if named else QUIET
        single = ([run.metrics[key] for run in comparison.runs[str(name)]] for key in ("train/seconds", metric))
        axes.plot(*single, ".", color=color, alpha=0.4)
        axes.plot(seconds, score, "D", color=color, markersize=5)
        if named:
            right = seconds > math.sqrt(rows["train/seconds"].min() * rows["train/seconds"].max())
            axes.annotate(
                in_lines(str(name), 3),
                (seconds, score),
                xytext=(-7 if right else 7, 4),
                textcoords="offset points",
                ha="right" if right else "left",
                fontsize=8,
            )
    axes.margins(y=0.15)  # room for the names
    axes.set_title("Score against time; named: the reference, and what nothing beats in both", fontsize=9)
    return figure


def draw_curves(comparison: Comparison) -> Figure:
    """Validation accuracy by epoch: the mean over runs and a band of one standard deviation."""
    figure = Figure(figsize=(6.2, 3.6), layout="constrained")
    axes = figure.add_subplot(title="Learning curves", xlabel="epoch", ylabel="val/acc")
    shown = list(comparison.runs)[:MAX_CURVES]
    for color, name in zip(matplotlib.colormaps["tab10"].colors, shown, strict=False):  # type: ignore[attr-defined]
        curve = comparison.curve(name)
        mean, sd = curve["mean"], curve["sd"]
        axes.plot(mean.index, mean, color=color, label=in_lines(name, 3), marker="." if len(mean) == 1 else None)
        axes.fill_between(mean.index, mean - sd, mean + sd, color=color, alpha=0.15, linewidth=0)
    left_out = len(comparison.rows) - len(shown)
    title = f"{left_out} more not shown" if left_out else None
    axes.legend(fontsize=8, title=title, loc="lower right" if len(shown) <= 6 else "center left", ncols=1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure
