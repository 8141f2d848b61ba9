"""The figures of a comparison's page that can be moved: the differences, and the curves."""

from html import escape

import plotly.graph_objects as go

from attnlab.analysis.figures import AGAINST, FOR, QUIET
from attnlab.analysis.result import Comparison, in_lines
from attnlab.metrics import is_share

MOST = 12  # curves that are shown at first; a click in the legend shows another


def figures_of(comparison: Comparison) -> dict[str, go.Figure]:
    """By name; curves where every run has them."""
    drawn = {"differences": differences(comparison)} if comparison.has_differences else {}
    if comparison.has_curves:
        drawn["curves"] = curves(comparison)
    return drawn


def differences(comparison: Comparison) -> go.Figure:
    """The difference of each setting from the reference with its interval; a pointer shows the runs' folders."""
    metric, rows = comparison.metric, comparison.rows.iloc[1:]
    rows = rows[rows["difference"].notna()]
    scale, unit = (100, ", points") if is_share(metric) else (1, "")
    names = [_wrapped(str(name)) for name in rows.index]
    mean, low, high = (scale * rows[key].astype(float) for key in ("difference", "low", "high"))
    sign = 1 if comparison.better == "max" else -1
    decided = (low > 0) | (high < 0)
    colors = [
        (FOR if sign * value > 0 else AGAINST) if one else QUIET for value, one in zip(mean, decided, strict=True)
    ]
    interval = go.Scatter(
        x=mean,
        y=names,
        mode="markers",
        marker={"symbol": "diamond", "size": 9, "color": colors},
        error_x={"type": "data", "symmetric": False, "array": high - mean, "arrayminus": mean - low, "color": QUIET},
        text=["<br>".join(run.folder.name for run in comparison.runs[str(name)][:12]) for name in rows.index],
        hovertemplate="%{y}<br>%{x:.3g}<br>%{text}<extra></extra>",
    )
    figure = go.Figure([interval])
    better = "right" if sign > 0 else "left"
    figure.update_layout(title_text=comparison.title, height=180 + 34 * len(names), showlegend=False)
    figure.update_xaxes(title_text=f"difference in {metric}{unit}; better to the {better}")
    figure.update_xaxes(range=[scale * edge for edge in comparison.axis])
    figure.update_yaxes(categoryorder="array", categoryarray=names[::-1], automargin=True)
    return figure


def curves(comparison: Comparison) -> go.Figure:
    """Validation accuracy by epoch: the mean of each setting's runs, as far as all of them go."""
    figure = go.Figure()
    for place, name in enumerate(comparison.runs):
        curve = comparison.curve(name)
        figure.add_scatter(
            x=curve.index,
            y=curve["mean"],
            error_y={"type": "data", "array": curve["sd"], "thickness": 1, "width": 2},
            name=_wrapped(name),
            visible=True if place < MOST else "legendonly",
            hovertemplate="epoch %{x}<br>%{y:.4f}",
        )
    figure.update_layout(title_text="Curves: mean and standard deviation over runs", height=460)
    figure.update_layout(xaxis_title="epoch", yaxis_title="val/acc", legend={"orientation": "h", "y": -0.2})
    return figure


def _wrapped(name: str) -> str:
    """As HTML, a part of which plotly takes for what it is."""
    return escape(in_lines(name, 2)).replace("\n", "<br>")
