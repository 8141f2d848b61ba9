"""A run that tells the search how it does, and ends when the search has seen enough."""

import optuna
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from optuna.trial import Trial

from attnlab import progress
from attnlab.data.datamodule import TextDataModule
from attnlab.errors import UserError
from attnlab.training.loggers import log_summary

PRUNED_AFTER = "search/pruned_after"  # attribute of a pruned trial: its last epoch
DATA = "search/data"  # attribute of a study: the fingerprint of its trials' data


class ReportToStudy(Callback):
    """Reports the monitored metric to Optuna after every validation, and ends the run when the pruner says so.

    The trial is found by its number in the storage, so this works in any process on any machine that reaches it.

    Args:
        storage: URL of the study's storage.
        study_name: the study in it.
        trial: the trial's number, set by the search.
        pruner: what decides.
        monitor: key of the metric.

    Raises:
        UserError: there is no trial, as this is no multirun.
    """

    def __init__(
        self, storage: str, study_name: str | None, trial: int | None, pruner: optuna.pruners.BasePruner, monitor: str
    ) -> None:
        if study_name is None or trial is None:
            raise UserError("a search is a multirun: python src/train.py -m hparams_search=...")
        study = optuna.load_study(study_name=study_name, storage=storage, pruner=pruner)
        trial_id = study._storage.get_trial_id_from_study_id_trial_number(study._study_id, trial)
        self.trial, self.monitor = Trial(study, trial_id), monitor

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        at_end = trainer.is_last_batch or trainer.should_stop  # of an epoch; validations within one have no number
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking or not at_end:
            return
        epoch = trainer.current_epoch + 1
        self.trial.report(float(trainer.callback_metrics[self.monitor]), step=epoch)
        if epoch != trainer.max_epochs and self.trial.should_prune():
            # Marked rather than raised: the run ends as one that stopped early, with its results on disk.
            self.trial.set_user_attr(PRUNED_AFTER, epoch)
            for logger in trainer.loggers:
                logger.log_metrics({PRUNED_AFTER: epoch}, step=trainer.global_step)
            self._show_state(trainer, "pruned")
            progress.report(pruned=True)
            trainer.should_stop = True

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raises `UserError` where the study's earlier trials saw other data."""
        data: TextDataModule = trainer.datamodule  # type: ignore[attr-defined]
        key = f"{DATA} {data.settings}"  # a search may go over these too
        seen = self.trial.study.user_attrs.get(key)
        if seen is None:
            self.trial.study.set_user_attr(key, data.fingerprint)
        elif seen != data.fingerprint:
            raise UserError(
                "the data has changed since this search began, and its trials don't compare: give a name for another "
                "one with hparams_search.study_name=<name>"
            )
        self._show_state(trainer, "running")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if PRUNED_AFTER not in self.trial.user_attrs:
            self._show_state(trainer, "complete")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._show_state(trainer, "fail")

    def _show_state(self, trainer: Trainer, state: str) -> None:
        """To the loggers, where runs can be told apart by it."""
        log_summary(trainer.loggers, {"search/trial": self.trial.number, "search/state": state})
