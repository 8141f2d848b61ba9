"""Loggers: curves in metrics.csv, TensorBoard and W&B, and what a logger gets at the end of a run besides curves."""

import csv
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import numpy as np
import requests.utils
from annotated_types import Ge
from hydra.types import RunMode
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only

from attnlab.errors import first_line
from attnlab.reports.run_figures import MATRIX_CLASSES
from attnlab.run_dirs import as_given, hydra_settings_of
from attnlab.runs import BEST, CHECKPOINTS, whole_file
from attnlab.tasks import Task
from attnlab.training.predictions import Mistake, SplitPredictions

log = logging.getLogger(__name__)

CONFUSION, MISTAKES = "test/confusion_matrix", "test/confident_mistakes"
SEARCH = "search"  # folder of what is logged of a search as a whole, in the search's own folder

SETTING = "setting"  # hyper-parameter by which runs are grouped
ABOUT_THE_COMMAND = ("resume=", "logger", "paths.", "hydra.", "hparams_search", "callbacks.progress")
NOT_IN_SETTING = ("seed=", "data.fold=", "tags=", *ABOUT_THE_COMMAND)
WANDB_FOLDER = re.compile(r"^(offline-)?run-\d{8}_\d{6}-")  # before the id, which may contain hyphens
WANDB_SYNC = "; `wandb sync --include-online <run>/wandb/run-*` sends the rest"

Table = tuple[list[str], list[list[Any]]]  # columns and rows


@dataclass(frozen=True)
class RunArtifacts:
    """The results of a run or a search; each logger takes what it can display.

    Attributes:
        summary: numbers and words by name.
        figures: PNG files.
        files: to be stored.
    """

    summary: Mapping[str, Any]
    tables: Mapping[str, Table]
    figures: Mapping[str, Path]
    files: list[Path] = field(default_factory=list)


@runtime_checkable
class ResultLogger(Protocol):
    """A logger that takes more than numbers, as one of your own may. An error in it is logged and ends nothing."""

    def log_results(self, artifacts: RunArtifacts) -> None:
        """Called at the end of a run or a search."""

    def log_summary(self, values: Mapping[str, Any]) -> None:
        """Store values by which runs can be told apart, such as the number of a trial."""


@contextmanager
def _errors_as_warnings(name: str, advice: str = "") -> Iterator[None]:
    """For the end of a run, whose results are in its folder by then: an error of a logger must not end it."""
    try:
        yield
    except Exception as error:
        log.warning("%s: %s%s", name, first_line(error), advice)


def log_results(loggers: Iterable[Logger], artifacts: RunArtifacts) -> None:
    """Pass the results to each logger: all of them to a `ResultLogger`, the numbers of the summary to any other."""
    numbers = {key: float(value) for key, value in artifacts.summary.items() if isinstance(value, int | float)}
    for logger in loggers:
        with _errors_as_warnings(type(logger).__name__):
            if isinstance(logger, ResultLogger):
                logger.log_results(artifacts)
            else:
                logger.log_metrics(numbers)


def log_summary(loggers: Iterable[Logger], values: Mapping[str, Any]) -> None:
    """Pass the values to each `ResultLogger`."""
    for logger in loggers:
        if isinstance(logger, ResultLogger):
            logger.log_summary(values)


def run_artifacts(
    folder: Path, metrics: dict[str, float], predictions: SplitPredictions | None, mistakes: list[Mistake], task: Task
) -> RunArtifacts:
    """Metrics, the confusion matrix unless it is too large to be read, the most confident mistakes, figures, model."""
    tables: dict[str, Table] = {}
    if predictions is not None:
        names, counts = task.label_names, task.confusion(predictions.answers, predictions.labels)
        if counts is not None and len(names) <= MATRIX_CLASSES:
            rows = [[a, b, int(counts[i, j])] for i, a in enumerate(names) for j, b in enumerate(names)]
            tables[CONFUSION] = ["Actual", "Predicted", "nPredictions"], rows
        rows = [[mistake.text, mistake.label, mistake.predicted, mistake.probability] for mistake in mistakes]
        tables[MISTAKES] = ["text", "label", "predicted", "confidence"], rows
    figures = {f"figures/{file.stem}": file for file in sorted((folder / "figures").glob("*.png"))}
    files = [folder / "tokenizer.json", folder / CHECKPOINTS / BEST]
    return RunArtifacts(metrics, tables, figures, [file for file in files if file.exists()])  # a debug run keeps none


