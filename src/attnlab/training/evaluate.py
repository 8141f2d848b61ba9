"""Testing a trained model: a run's best checkpoint at the end of its training, or any checkpoint on any data."""

import logging
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from omegaconf import DictConfig

from attnlab.config import instantiate, resolve
from attnlab.data.datamodule import TextDataModule
from attnlab.data.sources import Source, with_absolute_paths
from attnlab.environment import differences, environment
from attnlab.errors import UserError
from attnlab.process import give_memory_back, use_threads
from attnlab.run_dirs import make_run_dir
from attnlab.runs import RunFolder, find_checkpoint
from attnlab.training.checkpoints import link_best_checkpoint, store_calibration
from attnlab.training.failures import as_user_errors
from attnlab.training.job import tidy_process
from attnlab.training.module import TextClassification
from attnlab.training.results import Metrics, print_summary, write_config, write_report, write_results
from attnlab.training.saved import Trained, load_weights
from attnlab.training.trainer import make_trainer
from attnlab.validation import validate_trainer, validate_values

log = logging.getLogger(__name__)


def evaluate_best(
    trainer: Trainer, module: TextClassification, datamodule: TextDataModule, run_dir: Path, test: bool
) -> Metrics:
    """The validation metrics of the best checkpoint and, with `test`, its test metrics. The test set is read only here.

    Without a best checkpoint, as of a debug run, the last weights are validated and tested.
    """
    give_memory_back()
    metrics: Metrics = {}
    best = link_best_checkpoint(trainer)
    if best is not None:
        saved = torch.load(best, map_location="cpu", weights_only=True, mmap=True)
        metrics |= {"train/best_epoch": saved["epoch"] + 1} | saved["metrics"]
    else:
        log.warning("No best checkpoint was kept, so the last weights are tested")
        metrics |= (trainer.validate(module, datamodule, verbose=False) or [{}])[0]
        if trainer.is_global_zero:
            store_calibration(run_dir, module.task)
    if test and "test" in datamodule.splits:  # a test split without labels is left out
        metrics |= trainer.test(module, datamodule, ckpt_path=best, weights_only=True, verbose=False)[0]
    return metrics


def evaluate(cfg: DictConfig) -> Metrics:
    """Test the checkpoint `cfg.ckpt_path` on `cfg.data`, or on the data of its own run, and write a folder of results.

    Returns:
        the content of `metrics.json`.

    Raises:
        UserError: the checkpoint or the data can't be used.
    """
    config = resolve(cfg)
    validate_values({"trainer": config["trainer"]}, {})
    validate_trainer(config)
    checkpoint = find_checkpoint(Path(config["ckpt_path"]))
    given, trained_in = config.get("data"), RunFolder.of_checkpoint(checkpoint)
    config["data"] = given or trained_in.config.get("data")
    if config["data"] is None:
        raise UserError(
            f"{checkpoint} is not in the folder of a run, so its data is unknown: set it, as in data=ag_news"
        )
    with tidy_process(), as_user_errors(config):
        module = load_weights(checkpoint, TextClassification)
        config["data"] = with_absolute_paths(as_trained(given, module) if given else config["data"])
        source = instantiate(config["data"])
        use_threads(config["trainer"].get("threads"), module.model)
        with RunFolder.open(make_run_dir(config), new=True) as run:
            trainer = make_trainer(config, run.path)
            now = environment(trainer.precision, trainer.strategy.root_device)
            for difference in differences(trained_in.environment, now):
                log.warning("Different from training, which may change scores: %s", difference)
            datamodule = test_data(source, module, Path(config["paths"]["cache_dir"]))
            if trainer.is_global_zero:
                write_config(run.path, config)
            scores = trainer.test(module, datamodule, verbose=False)[0]
            metrics: Metrics = {**scores, **datamodule.audit, **datamodule.ceilings}
            if trainer.is_global_zero:
                split = datamodule.splits["test"]
                write_results(run.path, metrics, module.predictions, module.task, split)
                write_report(run.path, config, metrics, module, module.predictions, split)
                print_summary(run.path, metrics, len(split.texts))
    return metrics


def as_trained(data: dict[str, Any], trained: Trained | TextClassification) -> dict[str, Any]:
    """The config of other data than the run's own: what it does not set is as the model was trained.

    What it sets differently is logged.
    """
    if changes := trained.text_format.changes(data):
        log.warning("Texts are assembled differently than in training: %s", changes)
    return trained.text_format.complete(data)


def test_data(source: Source, trained: Trained | TextClassification, cache_dir: Path) -> TextDataModule:
    """The test documents of a source, for a trained model.

    Raises:
        UserError: they are of another kind, or have classes that the model does not know.
    """
    datamodule = TextDataModule(source, trained.tokenizer, cache_dir, label_names=trained.task.label_names)
    datamodule.setup("test")
    if datamodule.pairs != trained.pairs:
        kind, remedy = ("pairs of texts", "with") if trained.pairs else ("single texts", "without")
        raise UserError(f"the model was trained on {kind}: use data of the same kind, {remedy} data.text_pair")
    if not datamodule.splits["test"].texts:
        raise UserError("the test set has no labelled documents")
    trained.task.check(datamodule.splits["test"].labels)
    return datamodule
