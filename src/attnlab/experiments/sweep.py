"""The search: asks Optuna for settings, has Hydra's launcher train them, and tells Optuna what came of it."""

import logging
import math
import re
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
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
from attnlab.experiments.board import Board
from attnlab.experiments.making import make_space
from attnlab.experiments.report import report
from attnlab.experiments.space import Space
from attnlab.experiments.study import (
    DEATHS,
    GOES_ON_WITH,
    GRACE_SECONDS,
    HEARD,
    OVERRIDES,
    REASON,
    SAME_AS,
    counted,
    exhausted_is_fine,
    find_same,
    make_sampler,
    open_study,
)
from attnlab.experiments.workers import TRIES, Died, at_once, finish, launch
from attnlab.metrics import direction
from attnlab.redaction import redact
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
    space = make_space(config, arguments, loader)
    study = open_study(settings, direction(config.monitor.metric, config.monitor.mode, "monitor.mode"), space)
    n_trials = settings["n_trials"]
    if isinstance(study.sampler, BruteForceSampler):
        n_trials = min(n_trials or math.inf, space.size())
    elif n_trials is None:
        raise UserError("hparams_search.n_trials=null is for a grid, which has an end; give a number")
    log.info(
        "Study %s in %s: %d of %d trials", study.study_name, redact(settings["storage"]), len(counted(study)), n_trials
    )
    board = Board(config, loader, int(n_trials) - len(counted(study)))
    try:
        with board.shown():
            _Searcher(study, launcher, space, settings, board).run(int(n_trials))
    except (KeyboardInterrupt, SystemExit):
        log.warning("Interrupted: this is the best so far, not tested yet. The same command goes on.")
        report(study, config, finished=False)
    else:
        report(study, config, finished=True)


