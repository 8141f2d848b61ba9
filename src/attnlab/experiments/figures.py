"""Optuna's figures of a study: as pictures, and to be moved on a page."""

import logging
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from matplotlib.figure import Figure
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import TrialState

from attnlab.runs import whole_file

SIZES = {"parallel_coordinates": (14, 5), "slice": (22, 4)}  # inches; of the others (8, 4)
ENOUGH = 4  # finished trials to tell what mattered

TITLES = {  # of the figures that can be moved
    "history": "{metric} of each trial, and the best so far",
    "parallel_coordinates": "Settings of each trial, a line each, by their {metric}",
    "importances": "How much of what {metric} varied by is due to each setting",
    "intermediate_values": "{metric} of each trial by epoch",
    "slice": "{metric} by setting, a point a trial",
}
SCALE = [[0, "#0072B2"], [0.5, "#8a8f98"], [1, "#D55E00"]]  # of Okabe and Ito: visible in light and in dark

log = logging.getLogger(__name__)


def draw_figures(folder: Path, study: optuna.Study) -> None:
    """Write each as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    logging.getLogger("matplotlib.category").setLevel(logging.WARNING)  # that strings of digits look like numbers
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as plots

    folder.mkdir(exist_ok=True)
    for name, axes in _plotted(study, plots).items():
        if name == "history":
            axes.plot(*_pruned(study), "x", color="gray", label="Pruned")
            axes.legend()
        figure: Figure = (axes if hasattr(axes, "figure") else axes.flat[0]).figure
        figure.set_size_inches(SIZES.get(name, (8, 4)))
        with whole_file(folder / f"{name}.png") as file:
            figure.savefig(file, format="png", dpi=120, bbox_inches="tight")
        pyplot.close(figure)


def movable_figures(study: optuna.Study, metric: str) -> dict[str, Any]:
    """Those of plotly, by their names; titles say what is seen, and colours can be told from white and from black."""
    figures = _plotted(study, optuna.visualization, target_name=metric)
    for name, figure in figures.items():
        figure.update_layout(title_text=TITLES[name].format(metric=metric))
    scale = SCALE if study.direction.name == "MINIMIZE" else _mirrored(SCALE)
    if "parallel_coordinates" in figures:
        _recolour_lines(figures["parallel_coordinates"], scale)
    if "slice" in figures:
        figures["slice"].update_traces(marker_colorscale=SCALE, marker_line_width=0)
    numbers, values = _pruned(study)
    marker = {"symbol": "x", "color": "gray"}
    figures["history"].add_scatter(x=numbers, y=values, mode="markers", name="Pruned", marker=marker)
    return figures


def _recolour_lines(figure: Any, scale: list[list[Any]]) -> None:
    """Lines, whose first height is the score's, in colours for light and dark pages; and their key."""
    from plotly.colors import sample_colorscale

    for trace in figure.data:
        if trace.mode == "lines":
            (color,) = sample_colorscale(scale, [min(1.0, max(0.0, trace.y[0]))])
            trace.update(line={"color": color, "width": 1.5}, opacity=0.9)
        elif trace.marker.showscale:
            trace.marker.update(colorscale=scale, reversescale=False)
    figure.update_annotations(font_color="#757d87")


def _mirrored(scale: list[list[Any]]) -> list[list[Any]]:
    return [[1 - place, color] for place, color in reversed(scale)]


def _plotted(study: optuna.Study, plots: Any, **names: Any) -> dict[str, Any]:
    """By a module of Optuna's: those for which there are trials enough. `names`: of what is sought."""
    trials = study.get_trials(deepcopy=False)
    wanted = {
        "history": partial(plots.plot_optimization_history, **names),
        "parallel_coordinates": partial(plots.plot_parallel_coordinate, **names),
    }
    if sum(trial.state == TrialState.COMPLETE for trial in trials) >= ENOUGH:
        wanted["importances"] = partial(plots.plot_param_importances, evaluator=PedAnovaImportanceEvaluator())
    if any(trial.intermediate_values for trial in trials):
        wanted["intermediate_values"] = plots.plot_intermediate_values
    wanted["slice"] = partial(plots.plot_slice, **names)
    figures = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental; few trials
        for name, plot in wanted.items():
            try:
                figures[name] = plot(study)
            except (RuntimeError, ValueError) as error:  # too few trials to draw this from
                log.info("No figure of %s: %s", name, error)
    return figures


def _pruned(study: optuna.Study) -> tuple[list[int], list[float]]:
    """Trials that Optuna leaves out of the history: their numbers, and the last values that they reported."""
    pruned = [t for t in study.get_trials(deepcopy=False) if t.state == TrialState.PRUNED and t.value is not None]
    return [trial.number for trial in pruned], [float(trial.value or 0) for trial in pruned]
