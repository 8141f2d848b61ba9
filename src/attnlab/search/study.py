"""The Optuna study behind a search: its name, its storage, its space, and which of its trials count."""

import hashlib
import json
import re
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, cast

import optuna
from annotated_types import Ge, Interval
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra_plugins.hydra_optuna_sweeper._impl import create_params_from_overrides
from omegaconf import DictConfig, OmegaConf, open_dict
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

from attnlab.checking import check_config
from attnlab.config import instantiate
from attnlab.errors import UserError, first_line

HEARTBEAT_SECONDS = 2
GRACE_SECONDS = 10  # without a heartbeat for so long, the process of a trial is taken for dead
PRUNED_AFTER = "search/pruned_after"  # attribute of a pruned trial: its last epoch
REASON = "search/reason"  # attribute of a failed trial: what its job raised
SAME_AS = "search/same_as"  # attribute of a trial that was not trained: whose value it got

# What may change when a search is continued; everything else makes another study.
ELSEWHERE = ("hydra", "logger", "paths")
FREE = ("n_trials", "n_jobs", "max_failure_share", "study_name", "storage", "trial")


SETTINGS: dict[str, Any] = {
    "hparams_search.n_trials": Annotated[int, Ge(1)] | None,
    "hparams_search.n_jobs": int,
    "hparams_search.max_failure_share": Annotated[float, Interval(ge=0, le=1)],
    "hparams_search.study_name": str | None,
    "hparams_search.storage": str,
}


def prepare(config: DictConfig) -> DictConfig:
    """Give the study a name where the user gave none, and a folder.

    The name is made of all settings, so the same command goes on with the same study and no other one does.
    """
    search = config.get("hparams_search")
    if search is None:
        raise UserError("hydra/sweeper=attnlab wants the settings of a search: add hparams_search=optuna")
    if (strategy := config.trainer.get("strategy", "auto")) != "auto":
        raise UserError(
            f"a search can't train on several devices (trainer.strategy={strategy}): their processes would start the "
            "whole search again; use trainer=gpu (one device a trial), and hydra/launcher for several trials at once"
        )
    with open_dict(config):
        check_config({"hparams_search": OmegaConf.to_container(search, resolve=True)}, SETTINGS)
        if search.study_name is None:
            settings = {key: value for key, value in config.items_ex(resolve=False) if key not in ELSEWHERE}
            settings["hparams_search"] = {key: value for key, value in search.items_ex(False) if key not in FREE}
            overrides = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
            ranges = sorted(str(override.input_line) for override in overrides if override.is_sweep_override())
            text = json.dumps([OmegaConf.to_container(OmegaConf.create(settings)), ranges], sort_keys=True)
            search.study_name = f"search-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    Path(config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
    return config


def make_space(settings: dict[str, Any], arguments: list[str]) -> tuple[dict[str, BaseDistribution], list[str]]:
    """The space of a search and the command line's other overrides.

    `arguments` add to the space of the settings, and a single value in them takes its setting out of it.

    Raises:
        UserError: a range can't be searched, or there is nothing to search.
    """
    given = [f"{key}={values}" for key, values in settings["space"].items()]
    try:
        space, fixed, deletions = create_params_from_overrides([*given, *arguments])
    except (AssertionError, NotImplementedError, ValueError) as error:
        raise UserError(f"hparams_search.space: {first_line(error)}") from error
    space = {name: distribution for name, distribution in space.items() if name not in fixed}
    if not space:
        raise UserError("there is nothing to search: every setting of hparams_search.space was given a value")
    return space, [*(f"{name}={value}" for name, value in fixed.items()), *deletions]


def open_study(settings: dict[str, Any], mode: str, space: dict[str, BaseDistribution]) -> optuna.Study:
    """Make the study or go on with it.

    Raises:
        UserError: the storage can't be opened, or the study is one of another kind.
    """
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)  # heartbeats; all pinned here
    warnings.filterwarnings("ignore", message="Heartbeat of storage is supposed to be used with")
    try:
        study = optuna.create_study(
            study_name=settings["study_name"],
            storage=_open_storage(settings["storage"]),
            pruner=instantiate(settings["pruner"]),
            direction="minimize" if mode == "min" else "maximize",
            load_if_exists=True,
        )
    except UserError:
        raise
    except Exception as error:  # a database fails in its driver's ways
        url = without_password(settings["storage"])
        raise UserError(f"hparams_search.storage={url} can't be opened: {first_line(error)}") from error
    study.sampler = _make_sampler(settings["sampler"], len(study.trials), space)
    return study


def _open_storage(url: str) -> RDBStorage:
    for attempt in range(3):
        try:
            return RDBStorage(
                url,
                heartbeat_interval=HEARTBEAT_SECONDS,
                grace_period=GRACE_SECONDS,
                # Not for ever: settings that take the process down each time would keep the search from its end.
                heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=2),
            )
        except (IntegrityError, OperationalError, ProgrammingError):
            # Another search may be making the same tables at this moment; then they are there the next time.
            if attempt == 2:
                raise
            time.sleep(1)
    raise AssertionError


def without_password(url: str) -> str:
    """The URL as it may be shown."""
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", url)


def _make_sampler(
    settings: dict[str, Any], num_trials: int, space: dict[str, BaseDistribution]
) -> optuna.samplers.BaseSampler:
    more: dict[str, Any] = {}
    if settings.get("seed") is not None:
        more["seed"] = settings["seed"] + num_trials  # a continued search must not draw its first trials again
    if settings["_target_"].endswith("GridSampler"):
        more["search_space"] = grid(space)
    return cast(optuna.samplers.BaseSampler, instantiate(settings, **more))


def grid(space: dict[str, BaseDistribution]) -> dict[str, list[Any]]:
    """All values of each setting. Raises `UserError` for a range without steps."""
    values: dict[str, list[Any]] = {}
    for name, distribution in space.items():
        if isinstance(distribution, CategoricalDistribution):
            values[name] = list(distribution.choices)
        elif isinstance(distribution, IntDistribution) and not distribution.log:
            values[name] = list(range(distribution.low, distribution.high + 1, distribution.step))
        elif isinstance(distribution, FloatDistribution) and distribution.step is not None:
            count = round((distribution.high - distribution.low) / distribution.step)
            values[name] = [distribution.low + i * distribution.step for i in range(count + 1)]
        else:
            raise UserError(f"hparams_search=grid can't list all of {name}: give choice(...) or range(..., step=...)")
    return values


def counted(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that count towards `n_trials`: all but those that died with their process and were queued again."""
    trials = study.get_trials(deepcopy=False)
    return [trial for trial in trials if trial.state != TrialState.FAIL or REASON in trial.user_attrs]


def suggest(trial: Trial, space: Mapping[str, BaseDistribution], embed_dim: int | None) -> dict[str, Any]:
    """A value for each setting; heads are drawn among those that divide the trial's `embed_dim`.

    Raises:
        UserError: none of the heads does.
    """
    values: dict[str, Any] = {}
    for name in sorted(space, key=lambda name: name == "model.num_heads"):
        distribution, label = space[name], name
        if name == "model.num_heads" and isinstance(distribution, CategoricalDistribution):
            width = int(values.get("model.embed_dim", embed_dim or 0))
            heads = [choice for choice in distribution.choices if width % int(str(choice)) == 0]
            if not heads:
                raise UserError(f"hparams_search.space: no {name} of {distribution.choices} divides embed_dim={width}")
            if len(heads) < len(distribution.choices):
                # Optuna wants one set of choices for a name, so each width has a name of its own.
                distribution, label = CategoricalDistribution(heads), f"{name} of {width}"
        values[name] = trial._suggest(label, distribution)
    return values


def find_same(study: optuna.Study, trial: Trial) -> FrozenTrial | None:
    """An earlier trial of the same settings that has a value."""
    for other in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        if other.number < trial.number and other.params == trial.params:
            return other
    return None