class _Searcher:
    """Asks the study for trials and has them trained in slots: each takes its next trial as soon as one has ended."""

    def __init__(
        self, study: optuna.Study, launcher: Launcher, space: Space, settings: dict[str, Any], board: Board
    ) -> None:
        self.study, self.launcher, self.space, self.settings = study, launcher, space, settings
        self.folder, self.board = board.folder, board
        self.asking, self.redrawn = Lock(), 0
        self.over = self.interrupted = False
        self.first_seen: dict[int, float] = {}  # trials at work without a heartbeat

    def run(self, n_trials: int) -> None:
        # One that waited for its turn would have been drawn without what was found meanwhile.
        slots = min(at_once(self.launcher, self.settings["n_jobs"]), n_trials)
        if slots == 1:
            return self._fill_slot(n_trials)
        with ThreadPoolExecutor(slots) as pool:
            filled = [pool.submit(self._fill_slot, n_trials) for _ in range(slots)]
            try:
                finish(filled, self._interrupt)
            finally:
                self.over = True
        for slot in filled:
            slot.result()

    def _interrupt(self) -> None:
        self.over = self.interrupted = True
        if own := getattr(self.launcher, "interrupt", None):
            own()

    def _fill_slot(self, n_trials: int) -> None:
        while True:
            with self.asking:
                if self.over:
                    return
                fail_stale_trials(self.study)
                self._fail_unheard()
                started = [trial for trial in counted(self.study) if trial.state != TrialState.WAITING]
                asked = self._ask(n_trials) if len(started) < n_trials else None
            if asked is not None:
                self._run(*asked)
                self._check_failures(n_trials)
            elif len(started) >= n_trials:
                if all(trial.state != TrialState.RUNNING for trial in started):
                    return
                time.sleep(1)  # others are at them, or have died at them and will be found out

    def _fail_unheard(self) -> None:
        """Queue trials again that died before their first heartbeat: Optuna would take them to be at work for ever."""
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

    def _ask(self, n_trials: int) -> tuple[Trial, list[str]] | None:
        """A trial and what to train for it; None where it is one too many, or its settings were trained before."""
        trial = self.study.ask()
        overrides = self._draw(trial)  # of one too many too: a grid takes none that has failed without settings
        trial.set_user_attr(OVERRIDES, overrides)
        if self._is_copy(trial):
            self._fail(trial)
        elif sum(other.number < trial.number for other in counted(self.study)) >= n_trials:
            # Another process has asked for the last one at the same time.
            self._queue_again(trial)
        elif self.redrawn < TRIES and find_same(self.study, trial, TrialState.RUNNING):
            self.redrawn += 1  # it is being trained at this moment; twice only where hardly anything else is left
            self._fail(trial)
            return None
        elif same := find_same(self.study, trial, TrialState.COMPLETE):
            trial.set_user_attr(SAME_AS, same.number)
            with exhausted_is_fine():
                self.study.tell(trial, same.value)
        elif self._take_over(trial) == TRIES:  # what takes all down each time would keep the search from its end
            self._fail(trial, f"its process died {TRIES} times without getting any further")
        else:
            self.redrawn = 0
            return trial, overrides
        return None

    def _is_copy(self, trial: Trial) -> bool:
        """Whether two processes have found the same trial dead at the same time, and each has queued it again."""
        *earlier, own = map(retry_history, self.study.get_trials(deepcopy=False)[: trial.number + 1])
        return bool(own) and own in earlier

    def _died_as(self, trial: Trial) -> list[int]:
        """The numbers under which its search has died."""
        return retry_history(self.study.get_trials(deepcopy=False)[trial.number])

    def _before(self, trial: Trial) -> int | None:
        """The number under which it was begun."""
        died = self._died_as(trial)
        return died[-1] if died else trial.user_attrs.get(GOES_ON_WITH)

    def _queue_again(self, trial: Trial) -> None:
        """It has another number when it goes on, in the folder that it has now."""
        begun = trial.number if (self.folder / str(trial.number)).is_dir() else self._before(trial)
        self._fail(trial)
        self.study.enqueue_trial(trial.params, user_attrs={GOES_ON_WITH: begun})

    def _take_over(self, trial: Trial) -> int:
        """Of a trial that was begun before under another number, the run goes on where it was.

        Returns:
            How often its search has died without its getting any further.
        """
        before, folder = self._before(trial), self.folder / str(trial.number)
        if before is not None and (begun := self.folder / str(before)).is_dir():
            begun.rename(folder)
        if not self._died_as(trial):
            return 0
        checkpoint = folder / "checkpoints" / "last.ckpt"
        reached = checkpoint.stat().st_mtime if checkpoint.exists() else 0.0
        earlier, deaths = trial.user_attrs.get(DEATHS, (None, 0))
        deaths = deaths + 1 if reached == earlier else 1
        trial.set_user_attr(DEATHS, (reached, deaths))
        return deaths

    def _run(self, trial: Trial, overrides: list[str]) -> None:
        study = f"hparams_search.study_name={_quoted(self.study.study_name)}"
        job = (*overrides, study, f"hparams_search.trial={trial.number}")
        heart = get_heartbeat_thread(trial._trial_id, self.study._storage)
        heart.start()
        trial.set_user_attr(HEARD, trial.number)  # its second try has the attributes of its first
        try:
            for _ in range(TRIES):
                with self.board.running([job], trial.number):
                    (result,) = launch(self.launcher, [job], trial.number)
                if self.interrupted and isinstance(result._return_value, Died):
                    raise KeyboardInterrupt
                if not isinstance(result._return_value, Died):
                    break
        except (KeyboardInterrupt, SystemExit):
            self._queue_again(trial)
            raise
        finally:
            heart.join()
        self._tell(trial, result)

    def _tell(self, trial: Trial, result: JobReturn) -> None:
        try:
            value = float(result.return_value)
        except Exception as error:  # whatever the job raised, the search goes on
            return self._fail(trial, f"{type(error).__name__}: {first_line(error)}")
        if not math.isfinite(value):
            return self._fail(trial, f"{value} is no score")
        attributes = self.study.get_trials(deepcopy=False)[trial.number].user_attrs  # as the job left them
        with exhausted_is_fine():
            if PRUNED_AFTER in attributes:
                self.study.tell(trial, state=TrialState.PRUNED)
            else:
                self.study.tell(trial, value)

    def _fail(self, trial: Trial, reason: str | None = None) -> None:
        """Without a reason it doesn't count."""
        if reason is not None:
            trial.set_user_attr(REASON, reason)
            log.warning("Trial %d failed: %s", trial.number, reason)
        with exhausted_is_fine():
            self.study.tell(trial, state=TrialState.FAIL)

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
