"""Finished runs, read from their folders."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from attnlab.config import read_config
from attnlab.environment import ENVIRONMENT, LIBRARIES
from attnlab.errors import UserError

FREE_OF_DATA = ("num_workers", "batch_size")  # settings of `data` that change no document


@dataclass(frozen=True)
class Run:
    """A finished run: its settings, which files of `conf/` they came from where that is known, and its scores."""

    folder: Path
    config: dict[str, Any]
    choices: dict[str, str]
    metrics: dict[str, float]

    @property
    def fold(self) -> str:
        """Which part of the documents it was tested on in cross-validation, "" without one."""
        data = self.config["data"]
        return f"{data.get('fold')}/{data['folds']}" if data.get("folds") else ""

    @property
    def block(self) -> str:
        """What it shares with runs of other settings: the seed, and the fold where there are any."""
        return f"{self.config['seed']} {self.fold}".strip()

    @property
    def data_set(self) -> str:
        """Where its documents come from, however many of them it took."""
        data = self.config["data"]
        kind = str(data.get("_target_", "")).rsplit(".", 1)[-1]
        place = (data.get(key) for key in ("path", "name", "test", "topics"))
        return " ".join([kind, *(str(value) for value in place if value is not None)])

    @cached_property
    def environment(self) -> dict[str, Any]:
        """What its environment.json holds; empty where it has none."""
        try:
            return dict(json.loads((self.folder / ENVIRONMENT).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return {}

    @property
    def load(self) -> float:
        """Processes that wanted to run for each core as it began; 0 where it is not known."""
        return float(self.environment.get("load") or 0.0)

    @property
    def devices(self) -> str:
        """How many it was trained on, each of which took a batch of its own."""
        trainer = self.config.get("trainer") or {}
        asked = trainer.get("devices", 1)
        number = len(asked) if isinstance(asked, list) else asked
        nodes = trainer.get("num_nodes") or 1
        return str(self.environment.get("devices", number * nodes if isinstance(number, int) else number))

    @cached_property  # drawn in the comparison of every factor
    def curve(self) -> pd.DataFrame:
        """Validation scores by epoch, which counts from 1; empty where the run kept no metrics.csv."""
        try:
            table = pd.read_csv(self.folder / "metrics.csv", usecols=["epoch", "val/acc"]).dropna()
        except (OSError, ValueError):  # none there, or of something else
            return pd.DataFrame(columns=["epoch", "val/acc"])
        table = table.groupby("epoch", as_index=False).last()  # of several validations in an epoch
        return table.assign(epoch=table["epoch"].astype(int) + 1)

    def predictions(self) -> pd.DataFrame | None:
        """`index`, `label` and `correct` of the test documents, or None where the run kept none that can be read."""
        file = self.folder / "predictions.parquet"
        try:
            table = pd.read_parquet(file, columns=["index", "label", "correct"])
        except (OSError, ValueError):
            return None
        return table.assign(label=table["label"].map(_in_words))


def read_runs(folders: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """All finished training runs in these folders and below, in order of their names, and what was left out and why.

    Raises:
        UserError: a folder does not exist, or there is no finished run.
    """
    runs, unfinished = [], []
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"runs={folder} is no folder; give a run, a multirun or any folder above them")
        # A job that failed before it began has left Hydra's copy of its config alone.
        files = {file.parent: file for file in folder.rglob("config.yaml") if file.parent.name != ".hydra"}
        files = {file.parent.parent: file for file in folder.rglob(".hydra/config.yaml")} | files
        for path in sorted(files, key=_natural):
            config = read_config(files[path])
            if not {"model", "data", "seed"} <= config.keys():
                continue  # of evaluate.py or compare.py
            metrics = _read_metrics(path / "metrics.json")
            if metrics is None:
                unfinished.append(str(path.relative_to(folder)))
            else:
                choices = config.get("choices") or _read_choices(path / ".hydra" / "hydra.yaml")
                runs.append(Run(path, config, choices, metrics))
    if not runs:
        raise UserError(f"no finished run below {', '.join(map(str, folders))}: one has config.yaml and metrics.json")
    warnings = [f"unfinished or failed, left out: {', '.join(unfinished)}"] if unfinished else []
    return runs, warnings


def correctness(runs: Sequence[Run]) -> list[tuple[str, npt.NDArray[np.bool_]] | None]:
    """Of each run a digest of its test documents and which of them it got right; None where it kept no predictions."""
    rows: list[tuple[str, npt.NDArray[np.bool_]] | None] = []
    for run in runs:
        table = run.predictions()
        if table is None:
            rows.append(None)
            continue
        hashes = pd.util.hash_pandas_object(table[["index", "label"]], index=False).to_numpy()
        rows.append((hashlib.blake2b(hashes.tobytes(), digest_size=8).hexdigest(), table["correct"].to_numpy()))
    return rows


def origin(environment: Mapping[str, Any]) -> dict[str, str]:
    """What the runs of a comparison should share, as far as an environment.json says it: the code and the libraries."""
    code = {"code": environment.get("code") or environment.get("commit")}
    known = code | {library: environment.get(library) for library in LIBRARIES}
    return {key: str(value) for key, value in known.items() if value is not None}


def mixtures(runs: Sequence[Run]) -> list[str]:
    """In what runs differ that no setting says: the code, the libraries, the documents that equal settings mean."""
    found: dict[str, Counter[str]] = {}
    documents: dict[str, Counter[str]] = {}
    commits = {origin(run.environment).get("code"): run.environment.get("commit") for run in runs}
    for run in runs:
        for key, value in origin(run.environment).items():
            found.setdefault(key, Counter())[value] += 1
        if fingerprint := run.environment.get("data"):
            settings = {key: value for key, value in run.config["data"].items() if key not in FREE_OF_DATA}
            documents.setdefault(json.dumps(settings, sort_keys=True, default=str), Counter())[fingerprint] += 1
    told = []
    for key, counts in found.items():
        names = {value: f"of commit {commits.get(value) or value}" if key == "code" else value for value in counts}
        if len(counts) > 1:
            told.append(f"{key} {', '.join(f'{names[value]} ({number} runs)' for value, number in counts.items())}")
    for counts in documents.values():
        if len(counts) > 1:
            numbers = ", ".join(map(str, counts.values()))
            told.append(f"documents, labels or splits of the same data settings ({numbers} runs)")
    return told


def _in_words(label: Any) -> Any:
    """Several labels of a document as one, which can be compared."""
    return label if np.isscalar(label) else ", ".join(label)


def _natural(path: Path) -> list[tuple[int, str]]:
    """Job 10 comes after job 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path))]


def _read_metrics(file: Path) -> dict[str, float] | None:
    """None for a run that has not come to its end, or was killed while it wrote."""
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _read_choices(file: Path) -> dict[str, str]:
    choices = read_config(file)["hydra"]["runtime"]["choices"] if file.is_file() else {}
    return {key: value for key, value in choices.items() if value is not None}
