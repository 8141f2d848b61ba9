"""The figures of a comparison's page that can be moved: the metric by setting, and the curves."""

from html import escape

import plotly.graph_objects as go

from attnlab.study.result import Comparison, in_lines

MOST = 12  # curves that are shown at first; a click in the legend shows another


def figures_of(comparison: Comparison) -> dict[str, go.Figure]:
    """By name; curves where every run has them."""
    drawn = {"scores": scores(comparison)}
    if comparison.has_curves:
        drawn["curves"] = curves(comparison)
    return drawn


def scores(comparison: Comparison) -> go.Figure:
    """The mean of each setting with its 95 % interval, and each run, whose folder a pointer on it shows."""
    rows, metric, runs = comparison.rows, comparison.metric, comparison.all_runs
    mean, low, high = (rows[f"{metric} {key}"] for key in ("mean", "low", "high"))
    names = list(map(_wrapped, comparison.runs))
    interval = go.Scatter(
        x=mean,
        y=names,
        mode="markers",
        name="mean, 95 % interval",
        marker={"symbol": "diamond", "size": 9},
        error_x={"type": "data", "symmetric": False, "array": high - mean, "arrayminus": mean - low},
        hovertemplate="%{y}<br>%{x:.4f}<extra></extra>",
    )
    single = go.Scatter(
        x=[run.metrics[metric] for run in runs],
        y=[_wrapped(name) for name, own in comparison.runs.items() for _ in own],
        mode="markers",
        name="single runs",
        marker={"size": 6, "opacity": 0.5},
        text=[f"seed {run.block}, {run.folder.name}" for run in runs],
        hovertemplate="%{y}<br>%{x:.4f}<br>%{text}<extra></extra>",
    )
    figure = go.Figure([interval, single])
    figure.update_layout(title_text=comparison.title, xaxis_title=metric, height=180 + 34 * len(names))
    figure.update_layout(legend={"orientation": "h", "y": -0.6 if len(names) < 4 else -0.3})
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
