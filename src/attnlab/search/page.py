"""search.html: what a search found on one page, with figures that can be moved."""

import warnings
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna import visualization
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState

from attnlab.interactive import PROGRAM, interactive
from attnlab.page import embedded, render
from attnlab.search.space import settings_of

BEST = 20  # rows of the table
WIDE = ("parallel_coordinates", "slice")


def write_page(
    folder: Path, study: optuna.Study, ranked: Sequence[FrozenTrial], metric: str, counts: str, found: dict[str, Any]
) -> None:
    """Write search.html and plotly's program beside it. `ranked`: the finished trials, the best first."""
    drawn = [settings_of(trial) for trial in ranked[:BEST]]
    names = list(dict.fromkeys(name for settings in drawn for name in settings))
    rows = [
        [f"#{trial.number}", f"{trial.value:.4f}", *(_shown(settings.get(name, "")) for name in names)]
        for trial, settings in zip(ranked, drawn, strict=False)
    ]
    test = [f"{key.removeprefix('test/')} {value:.4f}" for key, value in list(found["test"].items())[:5]]
    page = render(
        "search/page.html",
        name=study.study_name,
        program=PROGRAM,
        metric=metric,
        better="less" if study.direction.name == "MINIMIZE" else "more",
        counts=counts,
        columns=["trial", metric, *names],
        rows=rows,
        test=", ".join(test),
        failures=[f"Trial {number} failed: {reason}" for number, reason in found["failures"].items()],
        interactive=interactive(_figures(study), folder),
        wide=WIDE,
        pictures=[(file.stem, embedded(file)) for file in sorted((folder / "figures").glob("*.png"))],
        made=f"{datetime.now():%Y-%m-%d %H:%M}",
    )
    (folder / "search.html").write_text(page, encoding="utf-8")


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _history(study: optuna.Study) -> Any:
    """Optuna leaves out the pruned trials; here they are at the last value that they reported."""
    figure = visualization.plot_optimization_history(study)
    pruned = [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.PRUNED]
    numbers, values = [trial.number for trial in pruned], [trial.value for trial in pruned]
    return figure.add_scatter(
        x=numbers, y=values, mode="markers", name="Pruned", marker={"symbol": "x", "color": "gray"}
    )


def _figures(study: optuna.Study) -> dict[str, Any]:
    """Those for which there are trials enough."""
    plots: dict[str, Any] = {
        "history": _history,
        "parallel_coordinates": visualization.plot_parallel_coordinate,
        "importances": lambda study: visualization.plot_param_importances(
            study, evaluator=PedAnovaImportanceEvaluator()
        ),
        "intermediate_values": visualization.plot_intermediate_values,
        "slice": visualization.plot_slice,
    }
    figures = {}
    trials = study.get_trials(deepcopy=False)
    finished = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not any(trial.intermediate_values for trial in trials):
        del plots["intermediate_values"]
    if len(finished) < 4:
        del plots["importances"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental; few trials
        for name, plot in plots.items():
            with suppress(RuntimeError, ValueError):  # too few trials to draw this from
                figures[name] = plot(study)
    return figures
