"""Finished runs, found below folders; which test documents each got right; and what makes them hard to compare."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from attnlab.environment import origin
from attnlab.errors import UserError
from attnlab.runs import CONFIG, METRICS, RunFolder

WITHOUT_EFFECT = ("num_workers", "batch_size")  # settings of `data` that change no document


def read_runs(folders: Sequence[Path]) -> tuple[list[RunFolder], list[str]]:
    """All finished training runs in these folders and below, in order of their names, and what was left out and why.

    Raises:
        UserError: a folder does not exist, or there is no finished run.
    """
    runs, unfinished = [], []
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"runs={folder} is not a directory; give a run, a multirun or any folder above them")
        # A job that failed before it began has left nothing but Hydra's copy of its config.
        paths = {file.parent.parent if file.parent.name == ".hydra" else file.parent for file in folder.rglob(CONFIG)}
        for run in map(RunFolder, sorted(paths, key=_natural)):
            if not {"model", "data", "seed"} <= run.config.keys():
                continue  # of evaluate.py or compare.py
            if run.metrics:
                runs.append(run)
            else:
                unfinished.append(str(run.path.relative_to(folder)))
    if not runs:
        raise UserError(f"no finished run below {', '.join(map(str, folders))}: one has {CONFIG} and {METRICS}")
    warnings = [f"unfinished or failed, left out: {', '.join(unfinished)}"] if unfinished else []
    return runs, warnings


def _natural(path: Path) -> list[tuple[int, str]]:
    """Job 10 comes after job 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path))]


def correctness(runs: Sequence[RunFolder]) -> list[tuple[str, npt.NDArray[np.bool_]] | None]:
    """For each run, a digest of its test documents and which of them it got right; None if it kept no predictions."""
    rows: list[tuple[str, npt.NDArray[np.bool_]] | None] = []
    for run in runs:
        table = run.predictions()
        if table is None:
            rows.append(None)
            continue
        # Several labels of a document are a list, which has no hash.
        table["label"] = table["label"].map(lambda label: label if np.isscalar(label) else ", ".join(label))
        hashes = pd.util.hash_pandas_object(table[["index", "label"]], index=False).to_numpy()
        rows.append((hashlib.blake2b(hashes.tobytes(), digest_size=8).hexdigest(), table["correct"].to_numpy()))
    return rows


def mixtures(runs: Sequence[RunFolder]) -> list[str]:
    """Differences between runs that are in no setting: code, libraries, and documents under the same data settings."""
    found: dict[str, Counter[str]] = {}
    documents: dict[str, Counter[str]] = {}
    commits: dict[Any, Any] = {origin(run.environment).get("code"): run.environment.get("commit") for run in runs}
    for run in runs:
        for key, value in origin(run.environment).items():
            found.setdefault(key, Counter())[value] += 1
        if fingerprint := run.environment.get("data"):
            settings = {key: value for key, value in run.config["data"].items() if key not in WITHOUT_EFFECT}
            documents.setdefault(json.dumps(settings, sort_keys=True, default=str), Counter())[fingerprint] += 1
    mixed = []
    for key, counts in found.items():
        names = {value: f"of commit {commits.get(value) or value}" if key == "code" else value for value in counts}
        if len(counts) > 1:
            mixed.append(f"{key} {', '.join(f'{names[value]} ({number} runs)' for value, number in counts.items())}")
    for counts in documents.values():
        if len(counts) > 1:
            numbers = ", ".join(map(str, counts.values()))
            mixed.append(f"documents, labels or splits of the same data settings ({numbers} runs)")
    return mixed
