"""What pretrained weights are worth: accuracy and its price by the number of labelled documents.

    make real-weights
    AG_NEWS_PATH=<folder> make bench ARGS=pretrained

Each run keeps its folder below `logs/bench/pretrained/` and is not made again; `PRETRAINED="whole encoder 1000"` makes
those of that setting and size alone. One thread each, whose own time is told: others at work do not count.
"""

import json
import os
import re
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from attnlab.analysis.statistics import summarise
from attnlab.config import instantiate
from attnlab.inference import Predictor
from benchmarks import peers
from benchmarks.common import AG_NEWS, QUIET, RESULTS, ROOT, Row, config_of, run
from benchmarks.peers import TRAIN

THREADS = 1
RUNS = ROOT / "logs" / "bench" / "pretrained"
KEPT = "cost.json"
ALL = 62_336  # all but 2 % of the AG News part
EPOCHS = {100: 60, 1000: 30, 10_000: 10, ALL: 4}
TUNED = {100: 10, 1000: 3, 10_000: 1, ALL: 2}  # epochs of an encoder that learns
SCALES = {100: None, 1000: None, 10_000: 0.3, ALL: 0.03}  # chosen on validation at 1,000 documents and all
ANSWERED = 512  # documents, by which the speed of answering is told


@dataclass(frozen=True)
class Setting:
    """One way to train; `seeds` by the number of documents, as two cores allow."""

    name: str
    overrides: tuple[str, ...]
    seeds: dict[int, int]
    epochs: Callable[[int], int] = EPOCHS.__getitem__


EVERY = dict.fromkeys(EPOCHS, 3)
SOME = EVERY | {ALL: 1}
NGRAMS, ATTENTION = ("experiment=pretrained/ngram_bag", "model.buckets={buckets}"), "experiment=pretrained/attention"
SETTINGS = (
    Setting("words and pairs", (*NGRAMS, "embedding=random", "model.embed_dim=64"), EVERY),
    Setting("words and pairs with vectors", (*NGRAMS, "embedding.scale={scale}"), EVERY),
    Setting("attention", (ATTENTION, "embedding=random"), SOME),
    Setting("attention with vectors", (ATTENTION,), SOME),
    Setting("frozen encoder", ("experiment=pretrained/frozen",), EVERY),
    Setting("LoRA", ("experiment=pretrained/lora",), {100: 3, 1000: 2, 10_000: 2}, TUNED.__getitem__),
    Setting("whole encoder", ("experiment=pretrained/finetune",), SOME, TUNED.__getitem__),
)


def measure() -> list[Row]:
    """Make the runs that are missing, few documents first; the table and figures tell of all that there are."""
    if AG_NEWS is None:
        raise SystemExit("AG_NEWS_PATH=<folder> should name AG News")
    for size in EPOCHS:
        for setting in SETTINGS:
            for seed in range(setting.seeds.get(size, 0)):
                if os.environ.get("PRETRAINED") in (None, f"{setting.name} {size}"):
                    train(setting, size, seed)
    runs = collect()
    table = summary(runs)
    (RESULTS / "pretrained_runs.md").write_text(as_markdown(table), encoding="utf-8")
    draw(table)
    return rows(table)


def place(setting: Setting, size: int, seed: int) -> Path:
    return RUNS / re.sub(r"\W+", "_", setting.name) / str(size) / str(seed)


def train(setting: Setting, size: int, seed: int) -> None:
    """One run, tested; of its checkpoints only what answering costs is kept."""
    folder = place(setting, size, seed)
    if (folder / KEPT).exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    epochs = setting.epochs(size)
    print(f"  {setting.name}, {size:,} documents, seed {seed}", flush=True)
    run(
        "-c",
        TRAIN,
        # No more rows for pairs than there can be pairs; at full size a checkpoint has a gigabyte.
        *(
            override.format(scale=SCALES[size] or "null", buckets=min(500_000, 50 * size))
            for override in setting.overrides
        ),
        *QUIET,
        f"data.path={AG_NEWS}",
        f"data.limit={size}",
        f"seed={seed}",
        f"trainer.max_epochs={epochs}",
        # Validation is larger than a small training set, and what is chosen on it is the number of epochs alone.
        f"+trainer.check_val_every_n_epoch={epochs if setting.epochs(100) == TUNED[100] and size == 100 else 1}",
        # An epoch of a hundred documents is two steps, after three of which nothing is settled.
        "callbacks.early_stopping=null",
        "callbacks.last_checkpoint=null",
        f"paths.run_dir={folder}",
        script=None,
        threads=THREADS,
    )
    cost = {"rows_per_second": answering(folder) if seed == 0 else None}
    shutil.rmtree(folder / "checkpoints")
    (folder / KEPT).write_text(json.dumps(cost))


