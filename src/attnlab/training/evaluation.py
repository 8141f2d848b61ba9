"""A trained model on a test set."""

import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from attnlab.config import instantiate, resolve
from attnlab.data.datamodule import TextDataModule
from attnlab.errors import UserError
from attnlab.paths import make_run_dir
from attnlab.training import results
from attnlab.training.environment import differences
from attnlab.training.module import load_checkpoint
from attnlab.training.run import make_trainer, tidy_process

log = logging.getLogger(__name__)


def evaluate(cfg: DictConfig) -> results.Metrics:
    """Test the checkpoint `cfg.ckpt_path` on `cfg.data`, or on the data of its own run, and write a folder of results.

    Returns:
        what `metrics.json` holds.

    Raises:
        UserError: the checkpoint or the data can't be used.
    """
    config = resolve(cfg)
    checkpoint = find_checkpoint(Path(config["ckpt_path"]))
    config["data"] = config.get("data") or _data_of_run(checkpoint)
    with tidy_process():
        source = instantiate(config["data"])
        module = load_checkpoint(checkpoint)
        run_dir = make_run_dir(config)
        trainer = make_trainer(config, run_dir)
        for difference in differences(checkpoint.parent.parent, trainer):
            log.warning("Not as in training, and scores may differ for it: %s", difference)
        results.write_config(run_dir, config)
        cache_dir = Path(config["paths"]["cache_dir"])
        datamodule = TextDataModule(source, module.tokenizer, cache_dir, label_names=module.label_names)
        datamodule.setup("test")
        scores = trainer.test(module, datamodule, verbose=False)[0]
        metrics: results.Metrics = {**scores, **datamodule.losses, **datamodule.ceilings}
        predictions = module.predictions()
        if trainer.is_global_zero:
            results.write_results(run_dir, metrics, predictions, module.label_names)
            results.print_summary(run_dir, metrics)
    return metrics


def find_checkpoint(path: Path) -> Path:
    """The file itself, or the best checkpoint of a run's folder. Raises `UserError` where there is none."""
    file = path / "checkpoints" / "best.ckpt" if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"ckpt_path={path} is neither a checkpoint nor a run's folder with checkpoints/best.ckpt")
    return file


def _data_of_run(checkpoint: Path) -> Any:
    """The data settings of the run that a checkpoint lies in."""
    file = checkpoint.parent.parent / "config.yaml"
    config = OmegaConf.load(file) if file.is_file() else None
    if not isinstance(config, DictConfig) or "data" not in config:
        raise UserError(f"{checkpoint} lies in no run's folder, so say which data to use, e.g. data=ag_news")
    return resolve(config)["data"]
