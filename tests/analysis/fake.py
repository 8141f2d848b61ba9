"""Finished runs made up rather than trained: what stands in a run's folder is all that a comparison sees."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml


def write_run(
    folder: Path,
    changes: dict[str, Any] | None = None,
    *,
    seed: int = 0,
    accuracy: float = 0.8,
    num_documents: int = 200,
    choices: dict[str, str] | None = None,
    **metrics: float,
) -> Path:
    """A run with these changes, by dotted keys, to a small config. Which documents it gets right goes by its seed."""
    config: dict[str, Any] = {
        "seed": seed,
        "tags": [folder.name],
        "data": {"_target_": "attnlab.data.sources.Headlines", "validation": 0.1, "limit": None, "num_workers": seed},
        "pe": {"_target_": "attnlab.models.positional.Sinusoidal"},
        "model": {"_target_": "attnlab.models.classifier.TextClassifier", "pooling": "cls", "num_heads": 2},
        "optimizer": {"lr": 0.001},
        "trainer": {"max_epochs": 10},
    }
    for key, value in (changes or {}).items():
        *groups, last = key.split(".")
        place = config
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value
    config["model"]["pe"] = config["pe"]
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    if choices:
        (folder / ".hydra").mkdir()
        (folder / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump({"hydra": {"runtime": {"choices": choices}}}))
    rng = np.random.default_rng(seed)
    right = np.zeros(num_documents, dtype=bool)
    right[rng.permutation(num_documents)[: round(accuracy * num_documents)]] = True
    labels = np.arange(num_documents) % 2
    answers = np.where(right, labels, 1 - labels)
    pd.DataFrame(
        {"index": np.arange(num_documents), "label": labels, "predicted": answers, "correct": right}
    ).to_parquet(folder / "predictions.parquet")
    scores = {
        "test/acc": float(right.mean()),
        "test/f1": float(right.mean()),
        "test/loss": 1 - accuracy,
        "val/acc": accuracy,
        "train/seconds": 10.0 + seed,
        "train/epochs": 3,
        "train/samples_per_second": 1000.0,
        "model/parameters": 1234,
    }
    (folder / "metrics.json").write_text(json.dumps(scores | metrics))
    pd.DataFrame({"epoch": range(3), "step": range(3), "val/acc": [0.5, 0.7, accuracy]}).to_csv(folder / "metrics.csv")
    return folder


def write_sweep(folder: Path, key: str, accuracies: dict[Any, float], seeds: Sequence[int] = range(5)) -> Path:
    """A run for each value of a setting and each seed; scores move by half a point from seed to seed."""
    rng = np.random.default_rng(0)
    job = 0
    for value, accuracy in accuracies.items():
        for seed in seeds:
            write_run(folder / str(job), {key: value}, seed=seed, accuracy=accuracy + 0.005 * rng.standard_normal())
            job += 1
    return folder
