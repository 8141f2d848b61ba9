"""What a finished run leaves in its folder and on the terminal."""

import csv
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table
from torchmetrics.classification import MulticlassConfusionMatrix
from torchmetrics.functional.classification import multiclass_confusion_matrix, multiclass_stat_scores

from attnlab.paths import shown
from attnlab.training.module import Predictions

Metrics = dict[str, float]


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """The resolved config, enough to run it again: `config.yaml`. Of a search's trial, without the search."""
    config = {key: value for key, value in config.items() if key != "hparams_search"}
    config["callbacks"] = {key: value for key, value in config["callbacks"].items() if key != "report_to_study"}
    _write_whole(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(config)))


def write_results(folder: Path, metrics: Metrics, predictions: Predictions | None, label_names: list[str]) -> None:
    """Of a run that was tested, write predictions.parquet, per_class.csv and the confusion matrix; then metrics.json.

    A folder that has metrics.json has all the rest.
    """
    if predictions is not None:
        _write_predictions(folder / "predictions.parquet", predictions, label_names)
        _write_per_class(folder / "per_class.csv", predictions, label_names)
        (folder / "figures").mkdir(exist_ok=True)
        _draw_confusion_matrix(folder / "figures" / "confusion_matrix.png", predictions, label_names)
    _write_whole(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")


def _write_whole(file: Path, text: str) -> None:
    """Whole or not at all: a run that is killed is resumed by its config, and has finished where it has metrics."""
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(file)


def _write_predictions(path: Path, predictions: Predictions, label_names: list[str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    names = pa.array(label_names)
    columns = {
        "index": predictions.index.numpy(),
        "label": names.take(pa.array(predictions.labels.numpy())),
        "predicted": names.take(pa.array(predictions.probabilities.argmax(dim=1).numpy())),
    }
    columns |= {
        f"p({name})": column.numpy() for name, column in zip(label_names, predictions.probabilities.T, strict=True)
    }
    pyarrow.parquet.write_table(pa.table(columns), path)


def _write_per_class(path: Path, predictions: Predictions, label_names: list[str]) -> None:
    scores = multiclass_stat_scores(
        predictions.probabilities, predictions.labels, num_classes=len(label_names), average=None
    )
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "precision", "recall", "f1", "support"])
        for name, (tp, fp, _, fn, support) in zip(label_names, scores.tolist(), strict=True):
            shares = (tp / max(1, tp + fp), tp / max(1, support), 2 * tp / max(1, 2 * tp + fp + fn))
            writer.writerow([name, *(f"{share:.4f}" for share in shares), support])


def _draw_confusion_matrix(path: Path, predictions: Predictions, label_names: list[str]) -> None:
    from matplotlib.figure import Figure

    size = len(label_names)
    figure = Figure(figsize=(0.9 * size + 2, 0.8 * size + 1.6), layout="constrained", dpi=150)
    axes = figure.add_subplot(title=f"{len(predictions.labels):,} test articles")
    counts = multiclass_confusion_matrix(predictions.probabilities, predictions.labels, num_classes=size)
    # Beyond 20 classes the numbers in the cells would run into each other.
    MulticlassConfusionMatrix(size).plot(counts, ax=axes, add_text=size <= 20, labels=label_names, cmap="Blues")
    figure.savefig(path)


def draw_curves(folder: Path) -> None:
    """The loss and accuracy that `metrics.csv` holds, by training step: figures/curves.png."""
    from matplotlib.figure import Figure

    curves: dict[str, list[tuple[int, float]]] = defaultdict(list)
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for key in ("train/loss", "val/loss", "val/acc"):
                if row.get(key):
                    curves[key].append((int(row["step"]), float(row[key])))
    figure = Figure(figsize=(8, 3.2), layout="constrained", dpi=150)
    for axes, name in zip(figure.subplots(1, 2), ("loss", "acc"), strict=True):
        for key, points in curves.items():
            if key.endswith(name):
                axes.plot(*zip(*points, strict=True), label=key, marker="." if key.startswith("val") else None)
        axes.set(xlabel="training step", title={"loss": "Cross-entropy", "acc": "Accuracy"}[name])
        axes.grid(alpha=0.3)
        axes.legend()
    (folder / "figures").mkdir(exist_ok=True)
    figure.savefig(folder / "figures" / "curves.png")


def print_summary(folder: Path, metrics: Metrics) -> None:
    """A table of the metrics and the folder where everything lies."""
    table = Table("metric", "value")
    table.columns[1].justify = "right"
    for key, value in metrics.items():
        table.add_row(
            key, f"{value:,}" if isinstance(value, int) else f"{value:.4f}" if abs(value) < 100 else f"{value:,.0f}"
        )
    console = Console()
    console.print(table)
    console.print(f"Everything is in {shown(folder)}", soft_wrap=True, highlight=False)
