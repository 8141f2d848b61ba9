"""report.html, one page of a run, and the headline of a run wherever it is named."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from attnlab.data.audit import audit_summary, audit_warnings
from attnlab.errors import relative_to_cwd
from attnlab.metrics import interval, is_share, written
from attnlab.reports.page import embedded, render
from attnlab.reports.run_figures import MATRIX_CLASSES, Counts
from attnlab.runs import CONFIG, RunFolder, write_whole
from attnlab.tasks import Task

FIGURES = ("curves", "confusion_matrix", "confused_pairs", "per_class", "reliability")
FIRST = ("test", "val", "ceiling", "train", "model")  # groups of scores
ROWS = 60  # of a table; the files have all of them
RESAMPLES = 1000
VISIBLE_MISTAKES = 3  # before a click
CLASSES = 10  # listed under the headline
DISPLAYED_SETTINGS = ("num_layers", "pooling")  # of a model, in its headline


def write_run_page(
    folder: Path,
    config: Mapping[str, Any],
    metrics: Mapping[str, float],
    task: Task,
    pairs: bool,
    answers: Tensor | None = None,
    labels: Tensor | None = None,
    mistakes: Sequence[object] = (),
) -> None:
    """Write report.html of a run or an evaluation, from the files in its folder and what else is known of it.

    Args:
        pairs: a document is a pair of texts.
        answers, labels: of the test documents, see `Task`; None without a test.
        mistakes: `attnlab.training.predictions.Mistake`.
    """
    intervals, tested = {}, None
    if answers is not None and labels is not None:
        intervals, tested = _intervals(task, answers, labels), len(labels)
    pictures = {name: folder / "figures" / f"{name}.png" for name in FIGURES}
    page = render(
        "run.html",
        title=headline(config),
        accuracy=accuracy_line(metrics, tested) if tested and "test/acc" in metrics else "",
        facts=_facts(folder, metrics, task.label_names),
        first=VISIBLE_MISTAKES,
        # A run's own folder has the checkpoint, that of an evaluation names it.
        use={"model": config.get("ckpt_path") or str(relative_to_cwd(folder)), "pairs": pairs},
        tested=tested,
        scores=_scores(metrics, intervals),
        audit=audit_summary(dict(metrics)),
        data_warnings=list(audit_warnings(dict(metrics)).values()),
        figures=[(name.replace("_", " "), embedded(file)) for name, file in pictures.items() if file.exists()],
        tables=[_table(folder / f"{name}.csv") for name in ("per_class", "confused_pairs")],
        mistakes=mistakes,
        config=(folder / CONFIG).read_text(encoding="utf-8"),
    )
    write_whole(folder / "report.html", page)


def _facts(folder: Path, metrics: Mapping[str, float], label_names: list[str]) -> list[str]:
    """The lines under the headline: best epoch, data and folder."""
    names = ", ".join(label_names[:CLASSES]) + (" ..." if len(label_names) > CLASSES else "")
    facts = [f"{len(label_names):,} classes: {names}", f"Folder {relative_to_cwd(folder)}"]
    if "train/documents" in metrics:
        facts.insert(0, f"Trained on {metrics['train/documents']:,} documents")
    if "train/best_epoch" in metrics:
        facts.insert(0, f"Best epoch {metrics['train/best_epoch']} of {metrics['train/epochs']}")
    return facts


def _scores(metrics: Mapping[str, float], intervals: dict[str, str]) -> dict[str, list[tuple[str, str, str]]]:
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


def _intervals(task: Task, answers: Tensor, labels: Tensor) -> dict[str, str]:
    """95 % intervals of the test scores over the choice of documents.

    Wilson's (1927) for the accuracy; for scores of the confusion matrix a percentile bootstrap (Efron, 1979), where
    resampling documents is resampling its counts.
    """
    right = task.correct(answers, labels)
    found: dict[str, Any] = {"test/acc": interval(int(right.sum()), len(right))}
    counts = task.confusion(answers, labels)
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


def headline(config: Mapping[str, Any]) -> str:
    """A headline of model and data: "TextClassifier (num_layers=1, pooling=cls) on Headlines"."""
    model = config.get("model")
    if not isinstance(model, Mapping):  # the config of an evaluation, whose model is in the checkpoint
        name = f"{config.get('ckpt_path', 'A model')}"
    else:
        name = str(model.get("_target_", "A model")).rpartition(".")[-1]
        details = [Path(str(model["path"])).name] if model.get("path") else []
        details += [f"{key}={model[key]}" for key in DISPLAYED_SETTINGS if isinstance(model.get(key), str | int)]
        name += f" ({', '.join(details)})" if details else ""
    return f"{name} on {data_name(config['data'])}" if config.get("data") else name


def data_name(data: Mapping[str, Any]) -> str:
    """The name of a data set: its place on the Hub or its file, without folders of this machine."""
    places = [data.get(key) for key in ("path", "test", "train")]
    named = (place for place in places if place and isinstance(place, str))  # not a number, a share of train
    name = next(named, str(data["_target_"]).rpartition(".")[-1])
    return Path(name).name if Path(name).is_absolute() else name


def accuracy_line(metrics: Mapping[str, float], tested: int) -> str:
    """ "0.9187 (95 % interval 0.8978 to 0.9357) on 800 test documents"; the interval is Wilson's (1927)."""
    share = metrics["test/acc"]
    low, high = interval(round(share * tested), tested)
    return f"{written(share)} (95 % interval {low:.4f} to {high:.4f}) on {tested:,} test documents"


def headline_of_folder(folder: Path) -> tuple[str, str]:
    """`headline` and `accuracy_line` of the run in `folder`, each "" where it has no files to tell."""
    run = RunFolder(folder)
    tested = "test/acc" in run.metrics and run.num_tested
    return headline(run.config) if run.config else "", accuracy_line(run.metrics, tested) if tested else ""
