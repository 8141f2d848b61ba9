"""What a search found: Optuna's figures of its study as files, and search.html, where they are movable."""

import logging
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from matplotlib.category import StrCategoryFormatter
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState

from attnlab.reports.drawing import BLUE, ORANGE, PLOTLY, QUIET, movable, save
from attnlab.reports.page import embedded, render
from attnlab.runs import write_whole

WIDTHS = {"parallel_coordinates": 14}  # inches
WIDE = tuple(WIDTHS)  # on the page
MIN_TRIALS = 4  # finished ones, to estimate how important each setting was
BEST = 20  # rows of the page's table

# Optuna's own titles and axes ("Objective Value", "Hyperparameter") name its parts, not what the user searched for.
TITLES = {
    "history": "{metric} of each trial",
    "parallel_coordinates": "Settings of each trial (one line each)",
    "importances": "How much of the variation in {metric} is due to each setting",
    "intermediate_values": "{metric} by epoch, a line for each trial",
    "slice": "{metric} by setting, a point for each trial",
}
AXES = {  # x and y; "" for none, as the tick labels say it already
    "history": ("trial", "{metric}"),
    "importances": ("share of the variation", ""),
    "intermediate_values": ("epoch", "{metric}"),
}
SLICE = "slice "  # before the name of a setting
BEST_SO_FAR, PRUNED = "best so far", "stopped early"
SCALE: list[list[Any]] = [[0, BLUE], [0.5, QUIET], [1, ORANGE]]  # visible on light and on dark pages

log = logging.getLogger(__name__)


def draw_figures(folder: Path, study: optuna.Study, merged: optuna.Study, metric: str) -> None:
    """Write each as PNG; `merged`: see `attnlab.experiments.space.merge_settings`."""
    import matplotlib

    matplotlib.use("Agg")
    logging.getLogger("matplotlib.category").setLevel(logging.WARNING)  # that strings of digits look like numbers
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as plots

    folder.mkdir(exist_ok=True)
    for name, axes in _plotted(study, merged, plots, metric).items():
        first = axes if hasattr(axes, "figure") else axes.flat[0]
        figure: Figure = first.figure
        if name == "slice":
            _simplify_slices(figure, axes)
        figure.suptitle("")
        first.set_title("")
        first.set_title(TITLES[name].format(metric=metric), loc="left")
        if name in AXES:
            x, y = (words.format(metric=metric) for words in AXES[name])
            first.set(xlabel=x, ylabel=y)
        if name == "history":
            first.plot(*_pruned(study), "x", color="gray", label=PRUNED)
            handles, labels = first.get_legend_handles_labels()
            first.legend(handles, [BEST_SO_FAR if label == "Best Value" else label for label in labels])
        elif name == "parallel_coordinates":
            first.collections[0].set_cmap(LinearSegmentedColormap.from_list("score", _scale(study)))
        elif name == "importances" and (legend := first.get_legend()):
            legend.remove()
        elif name == "intermediate_values":
            best = f"Trial{study.best_trial.number}"
            for line in first.get_lines():
                is_best = line.get_label() == best
                line.set(color=BLUE if is_best else QUIET, alpha=1 if is_best else 0.5, zorder=2 + is_best)
            shown = [line for line in first.get_lines() if line.get_label() == best]
            first.legend(shown, [f"the best, trial {study.best_trial.number}"])
        figure.set_size_inches(2.9 * len(figure.axes) if name == "slice" else WIDTHS.get(name, 8), 4)
        save(figure, folder / f"{name}.png", dpi=120, bbox_inches="tight")
        pyplot.close(figure)


def _simplify_slices(figure: Figure, axes: Any) -> None:
    """One colour, as the order of the trials says nothing about a setting, and names without Python's quotes."""
    plots = list(getattr(axes, "flat", [axes]))
    for plot in plots:
        points = plot.collections[0]
        points.set(array=None, facecolor=BLUE, edgecolor="white")
        plain = plot.xaxis.get_major_formatter()
        if isinstance(plain, StrCategoryFormatter):
            plot.xaxis.set_major_formatter(lambda x, place, plain=plain: plain(x, place).strip("'"))
    for colorbar in set(figure.axes) - set(plots):
        colorbar.remove()


def movable_figures(study: optuna.Study, merged: optuna.Study, metric: str) -> dict[str, Any]:
    """Plotly's by name; instead of "slice" one for each setting, "slice <setting>", so that they fit any width."""
    figures = _plotted(study, merged, optuna.visualization, metric)
    for name, figure in figures.items():
        figure.update_layout(title_text="")  # the page has titles, whose lines break where a phone ends
        if name in AXES:
            x, y = (words.format(metric=metric) for words in AXES[name])
            figure.update_layout(xaxis_title_text=x, yaxis_title_text=y)
    figures["history"].for_each_trace(lambda trace: trace.update(name=BEST_SO_FAR), {"name": "Best Value"})
    numbers, values = _pruned(study)
    if numbers:
        marker = {"symbol": "x", "color": "gray"}
        figures["history"].add_scatter(x=numbers, y=values, mode="markers", name=PRUNED, marker=marker)
    # A legend at the side would leave a phone no room.
    figures["history"].update_layout(legend={"orientation": "h", "y": 1, "yanchor": "bottom"})
    if "parallel_coordinates" in figures:
        _recolour_lines(figures["parallel_coordinates"], _scale(study))
    if "intermediate_values" in figures:
        _point_out_best(figures["intermediate_values"], study.best_trial.number)
    if "slice" in figures:
        del figures["slice"]
        for setting in sorted({name for trial in merged.get_trials(deepcopy=False) for name in trial.params}):
            figure = optuna.visualization.plot_slice(merged, [setting], target_name=metric)
            figure.update_traces(marker={"color": BLUE, "line": {"width": 0}, "showscale": False})
            figure.update_layout(title_text="", height=260)
            if figure.layout.xaxis.type == "category":  # as Python writes them
                plain = [name.strip("'") for name in figure.layout.xaxis.categoryarray]
                figure.update_xaxes(categoryarray=plain)
                figure.for_each_trace(lambda trace: trace.update(x=[str(x).strip("'") for x in trace.x]))
            else:
                log_axis = {"exponentformat": "e", "dtick": 1} if figure.layout.xaxis.type == "log" else {}
                figure.update_xaxes(**log_axis)
            figures[f"{SLICE}{setting}"] = figure
    return figures


