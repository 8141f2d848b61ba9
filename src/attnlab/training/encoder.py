"""The pretrained encoder in a run: its config, its weights and, if frozen, its cached vector of each document."""

import hashlib
import json
import logging
import math
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import to_absolute_path
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

FORMAT = 2  # of the files in the cache: raise it with any change of them, so that older ones are not used
# Settings of a model that only say where its first weights come from: they are no arguments of its class.
WEIGHT_PATHS = ("path", "init_from")
SCRATCH = "from_scratch"
BYTES = 4  # of a weight
ENCODING_BATCH = 64  # documents
# Copies of each weight in memory: itself, and where it is trained its gradient and AdamW's two means.
COPIES = {"all": 4, "head": 1, "last_n": 1, "lora": 1}


def with_absolute_weight_paths(model: dict[str, Any]) -> dict[str, Any]:
    """The config with absolute paths where they exist here, so that they are found from any directory."""
    paths = {key: to_absolute_path(model[key]) for key in WEIGHT_PATHS if model.get(key)}
    return model | {key: path for key, path in paths.items() if Path(path).exists()}


def model_settings(model: dict[str, Any], checkpoint: Path | None = None) -> dict[str, Any]:
    """The arguments of the model's class: without where the weights come from, and with the encoder's own config.

    With a `checkpoint` the encoder's config is read from it, and the encoder's folder may be gone.

    Raises:
        UserError: there is no such encoder, or none that fits into memory.
    """
    settings = {key: value for key, value in model.items() if key not in (*WEIGHT_PATHS, SCRATCH)}
    if "path" not in model:
        return settings
    if checkpoint is not None:
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        return settings | {"encoder": saved["hyper_parameters"]["model"]["encoder"]}
    settings["encoder"] = _encoder_config(model["path"])
    _check_memory(model["path"], settings["train"])
    return settings


def _encoder_config(path: str) -> str:
    folder = pretrained_folder(path)
    if not (file := folder / CONFIG).is_file():
        raise UserError(f"model.path={path} has no {CONFIG}: it must be an encoder saved by transformers")
    if not list(folder.glob("*.safetensors")):
        found = f"{PICKLE}, which could run code when it is read" if (folder / PICKLE).is_file() else "no weights"
        raise UserError(
            f"model.path={path} has {found}, and *.safetensors is required: in transformers "
            "AutoModel.from_pretrained(<path>).save_pretrained(<folder>) writes it"
        )
    with as_user_error(f"{file} is not valid JSON", only=(ValueError,)):
        return json.dumps(json.loads(file.read_text(encoding="utf-8")))


def _check_memory(path: str, train: str) -> None:
    with needs_extra("pretrained", "model=pretrained"):
        import psutil
    weights = 0
    with as_user_error(f"can't read model.path={path}", "; download it again"):
        for file in pretrained_folder(path).glob("*.safetensors"):
            with safe_open(file, framework="pt") as tensors:
                weights += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    needed, free = weights * BYTES * COPIES[train], psutil.virtual_memory().available
    if needed > free:
        raise UserError(
            f"model.path={path} has {weights:,} weights: with model.train={train} they take {needed / 1e9:.1f} GB, and "
            f"{free / 1e9:.1f} GB are free; use a smaller one" + (", or model.train=lora" if train == "all" else "")
        )


def load_encoder(path: str, model: PretrainedClassifier, from_scratch: bool = False) -> None:
    """Load the weights in the folder `path` into the encoder of `model`; `from_scratch`: draw them at random.

    Raises:
        UserError: they can't be read, or do not match their config.json.
    """
    from transformers import AutoModel
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    with as_user_error(f"can't read model.path={path}", "; download it again"):
        if from_scratch:
            _assign(model, AutoModel.from_config(model.encoder.config))
            log.info("Encoder: as %s, with random weights: %s", path, _architecture(model))
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
                f"model.path={path} lacks {len(missing)} of the weights that its {CONFIG} describes, such as "
                f"{missing[0]}: both must be of the same encoder"
            )
        _assign(model, encoder)
    log.info(
        "Encoder: %s, %s weights of %s", path, f"{sum(map(torch.numel, weights.values())):,}", _architecture(model)
    )


def _weights(encoder: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in encoder.state_dict().items() if not name.startswith("pooler.")}


def _assign(model: PretrainedClassifier, encoder: nn.Module) -> None:
    named = {plain_name(name): name for name in model.encoder.state_dict()}
    model.encoder.load_state_dict(
        {named[name]: value for name, value in _weights(encoder).items()}, strict=False, assign=True
    )


def plain_name(name: str) -> str:
    """The name of a weight as it is without LoRA, which wraps the layers that it adapts."""
    return name.replace(".base_layer", "")


def _architecture(model: PretrainedClassifier) -> str:
    config = model.encoder.config
    return f"{config.model_type} with {config.num_hidden_layers} layers of width {config.hidden_size}"


def cache_encoder_features(
    model: nn.Module, data: TextDataModule, trainer: Trainer, test: bool = True
) -> dict[str, float]:
    """Run a frozen encoder once over each document, so that batches hold its vector of each in place of tokens.

    The vectors are cached by split, for every later run in which nothing that they depend on differs. Nothing is done
    for any other model.

    Returns:
        `train/encoding_seconds`: of the training split, now or in the run that filled the cache.
    """
    if not isinstance(model, PretrainedClassifier) or not model.frozen:
        return {}
    depends_on = [
        *(str(FORMAT), torch.__version__, _config_of(model), _digest_of_weights(model), type(model.pooling).__name__),
        *(str(trainer.precision), trainer.strategy.root_device.type, data.tokenizer.to_str()),
    ]
    seconds = {}
    for split, dataset in data.datasets.items():
        if split == "test" and not test:
            continue
        documents = fingerprint({"": data.splits[split].documents})
        key = hashlib.blake2b("\0".join([*depends_on, documents]).encode(), digest_size=16).hexdigest()
        folder = cached(data.cache_dir / key, partial(_encode, model, dataset, trainer))
        vectors = np.load(folder / "vectors.npy", mmap_mode="r")
        seconds[split] = float((folder / "seconds").read_text())
        data.datasets[split] = VectorDataset(dataset.tokens, dataset.labels, dataset.pad_id, vectors)
    return {"train/encoding_seconds": seconds["train"]}


def _config_of(model: PretrainedClassifier) -> str:
    """Everything that decides what the weights compute, including the defaults of this version of transformers."""
    settings = model.encoder.config.to_dict()
    for key in ("_name_or_path", "dtype"):  # transformers sets them when it reads weights; a checkpoint has neither
        settings.pop(key, None)
    return json.dumps(settings, sort_keys=True, default=str)


def _digest_of_weights(model: PretrainedClassifier) -> str:
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
    features = np.lib.format.open_memmap(folder / "vectors.npy", "w+", np.float32, (len(dataset), width))
    batches = BucketSampler(dataset.tokens.lengths, ENCODING_BATCH, shuffle=False)
    console = Console(stderr=True)
    for rows in track(
        batches, "Encoding", len(batches), console=console, transient=True, disable=not console.is_terminal
    ):
        batch = dataset[rows]
        ids, mask = batch.input_ids.to(device), batch.attention_mask.to(device)
        with trainer.precision_plugin.forward_context():
            vectors = model.pool(model.look_up(ids, mask), ids, mask)
        features[rows] = vectors.float().cpu().numpy()
    features.flush()
    (folder / "seconds").write_text(str(time.perf_counter() - begin))
