"""A pretrained encoder's way into a run: its config, its weights, and, frozen, its vector of each document."""

import hashlib
import json
import logging
import math
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from rich.console import Console
from rich.progress import track
from safetensors import safe_open
from torch import Tensor, nn

from attnlab.data.batching import BucketSampler, TokenDataset, VectorDataset
from attnlab.data.datamodule import TextDataModule
from attnlab.data.file_access import CONFIG, PICKLE, cached, pretrained_folder
from attnlab.data.tokens import fingerprint
from attnlab.errors import UserError, as_user_error, needs_extra
from attnlab.models.pretrained import PretrainedClassifier

log = logging.getLogger(__name__)

FORMAT = 2  # of the files in the cache; raise it with any change, and older ones are not used
PLACES = ("path", "init_from")  # settings of a model that say where weights are, and nothing of what it is
SCRATCH = "from_scratch"  # no more does this
BYTES = 4  # of a weight
AT_ONCE = 64  # documents that are encoded together
# What training takes of memory for each weight: itself, and where it learns its gradient and AdamW's two means.
COPIES = {"all": 4, "head": 1, "last_n": 1, "lora": 1}


def model_settings(model: dict[str, Any], checkpoint: Path | None = None) -> dict[str, Any]:
    """What a model of this config is made of: less where weights come from, and with the encoder's own config.

    The latter is in the `checkpoint` too, where there is one: the encoder's folder is then not looked at.

    Raises:
        UserError: there is no such encoder, or none that can be trained here.
    """
    settings = {key: value for key, value in model.items() if key not in (*PLACES, SCRATCH)}
    if "path" not in model:
        return settings
    if checkpoint is not None:
        kept = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        return settings | {"encoder": kept["hyper_parameters"]["model"]["encoder"]}
    settings["encoder"] = _encoder_config(model["path"])
    _check_memory(model["path"], settings["train"])
    return settings


def _encoder_config(path: str) -> str:
    folder = pretrained_folder(path)
    if not (file := folder / CONFIG).is_file():
        raise UserError(f"model.path={path} has no {CONFIG}: it is no encoder as transformers saves one")
    if not list(folder.glob("*.safetensors")):
        found = f"{PICKLE}, which could run code when it is read" if (folder / PICKLE).is_file() else "no weights"
        raise UserError(
            f"model.path={path} has {found}, and *.safetensors is wanted: in transformers "
            "AutoModel.from_pretrained(<it>).save_pretrained(<folder>) makes one"
        )
    with as_user_error(f"{file} is no JSON", only=(ValueError,)):
        return json.dumps(json.loads(file.read_text(encoding="utf-8")))


def _check_memory(path: str, train: str) -> None:
    with needs_extra("pretrained", "model=pretrained"):
        import psutil
    weights = 0
    with as_user_error(f"can't read model.path={path}", "; get it again"):
        for file in pretrained_folder(path).glob("*.safetensors"):
            with safe_open(file, framework="pt") as tensors:
                weights += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    needed, free = weights * BYTES * COPIES[train], psutil.virtual_memory().available
    if needed > free:
        raise UserError(
            f"model.path={path} has {weights:,} weights: with model.train={train} they take {needed / 1e9:.1f} GB, and "
            f"{free / 1e9:.1f} GB are free; take a smaller one" + (", or model.train=lora" if train == "all" else "")
        )