def _point_out_best(figure: Any, number: int) -> None:
    """Among lines of one colour: dozens in seven colours can't be told apart."""
    for trace in figure.data:
        best = trace.name == f"Trial{number}"
        trace.update(
            name=f"the best, trial {number}" if best else trace.name.replace("Trial", "trial "),
            line={"color": BLUE if best else QUIET, "width": 3 if best else 1},
            marker={"color": BLUE if best else QUIET},
            opacity=1 if best else 0.6,
            showlegend=best,
        )
    figure.update_layout(showlegend=True, legend={"x": 1, "y": 0, "xanchor": "right", "yanchor": "bottom"})


def _recolour_lines(figure: Any, scale: list[list[Any]]) -> None:
    """Colour the lines by their height on the first axis, which is the score, and their legend alike."""
    from plotly.colors import sample_colorscale

    for trace in figure.data:
        if trace.mode == "lines":
            (color,) = sample_colorscale(scale, [min(1.0, max(0.0, trace.y[0]))])
            trace.update(line={"color": color, "width": 1.5}, opacity=0.9)
        elif trace.marker.showscale:
            trace.marker.update(colorscale=scale, reversescale=False)
    figure.update_annotations(font_color="#757d87")


def _scale(study: optuna.Study) -> list[list[Any]]:
    """Blue for the best."""
    if study.direction.name == "MINIMIZE":
        return SCALE
    return [[1 - place, color] for place, color in reversed(SCALE)]


def _plotted(study: optuna.Study, merged: optuna.Study, plots: Any, metric: str) -> dict[str, Any]:
    """The figures of `plots`, a module of Optuna's, for which there are enough trials."""
    trials = study.get_trials(deepcopy=False)
    wanted = {
        "history": partial(plots.plot_optimization_history, study, target_name=metric),
        "parallel_coordinates": partial(plots.plot_parallel_coordinate, merged, target_name=metric),
    }
    if sum(trial.state == TrialState.COMPLETE for trial in trials) >= MIN_TRIALS:
        wanted["importances"] = partial(plots.plot_param_importances, study, evaluator=PedAnovaImportanceEvaluator())
    if any(trial.intermediate_values for trial in trials):
        wanted["intermediate_values"] = partial(plots.plot_intermediate_values, study)
    wanted["slice"] = partial(plots.plot_slice, merged, target_name=metric)
    figures = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental; few trials
        for name, plot in wanted.items():
            try:
                figures[name] = plot()
            except (RuntimeError, ValueError) as error:  # too few trials to draw this from
                log.info("No figure of %s: %s", name, error)
    return figures


def _pruned(study: optuna.Study) -> tuple[list[int], list[float]]:
    """Numbers of the pruned trials, which Optuna leaves out of the history, and the last values that they reported."""
    pruned = [t for t in study.get_trials(deepcopy=False) if t.state == TrialState.PRUNED and t.value is not None]
    return [trial.number for trial in pruned], [float(trial.value or 0) for trial in pruned]


def write_page(
    folder: Path,
    study: optuna.Study,
    merged: optuna.Study,
    ranked: Sequence[tuple[FrozenTrial, Mapping[str, Any]]],
    metric: str,
    counts: str,
    found: Mapping[str, Any],
    command: str,
) -> None:
    """Write search.html, and plotly's script next to it.

    Args:
        merged: see `attnlab.experiments.space.merge_settings`.
        ranked: finished trials with their settings, the best first.
        counts: how many trials there were.
        found: the content of optimization_results.yaml.
        command: the arguments with which train.py trains the best one again.
    """
    names = list(dict.fromkeys(name for _, settings in ranked[:BEST] for name in settings))
    rows = [
        [f"#{trial.number}", f"{trial.value:.4f}", *(in_words(settings.get(name, "")) for name in names)]
        for trial, settings in ranked[:BEST]
    ]
    figures = movable(movable_figures(study, merged, metric), folder)
    test = [f"{key.removeprefix('test/')} {value:.4f}" for key, value in list(found["test"].items())[:5]]
    page = render(
        "search.html",
        name=study.study_name,
        program=PLOTLY,
        metric=metric,
        better="less" if study.direction.name == "MINIMIZE" else "more",
        counts=counts,
        command=command,
        columns=["trial", metric, *names],
        rows=rows,
        test=", ".join(test),
        failures=[f"Trial {number} failed: {reason}" for number, reason in found["failures"].items()],
        settings=", ".join(f"{key} {in_words(value)}" for key, value in ranked[0][1].items()),
        titles={name: title.format(metric=metric) for name, title in TITLES.items()},
        interactive={name: figure for name, figure in figures.items() if name in TITLES},
        slices=[figure for name, figure in figures.items() if name.startswith(SLICE)],
        wide=WIDE,
        pictures=[(file.stem, embedded(file)) for file in sorted((folder / "figures").glob("*.png"))],
    )
    write_whole(folder / "search.html", page)


def in_words(value: Any) -> str:
    """The value of a setting in a table."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
