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

SIZES = {"parallel_coordinates": (14, 5), "slice": (22, 4)}  # inches; of the others (8, 4)
ENOUGH = 4  # finished trials to tell what mattered

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
        figure.savefig(folder / f"{name}.png", dpi=120, bbox_inches="tight")
        pyplot.close(figure)


def movable_figures(study: optuna.Study) -> dict[str, Any]:
    """Those of plotly, by their names."""
    figures = _plotted(study, optuna.visualization)
    numbers, values = _pruned(study)
    marker = {"symbol": "x", "color": "gray"}
    figures["history"].add_scatter(x=numbers, y=values, mode="markers", name="Pruned", marker=marker)
    return figures


def _plotted(study: optuna.Study, plots: Any) -> dict[str, Any]:
    """By a module of Optuna's: those for which there are trials enough."""
    trials = study.get_trials(deepcopy=False)
    wanted = {"history": plots.plot_optimization_history, "parallel_coordinates": plots.plot_parallel_coordinate}
    if sum(trial.state == TrialState.COMPLETE for trial in trials) >= ENOUGH:
        wanted["importances"] = partial(plots.plot_param_importances, evaluator=PedAnovaImportanceEvaluator())
    if any(trial.intermediate_values for trial in trials):
        wanted["intermediate_values"] = plots.plot_intermediate_values
    wanted["slice"] = plots.plot_slice
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