class _Writer(ExperimentWriter):
    def _check_log_dir_exists(self) -> None:
        """Lightning's deletes the curves of a run that is about to resume."""


class CurvesLogger(CSVLogger):
    """Lightning's, which writes `metrics.csv` into the run's folder and can return to where a checkpoint was written.

    A checkpoint has the `position()` in the file rather than the curves, so that it does not grow with the run.
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
        """Nothing: they are in config.yaml."""

    def log_results(self, artifacts: object) -> None:
        """Nothing: they are in the run's folder."""

    def log_summary(self, values: object) -> None:
        """Nothing, likewise."""

    def position(self) -> dict[str, Any]:
        """The `columns` and the number of `rows` written so far, all of which are on disk afterwards."""
        self.save()
        if not self.file.exists():
            return {"columns": [], "rows": 0}
        with self.file.open("rb") as file:
            header, rows = file.readline().decode(), sum(1 for _ in file)
            os.fsync(file.fileno())
        return {"columns": header.strip().split(","), "rows": rows}

    @rank_zero_only
    def truncate(self, position: dict[str, Any]) -> None:
        """Remove what was written after `position`."""
        self.experiment.metrics, self.experiment.metrics_keys = [], list(position["columns"])
        if not position["rows"]:
            self.file.unlink(missing_ok=True)
            return
        rows = []
        if self.file.exists():
            with self.file.open(encoding="utf-8", newline="") as file:
                rows = list(islice(csv.DictReader(file), position["rows"]))
        if len(rows) < position["rows"]:
            log.warning("%s has lost %d rows of the curves", self.file, position["rows"] - len(rows))
        with whole_file(self.file) as partial, partial.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, position["columns"], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)


class TensorBoard(TensorBoardLogger):
    """Lightning's, whose HPARAMS page also gets the results; figures are images, tables are text."""

    def log_hyperparams(self, params: dict[str, Any], *_: Any, **__: Any) -> None:  # type: ignore[override]
        """Store them until there are results: the HPARAMS page takes both at once."""
        self.hparams.update(params)

    def resume_at(self, step: int) -> None:
        """Make TensorBoard ignore what was written of `step` and later before the run was interrupted."""
        self._kwargs["purge_step"] = step

    def log_results(self, artifacts: RunArtifacts) -> None:
        from PIL import Image

        # Names of their own: under the name of a curve they would be another point of it.
        results = {f"result/{key}": value for key, value in artifacts.summary.items() if isinstance(value, int | float)}
        super().log_hyperparams(self.hparams, results)
        for name, file in artifacts.figures.items():
            self.experiment.add_image(name, np.asarray(Image.open(file).convert("RGB")), dataformats="HWC")
        for name, (columns, rows) in artifacts.tables.items():
            self.experiment.add_text(name, _markdown([columns, ["---"] * len(columns), *rows]))
        self.log_summary({key: value for key, value in artifacts.summary.items() if not isinstance(value, int | float)})

    def log_summary(self, values: Mapping[str, Any]) -> None:
        for key, value in values.items():
            self.experiment.add_text(key, str(value))


def _markdown(rows: list[list[Any]]) -> str:
    lines = ("".join(f"| {str(cell).replace('|', '&#124;')} " for cell in row) for row in rows)
    return "\n".join(" ".join(f"{line}|".splitlines()) for line in lines)


class Wandb(WandbLogger):
    """Lightning's, which also sends results, confusion matrix, mistakes, figures and model."""

    @_errors_as_warnings("W&B", WANDB_SYNC)
    def log_results(self, artifacts: RunArtifacts) -> None:
        import wandb

        run = self.experiment
        run.summary.update(artifacts.summary)
        media: dict[str, Any] = {}
        for name, (columns, rows) in artifacts.tables.items():
            media[name] = table = wandb.Table(columns=columns, data=rows)
            if name == CONFUSION:
                fields = {column: column for column in columns}
                media[name] = wandb.plot_table("wandb/confusion_matrix/v1", table, fields, {"title": name})
        media |= {name: wandb.Image(str(file)) for name, file in artifacts.figures.items()}
        if media:
            run.log(media)
        if artifacts.files:
            model = wandb.Artifact(f"model-{run.id}", type="model")
            for file in artifacts.files:
                model.add_file(str(file))
            run.log_artifact(model)

    def log_summary(self, values: Mapping[str, Any]) -> None:
        self.experiment.summary.update(values)


