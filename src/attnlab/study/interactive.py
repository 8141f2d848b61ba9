"""The figures of a comparison's page that can be moved: the metric by setting, and the curves."""

from html import escape

import pandas as pd
import plotly.graph_objects as go

from attnlab.study.result import Comparison, Study

MOST = 12  # curves that are shown at first; a click in the legend shows another


def figures_of(study: Study, comparison: Comparison) -> dict[str, go.Figure]:
    """By name; curves where every run has them."""
    drawn = {"scores": scores(study, comparison)}
    if all(len(study.runs[i].curve) for i in comparison.names.index):
        drawn["curves"] = curves(study, comparison)
    return drawn


def scores(study: Study, comparison: Comparison) -> go.Figure:
    """The mean of each setting with its 95 % interval, and each run, whose folder a pointer on it shows."""
    rows, metric = comparison.rows, study.metric
    mean, low, high = (rows[f"{metric} {key}"] for key in ("mean", "low", "high"))
    names = [_wrapped(str(name)) for name in rows.index]
    interval = go.Scatter(
        x=mean,
        y=names,
        mode="markers",
        name="mean, 95 % interval",
        marker={"symbol": "diamond", "size": 9},
        error_x={"type": "data", "symmetric": False, "array": high - mean, "arrayminus": mean - low},
        hovertemplate="%{y}<br>%{x:.4f}<extra></extra>",
    )
    runs = [study.runs[i] for i in comparison.names.index]
    single = go.Scatter(
        x=[run.metrics[metric] for run in runs],
        y=[_wrapped(str(name)) for name in comparison.names],
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


def curves(study: Study, comparison: Comparison) -> go.Figure:
    """Validation accuracy by epoch: the mean of each setting's runs, as far as all of them go."""
    figure = go.Figure()
    for place, name in enumerate(comparison.rows.index):
        runs = [study.runs[i] for i in comparison.names.index[comparison.names == name]]
        together = pd.concat([run.curve.set_index("epoch")["val/acc"] for run in runs], axis=1).dropna()
        figure.add_scatter(
            x=together.index,
            y=together.mean(axis=1),
            error_y={"type": "data", "array": together.std(axis=1).fillna(0), "thickness": 1, "width": 2},
            name=_wrapped(str(name)),
            visible=True if place < MOST else "legendonly",
            hovertemplate="epoch %{x}<br>%{y:.4f}",
        )
    figure.update_layout(title_text="Curves: mean and standard deviation over runs", height=460)
    figure.update_layout(xaxis_title="epoch", yaxis_title="val/acc", legend={"orientation": "h", "y": -0.2})
    return figure


def _wrapped(name: str) -> str:
    """A long name in lines of two settings each."""
    pairs = escape(name).split(", ")  # plotly takes a part of HTML for what it is
    return "<br>".join(", ".join(pairs[i : i + 2]) for i in range(0, len(pairs), 2))
