"""search.html: what a search found on one page, with figures that can be moved."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from attnlab.experiments.figures import SLICE, TITLES, movable_figures
from attnlab.experiments.space import settings_of
from attnlab.reports.interactive import PROGRAM, interactive
from attnlab.reports.page import embedded, render
from attnlab.runs import write_whole

BEST = 20  # rows of the table
WIDE = ("parallel_coordinates",)


def write_page(
    folder: Path,
    study: optuna.Study,
    ranked: Sequence[FrozenTrial],
    metric: str,
    counts: str,
    found: dict[str, Any],
    again: str,
) -> None:
    """Write search.html and plotly's program beside it. `ranked`: the finished trials, the best first.

    `again`: the arguments with which train.py trains the best one once more.
    """
    drawn = [settings_of(trial) for trial in ranked[:BEST]]
    names = list(dict.fromkeys(name for settings in drawn for name in settings))
    rows = [
        [f"#{trial.number}", f"{trial.value:.4f}", *(_shown(settings.get(name, "")) for name in names)]
        for trial, settings in zip(ranked, drawn, strict=False)
    ]
    figures = interactive(movable_figures(study, metric), folder)
    test = [f"{key.removeprefix('test/')} {value:.4f}" for key, value in list(found["test"].items())[:5]]
    page = render(
        "experiments/page.html",
        name=study.study_name,
        program=PROGRAM,
        metric=metric,
        better="less" if study.direction.name == "MINIMIZE" else "more",
        counts=counts,
        again=again,
        columns=["trial", metric, *names],
        rows=rows,
        test=", ".join(test),
        failures=[f"Trial {number} failed: {reason}" for number, reason in found["failures"].items()],
        settings=", ".join(f"{key} {_shown(value)}" for key, value in drawn[0].items()),
        titles={name: title.format(metric=metric) for name, title in TITLES.items()},
        interactive={name: figure for name, figure in figures.items() if name in TITLES},
        slices=[figure for name, figure in figures.items() if name.startswith(SLICE)],
        wide=WIDE,
        pictures=[(file.stem, embedded(file)) for file in sorted((folder / "figures").glob("*.png"))],
        made=f"{datetime.now():%Y-%m-%d %H:%M}",
    )
    write_whole(folder / "search.html", page)


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
