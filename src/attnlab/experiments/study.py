"""The Optuna study behind a search: its name, its storage, its sampler, and which of its trials count."""

import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import optuna
from annotated_types import Ge, Interval
from omegaconf import DictConfig, open_dict
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

from attnlab.config import instantiate, resolve
from attnlab.errors import UserError, as_user_error, first_line
from attnlab.experiments.multirun import check_devices, name_by_settings
from attnlab.experiments.space import Space
from attnlab.metrics import Direction
from attnlab.validation import validate_values

HEARTBEAT_SECONDS = 2
GRACE_SECONDS = 10  # without a heartbeat for so long, the process of a trial counts as dead
REASON = "search/reason"  # attribute of a failed trial: what its job raised
SAME_AS = "search/same_as"  # attribute of a trial that was not trained: the trial whose value it got
RESUMES = "search/goes_on_with"  # attribute of a trial that was interrupted under this number
DEATHS = "search/deaths"  # attribute of a resumed trial: how far it was, how often its search died there
HEARD = "search/heard"  # attribute of a trial that has had a heartbeat: its number
OVERRIDES = "search/overrides"  # attribute of every trial: the command line of its job

# What may change when a search is continued; other settings make another study.
FREE = ("n_trials", "n_jobs", "max_failure_share", "study_name", "storage", "trial")

SETTINGS: dict[str, Any] = {
    "hparams_search.n_trials": Annotated[int, Ge(1)] | None,
    "hparams_search.n_jobs": Annotated[int, Ge(1)] | Literal[-1],  # as many as run at once
    "hparams_search.max_failure_share": Annotated[float, Interval(ge=0, le=1)],
    "hparams_search.study_name": str | None,
    "hparams_search.storage": str,
}


def prepare(config: DictConfig) -> DictConfig:
    """Give the study a folder, and a name if the user gave none.

    The name is made of all settings, so that the same command, and no other, resumes the study.
    """
    search = config.get("hparams_search")
    if search is None:
        raise UserError("hydra/sweeper=attnlab requires the settings of a search: add hparams_search=optuna")
    check_devices(config, "a search", "trial")
    with open_dict(config):
        validate_values({"hparams_search": resolve(search)}, SETTINGS)
        if search.study_name is None:
            search.study_name = f"search-{name_by_settings(config, 'hparams_search', FREE, {})}"
    # The second is that of the storage, even if the user gave the trials another folder.
    for folder in (config.hydra.sweep.dir, Path(config.paths.log_dir, config.task_name, "searches", search.study_name)):
        Path(folder).mkdir(parents=True, exist_ok=True)
    return config


def open_study(settings: dict[str, Any], mode: Direction, space: Space) -> optuna.Study:
    """Make the study or resume it.

    Raises:
        UserError: the sampler, the pruner or the storage can't be used, or the study is one of another kind.
    """
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)  # heartbeats; all pinned here
    warnings.filterwarnings("ignore", message="Heartbeat of storage is supposed to be used with")
    direction: Literal["minimize", "maximize"] = "minimize" if mode == "min" else "maximize"
    _dry_run(settings, space)
    url = settings["storage"]
    with as_user_error(f"hparams_search.storage={url} can't be opened"):
        study = optuna.create_study(
            study_name=settings["study_name"],
            storage=_open_storage(url),
            pruner=_make("pruner", settings["pruner"], BasePruner),
            direction=direction,
            load_if_exists=True,
        )
    if study.direction.name.lower() != direction:
        raise UserError(
            f"the study {study.study_name} exists and is to {study.direction.name.lower()}, but this search is to "
            f"{direction}: give another hparams_search.study_name"
        )
    study.sampler = make_sampler(settings, 0)
    return study


def _open_storage(url: str) -> RDBStorage:
    for attempt in range(3):
        try:
            return RDBStorage(
                url,
                heartbeat_interval=HEARTBEAT_SECONDS,
                grace_period=GRACE_SECONDS,
                heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
            )
        except (IntegrityError, OperationalError, ProgrammingError):
            # Another search may be making the same tables at this moment; they exist on the next try.
            if attempt == 2:
                raise
            time.sleep(1)
    raise AssertionError


