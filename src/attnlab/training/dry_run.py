"""A dry run: one training step on two made-up documents, which finds what does not fit together before data is read."""

import logging
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from attnlab.config import instantiate
from attnlab.data.tokenization import Pretrained
from attnlab.errors import UserError, first_line, own_place
from attnlab.tasks import Task, make_task
from attnlab.training.checkpoints import find_last
from attnlab.training.encoder import model_settings
from attnlab.training.optimization import make_optimizer
from attnlab.validation import Settings

log = logging.getLogger(__name__)

VOCAB_SIZE = 8
# Two documents of five tokens, and three classes: different sizes, so that no dimension passes for another.
DOCUMENTS = torch.tensor([[1, 2, 3, 4, 5], [5, 4, 3, 2, 1]]), torch.ones(2, 5, dtype=torch.bool)


def dry_run_step(config: Settings, resumed: Path | None) -> None:
    """Build every part of a run with a tiny vocabulary and take one optimizer step.

    Of a run that resumes in the folder `resumed`, an encoder's config comes from its checkpoint.

    Raises:
        UserError: settings that contradict each other, or a part whose output has another shape than required.
    """
    instantiate(config["data"])
    recipe = instantiate(config["tokenizer"])
    checkpoint = find_last(resumed) if resumed and "path" in config["model"] else None
    settings = model_settings(config["model"], checkpoint)
    if "encoder" in settings and not isinstance(recipe, Pretrained):
        raise UserError("a pretrained encoder requires its own tokenizer: use tokenizer=pretrained")
    task = make_task(config["task"] | {"class_weights": None}, ["", " ", "  "])
    model = instantiate(
        settings, vocab_size=VOCAB_SIZE, num_classes=task.num_outputs, pad_id=0, max_length=recipe.max_length
    )
    optimizer = make_optimizer(config["optimizer"], model.parameters())
    limits = config["trainer"]
    endless = limits.get("max_epochs") == -1 and limits.get("max_steps", -1) == -1
    instantiate(config["scheduler"], optimizer=optimizer, total_steps=math.inf if endless else 1)
    labels = _checked_labels(task, _checked_logits(task, model))

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = task.loss(model(*DOCUMENTS), labels)
        _check_shape(f"the loss of {type(task).__name__}", loss, (), "one number, the mean over documents")
        loss.backward()
        if limits.get("gradient_clip_algorithm") == "value" and any(
            p.grad is not None and p.grad.is_sparse for p in model.parameters()
        ):
            raise UserError("sparse gradients can only be clipped by norm: use trainer.gradient_clip_algorithm=norm")
        return loss

    try:
        optimizer.step(closure)  # type: ignore[arg-type]
    except RuntimeError as error:
        if (place := own_place(error)) is not None:
            log.error("The error is in %s", place)
            raise
        advice = "; sparse gradients (model=ngram_bag) require optimizer=adagrad" if "sparse" in str(error) else ""
        raise UserError(f"this model and optimizer can't make a step: {first_line(error)}{advice}") from error


def _checked_logits(task: Task, model: nn.Module) -> Tensor:
    with torch.no_grad():
        logits = model.eval()(*DOCUMENTS)
    model.train()
    required = len(DOCUMENTS[0]), task.num_outputs
    _check_shape(f"the output of {type(model).__name__}", logits, required, "a row a document, a logit a class")
    return logits


def _checked_labels(task: Task, logits: Tensor) -> Tensor:
    """Labels for `DOCUMENTS`, with which each method of the task has the right shape."""
    documents, classes, name = len(logits), len(task.label_names), type(task).__name__
    labels = torch.arange(documents)
    try:
        task.check(labels.numpy())
    except UserError:  # a task with several labels a document
        labels = torch.eye(documents, classes)
    probabilities = task.probabilities(logits)
    _check_shape(f"{name}.probabilities", probabilities, (documents, classes), "a column a class")
    _check_shape(f"{name}.losses", task.losses(logits, labels), (documents,), "a number a document")
    correct = task.correct(task.decide(probabilities), labels)
    _check_shape(f"{name}.correct", correct, (documents,), "a truth value a document")
    return labels


def _check_shape(what: str, found: object, required: tuple[int, ...], meaning: str) -> None:
    shape = list(found.shape) if isinstance(found, Tensor) else f"not a tensor but a {type(found).__name__}"
    if not isinstance(found, Tensor) or tuple(found.shape) != required:
        raise UserError(
            f"{what} has the shape {shape}, and {list(required)} is required ({meaning}): for {len(DOCUMENTS[0])} "
            f"documents of {DOCUMENTS[0].size(1)} tokens"
        )
