"""What of a run's settings does not go together, found before data is read."""

import math
from typing import Any, cast

import torch

from attnlab.config import instantiate
from attnlab.data.tokenization import Pretrained
from attnlab.errors import UserError, first_line
from attnlab.training.settings import Settings


def check_settings(config: Settings, model_settings: dict[str, Any]) -> None:
    """Build model and optimizer once at the smallest size, so that their mistakes show before data is read."""
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
    model = instantiate(model_settings, vocab_size=1, num_classes=2, pad_id=0, max_length=recipe.max_length)
    optimizer = instantiate(config["optimizer"], params=model.parameters())
    endless = settings.get("max_epochs") == -1 and settings.get("max_steps", -1) == -1
    instantiate(config["scheduler"], optimizer=optimizer, total_steps=math.inf if endless else 1)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = model(torch.zeros(1, 3, dtype=torch.int64), torch.ones(1, 3, dtype=torch.bool)).sum()
        value.backward()
        if settings.get("gradient_clip_algorithm") == "value" and any(p.grad.is_sparse for p in model.parameters()):
            raise UserError("sparse gradients can be clipped by their norm alone: trainer.gradient_clip_algorithm=norm")
        return cast(torch.Tensor, value)

    try:
        optimizer.step(loss)
    except RuntimeError as error:
        advice = "; sparse gradients (model=ngram_bag) want optimizer=adagrad" if "sparse" in str(error) else ""
        raise UserError(f"this model and optimizer can't make a step: {first_line(error)}{advice}") from error
