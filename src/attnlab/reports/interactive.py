"""Figures that can be moved, for pages that need no network: plotly's program lies once beside them."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

PROGRAM = "plotly.min.js"  # 4.8 MB; the smaller bundles know no parallel coordinates
GRID = "rgba(128, 136, 145, 0.3)"
LOOK = {
    "template": "plotly_white",
    "colorway": ["#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#8a8f98"],  # Okabe and Ito
    "paper_bgcolor": "rgba(0,0,0,0)",  # the page's own, light or dark
    "plot_bgcolor": "rgba(0,0,0,0)",
    "margin": {"l": 60, "r": 20, "t": 50, "b": 50},
    "font": {"size": 12, "color": "#757d87"},
    "title": {"font": {"size": 15}},
}


def interactive(figures: Mapping[str, "Figure"], folder: Path) -> dict[str, str]:
    """The figures as HTML for a page in `folder`, where the program is put too; the page has to load `PROGRAM`."""
    import plotly

    if figures:
        shutil.copyfile(Path(plotly.__file__).parent / "package_data" / PROGRAM, folder / PROGRAM)
    return {
        name: figure.update_layout(LOOK)
        .update_xaxes(gridcolor=GRID, zerolinecolor=GRID)
        .update_yaxes(gridcolor=GRID, zerolinecolor=GRID)
        .to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False, "responsive": True})
        for name, figure in figures.items()
    }
