"""The vectors that a model's tokens begin with."""

import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attnlab.config import instantiate
from attnlab.data.datamodule import TextDataModule
from attnlab.data.sources import with_absolute_paths
from attnlab.data.tokenization import SPECIAL_TOKENS, UNK
from attnlab.data.vectors import StaticVectors, Vectors, vector_width
from attnlab.errors import UserError
from attnlab.training.settings import Settings

log = logging.getLogger(__name__)


def settle_embedding(config: Settings) -> None:
    """Make a relative `embedding.path` absolute, and look whether the model is as wide as the vectors.

    Raises:
        UserError: it is not, or there are no vectors.
    """
    settings = config["embedding"]
    if "_target_" not in settings:
        if settings.get("path"):
            log.warning(
                "embedding=random reads no vectors: embedding.path=%s is for embedding=static", settings["path"]
            )
        return
    if "path" in config["model"]:
        raise UserError("embedding=static is for models that begin anew: a pretrained encoder has its own vectors")
    config["embedding"] = settings = with_absolute_paths(settings)
    width, given = vector_width(settings["path"]), config["model"].get("embed_dim")
    if width != given:
        raise UserError(
            f"model.embed_dim={given}, and the vectors of {settings['path']} have {width} values: leave it out, or "
            f"where a file gives it, give model.embed_dim={width}"
        )


def place_vectors(settings: dict[str, Any], model: nn.Module, data: TextDataModule, from_checkpoint: bool) -> None:
    """Let the tokens of `model` begin with the vectors that `settings`, the config of the embedding, names.

    What a file does not have is drawn from a normal distribution with mean and spread of what it has. With
    `from_checkpoint` the checkpoint brings all vectors: the file is not looked at.

    Raises:
        UserError: the vectors can't be read, or the model has no embedding.
    """
    if "_target_" not in settings:
        return
    static: StaticVectors = instantiate(settings)
    embedding, size = getattr(model, "embedding", None), data.tokenizer.get_vocab_size()
    if not isinstance(embedding, nn.Embedding):
        raise UserError(f"embedding=static is for models with an embedding, and {type(model).__name__} has none")
    if not from_checkpoint:
        vectors = static.load(data.tokenizer, data.cache_dir)
        _say_coverage(vectors, data)
        with torch.no_grad():
            embedding.weight[:size] = _first_weights(vectors, static.scale)
            if embedding.padding_idx is not None:
                embedding.weight[embedding.padding_idx] = 0
    if static.freeze:
        freeze_first_rows(embedding, size)


def _first_weights(vectors: Vectors, scale: float | None) -> Tensor:
    covered = torch.from_numpy(vectors.covered)
    known = torch.from_numpy(vectors.table)[covered]
    if scale is not None:
        known *= scale / known.square().mean().sqrt()
    weights = known.mean(dim=0) + known.std(dim=0, correction=0) * torch.randn(len(covered), known.size(1))
    weights[covered] = known
    return weights


def _say_coverage(vectors: Vectors, data: TextDataModule) -> None:
    """Of the vocabulary and of the training documents' tokens, [CLS] and the like aside."""
    counts = np.bincount(data.datasets["train"].tokens.ids, minlength=len(vectors.covered))
    special = [data.tokenizer.token_to_id(token) for token in SPECIAL_TOKENS if token != UNK]
    ordinary = np.isin(np.arange(len(counts)), np.array(special), invert=True)
    log.info(
        "Vectors: %d values each, for %.1f %% of the vocabulary and %.1f %% of train's tokens; the others are drawn",
        vectors.table.shape[1],
        100 * vectors.covered[ordinary].mean(),
        100 * counts[vectors.covered].sum() / max(1, counts[ordinary].sum()),
    )


def freeze_first_rows(embedding: nn.Embedding, size: int) -> None:
    """No step changes the first `size` rows; those of n-grams, where there are any behind them, learn on."""
    if embedding.num_embeddings == size:
        embedding.weight.requires_grad_(False)
        return

    def without_first_rows(gradient: Tensor) -> Tensor:
        assert gradient.is_sparse
        gradient = gradient.coalesce()
        indices, values = gradient.indices(), gradient.values()
        begin = int(torch.searchsorted(indices[0], size))
        return torch.sparse_coo_tensor(indices[:, begin:], values[begin:], gradient.shape, is_coalesced=True)

    embedding.weight.register_hook(without_first_rows)
