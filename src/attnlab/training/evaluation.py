"""A trained model on a test set."""

import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from attnlab.checking import check_config
from attnlab.config import instantiate, resolve
from attnlab.data.datamodule import TextDataModule
from attnlab.data.sources import Source, with_absolute_paths
from attnlab.errors import UserError
from attnlab.process import use_threads
from attnlab.runs import RunFolder, make_run_dir
from attnlab.training import results
from attnlab.training.environment import differences
from attnlab.training.faults import in_one_line
from attnlab.training.module import TextClassification
from attnlab.training.report import report
from attnlab.training.run import tidy_process
from attnlab.training.saved import Trained, data_of_run, find_checkpoint, load_weights
from attnlab.training.trainer import make_trainer

log = logging.getLogger(__name__)


def evaluate(cfg: DictConfig) -> results.Metrics:
    """Test the checkpoint `cfg.ckpt_path` on `cfg.data`, or on the data of its own run, and write a folder of results.

    Returns:
        what `metrics.json` holds.

    Raises:
        UserError: the checkpoint or the data can't be used.
    """
    config = resolve(cfg)
    check_config({"trainer": config["trainer"]}, {})
    checkpoint = find_checkpoint(Path(config["ckpt_path"]))
    given = config.get("data")
    config["data"] = given or data_of_run(checkpoint)
    if config["data"] is None:
        raise UserError(f"{checkpoint} lies in no run's folder, so say which data to use, e.g. data=ag_news")
    with tidy_process(), in_one_line(config):
        module = load_weights(checkpoint, TextClassification)
        config["data"] = with_absolute_paths(as_trained(given, module) if given else config["data"])
        source = instantiate(config["data"])
        use_threads(config["trainer"].get("threads"), module.model)
        with RunFolder.open(make_run_dir(config), new=True) as run:
            trainer = make_trainer(config, run.path)
            for difference in differences(checkpoint.parent.parent, trainer):
                log.warning("Not as in training, and scores may differ for it: %s", difference)
            datamodule = test_data(source, module, Path(config["paths"]["cache_dir"]))
            if trainer.is_global_zero:
                results.write_config(run.path, config)
            scores = trainer.test(module, datamodule, verbose=False)[0]
            metrics: results.Metrics = {**scores, **datamodule.audit, **datamodule.ceilings}
            if trainer.is_global_zero:
                split = datamodule.splits["test"]
                results.write_results(run.path, metrics, module.predictions, module.task, split)
                report(run.path, config, metrics, module, module.predictions, split)
                results.print_summary(run.path, metrics, len(split.texts))
    return metrics


def as_trained(data: dict[str, Any], trained: Trained | TextClassification) -> dict[str, Any]:
    """The config of other data than the run's own: what it leaves open is as the model was trained.

    What it says otherwise is reported.
    """
    if changes := trained.text_format.changes(data):
        log.warning("Texts are assembled otherwise than in training: %s", changes)
    return trained.text_format.complete(data)


def test_data(source: Source, trained: Trained | TextClassification, cache_dir: Path) -> TextDataModule:
    """The test documents of a source, for a trained model.

    Raises:
        UserError: they are not of the kind or the classes that it was trained on.
    """
    datamodule = TextDataModule(source, trained.tokenizer, cache_dir, label_names=trained.task.label_names)
    datamodule.setup("test")
    if datamodule.pairs != trained.pairs:
        kind, remedy = ("pairs of texts", "with") if trained.pairs else ("single texts", "without")
        raise UserError(f"the model was trained on {kind}: give data of the same kind, {remedy} data.text_pair")
    if not datamodule.splits["test"].texts:
        raise UserError("the test set has no labelled documents")
    trained.task.check(datamodule.splits["test"].labels)
    return datamodule
