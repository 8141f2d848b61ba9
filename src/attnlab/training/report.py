"""report.html: a self-contained page of one run."""

import csv
import logging
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from attnlab.data.audit import audit_summary, audit_warnings
from attnlab.data.sources import Split
from attnlab.errors import first_line, relative_to_cwd
from attnlab.metrics import interval, is_share, written
from attnlab.reports.page import embedded, render
from attnlab.runs import CONFIG, write_whole
from attnlab.tasks import Task
from attnlab.training.attribution import Classifier, Explanation
from attnlab.training.figures import MATRIX_CLASSES, Counts
from attnlab.training.predictions import (
    MAX_MISTAKES,
    MAX_TEXT,
    NUM_EXPLAINED,
    Mistake,
    SplitPredictions,
    find_mistakes,
    write_mistakes,
)
from attnlab.training.results import accuracy_line, headline

log = logging.getLogger(__name__)

FIGURES = ("curves", "confusion_matrix", "confused_pairs", "per_class", "reliability")
FIRST = ("test", "val", "ceiling", "train", "model")  # groups of scores
ROWS = 60  # of a table; the files have all of them
RESAMPLES = 1000
FIRST_MISTAKES = 3  # visible without a click
CLASSES = 10  # listed under the headline


def report(
    folder: Path,
    config: Mapping[str, Any],
    metrics: dict[str, float],
    classifier: Classifier,
    predictions: SplitPredictions | None,
    split: Split | None,
) -> list[Mistake]:
    """Write report.html from the files in the folder of a run, and mistakes.csv if it was tested on `split`.

    An error in it is logged and ends nothing: the results are written already.

    Returns:
        the mistakes.
    """
    mistakes: list[Mistake] = []
    try:
        if predictions is not None and split is not None:
            mistakes = find_mistakes(classifier, predictions, split)
            write_mistakes(folder / "mistakes.csv", mistakes, classifier.pairs)
        # A run's own folder has the checkpoint, that of a test names it.
        use = {"model": config.get("ckpt_path") or str(relative_to_cwd(folder)), "pairs": classifier.pairs}
        tested = None if predictions is None else len(predictions.index)
        intervals = {} if predictions is None else _intervals(predictions, classifier.task)
        pictures = {name: folder / "figures" / f"{name}.png" for name in FIGURES}
        scored = tested is not None and "test/acc" in metrics
        page = render(
            "training/report.html",
            title=headline(config),
            accuracy=accuracy_line(metrics, tested) if tested and scored else "",
            facts=_facts(folder, metrics, classifier.task.label_names),
            first=FIRST_MISTAKES,
            use=use,
            tested=tested,
            scores=_scores(metrics, intervals),
            audit=audit_summary(metrics),
            data_warnings=list(audit_warnings(metrics).values()),
            figures=[(name.replace("_", " "), embedded(file)) for name, file in pictures.items() if file.exists()],
            tables=[_table(folder / f"{name}.csv") for name in ("per_class", "confused_pairs")],
            mistakes=[(mistake, mistake.explanation and _marked(mistake.explanation)) for mistake in mistakes],
            most=MAX_MISTAKES,
            num_marked=NUM_EXPLAINED,
            config=(folder / CONFIG).read_text(encoding="utf-8"),
            made=f"{datetime.now():%Y-%m-%d %H:%M}",
        )
        write_whole(folder / "report.html", page)
    except Exception as error:
        log.warning("No report.html: %s: %s", type(error).__name__, first_line(error))
    return mistakes


def _facts(folder: Path, metrics: dict[str, float], label_names: list[str]) -> list[str]:
    """The lines under the headline: best epoch, data and folder."""
    names = ", ".join(label_names[:CLASSES]) + (" ..." if len(label_names) > CLASSES else "")
    facts = [f"{len(label_names):,} classes: {names}", f"Folder {relative_to_cwd(folder)}"]
    if "train/documents" in metrics:
        facts.insert(0, f"Trained on {metrics['train/documents']:,} documents")
    if "train/best_epoch" in metrics:
        facts.insert(0, f"Best epoch {metrics['train/best_epoch']} of {metrics['train/epochs']}")
    return facts


def _scores(metrics: dict[str, float], intervals: dict[str, str]) -> dict[str, list[tuple[str, str, str]]]:
    """By group (the part of a name before the slash): name, value and interval. Metrics of data that are 0 are omitted.

    Accuracies and other shares come before losses.
    """
    groups: dict[str, list[tuple[str, str, str]]] = {}
    for key, value in sorted(metrics.items(), key=lambda item: not is_share(item[0])):
        group, _, name = key.partition("/")
        if group == "data" and not value:
            continue
        groups.setdefault(group, []).append((name, written(value), intervals.get(key, "")))
    return {group: groups[group] for group in sorted(groups, key=(*FIRST, *groups).index)}


def _intervals(predictions: SplitPredictions, task: Task) -> dict[str, str]:
    """95 % intervals of the test scores over the choice of documents.

    Wilson's (1927) for the accuracy; for scores of the confusion matrix a percentile bootstrap (Efron, 1979), where
    resampling documents is resampling its counts.
    """
    right = task.correct(predictions.answers, predictions.labels)
    found: dict[str, Any] = {"test/acc": interval(int(right.sum()), len(right))}
    counts = task.confusion(predictions.answers, predictions.labels)
    if counts is not None and len(counts) <= MATRIX_CLASSES:
        shares = counts.double().numpy() / len(right)
        drawn = np.random.default_rng(0).multinomial(len(right), shares.ravel(), RESAMPLES)
        scores = of_counts(drawn.reshape(-1, *shares.shape))
        found |= {f"test/{name}": np.quantile(values, (0.025, 0.975)) for name, values in scores.items()}
    return {name: f"{low:.4f} to {high:.4f}" for name, (low, high) in found.items()}


def of_counts(counts: Counts) -> dict[str, npt.NDArray[np.float64]]:
    """The scores of each of S confusion matrices: [S] each.

    counts: [S, C, C], rows are the classes, columns the answers. As in torchmetrics, a class without documents and
    answers is left out of means over classes.
    """
    right, of_class, answered = counts.diagonal(axis1=1, axis2=2), counts.sum(axis=2), counts.sum(axis=1)
    f1, recall = 2 * right / np.maximum(1, of_class + answered), right / np.maximum(1, of_class)
    there = of_class + answered > 0
    return {
        "acc_balanced": recall.sum(axis=1) / there.sum(axis=1),
        "f1": (f1 * of_class).sum(axis=1) / of_class.sum(axis=1),
        "f1_macro": f1.sum(axis=1) / there.sum(axis=1),
    }


def _table(path: Path) -> tuple[str, list[str], list[list[str]], int] | None:
    """Name, header, the first rows and their total number; None where the file does not exist."""
    if not path.exists():
        return None
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    return path.stem.replace("_", " "), header, rows[:ROWS], len(rows)


def _marked(explanation: Explanation) -> list[tuple[str, float]]:
    """The text in pieces, each with a strength from -1 to 1, cut at `MAX_TEXT` characters."""
    found, length = list[tuple[str, float]](), 0
    for text, score in explanation.marks():
        if length < MAX_TEXT:
            found.append((text[: MAX_TEXT - length], score or 0.0))
        length += len(text)
    return found + [(f" [... the first {MAX_TEXT:,} of {length:,} characters]", 0.0)] * (length > MAX_TEXT)
