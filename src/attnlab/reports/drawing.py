"""What figures have in common: colours, style, intervals, and how they get into files and pages."""

import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attnlab.runs import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from plotly.graph_objects import Figure as MovableFigure

# Of Okabe and Ito: everyone can tell them apart, also those who see no red or no green.
BLUE, ORANGE, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
COLORS = (BLUE, ORANGE, "#009E73", PURPLE, "#E69F00", "#56B4E9", "#000000")
FOR, AGAINST, QUIET = BLUE, ORANGE, "#8a8f98"
STYLE: dict[str, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "font.size": 9,
    "svg.hashsalt": "attnlab",  # the same file for the same runs
    "text.parse_math": False,  # a "$" in a name is a dollar
}
PLOTLY = "plotly.min.js"  # 4.8 MB; the smaller bundles lack parallel coordinates
GRID = "rgba(128, 136, 145, 0.3)"
LAYOUT = {
    "template": "plotly_white",
    "colorway": [BLUE, ORANGE, "#009E73", "#E69F00", PURPLE, "#56B4E9", QUIET],
    "paper_bgcolor": "rgba(0,0,0,0)",  # the page's own, light or dark
    "plot_bgcolor": "rgba(0,0,0,0)",
    "margin": {"l": 60, "r": 20, "t": 50, "b": 50},
    "font": {"size": 12, "color": "#757d87"},
    "title": {"font": {"size": 15}},
}


def style() -> AbstractContextManager[None]:
    """Within it, matplotlib draws in the style of all figures over several runs."""
    import matplotlib

    return matplotlib.rc_context(STYLE)


def save(figure: "Figure", *files: Path, dpi: float | str = "figure", **options: Any) -> None:
    """Write a figure into each of the files, in the formats that their names say."""
    for file in files:
        metadata = {"Date": None} if file.suffix == ".svg" else None  # the same file for the same figure
        with whole_file(file) as partial:
            figure.savefig(partial, format=file.suffix[1:], dpi=dpi, metadata=metadata, **options)


def draw_interval(axes: "Axes", y: float, color: str, low: float, value: float, high: float) -> None:
    """An interval on an axis whose limits are set: an arrow where it exceeds one, and words where it exceeds both."""
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
    """Of a diamond: only a difference is filled, so that it is visible in black and white too."""
    return color if color != QUIET else "white"


def movable(figures: Mapping[str, "MovableFigure"], folder: Path) -> dict[str, str]:
    """The figures as HTML for a page in `folder`. Plotly's script is copied there: the page must load `PLOTLY`."""
    import plotly

    if figures:
        shutil.copyfile(Path(plotly.__file__).parent / "package_data" / PLOTLY, folder / PLOTLY)
    return {
        name: figure.update_layout(LAYOUT)
        .update_xaxes(gridcolor=GRID, zerolinecolor=GRID)
        .update_yaxes(gridcolor=GRID, zerolinecolor=GRID)
        .to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False, "responsive": True})
        for name, figure in figures.items()
    }