def place_encoder(path: str, model: PretrainedClassifier, from_scratch: bool = False) -> None:
    """Fill the encoder of `model` with the weights that lie in `path`; or `from_scratch` as its kind begins.

    Raises:
        UserError: they can't be read, or are those of another encoder than their config.json says.
    """
    from transformers import AutoModel
    from transformers.utils import logging as theirs

    theirs.set_verbosity_error()
    theirs.disable_progress_bar()
    with as_user_error(f"can't read model.path={path}", "; get it again"):
        if from_scratch:
            _fill(model, AutoModel.from_config(model.encoder.config))
            log.info("Encoder: as %s, drawn anew: %s", path, _kind(model))
            return
        encoder, found = AutoModel.from_pretrained(
            pretrained_folder(path),
            config=model.encoder.config,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        weights = _weights(encoder)
        missing = sorted(found["missing_keys"] & weights.keys())
        if missing:
            raise UserError(
                f"model.path={path} lacks {len(missing)} of the weights that its {CONFIG} describes, as {missing[0]}: "
                "get both of one encoder"
            )
        _fill(model, encoder)
    log.info("Encoder: %s, %s weights of %s", path, f"{sum(map(torch.numel, weights.values())):,}", _kind(model))


def _weights(encoder: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in encoder.state_dict().items() if not name.startswith("pooler.")}


def _fill(model: PretrainedClassifier, encoder: nn.Module) -> None:
    named = {plain(name): name for name in model.encoder.state_dict()}
    model.encoder.load_state_dict(
        {named[name]: value for name, value in _weights(encoder).items()}, strict=False, assign=True
    )


def plain(name: str) -> str:
    """Of a weight, without what tells that low-rank changes are beside it."""
    return name.replace(".base_layer", "")


def _kind(model: PretrainedClassifier) -> str:
    config = model.encoder.config
    return f"{config.model_type} with {config.num_hidden_layers} layers of width {config.hidden_size}"


def cache_encoder_features(
    model: PretrainedClassifier, data: TextDataModule, trainer: Trainer, splits: Iterable[str]
) -> float:
    """Run a frozen encoder once over each document of `splits`, whose batches then hold its vectors in place of tokens.

    The cache keeps them, a split at a time, for every later run in which nothing that changes them differs.

    Returns:
        seconds that the training split took, now or in the run that filled the cache.

    Raises:
        UserError: the cache can't be written.
    """
    start = [
        *(str(FORMAT), torch.__version__, _config_of(model), _digest(model), type(model.pooling).__name__),
        *(str(trainer.precision), trainer.strategy.root_device.type, data.tokenizer.to_str()),
    ]
    seconds = {}
    for split in splits:
        dataset = data.datasets[split]
        documents = fingerprint({"": data.splits[split].documents})
        key = hashlib.blake2b("\0".join([*start, documents]).encode(), digest_size=16).hexdigest()
        folder = cached(data.cache_dir / key, partial(_encode, model, dataset, trainer))
        vectors = np.load(folder / "vectors.npy", mmap_mode="r")
        seconds[split] = float((folder / "seconds").read_text())
        data.datasets[split] = VectorDataset(dataset.tokens, dataset.labels, dataset.pad_id, vectors)
    return seconds["train"]


def _config_of(model: PretrainedClassifier) -> str:
    """All that decides what the weights compute, defaults of this version of transformers included."""
    settings = model.encoder.config.to_dict()
    for key in ("_name_or_path", "dtype"):  # transformers sets them when it reads weights; a checkpoint has neither
        settings.pop(key, None)
    return json.dumps(settings, sort_keys=True, default=str)


def _digest(model: PretrainedClassifier) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, value in model.encoder.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


@torch.inference_mode()
def _encode(model: PretrainedClassifier, dataset: TokenDataset, trainer: Trainer, folder: Path) -> None:
    log.info("Encoding %s documents, once for all runs ...", f"{len(dataset):,}")
    device, begin = trainer.strategy.root_device, time.perf_counter()
    model.to(device).eval()
    width = model.head.in_features
    kept = np.lib.format.open_memmap(folder / "vectors.npy", "w+", np.float32, (len(dataset), width))
    batches = BucketSampler(dataset.tokens.lengths, AT_ONCE, shuffle=False)
    console = Console(stderr=True)
    for rows in track(
        batches, "Encoding", len(batches), console=console, transient=True, disable=not console.is_terminal
    ):
        batch = dataset[rows]
        ids, mask = batch.input_ids.to(device), batch.attention_mask.to(device)
        with trainer.precision_plugin.forward_context():
            vectors = model.pool(model.look_up(ids, mask), ids, mask)
        kept[rows] = vectors.float().cpu().numpy()
    kept.flush()
    (folder / "seconds").write_text(str(time.perf_counter() - begin))
