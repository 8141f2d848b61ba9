"""report.html: one page of a run that needs nothing beside it."""

import csv
import logging
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from attnlab.data.losses import complaints, describe
from attnlab.data.sources import Split
from attnlab.errors import first_line
from attnlab.page import embedded, render
from attnlab.paths import CONFIG, shown
from attnlab.training.attribution import Classifier, Explanation
from attnlab.training.mistakes import MARKED, MISTAKES, TEXT, Mistake, find_mistakes, write_mistakes
from attnlab.training.module import Predictions

log = logging.getLogger(__name__)

FIGURES = ("curves", "confusion_matrix", "confused_pairs", "per_class", "reliability")
FIRST = ("test", "val", "ceiling", "train", "model")  # groups of scores
ROWS = 60  # of a table; the files have all


def report(
    folder: Path,
    config: dict[str, Any],
    metrics: dict[str, float],
    classifier: Classifier,
    predictions: Predictions | None,
    split: Split | None,
) -> list[Mistake]:
    """Of a run that was tested on `split` write mistakes.csv, and of any run report.html, out of what its folder has.

    Nothing in it can stop a run, which has its results.

    Returns:
        the mistakes.
    """
    mistakes: list[Mistake] = []
    try:
        if predictions is not None and split is not None:
            mistakes = find_mistakes(classifier, predictions, split)
            write_mistakes(folder / "mistakes.csv", mistakes)
        tested = None if predictions is None else len(predictions.index)
        # A run's own folder has the checkpoint, that of a test names it.
        use = {"model": config.get("ckpt_path") or str(shown(folder)), "pairs": classifier.pairs}
        (folder / "report.html").write_text(_page(folder, metrics, mistakes, tested, use), encoding="utf-8")
    except Exception as error:
        log.warning("No report.html: %s: %s", type(error).__name__, first_line(error))
    return mistakes


def _page(
    folder: Path, metrics: dict[str, float], mistakes: Sequence[Mistake], tested: int | None, use: dict[str, Any]
) -> str:
    """`use`: the checkpoint's place, and whether the model is of pairs."""
    pictures = {name: folder / "figures" / f"{name}.png" for name in FIGURES}
    return render(
        "training/report.html",
        name=folder.name,
        use=use,
        tested=tested,
        scores=_scores(metrics, tested),
        losses=describe(metrics),
        complaints=list(complaints(metrics).values()),
        figures=[(name.replace("_", " "), embedded(file)) for name, file in pictures.items() if file.exists()],
        tables=[_table(folder / f"{name}.csv") for name in ("per_class", "confused_pairs")],
        mistakes=[(mistake, mistake.explanation and _marked(mistake.explanation)) for mistake in mistakes],
        most=MISTAKES,
        num_marked=MARKED,
        config=(folder / CONFIG).read_text(encoding="utf-8"),
        made=f"{datetime.now():%Y-%m-%d %H:%M}",
    )


def _scores(metrics: dict[str, float], tested: int | None) -> dict[str, list[tuple[str, str, str]]]:
    """By the part of their name before the slash: the rest, the value and its interval."""
    groups: dict[str, list[tuple[str, str, str]]] = {}
    for key, value in metrics.items():
        group, _, name = key.partition("/")
        written = f"{value:,}" if isinstance(value, int) else f"{value:.4f}" if abs(value) < 100 else f"{value:,.0f}"
        interval = _wilson(value, tested) if key == "test/acc" and tested else ""
        groups.setdefault(group, []).append((name, written, interval))
    return {group: groups[group] for group in sorted(groups, key=(*FIRST, *groups).index)}


def _wilson(share: float, number: int) -> str:
    """The 95 % interval (Wilson, 1927) of a share of so many documents."""
    from scipy.stats import binomtest

    low, high = binomtest(round(share * number), number).proportion_ci(method="wilson")
    return f"{low:.4f} to {high:.4f}"


def _table(path: Path) -> tuple[str, list[str], list[list[str]], int] | None:
    """Name, header, the first rows and how many there are; None where there is no such file."""
    if not path.exists():
        return None
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    return path.stem.replace("_", " "), header, rows[:ROWS], len(rows)


def _marked(explanation: Explanation) -> list[tuple[str, float]]:
    """The text in pieces, each with the strength of its mark from -1 to 1."""
    pieces = explanation.pieces()
    strongest = max((abs(score) for _, score in pieces if score), default=1.0)
    found, length = [], 0
    for text, score in pieces:
        if length < TEXT:
            found.append((text[: TEXT - length], (score or 0.0) / strongest))
        length += len(text)
    return found + [(f" [... the first {TEXT:,} of {length:,} characters]", 0.0)] * (length > TEXT)
