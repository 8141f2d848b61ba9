"""Where a model's first weights come from, unless they are drawn: an encoder's own file, or another run."""

import logging
from pathlib import Path
from typing import Any

import torch
from hydra.utils import to_absolute_path
from tokenizers import Tokenizer
from torch import Tensor, nn

from attnlab.errors import UserError
from attnlab.models.pretrained import PretrainedClassifier
from attnlab.paths import shown
from attnlab.training.encoder import PLACES, SCRATCH, place_encoder, plain
from attnlab.training.module import TextClassification
from attnlab.training.saved import Trained, find_checkpoint, load_weights

log = logging.getLogger(__name__)


def with_whole_paths(model: dict[str, Any]) -> dict[str, Any]:
    """The config with its places in full, where they are here, so that they are found from anywhere."""
    places = {key: to_absolute_path(model[key]) for key in PLACES if model.get(key)}
    return model | {key: path for key, path in places.items() if Path(path).exists()}


def place_weights(settings: dict[str, Any], module: TextClassification) -> None:
    """Fill the model from the places that `settings`, the config of the model, names.

    Raises:
        UserError: there are no weights, or none that fit.
    """
    if isinstance(module.model, PretrainedClassifier):
        place_encoder(settings["path"], module.model, settings.get(SCRATCH, False))
    if settings.get("init_from"):
        _take(Path(settings["init_from"]), module)


def _take(run: Path, module: TextClassification) -> None:
    """Weights of the same name and shape, the rows of the same tokens, and the head of the same classes."""
    trained = load_weights(find_checkpoint(run, "model.init_from"), Trained)
    if isinstance(trained.model, PretrainedClassifier):
        trained.model.merge()
    theirs = {plain(name): value for name, value in trained.model.state_dict().items()}
    rows, left, number = _common_rows(module.tokenizer, trained.tokenizer), dict[str, str](), 0
    tables = set() if rows is None else _token_tables(module.model)
    for name, own in module.model.state_dict().items():
        number += 1
        value = theirs.get(plain(name))
        by_token = name in tables
        if value is None:
            left[name] = "not there"
        elif name.startswith("head.") and trained.task.label_names != module.label_names:
            left[name] = "other classes"
        elif value.shape[by_token:] != own.shape[by_token:] or (name == "head.bias" and "head.weight" in left):
            left[name] = "of another model"
        else:
            with torch.no_grad():
                if by_token:
                    assert rows is not None
                    own[rows[0]] = value[rows[1]]
                else:
                    own.copy_(value)
    if len(left) == number:
        raise UserError(f"model.init_from={shown(run)}: nothing in it fits this model; give a run of the same model")
    known = ""
    if rows is not None:
        lacking = module.tokenizer.get_vocab_size() - rows.shape[1]
        known = f", of {rows.shape[1]:,} tokens that both know ({lacking:,} have no vector there)"
    log.info(
        "%d of %d weights are those of %s%s; not copied: %s",
        number - len(left),
        number,
        shown(run),
        known,
        ", ".join([f"{name} ({why})" for name, why in left.items()][:5] + ["..."] * (len(left) > 5)) or "none",
    )


def _token_tables(model: nn.Module) -> set[str]:
    """The names of the weights that have a row for each token, n-grams behind them included."""
    own = [getattr(model, name, None) for name in ("embedding", "scores")]
    if isinstance(model, PretrainedClassifier):
        own = [model.encoder.get_input_embeddings()]
    return {f"{name}.weight" for name, part in model.named_modules() if any(part is table for table in own)}


def _common_rows(own: Tokenizer, other: Tokenizer) -> Tensor | None:
    """Where the tokens stand that both have, here and there: [2, N] int64; None where all stand alike."""
    theirs = other.get_vocab()
    if own.get_vocab() == theirs:
        return None
    rows = [(row, theirs[token]) for token, row in own.get_vocab().items() if token in theirs]
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, 2).T
