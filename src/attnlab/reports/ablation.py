"""What an ablation or a data curve has found: its figure, its page and its table on the terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import SymmetricalLogLocator
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from attnlab.errors import relative_to_cwd
from attnlab.metrics import Direction, is_share
from attnlab.reports.drawing import AGAINST, FOR, PURPLE, QUIET, draw_interval, filling, save, style
from attnlab.reports.page import embedded, markdown_table, render
from attnlab.runs import write_whole

NOT_ON_TERMINAL = ("seconds", "parameters")  # columns for which it has no room
LEGEND = {
    FOR: "the model's own part is better",
    AGAINST: "the change is better",
    QUIET: "no difference found",
    PURPLE: "interaction of two changes (right: more than their sum)",
}


def draw_worth(folder: Path, rows: pd.DataFrame, metric: str, better: Direction, own: float) -> None:
    """ablation.png and .svg: worth with its interval by part, the model's own score as the line."""
    share = is_share(metric)
    scale = 100 if share else 1
    less, of = ("the model", "the change") if better == "max" else ("the change", "the model")
    with style():
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
        save(figure, folder / "ablation.png", folder / "ablation.svg", dpi=150)


def _color(row: pd.Series) -> str:
    if not row["instead"]:  # two changes together: neither the model nor the change is better
        return PURPLE
    return FOR if row["low"] > 0 else AGAINST if row["high"] < 0 else QUIET


@dataclass(frozen=True)
class Band:
    """A curve with an interval around it, and the points that it was fitted to: [N] `x`, `y`, `low` and `high`."""

    name: str
    x: npt.NDArray[np.float64]
    y: npt.NDArray[np.float64]
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]
    points: Sequence[tuple[float, npt.NDArray[np.float64]]]


def draw_data_curve(folder: Path, metric: str, bands: Sequence[Band]) -> None:
    """data.png and .svg: the metric by the number of training documents."""
    with style():
        figure = Figure(figsize=(6.2, 4), layout="constrained")
        axes = figure.add_subplot(xlabel="training documents", ylabel=metric, xscale="log")
        for number, band in enumerate(bands):
            color = f"C{number}"
            axes.fill_between(band.x, band.low, band.high, color=color, alpha=0.15, linewidth=0)
            axes.plot(band.x, band.y, color=color, label=band.name)
            for x, y in band.points:
                axes.plot([x] * len(y), y, ".", color=color)
        axes.legend(fontsize=8, loc="lower right")
        save(figure, folder / "data.png", folder / "data.svg", dpi=150)


def publish(
    folder: Path,
    name: str,
    title: str,
    words: str,
    table: pd.DataFrame,
    method: str,
    command: str = "",
    styles: Mapping[str, str] | None = None,
) -> None:
    """Write <name>.md and <name>.html around the picture <name>.png and .svg, and print what they say.

    Args:
        table: as people read it, all of it text.
        command: trains the smallest model that is not worse.
        styles: of the terminal, by the word in the column "verdict".
    """
    rows = [{str(column): str(text) for column, text in row.items()} for row in table.to_dict("records")]
    parts = [
        f"# {title}",
        words,
        markdown_table(rows),
        f"![{name}]({name}.png)",
        method,
        *([f"    {command}"] if command else []),
    ]
    write_whole(folder / f"{name}.md", "\n\n".join(parts) + "\n")
    page = render(
        "ablation.html",
        title=title,
        sentences=words,
        rows=rows,
        figure=embedded(folder / f"{name}.svg"),
        method=method,
        command=command,
    )
    write_whole(folder / f"{name}.html", page)
    _print(folder / f"{name}.html", title, words, table, command, styles or {})


def _print(page: Path, title: str, words: str, table: pd.DataFrame, command: str, styles: Mapping[str, str]) -> None:
    console = Console()
    console.print(f"\n[bold]{escape(title)}", highlight=False)
    printed = table.drop(columns=[column for column in NOT_ON_TERMINAL if column in table])
    lines = Table(*printed, box=None, pad_edge=False)
    for _, row in printed.iterrows():
        lines.add_row(*map(escape, row), style=styles.get(row.get("verdict", "")))
    console.print(lines)
    console.print(words, highlight=False, markup=False)
    if command:
        console.print(f"The smallest that is not worse: {command}", soft_wrap=True, highlight=False, markup=False)
    console.print(
        f"Everything is in {relative_to_cwd(page.parent)}; {page.name} is the page to read",
        soft_wrap=True,
        highlight=False,
    )
