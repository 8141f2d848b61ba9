"""The figures of a comparison: as files, and movable on its page."""

from collections.abc import Callable
from html import escape
from itertools import cycle, product
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from attnlab.metrics import is_share
from attnlab.reports.drawing import AGAINST, BLUE, COLORS, FOR, QUIET, draw_interval, save, style
from attnlab.reports.result import Comparison, Study, in_lines

MARKERS = "Dos^vPX"
WIDTH = 4.6  # inches: figures that can be read on a telephone
MAX_CURVES = 10  # of a file: more lines can't be told apart
VISIBLE_CURVES = 12  # of a page, where a click in the legend shows another


def draw_figures(folder: Path, study: Study) -> dict[str, list[Path]]:
    """Write each figure as PNG and SVG and return the SVG files by the title of their comparison."""
    folder.mkdir(exist_ok=True)
    drawn: dict[str, list[Path]] = {}
    for comparison in study.comparisons:
        figures: dict[str, Callable[[Comparison], Figure]] = {}
        if comparison.has_differences:
            figures["differences"] = draw_differences
        if len(comparison.rows) > 1 and "train/seconds" in comparison.rows and comparison is study.comparisons[0]:
            figures["time"] = draw_time
        if (len(comparison.by) == 1 or len(study.comparisons) == 1) and comparison.has_curves:
            figures["curves"] = draw_curves
        name = comparison.by[0] if len(comparison.by) == 1 else "all"
        drawn[comparison.title] = [folder / f"{kind}_{name}.svg" for kind in figures]
        for draw, file in zip(figures.values(), drawn[comparison.title], strict=True):
            with style():
                save(draw(comparison), file, file.with_suffix(".png"), dpi=150)
    return drawn


def movable_figures(comparison: Comparison) -> dict[str, go.Figure]:
    """By name."""
    figures = {"differences": movable_differences(comparison)} if comparison.has_differences else {}
    return figures | ({"curves": movable_curves(comparison)} if comparison.has_curves else {})


def _differences(comparison: Comparison) -> tuple[pd.DataFrame, str]:
    """What the verdicts are based on, as it is drawn: low, difference, high and color by setting, and their label."""
    scale, unit = (100, ", points") if is_share(comparison.metric) else (1, "")
    rows = comparison.rows.iloc[1:]
    sign, better = (1, "right") if comparison.better == "max" else (-1, "left")
    drawn = scale * rows[["low", "difference", "high"]].astype(float)
    drawn["color"] = [
        (FOR if sign * row["difference"] > 0 else AGAINST) if row["low"] > 0 or row["high"] < 0 else QUIET
        for _, row in rows.iterrows()
    ]
    return drawn, f"{comparison.metric} less that of the reference{unit}\nbetter to the {better}"


def draw_differences(comparison: Comparison) -> Figure:
    """The difference of each setting from the reference, its interval, and each pair of runs as a point."""
    drawn, label = _differences(comparison)
    scale = 100 if is_share(comparison.metric) else 1
    names = [in_lines(str(name), 3) for name in drawn.index]
    lines = 1 + max(name.count("\n") for name in names)
    figure = Figure(figsize=(WIDTH, (0.22 + 0.16 * lines) * len(drawn) + 1.2), layout="constrained")
    axes = figure.add_subplot(title=comparison.title, xlabel=label)
    axes.set_xlim(*(scale * edge for edge in comparison.axis))
    axes.axvline(0, color="black", linewidth=1, zorder=1)
    for y, (name, row) in enumerate(drawn.iterrows()):
        if pd.notna(row["difference"]):
            pairs = scale * comparison.pairs(str(name))
            axes.plot(pairs, [y] * len(pairs), ".", color=row["color"], alpha=0.45, zorder=2)
            draw_interval(axes, y, row["color"], row["low"], row["difference"], row["high"])
    for y, name in enumerate(names):  # above its interval: left of the axes, long names would leave no room
        place = axes.annotate(
            name, (0, y), (2, 5), fontsize=8, xycoords=("axes fraction", "data"), textcoords="offset points"
        )
        place.set_bbox({"facecolor": "white", "alpha": 0.7, "pad": 0, "linewidth": 0})
    axes.set_yticks([])
    axes.set_ylim(len(drawn) - 0.6, -0.5 - 0.3 * lines)
    return figure


