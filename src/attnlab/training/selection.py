"""Which weights are the best: the direction of a metric, the checkpoint that is kept, and with it what is tested."""

import inspect
import logging
import re
from pathlib import Path
from typing import cast

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from attnlab.config import find_allowed
from attnlab.errors import UserError
from attnlab.metrics import Direction, direction, known_direction
from attnlab.runs import BEST
from attnlab.tasks import Task, make_task
from attnlab.training.checkpoints import name_again
from attnlab.training.settings import Settings

log = logging.getLogger(__name__)


def check_selection(config: Settings) -> None:
    """Make sure that everything which goes by a metric goes by one that there is, and in its direction.

    `monitor`, and a callback that takes a `mode`, get the metric's direction where they were given none.

    Raises:
        UserError: a mode that contradicts its metric, a metric whose direction nobody says, an unknown metric, or no
            validation to measure one on.
    """
    monitor = config["monitor"]
    task = make_task(config["task"] | {"class_weights": None}, ["", " "])  # the classes' names are not known yet
    measured = tuple(f"val/{name}" for name in task.METRICS)
    if monitor["metric"] not in measured:
        raise UserError(
            f"monitor.metric={monitor['metric']} is not measured by this task; choose one of {', '.join(measured)}"
        )
    if config["task"].get("class_weights") and monitor["metric"] == "val/loss":
        log.warning(
            "task.class_weights trains all classes alike, and monitor.metric=val/loss chooses the epoch by the "
            "frequent ones; monitor.metric=val/%s chooses it by all",
            task.BALANCED,
        )
    monitor["mode"] = _direction(task, monitor["metric"], monitor["mode"], "monitor.mode")
    for name, callback in config["callbacks"].items():
        if callback is None or (metric := callback.get("monitor")) is None:
            continue
        if metric not in (logged := _logged(task)):
            raise UserError(f"callbacks.{name}.monitor={metric} is not measured; choose one of {', '.join(logged)}")
        if config["trainer"].get("limit_val_batches") == 0:
            raise UserError(
                f"trainer.limit_val_batches=0 leaves nothing to measure callbacks.{name}.monitor={metric} on; give "
                f"callbacks.{name}=null too"
            )
        if "mode" in callback or "mode" in inspect.signature(find_allowed(callback.get("_target_"))).parameters:
            usual = monitor["mode"] if metric == monitor["metric"] else None
            callback["mode"] = _direction(task, metric, callback.get("mode") or usual, f"callbacks.{name}.mode")


def _logged(task: Task) -> tuple[str, ...]:
    """What can be monitored."""
    return (*(f"val/{name}" for name in task.METRICS), "train/loss")  # the mean since the validation before


def _direction(task: Task, metric: str, given: Direction | None, key: str) -> Direction:
    """Of a metric that a task of the user's own brings, what its torchmetrics class says where the user does not."""
    if known_direction(metric) is None and given is None:
        own = dict(task.metrics().items()).get(metric.removeprefix("val/"))
        if (higher := getattr(own, "higher_is_better", None)) is not None:
            given = "max" if higher else "min"
    return direction(metric, given, key)


class BestCheckpoint(ModelCheckpoint):
    """Lightning's, whose best is `checkpoints/best.ckpt` however many are kept and whatever they are called.

    The only one has that name alone; of several, and with a `filename`, each has its own and best.ckpt is a second
    name of the best. In names that come out of a `filename`, "=" and "/" become "_", so that they are files of this
    folder and can be given on a command line.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raises `UserError` for another folder than the run's, and for a filename of a metric that there is not."""
        early = [key for key in ("every_n_train_steps", "train_time_interval") if getattr(self, f"_{key}")]
        if self._save_on_train_epoch_end:
            early.append("save_on_train_epoch_end")
        if stage == "fit" and self.monitor and early:
            raise UserError(
                f"{early[0]} would save other weights than {self.monitor} was measured of; trainer.val_check_interval "
                "validates more often, and callbacks.last_checkpoint saves more often"
            )
        if stage == "fit" and self.dirpath is None:
            self.filename = self._template(("epoch", "step", *_logged(cast(Task, pl_module.task))))
            self.auto_insert_metric_name = False
        elif stage == "fit":
            raise UserError(f"dirpath={self.dirpath}: a run keeps its checkpoints in its own folder; leave it out")
        super().setup(trainer, pl_module, stage)

    def _template(self, known: tuple[str, ...]) -> str:
        if self.filename in (None, "best"):
            return "best" if self.save_top_k in (0, 1) else "epoch_{epoch:02d}-step_{step}"
        names = re.findall(r"\{([^:}]*)", self.filename)
        if strange := [name for name in names if name not in known]:
            raise UserError(f"filename={self.filename}: {strange[0]!r} is none of {', '.join(known)}")
        template = re.sub(
            r"\{([^:}]*)", lambda found: f"{found[1].replace('/', '_')}_{{{found[1]}", self.filename.replace("=", "_")
        )
        if "/" in re.sub(r"\{.*?\}", "", template):
            raise UserError(f"filename={self.filename} is no name of a file: leave out the folder")
        return template

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        name_the_best(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        name_the_best(trainer)


def name_the_best(trainer: Trainer) -> Path | None:
    """The best checkpoint, beside which best.ckpt stands as another name of it; None where none is kept.

    The first checkpoint callback decides which one that is, as in Lightning.
    """
    path = getattr(trainer.checkpoint_callback, "best_model_path", "")
    if not path or not Path(path).exists():
        return None
    kept, best = Path(path), Path(path).with_name(BEST)
    if trainer.is_global_zero and kept != best and not (best.exists() and best.samefile(kept)):
        name_again(kept, best)
    return kept
