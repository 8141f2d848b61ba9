from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import torch
from lightning.pytorch import LightningModule

from attnlab.config import instantiate, resolve
from attnlab.errors import UserError
from attnlab.training.pruning import PRUNED_AFTER, ReportToStudy
from tests.conftest import ROOT
from tests.experiments.test_study import compose_search

PRUNERS = sorted(file.stem for file in (ROOT / "conf/hparams_search/pruner").glob("*.yaml"))


class Logger:
    logged: dict[str, Any]

    def log_metrics(self, metrics: dict[str, Any], step: int) -> None:
        self.logged = {**metrics, "step": step}


def validate(callback: ReportToStudy, epoch: int, loss: float, max_epochs: int = 10, **more: Any) -> SimpleNamespace:
    trainer = SimpleNamespace(
        callback_metrics={"val/loss": torch.tensor(loss)},
        current_epoch=epoch - 1,
        max_epochs=max_epochs,
        should_stop=False,
        global_step=100 * epoch,
        state=SimpleNamespace(fn="fit"),
        **{"loggers": [Logger()], "is_last_batch": True, "sanity_checking": False} | more,
    )
    callback.on_validation_end(trainer, LightningModule())  # type: ignore[arg-type]
    return trainer


def make(folder: Path, pruner: str) -> tuple[optuna.Study, Any]:
    """A study in which twelve trials went well, and what makes the callback of another one."""
    # A name of its own, as hyperband draws by it how patient to be with a trial.
    config = compose_search(folder, f"hparams_search/pruner={pruner}", "hparams_search.study_name=pruned")
    settings = resolve(config.hparams_search)
    study = optuna.create_study(study_name=settings["study_name"], storage=settings["storage"])

    def callback_of(trial: optuna.Trial) -> ReportToStudy:
        return instantiate(resolve(config.callbacks)["report_to_study"], trial=trial.number)

    for _ in range(12):
        callback = callback_of(trial := study.ask())
        for epoch in range(1, 5):
            validate(callback, epoch, loss=1 / epoch)
        study.tell(trial, 0.1)
    return study, callback_of


@pytest.mark.parametrize("pruner", PRUNERS)
def test_a_trial_that_falls_behind_is_ended_and_marked(pruner: str, tmp_path: Path) -> None:
    study, callback_of = make(tmp_path, pruner)
    callback = callback_of(trial := study.ask())
    stopped = [epoch for epoch in range(1, 5) if validate(callback, epoch, loss=5.0 + epoch).should_stop]
    attributes = study.trials[-1].user_attrs
    assert study.trials[-1].intermediate_values[2] == 7.0 and trial.number == 12
    if pruner == "none":
        assert stopped == [] and PRUNED_AFTER not in attributes
    else:
        assert stopped and PRUNED_AFTER in attributes


def test_what_does_well_or_has_ended_anyway_goes_on(tmp_path: Path) -> None:
    study, callback_of = make(tmp_path, "median")
    callback = callback_of(study.ask())
    assert not any(validate(callback, epoch, loss=0.01 / epoch).should_stop for epoch in range(1, 5))
    bad = callback_of(study.ask())
    assert not validate(bad, epoch=1, loss=9.0, max_epochs=1).should_stop
    ended = validate(bad, epoch=2, loss=9.0)
    assert ended.loggers[0].logged == {PRUNED_AFTER: 2, "step": 200}


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "state"), [(0.01, "complete"), (9.0, "pruned")])
def test_wandb_is_told_the_state_of_a_trial(
    loss: float, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from attnlab.training.loggers import Wandb

    monkeypatch.setenv("WANDB_MODE", "offline")  # so that what the logger makes of it does not stay
    study, callback_of = make(tmp_path, "median")
    callback = callback_of(trial := study.ask())
    logger = Wandb(save_dir=tmp_path, offline=True)
    data = SimpleNamespace(settings="s", fingerprint="f")
    trainer, module = SimpleNamespace(loggers=[logger], datamodule=data), LightningModule()
    callback.on_exception(trainer, module, MemoryError())
    assert logger.experiment.summary["search/state"] == "fail"
    callback.on_fit_start(trainer, module)
    assert logger.experiment.summary["search/state"] == "running"
    trainer = validate(callback, 2, loss, loggers=[logger])
    callback.on_fit_end(trainer, module)
    summary = dict(logger.experiment.summary)
    logger.experiment.finish()
    assert (summary["search/trial"], summary["search/state"]) == (trial.number, state)


def test_a_search_that_is_no_multirun_says_so(tmp_path: Path) -> None:
    config = compose_search(tmp_path)
    with pytest.raises(UserError, match=r"a search is a multirun: python src/train.py -m hparams_search="):
        instantiate(resolve(config.callbacks)["report_to_study"])


def test_only_the_end_of_an_epoch_is_reported(tmp_path: Path) -> None:
    """Neither what untrained weights score nor what a validation within an epoch finds counts as an epoch's score."""
    study, callback_of = make(tmp_path, "none")
    callback = callback_of(study.ask())
    validate(callback, 1, loss=9.0, sanity_checking=True)
    validate(callback, 1, loss=8.0, is_last_batch=False)
    validate(callback, 1, loss=7.0)
    assert study.trials[-1].intermediate_values == {1: 7.0}


def test_trials_of_other_data_do_not_join_a_study(tmp_path: Path) -> None:
    study, callback_of = make(tmp_path, "none")

    def start(fingerprint: str, settings: str = "same") -> None:
        data = SimpleNamespace(settings=settings, fingerprint=fingerprint)
        trainer: Any = SimpleNamespace(datamodule=data, loggers=[])
        callback_of(study.ask()).on_fit_start(trainer, LightningModule())

    start("then")
    start("then")
    start("now", settings="of another data.limit, which the search goes over")
    with pytest.raises(UserError, match=r"the data has changed since this search began.*hparams_search.study_name="):
        start("now")