def wandb_logger(
    *,
    project: str,
    mode: Literal["online", "offline", "disabled"] | None,
    group: str | None,
    name: str | None,
    finish_timeout: Annotated[float, Ge(0)],
    save_dir: str,
    **settings: Any,
) -> "Wandb":
    """A logger that works without an account: offline where no key is configured, and it never prompts.

    Args:
        mode: "online", "offline" or "disabled"; None: `WANDB_MODE`, or online if there is a key and offline if not.
        group: None: the sweep's folder in a multirun, the experiment's name otherwise.
        name: None: the run's folder, in a multirun after its sweep's.
        finish_timeout: seconds that the end of a run waits for its upload; 0: without limit.
        save_dir: the run's folder.
        settings: passed on to `wandb.init`.
    """
    chosen = mode or os.environ.get("WANDB_MODE") or ("online" if has_key() else "offline")
    folder = Path(save_dir)
    command = hydra_settings_of(folder)
    experiment = command.runtime.choices.get("experiment") if command else None
    # The run of a search as a whole is in the group of its trials.
    in_sweep = folder.name == SEARCH or (command is not None and command.mode in (RunMode.MULTIRUN, "MULTIRUN"))
    # A run that resumes in its folder continues its run of W&B. The id comes from the folder that W&B made: while
    # offline, W&B ignores `resume` itself.
    earlier = sorted((folder / "wandb").glob("*run-*-*"), key=lambda path: path.stat().st_mtime)
    if earlier:
        settings = {"id": WANDB_FOLDER.sub("", earlier[-1].name), "resume": "allow"} | settings
    if settings.get("id") is not None:
        settings["id"] = str(settings["id"])
    return Wandb(
        project=project,
        offline=chosen == "offline",
        mode=chosen,
        group=group or (folder.parent.name if in_sweep else experiment),
        name=name or (f"{folder.parent.name}/{folder.name}" if in_sweep else folder.name),
        save_dir=save_dir,
        job_type=SEARCH if folder.name == SEARCH else "train",
        settings={"finish_timeout": finish_timeout},
        **settings,
    )


def has_key() -> bool:
    """Whether a key of W&B is configured."""
    server = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    return bool(os.environ.get("WANDB_API_KEY") or requests.utils.get_netrc_auth(server))


def setting_of_run(folder: Path) -> str:
    """The overrides of the command that started a run, without the seed and others that are no part of the model."""
    given = as_given(command.overrides.task) if (command := hydra_settings_of(folder)) else []
    return " ".join(override for override in given if not override.startswith(NOT_IN_SETTING)) or "default"


def finish_wandb(exit_code: int) -> None:
    """End the open run of W&B. A process has one at a time, and it would receive the values of the next job."""
    if "wandb" in sys.modules:
        import wandb

        with _errors_as_warnings("W&B", WANDB_SYNC):
            try:
                wandb.finish(exit_code)
            except ConnectionError:  # W&B's service process has died; without a teardown it fails again at exit
                with suppress(SystemExit, ConnectionError):
                    wandb.teardown()
                wandb.run = None  # `finish` has not reset it: the next job would log into the dead run


def wandb_advice(error: Exception) -> str | None:
    """What a user can do about an error of W&B during training; None for any other error."""
    if isinstance(error, ConnectionError) and "wandb" in sys.modules:  # nothing else uses the network in training
        return f"W&B's own process has died ({error}); resume=latest resumes the run"
    if type(error).__module__.startswith("wandb."):
        return (
            f"W&B: {first_line(error)}; logger.wandb.mode=offline keeps the run in its folder, and `wandb sync` sends "
            "it later"
        )
    return None