def make_sampler(settings: dict[str, Any], trial: int) -> BaseSampler:
    """The sampler that draws the trial of this number. Raises `UserError` where `hparams_search.sampler` is none.

    The number is part of the seed, and the storage gives it to one trial only: searches that start together on one
    study draw different trials, a resumed one draws no trial again, and alone it draws the same trials each time.
    """
    sampler: BaseSampler = _make("sampler", _seeded(settings["sampler"], trial), BaseSampler)
    if isinstance(sampler, optuna.samplers.GridSampler):
        raise UserError(
            "hparams_search.sampler: optuna.samplers.GridSampler knows no settings that only some parts have; use "
            "hparams_search=grid, whose optuna.samplers.BruteForceSampler does"
        )
    return sampler


def _seeded(settings: dict[str, Any], trial: int) -> dict[str, Any]:
    """Set the seed of this trial, also of a sampler inside another one."""
    changed = settings | {key: _seeded(value, trial) for key, value in settings.items() if isinstance(value, dict)}
    seed = settings.get("seed")
    if not isinstance(seed, int):
        return changed
    # Far apart for neighbouring seeds, of which one would else draw what the other draws a trial later.
    own = (int(np.random.SeedSequence(seed).generate_state(1)[0]) + trial) % 2**32
    if str(settings.get("_target_")).endswith(".QMCSampler"):  # one sequence for all trials, so with one seed
        independent = {"_target_": "optuna.samplers.RandomSampler", "seed": own}
        return {"independent_sampler": independent} | changed
    return changed | {"seed": own}


def _make(name: str, settings: dict[str, Any], kind: type) -> Any:
    try:
        made = instantiate(settings)
    except UserError as error:
        if "seed" in settings and re.search("argument 'seed'|takes no arguments", str(error)):  # the config's own
            return _make(name, {key: value for key, value in settings.items() if key != "seed"}, kind)
        advice = f"; ~hparams_search.{name}.<argument> removes one" if "unexpected keyword" in str(error) else ""
        raise UserError(f"hparams_search.{name}: {error}{advice}") from error
    if not isinstance(made, kind):
        raise UserError(f"hparams_search.{name}: {settings.get('_target_')} is no {name}; choose one of optuna.{name}s")
    return made


def _dry_run(settings: dict[str, Any], space: Space) -> None:
    """Run two trials in memory, so that a sampler or a pruner that can't be used is refused before any training."""
    pruner = _make("pruner", settings["pruner"], BasePruner)
    study = optuna.create_study(sampler=make_sampler(settings, 0), pruner=pruner)
    used = "sampler"
    try:
        for _ in range(2):
            trial = study.ask()
            space.suggest(trial)
            used = "pruner"
            trial.report(0.0, step=1)
            trial.should_prune()
            used = "sampler"
            with exhausted_is_fine():
                study.tell(trial, 0.0)
    except UserError:
        raise
    except Exception as error:
        why = f"can't be used: {first_line(error)}"
        if isinstance(error, ImportError):
            package = error.name or first_line(error)
            why = f"requires a package: .venv/bin/pip install -c constraints.txt {package}"
        raise UserError(f"hparams_search.{used}: {settings[used]['_target_']} {why}") from error


@contextmanager
def exhausted_is_fine() -> Iterator[None]:
    """Ignore that a sampler which has been through the whole grid stops the study: that needs `Study.optimize`.

    The trial is recorded by then, and the number of trials ends the search.
    """
    try:
        yield
    except RuntimeError as error:
        if "`Study.stop`" not in str(error):
            raise


def counted(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that count towards `n_trials`: all but those that died with their process and were queued again."""
    trials = study.get_trials(deepcopy=False)
    return [trial for trial in trials if trial.state != TrialState.FAIL or REASON in trial.user_attrs]


def find_same(study: optuna.Study, trial: Trial, state: TrialState) -> FrozenTrial | None:
    """An earlier trial of the same settings that is in this state."""
    trials = study.get_trials(deepcopy=False, states=(state,))
    return next((other for other in trials if other.number < trial.number and other.params == trial.params), None)
