"""What of a run's settings does not go together, found before data is read."""

import logging
import math
from typing import Any

import torch
from torch import Tensor, nn

from attnlab.config import instantiate
from attnlab.data.tokenization import Pretrained
from attnlab.errors import UserError, first_line, own_place
from attnlab.tasks import Task, make_task
from attnlab.training.module import make_optimizer
from attnlab.training.settings import Settings

log = logging.getLogger(__name__)

VOCAB = 8  # tokens
# Two documents of five tokens, and three classes: sizes that can't be taken for each other.
DOCUMENTS = torch.tensor([[1, 2, 3, 4, 5], [5, 4, 3, 2, 1]]), torch.ones(2, 5, dtype=torch.bool)


def check_settings(config: Settings, model_settings: dict[str, Any]) -> None:
    """Take a step with a tiny batch, so that what does not go together shows before data is read.

    Raises:
        UserError: settings that contradict each other, or a part that gives something of another shape.
    """
    settings = config["trainer"]
    for key in ("max_epochs", "max_steps", "limit_train_batches"):
        if settings.get(key) == 0:
            raise UserError(f"trainer.{key}=0 trains nothing; to test a trained model use src/evaluate.py")
    if config["test"] and settings.get("limit_test_batches") == 0:
        raise UserError("trainer.limit_test_batches=0 leaves nothing to test; to train without a test give test=false")
    scaled = str(settings.get("precision")) in ("16", "16-mixed")
    if scaled and settings.get("gradient_clip_val") and config["optimizer"].get("fused"):
        raise UserError(
            f"trainer.precision={settings['precision']} scales gradients, which then can't be clipped for a fused "
            "optimizer; add optimizer.fused=false, or use trainer.precision=bf16-mixed"
        )
    instantiate(config["data"])
    recipe = instantiate(config["tokenizer"])
    if "encoder" in model_settings and not isinstance(recipe, Pretrained):
        raise UserError("an encoder that was pretrained knows the tokens of its own tokenizer: tokenizer=pretrained")
    task = make_task(config["task"] | {"class_weights": None}, ["", " ", "  "])
    model = instantiate(
        model_settings, vocab_size=VOCAB, num_classes=task.num_outputs, pad_id=0, max_length=recipe.max_length
    )
    optimizer = make_optimizer(config["optimizer"], model.parameters())
    endless = settings.get("max_epochs") == -1 and settings.get("max_steps", -1) == -1
    instantiate(config["scheduler"], optimizer=optimizer, total_steps=math.inf if endless else 1)
    labels = _check_answers(task, _check_logits(task, model))

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = task.loss(model(*DOCUMENTS), labels)
        _check_shape(f"the loss of {type(task).__name__}", value, (), "one number, the mean over documents")
        value.backward()
        if settings.get("gradient_clip_algorithm") == "value" and any(
            p.grad is not None and p.grad.is_sparse for p in model.parameters()
        ):
            raise UserError("sparse gradients can be clipped by their norm alone: trainer.gradient_clip_algorithm=norm")
        return value

    try:
        optimizer.step(loss)  # type: ignore[arg-type]
    except RuntimeError as error:
        if (place := own_place(error)) is not None:
            log.error("The error is in %s", place)
            raise
        advice = "; sparse gradients (model=ngram_bag) want optimizer=adagrad" if "sparse" in str(error) else ""
        raise UserError(f"this model and optimizer can't make a step: {first_line(error)}{advice}") from error


def _check_logits(task: Task, model: nn.Module) -> Tensor:
    """The logits of `DOCUMENTS`. Raises `UserError` where they are not of the shape that the task takes."""
    wanted = len(DOCUMENTS[0]), task.num_outputs
    with torch.no_grad():
        logits = model.eval()(*DOCUMENTS)
    model.train()
    _check_shape(f"the output of {type(model).__name__}", logits, wanted, "a row a document, a logit a class")
    return logits


def _check_answers(task: Task, logits: Tensor) -> Tensor:
    """Labels for `DOCUMENTS`. Raises `UserError` where the task makes something of another shape of logits."""
    documents, classes, name = len(logits), len(task.label_names), type(task).__name__
    labels = torch.arange(documents)
    try:
        task.check(labels.numpy())
    except UserError:  # it takes several a document
        labels = torch.eye(documents, classes)
    probabilities = task.probabilities(logits)
    _check_shape(f"what {name}.probabilities gives", probabilities, (documents, classes), "a column a class")
    _check_shape(f"what {name}.losses gives", task.losses(logits, labels), (documents,), "a number a document")
    right = task.correct(task.decide(probabilities), labels)
    _check_shape(f"what {name}.correct gives", right, (documents,), "a truth value a document")
    return labels


def _check_shape(what: str, found: object, wanted: tuple[int, ...], meaning: str) -> None:
    shape = list(found.shape) if isinstance(found, Tensor) else f"no tensor, a {type(found).__name__}"
    if not isinstance(found, Tensor) or tuple(found.shape) != wanted:
        raise UserError(
            f"{what} has the shape {shape}, and {list(wanted)} is required ({meaning}): for {len(DOCUMENTS[0])} "
            f"documents of {DOCUMENTS[0].size(1)} tokens"
        )
