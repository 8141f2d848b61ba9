"""The search: asks Optuna for settings, has Hydra's launcher train them, and tells Optuna what came of it."""

import logging
import math
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import optuna
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import BaseDistribution
from optuna.storages import fail_stale_trials
from optuna.storages._heartbeat import get_heartbeat_thread
from optuna.trial import Trial, TrialState

from attnlab.config import resolve
from attnlab.errors import UserError, first_line
from attnlab.search.report import report
from attnlab.search.study import (
    PRUNED_AFTER,
    REASON,
    SAME_AS,
    counted,
    find_same,
    grid,
    make_space,
    open_study,
    suggest,
    without_password,
)

log = logging.getLogger(__name__)


def search(config: DictConfig, launcher: Launcher, arguments: list[str]) -> None:
    """Bring the study to `hparams_search.n_trials` trials and report.

    Raises:
        UserError: the space or the storage can't be used, or too many trials failed.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    settings = resolve(config.hparams_search)
    space, fixed = make_space(settings, arguments)
    study = open_study(settings, config.monitor.mode, space)
    n_trials = settings["n_trials"]
    if settings["sampler"]["_target_"].endswith("GridSampler"):
        n_trials = min(n_trials or math.inf, math.prod(map(len, grid(space).values())))
    searcher = _Searcher(study, launcher, space, fixed, settings, config)
    where = without_password(settings["storage"])
    log.info("Study %s in %s: %d of %d trials", study.study_name, where, len(counted(study)), n_trials)
    try:
        while searcher.step(int(n_trials)):
            pass
    except (KeyboardInterrupt, SystemExit):
        log.warning("Interrupted: this is the best so far, not tested yet. The same command goes on.")
        report(study, config, fixed, finished=False)
    else:
        report(study, config, fixed, finished=True)


class _Searcher:
    def __init__(
        self,
        study: optuna.Study,
        launcher: Launcher,
        space: dict[str, BaseDistribution],
        fixed: list[str],
        settings: dict[str, Any],
        config: DictConfig,
    ) -> None:
        self.study, self.launcher, self.space, self.fixed, self.settings = study, launcher, space, fixed, settings
        self.embed_dim = OmegaConf.select(config, "model.embed_dim")
        jobs = settings["n_jobs"]
        self.batch_size = jobs if jobs > 0 else os.cpu_count() or 1

    def step(self, n_trials: int) -> bool:
        """Run one batch of trials; False when there is nothing left to do or to wait for."""
        fail_stale_trials(self.study)
        trials = counted(self.study)
        started = [trial for trial in trials if trial.state != TrialState.WAITING]
        if len(started) >= n_trials:
            if not any(trial.state == TrialState.RUNNING for trial in started):
                return False
            time.sleep(1)  # another process is at them, or has died at them and will be found out
            return True
        batch = {}
        for _ in range(min(self.batch_size, n_trials - len(started))):
            trial = self.study.ask()
            if _rank(self.study, trial) >= n_trials:  # another process has asked for the last one at the same time
                self.study.tell(trial, state=TrialState.FAIL)
                break
            values = suggest(trial, self.space, self.embed_dim)
            if same := find_same(self.study, trial):
                trial.set_user_attr(SAME_AS, same.number)
                with _grid_may_end():
                    self.study.tell(trial, same.value)
            else:
                batch[trial] = values
        if batch:
            self._run(batch)
            self._check_failures(n_trials)
        return True

    def _run(self, batch: dict[Trial, dict[str, Any]]) -> None:
        jobs = [
            (
                *self.fixed,
                *(f"{name}={value}" for name, value in values.items()),
                f"hparams_search.study_name={self.study.study_name}",
                f"hparams_search.trial={trial.number}",
            )
            for trial, values in batch.items()
        ]
        with ExitStack() as stack:
            for trial in batch:
                thread = get_heartbeat_thread(trial._trial_id, self.study._storage)
                thread.start()
                stack.callback(thread.join)
            try:
                returns = self.launcher.launch(jobs, initial_job_idx=next(iter(batch)).number)
            except (KeyboardInterrupt, SystemExit):
                for trial in batch:
                    self.study.tell(trial, state=TrialState.FAIL)
                    self.study.enqueue_trial(trial.params)
                raise
            except Exception as error:  # a launcher's worker died, of lack of memory for one, and took its batch along
                returns = [JobReturn(status=JobStatus.FAILED, _return_value=error) for _ in batch]
        for trial, result in zip(batch, returns, strict=True):
            self._tell(trial, result)

    def _tell(self, trial: Trial, result: JobReturn) -> None:
        attributes = self.study._storage.get_trial(trial._trial_id).user_attrs
        reason, value = None, None
        try:
            value = float(result.return_value)
            reason = None if math.isfinite(value) else f"{value} is no score"
        except Exception as error:  # whatever the job raised, the search goes on
            reason = f"{type(error).__name__}: {first_line(error)}"
        if reason is not None:
            trial.set_user_attr(REASON, reason)
            log.warning("Trial %d failed: %s", trial.number, reason)
        with _grid_may_end():
            if reason is not None:
                self.study.tell(trial, state=TrialState.FAIL)
            elif PRUNED_AFTER in attributes:
                self.study.tell(trial, state=TrialState.PRUNED)
            else:
                self.study.tell(trial, value)

    def _check_failures(self, n_trials: int) -> None:
        failed = [trial for trial in counted(self.study) if trial.state == TrialState.FAIL]
        share = self.settings["max_failure_share"]
        if len(failed) > share * n_trials:
            raise UserError(
                f"{len(failed)} of {n_trials} trials failed, more than hparams_search.max_failure_share={share}; "
                f"the last one of {failed[-1].user_attrs[REASON]}"
            )


@contextmanager
def _grid_may_end() -> Iterator[None]:
    """Let Optuna's grid sampler stop the study after its last trial, which only `Study.optimize` could do.

    The trial is on record by then, and the number of trials ends the search.
    """
    try:
        yield
    except RuntimeError as error:
        if "`Study.stop`" not in str(error):
            raise


def _rank(study: optuna.Study, trial: Trial) -> int:
    """How many trials count that came before this one."""
    return sum(other.number < trial.number for other in counted(study))
