"""The figures of a comparison."""

from itertools import cycle, product
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from attnlab.analysis.result import Comparison, Study, in_lines
from attnlab.metrics import is_share
from attnlab.runs import whole_file

FOR, AGAINST, QUIET = "#0072B2", "#D55E00", "#8a8f98"  # the first two told apart by everyone (Okabe and Ito)
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "Dos^vPX"
WIDTH = 4.6  # inches: figures that can be read on a telephone
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
            figures = {f"differences_{name}": draw_differences(comparison)} if comparison.has_differences else {}
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
    with whole_file(folder / f"{name}.png") as partial:
        figure.savefig(partial, format="png", dpi=150)
    with whole_file(folder / f"{name}.svg") as partial:
        figure.savefig(partial, format="svg", metadata={"Date": None})


def draw_differences(comparison: Comparison) -> Figure:
    """What the verdicts rest on: the difference of each setting from the reference, its interval, and single pairs."""
    rows, metric = comparison.rows.iloc[1:], comparison.metric
    scale = 100 if is_share(metric) else 1
    sign = 1 if comparison.better == "max" else -1
    labels = [in_lines(str(name), 3) for name in rows.index]
    lines = 1 + max(label.count("\n") for label in labels)
    figure = Figure(figsize=(WIDTH, (0.22 + 0.16 * lines) * len(rows) + 1.2), layout="constrained")
    better = "right" if sign > 0 else "left"
    axes = figure.add_subplot(
        title=comparison.title,
        xlabel=f"{metric} less that of the reference{', points' if scale == 100 else ''}\nbetter to the {better}",
    )
    axes.set_xlim(*(scale * edge for edge in comparison.axis))
    axes.axvline(0, color="black", linewidth=1, zorder=1)
    for y, (name, row) in enumerate(rows.iterrows()):
        if pd.isna(row.get("difference")):
            continue
        color = QUIET
        if row["low"] > 0 or row["high"] < 0:
            color = FOR if sign * row["difference"] > 0 else AGAINST
        pairs = scale * comparison.pairs(str(name))
        axes.plot(pairs, [y] * len(pairs), ".", color=color, alpha=0.45, zorder=2)
        draw_interval(axes, y, color, *(scale * row[key] for key in ("low", "difference", "high")))
    for y, label in enumerate(labels):  # above its interval, as beside it long ones would leave no room
        place = axes.annotate(
            label, (0, y), (2, 5), fontsize=8, xycoords=("axes fraction", "data"), textcoords="offset points"
        )
        place.set_bbox({"facecolor": "white", "alpha": 0.7, "pad": 0, "linewidth": 0})
    axes.set_yticks([])
    axes.set_ylim(len(rows) - 0.6, -0.5 - 0.3 * lines)
    return figure


def draw_interval(axes: Axes, y: float, color: str, low: float, value: float, high: float) -> None:
    """An interval within the axis, which is set already: an arrow where it goes on, and words where it fills it."""
    left, right = axes.get_xlim()
    beyond_left, beyond_right = low < left, high > right
    if not (np.isfinite(low) or np.isfinite(high)) or (beyond_left and beyond_right):
        side, edge, inwards = ("right", right, -4) if value < (left + right) / 2 else ("left", left, 4)
        axes.annotate(
            "too few runs", (edge, y), (inwards, -3), textcoords="offset points", ha=side, fontsize=8, color="#5d636c"
        )
    else:
        axes.hlines(y, max(low, left), min(high, right), color=color, linewidth=1.6, zorder=3)
        for beyond, edge, marker in ((beyond_left, left, "<"), (beyond_right, right, ">")):
            if beyond:
                axes.plot(edge, y, marker, color=color, markersize=7, clip_on=False, zorder=4)
    axes.plot(value, y, "D", color=color, markerfacecolor=filling(color), markersize=5, zorder=5)


def filling(color: str) -> str:
    """That of a diamond: only a difference is filled, so that it shows in black and white too."""
    return color if color != QUIET else "white"


def draw_time(comparison: Comparison) -> Figure:
    """The metric against the training time; named is what nothing else beats in both."""
    rows, metric = comparison.rows, comparison.metric
    figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
    axes = figure.add_subplot(xlabel="training time, seconds", ylabel=metric, xscale="log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    sign = 1 if comparison.better == "max" else -1
    looks = cycle(product(MARKERS, COLORS))
    for i, (name, row) in enumerate(rows.iterrows()):
        seconds, score = row["train/seconds"], row[f"{metric} mean"]
        better = (rows["train/seconds"] <= seconds) & (sign * rows[f"{metric} mean"] > sign * score)
        named = i == 0 or not better.any()
        marker, color = next(looks) if named else (".", QUIET)
        single = ([run.metrics[key] for run in comparison.runs[str(name)]] for key in ("train/seconds", metric))
        axes.plot(*single, ".", color=color, alpha=0.4)
        label = in_lines(str(name), 3) + (" (reference)" if i == 0 and name != "reference" else "")
        axes.plot(seconds, score, marker, color=color, markersize=7, label=label if named else None, linestyle="")
    if is_share(metric):
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, 0), min(high, 1))
    figure.legend(loc="outside lower center", fontsize=8)  # names beside their points would overlap
    axes.set_title("Score against time\nnamed: the reference, and what nothing beats in both", fontsize=9)
    return figure


def draw_curves(comparison: Comparison) -> Figure:
    """Validation accuracy by epoch: the mean over runs and a band of one standard deviation."""
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axes = figure.add_subplot(title="Learning curves", xlabel="epoch", ylabel="val/acc")
    shown = list(comparison.runs)[:MAX_CURVES]
    for (style, color), name in zip(product(("-", "--"), COLORS), shown, strict=False):
        curve = comparison.curve(name)
        mean, sd = curve["mean"], curve["sd"]
        marker = "." if len(mean) == 1 else None
        axes.plot(mean.index, mean, style, color=color, label=in_lines(name, 3), marker=marker)
        axes.fill_between(mean.index, mean - sd, mean + sd, color=color, alpha=0.15, linewidth=0)
    left_out = len(comparison.rows) - len(shown)
    title = f"{left_out} more not shown" if left_out else None
    axes.legend(fontsize=8, title=title, loc="lower right" if len(shown) <= 6 else "center left", ncols=1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure
