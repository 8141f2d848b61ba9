"""Figures that can be moved, for pages that need no network: plotly's program lies once beside them."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

PROGRAM = "plotly.min.js"  # 4.8 MB; the smaller bundles know no parallel coordinates
LOOK = {
    "template": "plotly_white",
    "colorway": ["#1f5fa8", "#d1495b", "#2e8b57", "#e0a100", "#7b5ea7", "#4aa3b5", "#8a8f98", "#b5651d"],
    "margin": {"l": 60, "r": 20, "t": 50, "b": 50},
    "font": {"size": 12},
    "title": {"font": {"size": 15}},
}


def interactive(figures: Mapping[str, "Figure"], folder: Path) -> dict[str, str]:
    """The figures as HTML for a page in `folder`, where the program is put too; the page has to load `PROGRAM`."""
    import plotly

    if figures:
        shutil.copyfile(Path(plotly.__file__).parent / "package_data" / PROGRAM, folder / PROGRAM)
    return {
        name: figure.update_layout(LOOK).to_html(
            full_html=False, include_plotlyjs=False, config={"displaylogo": False, "responsive": True}
        )
        for name, figure in figures.items()
    }