def movable_differences(comparison: Comparison) -> go.Figure:
    """The same; a pointer shows the folders of the runs."""
    drawn, label = _differences(comparison)
    drawn = drawn[drawn["difference"].notna()]
    scale = 100 if is_share(comparison.metric) else 1
    names = [_as_html(str(name)) for name in drawn.index]
    mean = drawn["difference"]
    interval = go.Scatter(
        x=mean,
        y=names,
        mode="markers",
        marker={"symbol": "diamond", "size": 9, "color": drawn["color"]},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": drawn["high"] - mean,
            "arrayminus": mean - drawn["low"],
            "color": QUIET,
        },
        text=["<br>".join(run.path.name for run in comparison.runs[str(name)][:12]) for name in drawn.index],
        hovertemplate="%{y}<br>%{x:.3g}<br>%{text}<extra></extra>",
    )
    figure = go.Figure([interval])
    figure.update_layout(title_text=comparison.title, height=180 + 34 * len(names), showlegend=False)
    figure.update_xaxes(title_text=label.replace("\n", "; "), range=[scale * edge for edge in comparison.axis])
    figure.update_yaxes(categoryorder="array", categoryarray=names[::-1], automargin=True)
    return figure


def draw_time(comparison: Comparison) -> Figure:
    """The metric against the training time, with the names of the settings that no other beats in both."""
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
    figure.legend(loc="outside lower center", fontsize=8)  # names at their points would overlap
    axes.set_title("Score against time\nnamed: the reference, and what nothing beats in both", fontsize=9)
    return figure


def draw_curves(comparison: Comparison) -> Figure:
    """Validation accuracy by epoch: the mean over runs and a band of one standard deviation."""
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axes = figure.add_subplot(title="Learning curves", xlabel="epoch", ylabel="val/acc")
    names = list(comparison.runs)[:MAX_CURVES]
    for (line, color), name in zip(product(("-", "--"), COLORS), names, strict=False):
        curve = comparison.curve(name)
        mean, sd = curve["mean"], curve["sd"]
        marker = "." if len(mean) == 1 else None
        axes.plot(mean.index, mean, line, color=color, label=in_lines(name, 3), marker=marker)
        axes.fill_between(mean.index, mean - sd, mean + sd, color=color, alpha=0.15, linewidth=0)
    left_out = len(comparison.rows) - len(names)
    title = f"{left_out} more not shown" if left_out else None
    axes.legend(fontsize=8, title=title, loc="lower right" if len(names) <= 6 else "center left", ncols=1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def movable_curves(comparison: Comparison) -> go.Figure:
    """The same for all settings."""
    figure = go.Figure()
    for place, name in enumerate(comparison.runs):
        curve = comparison.curve(name)
        figure.add_scatter(
            x=curve.index,
            y=curve["mean"],
            error_y={"type": "data", "array": curve["sd"], "thickness": 1, "width": 2},
            name=_as_html(name),
            visible=True if place < VISIBLE_CURVES else "legendonly",
            hovertemplate="epoch %{x}<br>%{y:.4f}",
        )
    figure.update_layout(title_text="Curves: mean and standard deviation over runs", height=460)
    figure.update_layout(xaxis_title="epoch", yaxis_title="val/acc", legend={"orientation": "h", "y": -0.2})
    return figure


def draw_ranks(ranks: pd.Series, critical: float) -> Figure:
    """Mean ranks by setting, the best first, on a line; a bar joins those nearer than the critical difference."""
    figure = Figure(figsize=(7, 1.4 + 0.25 * len(ranks)), layout="constrained")
    axes = figure.add_subplot(xlabel=f"mean rank (1 is best); critical difference {critical:.2f}")
    for y, (name, rank) in enumerate(ranks.items()):
        axes.plot([rank, rank], [0, -y - 1], color=QUIET, linewidth=0.8)
        axes.plot(rank, 0, "D", color=BLUE, markersize=5)
        axes.annotate(str(name), (rank, -y - 1), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
    groups = {(low, ranks[ranks <= low + critical].max()) for low in ranks}
    widest = sorted(
        group for group in groups if not any(a <= group[0] and group[1] <= b and (a, b) != group for a, b in groups)
    )
    for level, (low, high) in enumerate(group for group in widest if group[1] > group[0]):
        axes.plot([low - 0.03, high + 0.03], [0.4 + 0.3 * level] * 2, color="black", linewidth=3, solid_capstyle="butt")
    axes.set_xlim(0.8, len(ranks) + 1.2)
    axes.yaxis.set_visible(False)
    axes.spines[["left", "right", "top"]].set_visible(False)
    return figure


def _as_html(name: str) -> str:
    """A name in lines; plotly would take tags in it for what they say."""
    return escape(in_lines(name, 2)).replace("\n", "<br>")
