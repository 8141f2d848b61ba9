"""The search: asks Optuna for settings, has Hydra's launcher train them, and tells Optuna what came of it."""

import logging
import math
import re
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Any

import optuna
from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig
from optuna.samplers import BruteForceSampler
from optuna.storages import fail_stale_trials
from optuna.storages._heartbeat import get_heartbeat_thread
from optuna.trial import Trial, TrialState

from attnlab.config import resolve
from attnlab.errors import UserError, first_line
from attnlab.process import available
from attnlab.search.board import board
from attnlab.search.making import make_space
from attnlab.search.report import report
from attnlab.search.space import Space
from attnlab.search.study import (
    OVERRIDES,
    PRUNED_AFTER,
    REASON,
    SAME_AS,
    counted,
    exhausted_is_fine,
    find_same,
    open_study,
    without_password,
)

log = logging.getLogger(__name__)


def search(config: DictConfig, launcher: Launcher, loader: ConfigLoader, arguments: list[str]) -> None:
    """Bring the study to `hparams_search.n_trials` trials and report.

    `loader` composes the configs of jobs; `arguments` are the command line.

    Raises:
        UserError: the space or the storage can't be used, or too many trials failed.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    settings = resolve(config.hparams_search)
    space = make_space(config, arguments, loader)
    study = open_study(settings, config.monitor.mode, space)
    n_trials = settings["n_trials"]
    if isinstance(study.sampler, BruteForceSampler):
        n_trials = min(n_trials or math.inf, space.size())
    elif n_trials is None:
        raise UserError("hparams_search.n_trials=null is for a grid, which has an end; give a number")
    where = without_password(settings["storage"])
    log.info("Study %s in %s: %d of %d trials", study.study_name, where, len(counted(study)), n_trials)
    try:
        with board(config, int(n_trials) - len(counted(study))) as ours:
            searcher = _Searcher(study, launcher, space, settings, partial(ours.running, loader))
            while searcher.step(int(n_trials)):
                pass
    except (KeyboardInterrupt, SystemExit):
        log.warning("Interrupted: this is the best so far, not tested yet. The same command goes on.")
        report(study, config, finished=False)
    else:
        report(study, config, finished=True)


class _Searcher:
    def __init__(
        self,
        study: optuna.Study,
        launcher: Launcher,
        space: Space,
        settings: dict[str, Any],
        running: Callable[[list[tuple[str, ...]], int], AbstractContextManager[None]],  # shows them
    ) -> None:
        self.study, self.launcher, self.space, self.settings, self.running = study, launcher, space, settings, running
        jobs = settings["n_jobs"]
        self.batch_size = jobs if jobs > 0 else available()

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
        batch: dict[Trial, list[str]] = {}
        for _ in range(min(self.batch_size, n_trials - len(started))):
            trial = self.study.ask()
            if _rank(self.study, trial) >= n_trials:  # another process has asked for the last one at the same time
                self.study.tell(trial, state=TrialState.FAIL)
                break
            overrides = self.space.suggest(trial)
            trial.set_user_attr(OVERRIDES, overrides)
            if same := find_same(self.study, trial):
                trial.set_user_attr(SAME_AS, same.number)
                with exhausted_is_fine():
                    self.study.tell(trial, same.value)
            else:
                batch[trial] = overrides
        if batch:
            self._run(batch)
            self._check_failures(n_trials)
        return True

    def _run(self, batch: dict[Trial, list[str]]) -> None:
        jobs = [
            (
                *overrides,
                f"hparams_search.study_name={_quoted(self.study.study_name)}",
                f"hparams_search.trial={trial.number}",
            )
            for trial, overrides in batch.items()
        ]
        with ExitStack() as stack:
            for trial in batch:
                thread = get_heartbeat_thread(trial._trial_id, self.study._storage)
                thread.start()
                stack.callback(thread.join)
            try:
                first = next(iter(batch)).number
                with self.running(jobs, first):
                    returns = self.launcher.launch(jobs, initial_job_idx=first)
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
        attributes = self.study.get_trials(deepcopy=False)[trial.number].user_attrs  # as the job left them
        reason, value = None, None
        try:
            value = float(result.return_value)
            reason = None if math.isfinite(value) else f"{value} is no score"
        except Exception as error:  # whatever the job raised, the search goes on
            reason = f"{type(error).__name__}: {first_line(error)}"
        if reason is not None:
            trial.set_user_attr(REASON, reason)
            log.warning("Trial %d failed: %s", trial.number, reason)
        with exhausted_is_fine():
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


def _quoted(name: str) -> str:
    """As Hydra's command line takes it."""
    return name if re.fullmatch(r"[\w./-]+", name) else "'" + name.replace("'", r"\'") + "'"


def _rank(study: optuna.Study, trial: Trial) -> int:
    """How many trials count that came before this one."""
    return sum(other.number < trial.number for other in counted(study))
