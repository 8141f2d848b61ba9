"""What a search found: tables, figures, the test of its best trial and the command that trains it again."""

import logging
import shlex
import shutil
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from omegaconf import DictConfig, OmegaConf
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from attnlab.config import instantiate, resolve
from attnlab.errors import UserError, relative_to_cwd
from attnlab.experiments.multirun import parse
from attnlab.experiments.space import merge_settings, settings_of
from attnlab.experiments.study import OVERRIDES, REASON, SAME_AS, counted
from attnlab.progress import OUTPUT, redirect_output
from attnlab.reports.search import MIN_TRIALS, draw_figures, in_words, write_page
from attnlab.runs import BEST, CHECKPOINTS, RunFolder, write_whole

SCORES = 5  # of the best trial's test, on the terminal

log = logging.getLogger(__name__)


def report(study: optuna.Study, config: DictConfig, finished: bool) -> None:
    """Print the best five; write optimization_results.yaml, experiment/best.yaml, search.html and figures.

    Once the search has finished, the best trial's checkpoint, and no other, is tested.
    """
    folder = Path(config.hydra.sweep.dir)
    with FileLock(folder / ".report.lock"):  # each of several processes of one search reports; the first one tests
        _report(folder, study, config, finished)


def _report(folder: Path, study: optuna.Study, config: DictConfig, finished: bool) -> None:
    complete = [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
    console = Console()
    states = [trial.state.name.lower() for trial in counted(study)]
    counts = f"{len(states)} trials: " + ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(states))
    console.print(counts)
    if not complete:
        console.print("no trial has finished, so there is no best one")
        return
    sign = 1 if study.direction == optuna.study.StudyDirection.MINIMIZE else -1
    ranked = sorted(complete, key=lambda trial: sign * float(trial.value or 0))
    best = ranked[0]
    _print_best(console, ranked[:5], config.monitor.metric)
    scores = _test(folder, best.user_attrs.get(SAME_AS, best.number), config) if finished else {}
    # A trial that somebody's own script has added to the study has its settings alone.
    overrides = best.user_attrs.get(OVERRIDES) or [f"{name}={value}" for name, value in settings_of(best).items()]
    _write_experiment(folder / "experiment" / "best.yaml", overrides, set(config.hydra.runtime.choices))
    found = {
        "name": "optuna",
        "study": study.study_name,
        "best_trial": best.number,
        "best_value": best.value,
        "best_params": settings_of(best),
        "test": scores,
        "importances": _importances(study, len(complete)),
        "failures": {trial.number: trial.user_attrs[REASON] for trial in counted(study) if REASON in trial.user_attrs},
    }
    write_whole(folder / "optimization_results.yaml", OmegaConf.to_yaml(OmegaConf.create(found)))
    merged = merge_settings(study)
    draw_figures(folder / "figures", study, merged, config.monitor.metric)
    again = shlex.join([f"--config-dir={folder}", "experiment=best"])
    settings = [(trial, settings_of(trial)) for trial in ranked]
    write_page(folder, study, merged, settings, config.monitor.metric, counts, found, again)
    _log(config, folder, study, found)
    if scores:
        first = ", ".join(f"{key} {value:.4f}" for key, value in list(scores.items())[:SCORES])
        console.print(
            f"Best: #{best.number} {first}; more of it in {relative_to_cwd(folder / 'best')}", highlight=False
        )
    for line in (f"Train it again: python src/train.py {again}", f"Everything is in {folder}; search.html shows it"):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _print_best(console: Console, ranked: list[FrozenTrial], metric: str) -> None:
    drawn = [settings_of(trial) for trial in ranked]
    table = Table("setting", *(f"#{trial.number}" for trial in ranked), title="The best five", title_justify="left")
    table.add_row(f"[bold]{metric}", *(f"[bold]{trial.value:.4f}" for trial in ranked))
    for name in dict.fromkeys(name for settings in drawn for name in settings):
        table.add_row(name, *(escape(in_words(settings.get(name, ""))) for settings in drawn))
    console.print(table)


def _importances(study: optuna.Study, num_finished: int) -> dict[str, float]:
    """The share of each setting in the variance of the score; empty if too few trials have finished."""
    if num_finished < MIN_TRIALS:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental; few trials of a width
        try:
            return dict(get_param_importances(study, evaluator=PedAnovaImportanceEvaluator()))
        except (RuntimeError, ValueError) as error:
            log.info("No importances: %s", error)
            return {}


def _test(folder: Path, number: int, config: DictConfig) -> dict[str, float]:
    """Read the test set, once, with the best trial's checkpoint."""
    from attnlab.training.evaluate import evaluate  # imports torch: not before something was searched

    tested, trial = RunFolder(folder / "best"), folder / str(number)
    with suppress(UserError):
        if tested.is_finished and tested.config.get("ckpt_path") == str(trial):
            return _of_test(tested.metrics)
    shutil.rmtree(tested.path, ignore_errors=True)  # of an earlier best trial
    if not (trial / CHECKPOINTS / BEST).is_file():
        return {}
    settings: dict[str, Any] = {
        "task_name": "evaluate",
        "ckpt_path": str(trial),
        "trainer": OmegaConf.to_container(config.trainer, resolve=True),
        "paths": {**OmegaConf.to_container(config.paths, resolve=True), "run_dir": str(tested.path)},  # type: ignore[dict-item]
        "callbacks": {},
        "logger": {},
    }
    settings["trainer"] |= {"enable_progress_bar": False}
    try:
        with redirect_output(folder / OUTPUT):
            return _of_test(evaluate(OmegaConf.create(settings)))
    except UserError as error:  # for one, a test set without labels: the results of the search are written all the same
        log.warning("The best trial is not tested: %s", error)
        return {}


def _of_test(metrics: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in metrics.items() if key.startswith("test/")}


def _write_experiment(file: Path, overrides: list[str], groups: set[str]) -> None:
    """The overrides as an experiment: parts in its defaults list, settings below it."""
    defaults: list[Any] = []
    settings = OmegaConf.create()
    for override in parse(overrides):
        key, value = override.key_or_group, override.value()
        if key.split(".")[0].split("/")[0] == "hparams_search" or override.is_delete():
            continue
        if key == "experiment":
            defaults.insert(0, value)
        elif key in groups:
            defaults.append({f"override /{key}": value})
        else:
            OmegaConf.update(settings, key, value)
    content = OmegaConf.to_yaml(OmegaConf.create({"defaults": defaults}))
    content += OmegaConf.to_yaml(settings) if settings else ""
    file.parent.mkdir(exist_ok=True)
    write_whole(file, f"# @package _global_\n{content}")


def _log(config: DictConfig, folder: Path, study: optuna.Study, found: dict[str, Any]) -> None:
    """Log a run in the group of the trials to each logger: the results, a table of trials, the figures."""
    from attnlab.training.job import tidy_process
    from attnlab.training.loggers import SEARCH, RunArtifacts, log_results

    trials = study.trials_dataframe(attrs=("number", "state", "value", "duration", "params")).astype(str)
    artifacts = RunArtifacts(
        {f"search/{key}": found[key] for key in ("best_trial", "best_value", "best_params", "test", "importances")},
        {"search/trials": (list(trials), trials.to_numpy().tolist())},
        {f"search/{file.stem}": file for file in sorted((folder / "figures").glob("*.png"))},
    )
    with redirect_output(folder / OUTPUT), tidy_process():
        parts = filter(None, resolve(config.logger or OmegaConf.create()).values())
        log_results([instantiate(part, save_dir=str(folder / SEARCH)) for part in parts], artifacts)
