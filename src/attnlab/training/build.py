"""The data module and the module of a run from its config, and the first weights of the latter.

Those are random, or come from word vectors, an encoder's file, another run, or the checkpoint of a run that resumes.
"""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import seed_everything
from tokenizers import Tokenizer
from torch import Tensor, nn

from attnlab.config import instantiate
from attnlab.data.datamodule import TextDataModule
from attnlab.data.file_access import TOKENIZER
from attnlab.data.tokenization import SPECIAL_TOKENS, UNK, Pretrained
from attnlab.data.vectors import StaticVectors, Vectors
from attnlab.errors import UserError, relative_to_cwd
from attnlab.models.pretrained import PretrainedClassifier
from attnlab.process import use_threads
from attnlab.runs import find_checkpoint
from attnlab.training.encoder import SCRATCH, load_encoder, model_settings, plain_name
from attnlab.training.module import TextClassification
from attnlab.training.saved import Trained, load_weights
from attnlab.validation import Settings

log = logging.getLogger(__name__)


def make_datamodule(config: Settings, resumed: Path | None) -> TextDataModule:
    """Read, split and tokenise the data; `resumed`: the folder of a run that resumes."""
    source, recipe = instantiate(config["data"]), instantiate(config["tokenizer"])
    if resumed is not None and isinstance(recipe, Pretrained) and (resumed / TOKENIZER).is_file():
        recipe = replace(recipe, path=str(resumed))  # the run's own copy: the original may have changed
    datamodule = TextDataModule(source, recipe, Path(config["paths"]["cache_dir"]), config["seed"])
    datamodule.setup()
    return datamodule


def make_module(config: Settings, datamodule: TextDataModule, checkpoint: Path | None) -> TextClassification:
    """The model with its first weights, the task and the optimizer; `checkpoint`: what the run resumes from."""
    # Here and not earlier: what the data draws must not depend on whether the token cache was warm.
    seed_everything(config["seed"], workers=True, verbose=False)
    module = TextClassification(
        model=model_settings(config["model"], checkpoint),
        optimizer=config["optimizer"],
        scheduler=config["scheduler"],
        label_names=datamodule.label_names,
        tokenizer=datamodule.tokenizer.to_str(),
        pairs=datamodule.pairs,
        task=config["task"],
        text_format=datamodule.source.text_format.plain(),
    )
    init_weights(config, module, datamodule, checkpoint)
    module.task.fit(datamodule.splits["train"].labels)
    use_threads(config["trainer"].get("threads"), module.model)
    return module


def init_weights(config: Settings, module: TextClassification, data: TextDataModule, checkpoint: Path | None) -> None:
    """Give the model of a run its first weights, as `embedding` and `model` of the config say.

    Of a run that resumes, Lightning loads the checkpoint later; only what it can't know is done here.

    Raises:
        UserError: there are no weights, or none that fit.
    """
    init_embedding(config["embedding"], module.model, data, from_checkpoint=checkpoint is not None)
    settings = config["model"]
    if checkpoint is not None:
        if isinstance(module.model, PretrainedClassifier) and module.model.frozen:
            # Its features are computed before Lightning loads the checkpoint, so they need the weights now.
            weights = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
            module.load_state_dict(weights)
        return
    if isinstance(module.model, PretrainedClassifier):
        load_encoder(settings["path"], module.model, settings.get(SCRATCH, False))
    if settings.get("init_from"):
        _copy_from_run(Path(settings["init_from"]), module)


