"""metrics.csv: the curves of a run, to which the run adds when it goes on after an interruption."""

import csv
import logging
import os
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only

from attnlab.runs import whole_file

log = logging.getLogger(__name__)


class _Writer(ExperimentWriter):
    def _check_log_dir_exists(self) -> None:
        """Lightning's removes the curves that are there."""


class CurvesLogger(CSVLogger):
    """Lightning's, which writes `metrics.csv` into the run's folder and can go back to where a checkpoint was made.

    A checkpoint holds a `mark()` rather than the curves: what is written for a run grows with its length alone.
    """

    def __init__(
        self, save_dir: str, name: Literal[""] = "", version: Literal[""] = "", flush_logs_every_n_steps: int = 100
    ) -> None:
        super().__init__(save_dir, name=name, version=version, flush_logs_every_n_steps=flush_logs_every_n_steps)
        self.file = Path(save_dir, ExperimentWriter.NAME_METRICS_FILE)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self._experiment is None:
            self._experiment = _Writer(self.log_dir)
        return self._experiment

    def log_hyperparams(self, params: Any = None) -> None:
        """Nothing: config.yaml has them."""

    def show(self, exhibits: object) -> None:
        """Nothing: the run's folder has them."""

    def note(self, values: object) -> None:
        """Nothing likewise."""

    def mark(self) -> dict[str, Any]:
        """Where the curves are now, all of it on disk: their `columns` and the number of `rows`."""
        self.save()
        if not self.file.exists():
            return {"columns": [], "rows": 0}
        with self.file.open("rb") as file:
            header, rows = file.readline().decode(), sum(1 for _ in file)
            os.fsync(file.fileno())
        return {"columns": header.strip().split(","), "rows": rows}

    @rank_zero_only
    def go_back(self, mark: dict[str, Any]) -> None:
        """Take away what was written after `mark`."""
        self.experiment.metrics, self.experiment.metrics_keys = [], list(mark["columns"])
        if not mark["rows"]:
            self.file.unlink(missing_ok=True)
            return
        rows = []
        if self.file.exists():
            with self.file.open(encoding="utf-8", newline="") as file:
                rows = list(islice(csv.DictReader(file), mark["rows"]))
        if len(rows) < mark["rows"]:
            log.warning("%s has lost %d rows of the curves", self.file, mark["rows"] - len(rows))
        with whole_file(self.file) as partial, partial.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, mark["columns"], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
