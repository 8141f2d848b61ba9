"""What a run is and what it has achieved, in a sentence each: the first lines on a terminal and of its pages."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attnlab.metrics import interval, written
from attnlab.runs import CONFIG

TOLD = ("num_layers", "pooling")  # of a model's settings, where it has them


def title(config: Mapping[str, Any]) -> str:
    """The model and the data: "TextClassifier (num_layers=1, pooling=cls) on Headlines"."""
    model = config.get("model")
    if not isinstance(model, Mapping):  # of a test, whose model is in the checkpoint
        name = f"{config.get('ckpt_path', 'A model')}"
    else:
        name = str(model.get("_target_", "A model")).rpartition(".")[-1]
        told = [Path(str(model["path"])).name] if model.get("path") else []
        told += [f"{key}={model[key]}" for key in TOLD if isinstance(model.get(key), str | int)]
        name += f" ({', '.join(told)})" if told else ""
    return f"{name} on {name_of(config['data'])}" if config.get("data") else name


def name_of(data: Mapping[str, Any]) -> str:
    """What a set is called: by its place on the Hub or its file, of which no folder of this machine is told."""
    places = [data.get(key) for key in ("path", "test", "train")]
    named = (place for place in places if place and isinstance(place, str))  # a share of train is no name of a set
    name = next(named, str(data["_target_"]).rpartition(".")[-1])
    return Path(name).name if Path(name).is_absolute() else name


def accuracy(metrics: Mapping[str, float], tested: int) -> str:
    """ "0.9187 (95 % interval 0.8978 to 0.9357) on 800 test documents"; the interval is Wilson's (1927)."""
    share = metrics["test/acc"]
    low, high = interval(round(share * tested), tested)
    return f"{written(share)} (95 % interval {low:.4f} to {high:.4f}) on {tested:,} test documents"


def of_folder(folder: Path) -> tuple[str, str]:
    """`title` and `accuracy` of the run in `folder`, each "" where nothing there tells it."""
    import pyarrow.parquet
    from omegaconf import OmegaConf

    name, achieved = "", ""
    if (folder / CONFIG).is_file():
        config: Any = OmegaConf.to_container(OmegaConf.load(folder / CONFIG))
        name = title(config)
    if (folder / "metrics.json").is_file() and (folder / "predictions.parquet").is_file():
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        tested = pyarrow.parquet.read_metadata(folder / "predictions.parquet").num_rows
        achieved = accuracy(metrics, tested) if "test/acc" in metrics else ""
    return name, achieved
