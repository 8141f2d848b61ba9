"""The folder of a run: `RunFolder` alone knows which files are in it and what they mean.

One process at a time trains in a folder: `RunFolder.open` locks it. Every result file is written by `whole_file` or
`write_whole`, so that the old file or the new one is on disk, whenever the machine stops.
"""

import csv
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnlab.config import read_config
from attnlab.errors import UserError, relative_to_cwd
from attnlab.folder_lock import Lock
from attnlab.process import rank

if TYPE_CHECKING:
    import pandas as pd

CONFIG = "config.yaml"  # the resolved config, written when training begins
METRICS = "metrics.json"  # written after all other results: a run that has it has finished
CURVES, PREDICTIONS, ENVIRONMENT = "metrics.csv", "predictions.parquet", "environment.json"
CHECKPOINTS, BEST, LAST = "checkpoints", "best.ckpt", "last.ckpt"


@contextmanager
def whole_file(path: Path, previous: Path | None = None, sync: bool = True) -> Iterator[Path]:
    """A temporary file next to `path`, which replaces `path` once it is complete and on disk.

    Args:
        previous: where to move the file that it replaces.
        sync: wait until it is on disk; not needed for what only matters while the program runs.
    """
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)  # of a run that was killed; it may be a second name of another file
    try:
        yield partial
        if sync:
            _sync(partial)
        if previous is not None and path.exists():
            path.replace(previous)
        partial.replace(path)
        if sync:
            _sync(path.parent)  # or a power failure may undo the renaming
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_whole(path: Path, text: str, sync: bool = True) -> None:
    """Write a text file by `whole_file`."""
    with whole_file(path, sync=sync) as partial:
        partial.write_text(text, encoding="utf-8")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # some file systems can't do it for a directory
            raise
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run. What is read from it is kept: ask a new `RunFolder` for what has changed since."""

    path: Path

    @classmethod
    @contextmanager
    def open(cls, path: Path, new: bool, patience: float = 0.0) -> Iterator["RunFolder"]:
        """Lock a folder for as long as the run lasts. The processes of a distributed run share the lock of rank 0.

        Args:
            new: the run is a new one, so the folder must not hold another.
            patience: seconds to wait for a process that is about to end.

        Raises:
            UserError: another process trains there, or a new run would be in the folder of another.
        """
        run = cls(path)
        if rank():
            yield run
            return
        lock = Lock(path)
        lock.acquire(patience)
        try:
            if new and run.has_begun:
                folder = relative_to_cwd(path)
                raise UserError(
                    f"{folder} holds another run, whose results would be mixed with those of this one: give another "
                    f"folder with hydra.run.dir=<folder> (-m: hydra.sweep.dir), resume that run with resume={folder}, "
                    "or remove it"
                )
            yield run
        finally:
            lock.release()

    @classmethod
    def of_checkpoint(cls, checkpoint: Path) -> "RunFolder":
        """The run that a checkpoint was trained in. A file from elsewhere is in none, and the folder has no config."""
        return cls(checkpoint.parent.parent)

    @property
    def has_begun(self) -> bool:
        """Whether a run has written something here: a folder belongs to one run."""
        return any((self.path / name).exists() for name in (CONFIG, METRICS, CHECKPOINTS))

    @property
    def is_finished(self) -> bool:
        """Whether all results are written."""
        return (self.path / METRICS).exists()

    @cached_property
    def config(self) -> dict[str, Any]:
        """Its settings; of a job that failed before it wrote them, Hydra's copy. {} where there is neither.

        Raises:
            UserError: the file can't be read.
        """
        files = (self.path / CONFIG, self.path / ".hydra" / "config.yaml")
        return next((read_config(file) for file in files if file.is_file()), {})

    @cached_property
    def choices(self) -> dict[str, str]:
        """Which file of each group of `conf/` the settings came from, as far as that is known."""
        if "choices" in self.config:
            return dict(self.config["choices"])
        file = self.path / ".hydra" / "hydra.yaml"
        choices = read_config(file)["hydra"]["runtime"]["choices"] if file.is_file() else {}
        return {key: value for key, value in choices.items() if value is not None}

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Its results; {} of a run that has not finished."""
        return self._read_json(METRICS)

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Versions, device and threads that it was trained with, {} where it has not recorded them."""
        return self._read_json(ENVIRONMENT)

    def _read_json(self, name: str) -> dict[str, Any]:
        try:
            return dict(json.loads((self.path / name).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return {}

    def curve(self, key: str, by: str = "step") -> list[tuple[int, float]]:
        """The values of a metric during training, by step or epoch (from 0); [] where the run has recorded none."""
        if (key, by) not in self._curves:
            try:
                with (self.path / CURVES).open(encoding="utf-8", newline="") as file:
                    rows = [(int(row[by]), float(row[key])) for row in csv.DictReader(file) if row.get(key)]
            except (OSError, ValueError, KeyError, TypeError):
                rows = []
            self._curves[key, by] = rows
        return self._curves[key, by]

    @cached_property  # a comparison draws the curve of a run once for each factor
    def _curves(self) -> dict[tuple[str, str], list[tuple[int, float]]]:
        return {}

    def predictions(self) -> "pd.DataFrame | None":
        """`index`, `label` and `correct` of the test documents; None of a run that was not tested."""
        import pandas as pd

        try:
            return pd.read_parquet(self.path / PREDICTIONS, columns=["index", "label", "correct"])
        except (OSError, ValueError):
            return None

    @property
    def num_tested(self) -> int:
        """How many test documents have an answer in its predictions; 0 without a test."""
        import pyarrow.parquet

        file = self.path / PREDICTIONS
        return int(pyarrow.parquet.read_metadata(file).num_rows) if file.is_file() else 0

    def checkpoint(self) -> Path | None:
        """The one that the run was tested with: the best, or the last if none was kept; None where it has neither."""
        files = (self.path / CHECKPOINTS / name for name in (BEST, LAST))
        return next((file for file in files if file.is_file()), None)

    @property
    def seconds(self) -> float:
        """From its first file to its last result."""
        return (self.path / METRICS).stat().st_mtime - (self.path / CONFIG).stat().st_mtime

    @property
    def fold(self) -> str:
        """Which part of the documents it was tested on in cross-validation, "" without one."""
        data = self.config["data"]
        return f"{data.get('fold')}/{data['folds']}" if data.get("folds") else ""

    @property
    def block(self) -> str:
        """What it shares with the runs of other settings: the seed, and the fold if there are any."""
        return f"{self.config['seed']} {self.fold}".strip()

    @property
    def data_set(self) -> str:
        """Where its documents come from, however many of them it used."""
        data = self.config["data"]
        kind = str(data.get("_target_", "")).rsplit(".", 1)[-1]
        place = (data.get(key) for key in ("path", "name", "test", "topics"))
        return " ".join([kind, *(str(value) for value in place if value is not None)])

    @property
    def load(self) -> float:
        """Processes per core that were ready to run when it started; 0 where that is not known."""
        return float(self.environment.get("load") or 0.0)

    @property
    def devices(self) -> str:
        """The number of devices it was trained on, each of which takes a batch of its own."""
        trainer = self.config.get("trainer") or {}
        asked = trainer.get("devices", 1)
        number = len(asked) if isinstance(asked, list) else asked
        nodes = trainer.get("num_nodes") or 1
        return str(self.environment.get("devices", number * nodes if isinstance(number, int) else number))


def find_checkpoint(path: Path, setting: str = "ckpt_path") -> Path:
    """The file itself, or `RunFolder.checkpoint` of a folder. Raises `UserError`: there is none."""
    found = RunFolder(path).checkpoint() if path.is_dir() else path
    if found is None or not found.is_file():
        raise UserError(f"{setting}={path} is neither a checkpoint nor a run's folder with {CHECKPOINTS}/{BEST}")
    return found
