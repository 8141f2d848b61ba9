"""The figures of a search, in the words of the user's settings rather than Optuna's."""

import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from attnlab.experiments.space import merge_settings
from attnlab.reports.search import draw_figures, movable_figures

OPTUNA = ("Objective Value", "Hyperparameter", "Intermediate Value", "Best Value", "Plot", "Trial", "'", " of 1, 2")


@pytest.fixture
def study() -> optuna.Study:
    """Two numbers of heads are drawn from other choices, which Optuna keeps under another name."""
    study = optuna.create_study(direction="maximize")
    for number in range(8):
        heads = "model.num_heads of 1, 2" if number < 2 else "model.num_heads"
        kinds = {
            "optimizer.lr": FloatDistribution(1e-4, 1e-2, log=True),
            "model.pooling": CategoricalDistribution(["cls", "max"]),
            heads: CategoricalDistribution([1, 2] if number < 2 else [1, 2, 4]),
        }
        params = {
            "optimizer.lr": 1e-4 * (1 + number),
            "model.pooling": ["cls", "max"][number % 2],
            heads: 1 + number % 2,
        }
        state = TrialState.PRUNED if number == 3 else TrialState.COMPLETE
        scores = {epoch: 0.5 + 0.01 * number + 0.1 * epoch for epoch in range(2)}
        study.add_trial(
            create_trial(state=state, value=scores[1], params=params, distributions=kinds, intermediate_values=scores)
        )
    return study


def test_a_page_has_a_figure_for_each_setting_and_none_of_optunas_words(study: optuna.Study) -> None:
    figures = movable_figures(study, merge_settings(study), "val/acc")
    assert set(figures) == {
        *("history", "parallel_coordinates", "importances", "intermediate_values"),
        *(f"slice {setting}" for setting in ("optimizer.lr", "model.pooling", "model.num_heads")),
    }
    for name, figure in figures.items():
        found = json.loads(figure.to_json())
        shown = [trace.get("name", "") for trace in found["data"] if trace.get("showlegend", True)]
        axes = [axis["title"]["text"] for key, axis in found["layout"].items() if "axis" in key and "title" in axis]
        categories = [str(value) for key, axis in found["layout"].items() for value in _categories(key, axis)]
        for text in (*shown, *axes, *categories, found["layout"]["title"]["text"]):
            assert name == "importances" or not any(word in text for word in OPTUNA), (name, text)
    assert figures["history"].layout.yaxis.title.text == "val/acc"
    best = [trace for trace in figures["intermediate_values"].data if trace.showlegend]
    assert [trace.name for trace in best] == ["the best, trial 7"]


def _categories(key: str, axis: Any) -> list[Any]:
    return axis.get("categoryarray", []) if "axis" in key else []


def test_pictures_have_none_of_optunas_words(
    study: optuna.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: dict[str, set[str]] = {}

    def note(figure: Figure, file: Path, **_: Any) -> None:
        figure.canvas.draw()
        texts = [text.get_text() for text in figure.findobj(Text) if isinstance(text, Text) and text.get_visible()]
        shown[file.name] = set(texts)
        file.touch()

    monkeypatch.setattr(Figure, "savefig", note)
    draw_figures(tmp_path, study, merge_settings(study), "val/acc")
    assert len(shown) == 5
    for name, texts in shown.items():
        for text in texts:
            assert "importances" in name or not any(word in text for word in OPTUNA), (name, text)
    everything = set().union(*shown.values())
    assert {
        "val/acc",
        "epoch",
        "best so far",
        "stopped early",
        "the best, trial 7",
        "share of the variation",
    } <= everything