def answering(folder: Path) -> float:
    """Documents a second, median of three turns."""
    texts = instantiate(config_of("data=ag_news", f"data.path={AG_NEWS}")["data"]).load(["test"]).test.texts[:ANSWERED]
    predictor = Predictor.load(folder, THREADS)
    predictor(texts[:64])
    seconds = []
    for _ in range(3):
        start = time.process_time()
        predictor(texts)
        seconds.append(time.process_time() - start)
    return ANSWERED / statistics.median(seconds)


def collect() -> pd.DataFrame:
    """A row for each run that there is."""
    found = []
    for setting in SETTINGS:
        for size in setting.seeds:
            for folder in sorted(RUNS.glob(f"{place(setting, size, 0).parent.relative_to(RUNS)}/*")):
                if (folder / KEPT).exists():
                    metrics = json.loads((folder / "metrics.json").read_text())
                    seconds = metrics["train/seconds"] + metrics.get("train/encoding_seconds", 0)
                    cost = json.loads((folder / KEPT).read_text())
                    scores = metrics["test/acc"], seconds, metrics["model/learned"]
                    found.append((setting.name, size, *scores, *cost.values()))
    return pd.DataFrame(found, columns=["setting", "documents", "accuracy", "seconds", "learned", "rows_per_second"])


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """A row for each setting and size: mean accuracy with its 95 % interval over seeds, medians of the rest."""
    groups = runs.groupby(["setting", "documents"], sort=False)
    scores = groups["accuracy"].apply(lambda values: pd.Series(summarise(values))).unstack()[["mean", "low", "high"]]
    others = groups[["seconds", "learned", "rows_per_second"]].median()
    return scores.join(others).join(groups.size().rename("seeds")).reset_index()


def as_markdown(table: pd.DataFrame) -> str:
    lines = ["| setting | documents | test accuracy | seeds | training, s | weights that learn | answers, rows/s |"]
    lines += ["| --- " * 7 + "|"]
    for row in table.itertuples():
        half = f" ± {row.high - row.mean:.4f}" if row.seeds > 1 else ""
        speed = "" if pd.isna(row.rows_per_second) else f"{row.rows_per_second:,.0f}"
        lines.append(
            f"| {row.setting} | {row.documents:,} | {row.mean:.4f}{half} | {row.seeds} | {row.seconds:,.0f} | "
            f"{row.learned:,.0f} | {speed} |"
        )
    return "\n".join(lines) + "\n"


def draw(table: pd.DataFrame) -> None:
    """Accuracy by documents, and by seconds of training."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    for name, part in table.groupby("setting", sort=False):
        errors = [part["mean"] - part["low"], part["high"] - part["mean"]]
        axes[0].errorbar(part["documents"], part["mean"], errors, marker="o", capsize=3, label=name)
        axes[1].plot(part["seconds"], part["mean"], marker="o", label=name)
    axes[0].set(xscale="log", xlabel="labelled documents", ylabel="test accuracy")
    axes[1].set(xscale="log", xlabel="seconds of training, of one thread")
    axes[0].legend(fontsize=7)
    figure.savefig(RESULTS / "pretrained_runs.png", dpi=120)


def rows(table: pd.DataFrame) -> list[Row]:
    """What was aimed at, as far as it has been measured; and the peers."""
    found = []
    for name, size, target in (
        ("words and pairs with vectors", ALL, 0.927),
        ("whole encoder", 1000, 0.885),
        ("whole encoder", ALL, 0.94),
    ):
        for score in table[(table["setting"] == name) & (table["documents"] == size)]["mean"]:
            found.append(Row(f"{name}, {size:,} documents", score, None, score, "accuracy", target))
    return found + peers.encoder_rows(RUNS)
