"""Where a run is followed: what a logger gets besides curves, and the loggers that take more than numbers."""

import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import numpy as np
import requests.utils
from annotated_types import Ge
from hydra.types import RunMode
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from attnlab.errors import first_line
from attnlab.runs import as_given, began_by
from attnlab.tasks import Task
from attnlab.training.figures import MATRIX_CLASSES
from attnlab.training.mistakes import Mistake
from attnlab.training.module import Predictions

log = logging.getLogger(__name__)

CONFUSION, MISTAKES = "test/confusion_matrix", "test/confident_mistakes"
SEARCH = "search"  # the folder of what is logged of a search as a whole, in the search's own

SETTING = "setting"  # hyper-parameter that a run is grouped by
ABOUT_THE_COMMAND = ("resume=", "logger", "paths.", "hydra.", "hparams_search", "callbacks.progress")
NO_SETTING = ("seed=", "data.fold=", "tags=", *ABOUT_THE_COMMAND)
WANDB_FOLDER = re.compile(r"^(offline-)?run-\d{8}_\d{6}-")  # before the id, which may have hyphens
WANDB_SYNC = "; `wandb sync --include-online <run>/wandb/run-*` sends the rest"

Table = tuple[list[str], list[list[Any]]]  # columns and rows


@dataclass(frozen=True)
class Exhibits:
    """What a run or a search has to show at its end, of which a logger takes what it can.

    Attributes:
        summary: numbers and words by name.
        figures: PNG files.
        files: what to keep for later.
    """

    summary: Mapping[str, Any]
    tables: Mapping[str, Table]
    figures: Mapping[str, Path]
    files: list[Path] = field(default_factory=list)


@runtime_checkable
class Tracker(Protocol):
    """A logger that takes more than numbers. An error in it is said and ends nothing."""

    def show(self, exhibits: Exhibits) -> None:
        """Show what there is at the end."""

    def note(self, values: Mapping[str, Any]) -> None:
        """Write down what runs can be told apart by."""


@contextmanager
def _outliving(name: str, advice: str = "") -> Iterator[None]:
    """The results of a run are in its folder by now: what happens to a logger is said and no more."""
    try:
        yield
    except Exception as error:
        log.warning("%s: %s%s", name, first_line(error), advice)


def show(loggers: Iterable[Logger], exhibits: Exhibits) -> None:
    """Hand it to each logger; one that is no `Tracker` gets the numbers of the summary."""
    numbers = {key: float(value) for key, value in exhibits.summary.items() if isinstance(value, int | float)}
    for logger in loggers:
        with _outliving(type(logger).__name__):
            if isinstance(logger, Tracker):
                logger.show(exhibits)
            else:
                logger.log_metrics(numbers)


def note(loggers: Iterable[Logger], values: Mapping[str, Any]) -> None:
    """Tell each logger that can keep it."""
    for logger in loggers:
        if isinstance(logger, Tracker):
            logger.note(values)


def of_run(
    folder: Path, metrics: dict[str, float], predictions: Predictions | None, mistakes: list[Mistake], task: Task
) -> Exhibits:
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
    files = [folder / "tokenizer.json", folder / "checkpoints" / "best.ckpt"]
    return Exhibits(metrics, tables, figures, [file for file in files if file.exists()])  # a debug run keeps none


class TensorBoard(TensorBoardLogger):
    """Lightning's, whose HPARAMS page gets the results too; figures are images, tables are text."""

    def log_hyperparams(self, params: dict[str, Any], *_: Any, **__: Any) -> None:  # type: ignore[override]
        """Keep them until there are results to stand beside."""
        self.hparams.update(params)

    def resume_at(self, step: int) -> None:
        """Have TensorBoard leave out what was written of `step` and later before the run was interrupted."""
        self._kwargs["purge_step"] = step

    def show(self, exhibits: Exhibits) -> None:
        from PIL import Image

        # Names of their own: a curve of the same name would get another point.
        results = {f"result/{key}": value for key, value in exhibits.summary.items() if isinstance(value, int | float)}
        super().log_hyperparams(self.hparams, results)
        for name, file in exhibits.figures.items():
            self.experiment.add_image(name, np.asarray(Image.open(file).convert("RGB")), dataformats="HWC")
        for name, (columns, rows) in exhibits.tables.items():
            self.experiment.add_text(name, _markdown([columns, ["---"] * len(columns), *rows]))
        words = {key: value for key, value in exhibits.summary.items() if not isinstance(value, int | float)}
        self.note(words)

    def note(self, values: Mapping[str, Any]) -> None:
        for key, value in values.items():
            self.experiment.add_text(key, str(value))


