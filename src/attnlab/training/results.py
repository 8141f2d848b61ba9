"""The results of a run: their files in its folder, and their summary on the terminal."""

import csv
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table
from torch import Tensor

from attnlab.data.sources import Split
from attnlab.errors import first_line, relative_to_cwd
from attnlab.metrics import is_share, written
from attnlab.redaction import redact
from attnlab.reports.run_figures import Counts, confused_pairs, draw_figures
from attnlab.reports.run_page import accuracy_line, write_run_page
from attnlab.runs import CHECKPOINTS, CONFIG, CURVES, METRICS, PREDICTIONS, whole_file, write_whole
from attnlab.tasks import Task
from attnlab.tasks.temperature import TEMPERATURES
from attnlab.training.attribution import Classifier
from attnlab.training.predictions import Mistake, SplitPredictions, find_mistakes, write_mistakes

log = logging.getLogger(__name__)

Metrics = dict[str, float]
SCORED = ("test", "val")  # groups of metrics that are scores


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write config.yaml: resolved, enough to run it again, without secrets and without the search of a trial."""
    kept = {key: value for key, value in config.items() if key not in ("hparams_search", "ablation")}
    if config.get("callbacks"):
        kept["callbacks"] = {key: value for key, value in config["callbacks"].items() if key != "report_to_study"}
    write_whole(folder / CONFIG, OmegaConf.to_yaml(OmegaConf.create(redact(kept))))


def resume_run(folder: Path, config: Mapping[str, Any]) -> None:
    """Write the config of a run that resumes, and remove the results of one that had finished: they are outdated."""
    tables = (PREDICTIONS, "per_class.csv", "confused_pairs.csv", "mistakes.csv")
    for name in (METRICS, *tables, "report.html"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "figures", ignore_errors=True)
    write_config(folder, config)


def restart_run(folder: Path, config: Mapping[str, Any]) -> None:
    """Write the config of a run that starts again at its first step, and remove everything that it has written."""
    for name in (CHECKPOINTS, "tensorboard", "wandb"):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / CURVES).unlink(missing_ok=True)
    resume_run(folder, config)


def write_results(
    folder: Path,
    metrics: Metrics,
    predictions: SplitPredictions | None,
    task: Task,
    split: Split | None = None,
) -> None:
    """Write metrics.json, and for a tested run predictions.parquet, per_class.csv and confused_pairs.csv.

    metrics.json is the last of them: a folder that has it has all of them. Figures come after it, so that an error in
    one costs no result. `split`: the tested documents, so that predictions.parquet says where each comes from.
    """
    counts = scores = None
    if predictions is not None:
        scores = task.stat_scores(predictions.answers, predictions.labels)
        _write_predictions(folder / PREDICTIONS, predictions, task, split)
        _write_per_class(folder / "per_class.csv", scores, task.label_names)
        confusion = task.confusion(predictions.answers, predictions.labels)
        if confusion is not None:
            counts = confusion.numpy()
            _write_confused_pairs(folder / "confused_pairs.csv", counts, task.label_names)
    write_whole(folder / METRICS, json.dumps(metrics, indent=2) + "\n")
    try:
        logits, labels = (predictions.logits, predictions.labels) if predictions else (None, None)
        draw_figures(folder, task, logits, labels, counts, scores)
    except Exception as error:  # whatever a plot fails at, the results are written
        log.warning("No figures: %s: %s", type(error).__name__, first_line(error))


def _write_predictions(path: Path, predictions: SplitPredictions, task: Task, split: Split | None) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    index = predictions.index.numpy()
    columns = ({"index": index} if split is None else split.found_at(index)) | {
        "label": task.names(predictions.labels),
        "predicted": task.names(predictions.answers),
        "correct": task.correct(predictions.answers, predictions.labels).numpy(),
    }
    columns |= {
        f"p({name})": column.numpy() for name, column in zip(task.label_names, predictions.probabilities.T, strict=True)
    }
    with whole_file(path) as partial:
        pyarrow.parquet.write_table(pa.table(columns), partial)


def _write_per_class(path: Path, scores: Tensor, label_names: list[str]) -> None:
    with whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "precision", "recall", "f1", "support"])
        for name, (tp, fp, _, fn, support) in zip(label_names, scores.tolist(), strict=True):
            shares = (tp / max(1, tp + fp), tp / max(1, support), 2 * tp / max(1, 2 * tp + fp + fn))
            writer.writerow([name, *(f"{share:.4f}" for share in shares), support])


def _write_confused_pairs(path: Path, counts: Counts, label_names: list[str]) -> None:
    with whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "predicted", "count", "share_of_class"])
        for row, column, count in confused_pairs(counts):
            share = count / counts[row].sum()
            writer.writerow([label_names[row], label_names[column], count, f"{share:.4f}"])


def write_report(
    folder: Path,
    config: Mapping[str, Any],
    metrics: Metrics,
    classifier: Classifier,
    predictions: SplitPredictions | None,
    split: Split | None,
) -> list[Mistake]:
    """Write report.html, and mistakes.csv of a run that was tested on `split`; return the mistakes."""
    mistakes: list[Mistake] = []
    try:
        answers, labels = (predictions.answers, predictions.labels) if predictions else (None, None)
        if predictions is not None and split is not None:
            mistakes = find_mistakes(classifier, predictions, split)
            write_mistakes(folder / "mistakes.csv", mistakes, classifier.pairs)
        write_run_page(folder, config, metrics, classifier.task, classifier.pairs, answers, labels, mistakes)
    except Exception as error:  # whatever a page fails at, the results are written
        log.warning("No report.html: %s: %s", type(error).__name__, first_line(error))
    return mistakes


def print_summary(folder: Path, metrics: Metrics, tested: int | None = None) -> None:
    """Print the accuracy and where the run is, then its scores, then all other metrics that are not zero.

    tested: the number of test documents; None without a test.
    """
    console = Console(highlight=False, markup=False)
    lines = [f"Accuracy {accuracy_line(metrics, tested)}"] if tested and "test/acc" in metrics else []
    if "train/best_epoch" in metrics:
        lines.append(f"Best epoch: {metrics['train/best_epoch']} of {metrics['train/epochs']}")
    page = "; report.html shows it" if (folder / "report.html").is_file() else ""
    for line in (*lines, f"Everything is in {relative_to_cwd(folder)}{page}"):
        console.print(line, soft_wrap=True)
    if any(_split(key)[0] in SCORED for key in metrics):
        console.print(_scores(metrics))
    if "test/temperature" in metrics:
        console.print(_describe_calibration(metrics))
    others: dict[str, list[str]] = {}
    for key, value in metrics.items():
        group, name = _split(key)
        if group not in SCORED and value:
            others.setdefault(group, []).append(f"{name} {written(value)}")
    for group, values in others.items():
        console.print(f"{group or 'also'}: {', '.join(values)}")


def _scores(metrics: Metrics) -> Table:
    """A row for each score, accuracies before losses. Scores before calibration are in the line on calibration."""
    splits = [split for split in SCORED if any(_split(key)[0] == split for key in metrics)]
    names = dict.fromkeys(name for group, name in map(_split, metrics) if group in SCORED)
    table = Table("", *splits)
    for column in table.columns[1:]:
        column.justify = "right"
    for name in sorted(names, key=lambda name: not is_share(name)):
        if not name.endswith("_uncalibrated"):
            values = (metrics.get(f"{split}/{name}") for split in splits)
            table.add_row(name, *("" if value is None else written(value) for value in values))
    return table


def _split(key: str) -> tuple[str, str]:
    group, _, name = key.rpartition("/")
    return group, name


def _describe_calibration(metrics: Metrics) -> str:
    """One line on a tested run."""
    temperature, (lowest, highest) = metrics["test/temperature"], TEMPERATURES
    names = {"ECE": "test/ece", "Brier score": "test/brier", "log loss": "test/log_loss"}
    if temperature == 1:
        validated = any(_split(key)[0] == "val" for key in metrics)
        why = "it does not help on held-out validation documents" if validated else "the model has none"
        return f"No temperature ({why}): {', '.join(f'{name} {metrics[key]:.3f}' for name, key in names.items())}"
    note = " (the limit)" if not 1.001 * lowest < temperature < 0.999 * highest else ""
    scores = [f"{name} {metrics[f'{key}_uncalibrated']:.3f} -> {metrics[key]:.3f}" for name, key in names.items()]
    return f"Temperature {temperature:.3g}{note}: {', '.join(scores)}"
