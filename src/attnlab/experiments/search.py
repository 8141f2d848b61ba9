"""The search: a planner that asks Optuna for the settings of trials and tells it what came of them."""

import logging
import math
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig
from optuna.samplers import BruteForceSampler
from optuna.storages import RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.storages._heartbeat import get_heartbeat_thread
from optuna.trial import Trial, TrialState

from attnlab.config import resolve
from attnlab.errors import UserError, first_line
from attnlab.experiments.live_table import Job, LiveTable
from attnlab.experiments.report import report
from attnlab.experiments.runner import TRIES, Planner, execute, launches_at_once
from attnlab.experiments.space import Space, build_space
from attnlab.experiments.study import (
    DEATHS,
    GRACE_SECONDS,
    HEARD,
    OVERRIDES,
    REASON,
    RESUMES,
    SAME_AS,
    counted,
    exhausted_is_fine,
    find_same,
    make_sampler,
    open_study,
)
from attnlab.metrics import direction
from attnlab.redaction import redact
from attnlab.runs import CHECKPOINTS, LAST
from attnlab.training.pruning import PRUNED_AFTER

log = logging.getLogger(__name__)
retry_history = RetryHeartbeatStaleTrialCallback.retry_history


def search(config: DictConfig, launcher: Launcher, loader: ConfigLoader, arguments: list[str]) -> None:
    """Bring the study to `hparams_search.n_trials` trials and report.

    `loader` composes the configs of jobs; `arguments` are the command line.

    Raises:
        UserError: the space or the storage can't be used, or too many trials failed.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    settings = resolve(config.hparams_search)
    space = build_space(config, arguments, loader)
    study = open_study(settings, direction(config.monitor.metric, config.monitor.mode, "monitor.mode"), space)
    n_trials = settings["n_trials"]
    if isinstance(study.sampler, BruteForceSampler):
        n_trials = min(n_trials or math.inf, space.size())
    elif n_trials is None:
        raise UserError("hparams_search.n_trials=null is for a grid, which has an end; give a number")
    log.info(
        "Study %s in %s: %d of %d trials", study.study_name, redact(settings["storage"]), len(counted(study)), n_trials
    )
    n_trials = int(n_trials)
    table = LiveTable(config, loader, n_trials - len(counted(study)))
    # No more than run at once: a trial that waited would have been drawn without the results found meanwhile.
    slots = min(launches_at_once(launcher, settings["n_jobs"]), n_trials)
    try:
        execute(_Search(study, space, settings, n_trials, table.folder), launcher, table, slots)
    except (KeyboardInterrupt, SystemExit):
        log.warning("Interrupted: this is the best so far, not tested yet. The same command resumes the search.")
        report(study, config, finished=False)
    else:
        report(study, config, finished=True)


class _Search(Planner):
    """Brings a study to `n_trials`, together with whichever other processes are at the same study.

    The key of a job is its trial; `folder` is where the folders of trials are.
    """

    def __init__(
        self, study: optuna.Study, space: Space, settings: dict[str, Any], n_trials: int, folder: Path
    ) -> None:
        self.study, self.space, self.settings, self.n_trials, self.folder = study, space, settings, n_trials, folder
        self.redrawn = 0
        self.first_seen: dict[int, float] = {}  # running trials without a heartbeat

    def ask(self) -> list[Job] | None:
        while True:
            fail_stale_trials(self.study)
            self._fail_unheard()
            started = [trial for trial in counted(self.study) if trial.state != TrialState.WAITING]
            if len(started) >= self.n_trials:
                # Trials that still run, here or in other processes, may die and come back into the queue.
                return [] if any(trial.state == TrialState.RUNNING for trial in started) else None
            if job := self._ask():
                return [job]

    def _fail_unheard(self) -> None:
        """Queue trials again that died before their first heartbeat: Optuna would count them as running for ever."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            since = self.first_seen.setdefault(trial.number, time.monotonic())
            if trial.user_attrs.get(HEARD) != trial.number and time.monotonic() - since > 2 * GRACE_SECONDS:
                half_asked = Trial(self.study, trial._trial_id)
                self._draw(half_asked)
                self._queue_again(half_asked)

    def _draw(self, trial: Trial) -> list[str]:
        """What to train for it."""
        self.study.sampler = make_sampler(self.settings, trial.number)
        return self.space.suggest(trial)

    def _ask(self) -> Job | None:
        """None: the trial is one too many, or its settings were trained before."""
        trial = self.study.ask()
        # Drawn even if it is one too many: a grid leaves out what failed without settings.
        overrides = self._draw(trial)
        trial.set_user_attr(OVERRIDES, overrides)
        if self._is_copy(trial):
            self._fail(trial)
        elif sum(other.number < trial.number for other in counted(self.study)) >= self.n_trials:
            self._queue_again(trial)  # another process has asked for the last one at the same time
        elif self.redrawn < TRIES and find_same(self.study, trial, TrialState.RUNNING):
            self.redrawn += 1  # these settings are being trained now; twice only if hardly any others are left
            self._fail(trial)
        elif same := find_same(self.study, trial, TrialState.COMPLETE):
            trial.set_user_attr(SAME_AS, same.number)
            with exhausted_is_fine():
                self.study.tell(trial, same.value)
        elif self._take_over(trial) == TRIES:  # or a trial that kills its search each time would never let it finish
            self._fail(trial, f"its process died {TRIES} times without getting any further")
        else:
            self.redrawn = 0
            study = f"hparams_search.study_name={_quoted(self.study.study_name)}"
            return Job((*overrides, study, f"hparams_search.trial={trial.number}"), trial.number, trial)
        return None

    def _is_copy(self, trial: Trial) -> bool:
        """Whether two processes found the same trial dead at the same time, and each queued it again."""
        *earlier, own = map(retry_history, self.study.get_trials(deepcopy=False)[: trial.number + 1])
        return bool(own) and own in earlier

    def _died_as(self, trial: Trial) -> list[int]:
        """The numbers under which its search has died."""
        return retry_history(self.study.get_trials(deepcopy=False)[trial.number])

    def _before(self, trial: Trial) -> int | None:
        """The number under which it was started."""
        died = self._died_as(trial)
        return died[-1] if died else trial.user_attrs.get(RESUMES)

    def _queue_again(self, trial: Trial) -> None:
        """It gets another number when it resumes, and the folder it has now moves along."""
        begun = trial.number if (self.folder / str(trial.number)).is_dir() else self._before(trial)
        self._fail(trial)
        self.study.enqueue_trial(trial.params, user_attrs={RESUMES: begun})

    def _take_over(self, trial: Trial) -> int:
        """Resume the run of a trial that was started before under another number.

        Returns:
            How often its search has died since the run last made progress.
        """
        before, folder = self._before(trial), self.folder / str(trial.number)
        if before is not None and (begun := self.folder / str(before)).is_dir():
            begun.rename(folder)
        if not self._died_as(trial):
            return 0
        checkpoint = folder / CHECKPOINTS / LAST
        reached = checkpoint.stat().st_mtime if checkpoint.exists() else 0.0
        earlier, deaths = trial.user_attrs.get(DEATHS, (None, 0))
        deaths = deaths + 1 if reached == earlier else 1
        trial.set_user_attr(DEATHS, (reached, deaths))
        return deaths

    @contextmanager
    def running(self, jobs: Sequence[Job]) -> Iterator[None]:
        (job,) = jobs
        heart = get_heartbeat_thread(job.key._trial_id, self.study._storage)
        heart.start()
        job.key.set_user_attr(HEARD, job.number)  # the number, as a retried trial inherits the attributes
        try:
            yield
        finally:
            heart.join()

    def put_back(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self._queue_again(job.key)

    def tell(self, job: Job, result: JobReturn) -> None:
        trial: Trial = job.key
        try:
            value = float(result.return_value)
            reason = None if math.isfinite(value) else f"{value} is no score"
        except Exception as error:  # whatever the job raised, the search continues
            reason = f"{type(error).__name__}: {first_line(error)}"
        if reason:
            self._fail(trial, reason)
        else:
            # Read from the storage: the job's own process has set it.
            pruned = PRUNED_AFTER in self.study.get_trials(deepcopy=False)[trial.number].user_attrs
            with exhausted_is_fine():
                self.study.tell(trial, None if pruned else value, TrialState.PRUNED if pruned else None)
        failed = [trial for trial in counted(self.study) if trial.state == TrialState.FAIL]
        share = self.settings["max_failure_share"]
        if len(failed) > share * self.n_trials:
            raise UserError(
                f"{len(failed)} of {self.n_trials} trials failed, more than hparams_search.max_failure_share={share}; "
                f"the last one of {failed[-1].user_attrs[REASON]}"
            )

    def _fail(self, trial: Trial, reason: str | None = None) -> None:
        """A failure without a reason does not count."""
        if reason is not None:
            trial.set_user_attr(REASON, reason)
            log.warning("Trial %d failed: %s", trial.number, reason)
        with exhausted_is_fine():
            self.study.tell(trial, state=TrialState.FAIL)


def _quoted(name: str) -> str:
    """Quoted for Hydra's command line."""
    return name if re.fullmatch(r"[\w./-]+", name) else "'" + name.replace("'", r"\'") + "'"