def _markdown(rows: list[list[Any]]) -> str:
    lines = ("".join(f"| {str(cell).replace('|', '&#124;')} " for cell in row) for row in rows)
    return "\n".join(" ".join(f"{line}|".splitlines()) for line in lines)


class Wandb(WandbLogger):
    """Lightning's, to which a run also sends its results, confusion matrix, mistakes, figures and model."""

    @_outliving("W&B", WANDB_SYNC)
    def show(self, exhibits: Exhibits) -> None:
        import wandb

        run = self.experiment
        run.summary.update(exhibits.summary)
        shown: dict[str, Any] = {}
        for name, (columns, rows) in exhibits.tables.items():
            shown[name] = table = wandb.Table(columns=columns, data=rows)
            if name == CONFUSION:
                fields = {column: column for column in columns}
                shown[name] = wandb.plot_table("wandb/confusion_matrix/v1", table, fields, {"title": name})
        shown |= {name: wandb.Image(str(file)) for name, file in exhibits.figures.items()}
        if shown:
            run.log(shown)
        if exhibits.files:
            artifact = wandb.Artifact(f"model-{run.id}", type="model")
            for file in exhibits.files:
                artifact.add_file(str(file))
            run.log_artifact(artifact)

    def note(self, values: Mapping[str, Any]) -> None:
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
    """A logger that works without an account: offline where no key is found, and never prompting.

    Args:
        mode: "online", "offline" or "disabled"; None takes `WANDB_MODE`, or else online exactly where there is a key.
        group: None takes the sweep's folder in a multirun, the experiment's name otherwise.
        name: None takes the run's folder, after its sweep's in a multirun.
        finish_timeout: seconds that the end of a run waits for its upload; 0 waits for ever.
        save_dir: the run's folder.
        settings: passed on to `wandb.init`.
    """
    chosen = mode or os.environ.get("WANDB_MODE") or ("online" if has_key() else "offline")
    folder = Path(save_dir)
    command = began_by(folder)
    experiment = command.runtime.choices.get("experiment") if command else None
    # The run of a search as a whole is in the group of its trials.
    in_sweep = folder.name == SEARCH or (command is not None and command.mode in (RunMode.MULTIRUN, "MULTIRUN"))
    # A run that is resumed in its folder is the same run of W&B.
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
    """Whether W&B can be asked as somebody."""
    server = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    return bool(os.environ.get("WANDB_API_KEY") or requests.utils.get_netrc_auth(server))


def setting(folder: Path) -> str:
    """By what runs that differ in the seed alone are grouped: the command that began one, less what decides nothing."""
    given = as_given(command.overrides.task) if (command := began_by(folder)) else []
    return " ".join(override for override in given if not override.startswith(NO_SETTING)) or "default"


def finish(exit_code: int) -> None:
    """End what is open of this run: of W&B, where a process has one run at a time."""
    if "wandb" in sys.modules:
        import wandb

        with _outliving("W&B", WANDB_SYNC):
            try:
                wandb.finish(exit_code)
            except ConnectionError:  # its own process has died, and W&B would say so again at our exit
                with suppress(SystemExit, ConnectionError):  # of that process
                    wandb.teardown()
                wandb.run = None  # which `finish` leaves as it is: the next job would log into the dead run


def explained(error: Exception) -> str | None:
    """What a user can do about an error in mid-run; None where it is none of a logger's."""
    if isinstance(error, ConnectionError) and "wandb" in sys.modules:  # all that is connected while training
        return f"W&B's own process has died ({error}); resume=latest goes on with the run"
    if type(error).__module__.startswith("wandb."):  # which is imported only where it is used
        return (
            f"W&B: {first_line(error)}; logger.wandb.mode=offline keeps the run in its folder, and `wandb sync` sends "
            "it later"
        )
    return None
