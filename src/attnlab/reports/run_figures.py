"""The figures of one run. Their size is bounded whatever the number of classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from attnlab.reports.drawing import save
from attnlab.runs import RunFolder
from attnlab.tasks import Task
from attnlab.tasks.calibration import reliability

if TYPE_CHECKING:
    pass

Counts = npt.NDArray[np.int64]

MATRIX_CLASSES = 60  # more are unreadable in one picture
NUMBERED_CLASSES = 20  # with more, the numbers in the cells would overlap
PAIRS = 30
NAME_LENGTH = 24
DPI = 100


def draw_figures(
    folder: Path,
    task: Task,
    logits: Tensor | None = None,
    labels: Tensor | None = None,
    counts: Counts | None = None,
    scores: Tensor | None = None,
) -> None:
    """Draw into `figures` in the run's folder: its curves, and for a tested run its calibration and confusions.

    Args:
        counts: [C, C] test documents by class and predicted class; above `MATRIX_CLASSES` the most confused pairs are
            drawn instead. None: a bar for the F1 of each class.
        scores: [C, 5], see `Task.stat_scores`.
    """
    import matplotlib

    figures, names = folder / "figures", task.label_names
    figures.mkdir(exist_ok=True)
    with matplotlib.rc_context({"text.parse_math": False}):  # a "$" in a label is not a formula
        _draw_curves(figures / "curves.png", RunFolder(folder))
        if logits is not None and labels is not None:
            _draw_reliability(figures / "reliability.png", task, logits, labels)
        if counts is not None and len(counts) <= MATRIX_CLASSES:
            _draw_confusion_matrix(figures / "confusion_matrix.png", counts, names)
        elif counts is not None and (pairs := confused_pairs(counts)):
            _draw_confused_pairs(figures / "confused_pairs.png", pairs, counts, names)
        elif counts is None and scores is not None:
            _draw_per_class(figures / "per_class.png", scores.numpy(), names)


def confused_pairs(counts: Counts) -> list[tuple[int, int, int]]:
    """(class, predicted class, count) of every kind of mistake, the most frequent first.

    counts: [C, C], rows are the classes, columns the predicted ones.
    """
    pairs = [(row, column, int(counts[row, column])) for row, column in np.argwhere(counts).tolist() if row != column]
    return sorted(pairs, key=lambda pair: -pair[2])


def _draw_confusion_matrix(path: Path, counts: Counts, label_names: list[str]) -> None:
    from matplotlib.figure import Figure
    from torchmetrics.classification import MulticlassConfusionMatrix

    size = len(label_names)
    names, numbered = _shortened(label_names), size <= NUMBERED_CLASSES
    side = max(2.5, min(0.8 * size, 6 + 0.2 * size))  # room for the numbers in the cells
    # Inches for the names of the classes. matplotlib's own layouts compute it, but draw the figure twice.
    margin = 0.7 + 0.08 * max(map(len, names))
    figure = Figure(figsize=(side + 1.4 * margin, side + margin + 0.4), dpi=DPI)
    width, height = figure.get_size_inches()
    box = (margin / width, margin / height, side / width, side / height)
    axes = figure.add_axes(box, title=f"{counts.sum():,} test documents")
    matrix = torch.from_numpy(counts)
    MulticlassConfusionMatrix(size).plot(matrix, ax=axes, add_text=numbered, labels=names, cmap="Blues")
    save(figure, path)


def _draw_confused_pairs(path: Path, pairs: list[tuple[int, int, int]], counts: Counts, label_names: list[str]) -> None:
    names, shown = _shortened(label_names), pairs[:PAIRS]
    notes = [f"{100 * number / counts[row].sum():.0f} % of the class" for row, _, number in shown]
    bars = [f"{names[row]} → {names[column]}" for row, column, _ in shown]
    title = f"The most confused of {len(label_names):,} classes"
    lengths = [number for _, _, number in shown]
    _draw_bars(path, bars, lengths, notes, title=title, xlabel="test documents", longest=max(lengths))


def _draw_per_class(path: Path, scores: Counts, label_names: list[str]) -> None:
    """F1 of each class, at most of the `PAIRS` largest ones.

    scores: [C, 5], see `Task.stat_scores`.
    """
    shown = np.argsort(-scores[:, 4], kind="stable")[:PAIRS]
    hits, alarms, _, missed, size = scores[shown].T
    names = _shortened([label_names[index] for index in shown])
    f1 = (2 * hits / np.maximum(1, 2 * hits + alarms + missed)).tolist()
    notes, title = [f"{number:,} documents" for number in size], f"{len(shown):,} of {len(scores):,} classes"
    _draw_bars(path, names, f1, notes, title=title, xlabel="F1", longest=1.0)


def _draw_reliability(path: Path, task: Task, logits: Tensor, labels: Tensor) -> None:
    """A reliability diagram: accuracy by probability, with the temperature and without it. logits: [N, C]

    Below it, the number of probabilities of each point.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 5.4), dpi=DPI)
    figure.subplots_adjust(left=0.17, right=0.96, bottom=0.09, top=0.82, hspace=0.08)
    shares, numbers = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    shares.plot([0, 1], [0, 1], color="grey", linestyle=":")
    for temperature, marker in ((1.0, "x"), (task.temperature, "o")):
        counts, means = reliability(task, task.uncalibrated(logits / temperature), labels)
        shares.plot(*means.T, marker=marker, label=f"temperature {temperature:.3g}")
        numbers.plot(means[:, 0], counts, marker=marker)
    shares.set(ylabel="share that is right", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    shares.legend(title=f"{len(labels):,} test documents", loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
    numbers.set(xlabel="probability", ylabel="how many", yscale="log", ylim=(0.8, None))
    numbers.yaxis.set_major_formatter("{x:,.0f}")  # powers of ten and minor ticks take half of the time
    numbers.minorticks_off()
    for axes in (shares, numbers):
        axes.grid(alpha=0.3)
    save(figure, path)


def _draw_bars(
    path: Path, names: list[str], lengths: Sequence[float], notes: list[str], *, title: str, xlabel: str, longest: float
) -> None:
    """A bar for each name, the first on top, with a note after it; `longest` is the largest possible length."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.24 * len(names) + 1.2), layout="constrained", dpi=DPI)
    axes = figure.add_subplot(title=title, xlabel=xlabel)
    axes.bar_label(axes.barh(range(len(names)), lengths), notes, padding=3, fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.set_xlim(0, 1.2 * longest)  # room for the notes
    save(figure, path)


def _shortened(names: list[str]) -> list[str]:
    return [name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH - 1]}…" for name in names]


def _draw_curves(path: Path, run: RunFolder) -> None:
    """Loss and accuracy by training step, of a run that has recorded any."""
    from matplotlib.figure import Figure

    curves = {key: points for key in ("train/loss", "val/loss", "val/acc") if (points := run.curve(key))}
    if not curves:
        return
    figure = Figure(figsize=(8, 3.2), dpi=DPI)
    figure.subplots_adjust(left=0.07, right=0.98, bottom=0.16, top=0.9)
    for axes, name in zip(figure.subplots(1, 2), ("acc", "loss"), strict=True):
        for key, points in curves.items():
            if key.endswith(name):
                axes.plot(*zip(*points, strict=True), label=key, marker="." if key.startswith("val") else None)
        axes.set(xlabel="training step", title={"loss": "Cross-entropy", "acc": "Accuracy"}[name])
        axes.locator_params(nbins=5)  # each tick costs a millisecond or two
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    save(figure, path)