def init_embedding(settings: dict[str, Any], model: nn.Module, data: TextDataModule, from_checkpoint: bool) -> None:
    """Initialise the tokens of `model` with the vectors that `settings`, the config of the embedding, names.

    Tokens without a vector are drawn from a normal distribution with the mean and standard deviation of the others.
    With `from_checkpoint` the file is not read: the checkpoint has all vectors.

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
        _log_coverage(vectors, data)
        with torch.no_grad():
            embedding.weight[:size] = _rows_of_tokens(vectors, static.scale)
            if embedding.padding_idx is not None:
                embedding.weight[embedding.padding_idx] = 0
    if static.freeze:
        freeze_first_rows(embedding, size)


def _rows_of_tokens(vectors: Vectors, scale: float | None) -> Tensor:
    covered = torch.from_numpy(vectors.covered)
    known = torch.from_numpy(vectors.table)[covered]
    if scale is not None:
        known *= scale / known.square().mean().sqrt()
    weights = known.mean(dim=0) + known.std(dim=0, correction=0) * torch.randn(len(covered), known.size(1))
    weights[covered] = known
    return weights


def _log_coverage(vectors: Vectors, data: TextDataModule) -> None:
    """The share of the vocabulary and of the training tokens that have a vector, [CLS] and the like left out."""
    counts = np.bincount(data.datasets["train"].tokens.ids, minlength=len(vectors.covered))
    special = [data.tokenizer.token_to_id(token) for token in SPECIAL_TOKENS if token != UNK]
    ordinary = np.isin(np.arange(len(counts)), np.array(special), invert=True)
    log.info(
        "Vectors: %d values each, for %.1f %% of the vocabulary and %.1f %% of train's tokens; the others are random",
        vectors.table.shape[1],
        100 * vectors.covered[ordinary].mean(),
        100 * counts[vectors.covered].sum() / max(1, counts[ordinary].sum()),
    )


def freeze_first_rows(embedding: nn.Embedding, size: int) -> None:
    """Keep the first `size` rows fixed. The rows after them, of n-grams, still learn."""
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


def _copy_from_run(run: Path, module: TextClassification) -> None:
    """Copy weights of the same name and shape, the rows of tokens that both know, and the head if classes are equal."""
    trained = load_weights(find_checkpoint(run, "model.init_from"), Trained)
    if isinstance(trained.model, PretrainedClassifier):
        trained.model.merge()
    source = {plain_name(name): value for name, value in trained.model.state_dict().items()}
    rows, skipped, number = _common_rows(module.tokenizer, trained.tokenizer), dict[str, str](), 0
    tables = set() if rows is None else _token_tables(module.model)
    for name, own in module.model.state_dict().items():
        number += 1
        value = source.get(plain_name(name))
        by_token = name in tables
        if value is None:
            skipped[name] = "not there"
        elif name.startswith("head.") and trained.task.label_names != module.label_names:
            skipped[name] = "other classes"
        elif value.shape[by_token:] != own.shape[by_token:] or (name == "head.bias" and "head.weight" in skipped):
            skipped[name] = "of another model"
        else:
            with torch.no_grad():
                if by_token:
                    assert rows is not None
                    own[rows[0]] = value[rows[1]]
                else:
                    own.copy_(value)
    if len(skipped) == number:
        raise UserError(
            f"model.init_from={relative_to_cwd(run)}: nothing in it fits this model; use a run of the same model"
        )
    known = ""
    if rows is not None:
        lacking = module.tokenizer.get_vocab_size() - rows.shape[1]
        known = f", of {rows.shape[1]:,} tokens that both know ({lacking:,} have no vector there)"
    log.info(
        "%d of %d weights are those of %s%s; not copied: %s",
        number - len(skipped),
        number,
        relative_to_cwd(run),
        known,
        ", ".join([f"{name} ({why})" for name, why in skipped.items()][:5] + ["..."] * (len(skipped) > 5)) or "none",
    )


def _token_tables(model: nn.Module) -> set[str]:
    """The names of the weights with a row for each token; rows of n-grams may follow those of tokens."""
    own = [getattr(model, name, None) for name in ("embedding", "scores")]
    if isinstance(model, PretrainedClassifier):
        own = [model.encoder.get_input_embeddings()]
    return {f"{name}.weight" for name, part in model.named_modules() if any(part is table for table in own)}


def _common_rows(own: Tokenizer, other: Tokenizer) -> Tensor | None:
    """The rows of the tokens that both have, in each: [2, N] int64; None where the vocabularies are equal."""
    source = other.get_vocab()
    if own.get_vocab() == source:
        return None
    rows = [(row, source[token]) for token, row in own.get_vocab().items() if token in source]
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, 2).T
