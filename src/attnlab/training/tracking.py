"""Weights & Biases: what makes a run, and what is sent at its end."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import requests.utils
from annotated_types import Ge
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch.loggers import WandbLogger

from attnlab.task import Task
from attnlab.training.figures import MATRIX_CLASSES
from attnlab.training.mistakes import Mistake
from attnlab.training.module import Predictions


def wandb_logger(
    *,
    project: str,
    mode: Literal["online", "offline", "disabled"] | None,
    group: str | None,
    name: str | None,
    finish_timeout: Annotated[float, Ge(0)],
    save_dir: str,
    **settings: Any,
) -> WandbLogger:
    """A logger that works without an account: offline where no key is found, and never prompting.

    Args:
        mode: "online", "offline" or "disabled"; None takes `WANDB_MODE`, or else online exactly where there is a key.
        group: None takes the sweep's folder in a multirun, the experiment's name otherwise.
        name: None takes the run's folder, after its sweep's in a multirun.
        finish_timeout: seconds that the end of a run waits for its upload; 0 waits for ever.
        save_dir: the run's folder.
        settings: passed on to `wandb.init`.
    """
    server = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    has_key = bool(os.environ.get("WANDB_API_KEY") or requests.utils.get_netrc_auth(server))
    chosen = mode or os.environ.get("WANDB_MODE") or ("online" if has_key else "offline")
    folder = Path(save_dir)
    in_sweep, experiment = _hydra_context()
    # A run that is resumed in its folder goes on as the same run of W&B.
    earlier = sorted((folder / "wandb").glob("*run-*-*"), key=lambda path: path.stat().st_mtime)
    if earlier:
        settings |= {"id": earlier[-1].name.rsplit("-", 1)[1], "resume": "allow"}
    return WandbLogger(
        project=project,
        offline=chosen == "offline",
        mode=chosen,
        group=group or (folder.parent.name if in_sweep else experiment),
        name=name or (f"{folder.parent.name}/{folder.name}" if in_sweep else folder.name),
        save_dir=save_dir,
        settings={"finish_timeout": finish_timeout},
        **settings,
    )


def _hydra_context() -> tuple[bool, str | None]:
    """Whether this is a job of a multirun, and the chosen experiment."""
    if not HydraConfig.initialized():
        return False, None
    config = HydraConfig.get()
    return config.mode == RunMode.MULTIRUN, config.runtime.choices.get("experiment")


def log_results(
    logger: WandbLogger,
    run_dir: Path,
    metrics: dict[str, float],
    predictions: Predictions | None,
    mistakes: list[Mistake],
    task: Task,
) -> None:
    """Send the final metrics, tokenizer and best checkpoint; of a tested run what `_log_predictions` sends too."""
    import wandb

    run = logger.experiment
    run.summary.update(metrics)
    if predictions is not None:
        _log_predictions(run, predictions, mistakes, task)
    artifact = wandb.Artifact(f"model-{run.id}", type="model")
    for file in (run_dir / "tokenizer.json", run_dir / "checkpoints" / "best.ckpt"):
        if file.exists():  # a debug run keeps no checkpoint
            artifact.add_file(str(file))
    run.log_artifact(artifact)


def _log_predictions(run: Any, predictions: Predictions, mistakes: list[Mistake], task: Task) -> None:
    """The confusion matrix, unless it is too large to be read, and the most confident mistakes."""
    import wandb

    answers, labels = predictions.answers, predictions.labels
    shown: dict[str, Any] = {}
    if len(task.label_names) <= MATRIX_CLASSES and task.confusion(answers, labels) is not None:
        shown["test/confusion_matrix"] = wandb.plot.confusion_matrix(
            y_true=labels.tolist(),
            preds=answers.tolist(),
            class_names=task.label_names,
            title="Test confusion matrix",
        )
    shown["test/confident_mistakes"] = wandb.Table(
        columns=["text", "label", "predicted", "confidence"],
        data=[[mistake.text, mistake.label, mistake.predicted, mistake.probability] for mistake in mistakes],
    )
    run.log(shown)
