"""The picture of an ablation."""

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import SymmetricalLogLocator

from attnlab.metrics import is_share
from attnlab.study.figures import ACCENT, QUIET, STYLE, save


def draw_worth(folder: Path, rows: pd.DataFrame, metric: str, own: float) -> None:
    """ablation.png and .svg: worth with its interval by part, the model's own score as the line."""
    scale = 100 if is_share(metric) else 1
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.8, 0.36 * len(rows) + 1.4), layout="constrained")
        axes = figure.add_subplot(
            xlabel=f"worth{', points' if scale == 100 else ''}: {metric} of the model less that of the change"
        )
        sizes = rows["worth"].abs() * scale
        widest, usual = max(0.3, 1.6 * float(sizes.max())), max(0.3, float(sizes.median()))
        for y, (_, row) in enumerate(rows.iterrows()):
            color = ACCENT if row["low"] > 0 or row["high"] < 0 else QUIET
            low, high = np.clip([scale * row["low"], scale * row["high"]], -widest, widest)
            axes.hlines(y, low, high, color=color, linewidth=1.6)
            axes.plot(scale * row["worth"], y, "D", color=color, markersize=5)
        axes.axvline(0, color="black", linewidth=1)
        axes.annotate(f"the model: {own:.4f}", (0, -0.7), xytext=(4, 0), textcoords="offset points", fontsize=8)
        labels = [f"{row['part']}: {row['instead']}" if row["instead"] else row["part"] for _, row in rows.iterrows()]
        axes.set_yticks(range(len(rows)), labels, fontsize=8)
        axes.set(ylim=(len(rows) - 0.5, -1.0), xlim=(-1.05 * widest, 1.05 * widest))
        if widest > 20 * usual:  # one part without which nothing works would leave no room for the others
            axes.set_xscale("symlog", linthresh=2 * usual)
            axes.xaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=2 * usual, subs=[1, 3]))
            axes.xaxis.set_major_formatter("{x:g}")
        save(figure, folder, "ablation")
