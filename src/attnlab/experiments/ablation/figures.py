"""The picture of an ablation."""

from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import SymmetricalLogLocator

from attnlab.analysis.figures import AGAINST, FOR, QUIET, STYLE, draw_interval, filling, save
from attnlab.metrics import Direction, is_share

INTERACTION = "#CC79A7"
LEGEND = {
    FOR: "the model's own part is better",
    AGAINST: "the change is better",
    QUIET: "no difference found",
    INTERACTION: "interaction of two changes (right: more than their sum)",
}


def draw_worth(folder: Path, rows: pd.DataFrame, metric: str, better: Direction, own: float) -> None:
    """ablation.png and .svg: worth with its interval by part, the model's own score as the line."""
    share = is_share(metric)
    scale = 100 if share else 1
    less, of = ("the model", "the change") if better == "max" else ("the change", "the model")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.8, 0.36 * len(rows) + 1.5), layout="constrained")
        axes = figure.add_subplot(
            xlabel=f"worth{', points' if share else ''}: {metric} of {less} less that of {of}\n"
            "right of the line: the model's own part is better"
        )
        sizes = rows["worth"].abs() * scale
        smallest = 0.3 if share else 1e-9
        widest, usual = max(smallest, 1.6 * float(sizes.max())), max(smallest, float(sizes.median()))
        # No part of a share can be worth more than all that the model scores, or cost more than what is left.
        left, right = (max(-widest, 100 * (own - 1)), min(widest, 100 * own)) if share else (-widest, widest)
        axes.set(ylim=(len(rows) - 0.5, -1.0), xlim=(1.05 * left, 1.05 * right))
        if widest > 20 * usual:  # one part without which nothing works would leave no room for the others
            axes.set_xscale("symlog", linthresh=2 * usual)
            axes.xaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=2 * usual, subs=[1, 3]))
            axes.xaxis.set_major_formatter("{x:g}")
        for y, (_, row) in enumerate(rows.iterrows()):
            draw_interval(axes, y, _color(row), *(scale * row[key] for key in ("low", "worth", "high")))
        axes.axvline(0, color="black", linewidth=1)
        axes.annotate(f"the model: {own:.4f}", (0, -0.7), xytext=(4, 0), textcoords="offset points", fontsize=8)
        labels = [
            f"{row['part']}: {row['model']} \u2192 {row['instead']}" if row["instead"] else row["part"]
            for _, row in rows.iterrows()
        ]
        axes.set_yticks(range(len(rows)), labels, fontsize=8)
        used = {_color(row) for _, row in rows.iterrows()}
        handles = [
            Line2D([], [], color=color, marker="D", markerfacecolor=filling(color), markersize=5, label=label)
            for color, label in LEGEND.items()
            if color in used
        ]
        figure.legend(
            handles=handles, loc="outside lower center", ncols=3 if len(handles) < 4 else 2, fontsize=8, frameon=False
        )
        save(figure, folder, "ablation")


def _color(row: pd.Series) -> str:
    if not row["instead"]:  # two changes together: neither the model nor the change is better
        return INTERACTION
    return FOR if row["low"] > 0 else AGAINST if row["high"] < 0 else QUIET
