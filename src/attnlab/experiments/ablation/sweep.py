"""An ablation: trains what decides a verdict next, until all have fallen or the budget is spent, then reports."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Interval
from hydra.core.config_loader import ConfigLoader
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, open_dict

from attnlab.analysis.result import in_points
from attnlab.checking import check_config
from attnlab.config import resolve
from attnlab.errors import UserError
from attnlab.experiments.ablation.changes import FREE, Changer
from attnlab.experiments.ablation.parts import Ablation
from attnlab.experiments.ablation.runs import Runs
from attnlab.experiments.ablation.sequential import Plan, spreads_to_show
from attnlab.experiments.multirun import check_devices, name_by_settings, sweeps
from attnlab.metrics import Direction, direction, is_share

log = logging.getLogger(__name__)

MARGIN = 0.3  # points of a share
SETTINGS: dict[str, Any] = {
    "ablation.alpha": Annotated[float, Interval(gt=0, lt=1)],
    "ablation.margin": Annotated[float, Ge(0)] | None,
    "ablation.seeds": Annotated[int, Ge(2)],
    "ablation.max_seeds": Annotated[int, Ge(2)],
    "ablation.pairs": bool,
    "ablation.budget": str | None,
    "ablation.n_jobs": int | None,
    "ablation.metric": str,
    "ablation.mode": Direction | None,
}


def prepare(config: DictConfig) -> DictConfig:
    """Give the ablation a name where the user gave none, and a folder.

    Raises:
        UserError: the settings of an ablation are missing or wrong.
    """
    ablation = config.get("ablation")
    if ablation is None:
        raise UserError("hydra/sweeper=ablation wants the settings of an ablation: add ablation=parts")
    check_devices(config, "an ablation", "run")
    if not config.test:
        raise UserError("test=false: an ablation tells at its end what it found on the test set; leave it out")
    check_config({"ablation": resolve(ablation)}, SETTINGS)
    with open_dict(config):
        if ablation.name is None:
            kind = config.hydra.runtime.choices.get("ablation")
            # With resume, as the names of ablations begun earlier have it.
            ablation.name = f"{kind}-{name_by_settings(config, 'ablation', FREE, {'resume': None})}"
        config.resume = "latest"  # its jobs go on with what was begun
    Path(config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
    return config


def ablate(config: DictConfig, launcher: Launcher, loader: ConfigLoader, arguments: Sequence[str]) -> None:
    """Train what decides, and report. `loader` composes the configs of jobs; `arguments` are the command line.

    Raises:
        UserError: there is nothing to change, or the model itself can't be trained.
    """
    settings = resolve(config.ablation)
    if "shares" in settings:
        from attnlab.experiments.ablation.curve import curve

        curve(config, launcher, loader, arguments)
        return
    if swept := sweeps(arguments):
        key = swept[0].get_key_element()
        what = "its seeds are its own: ablation.seeds, ablation.max_seeds" if key == "seed" else "give it one value"
        raise UserError(f"ablation=parts asks about one model, and {key} has several values: {what}")
    changer = Changer(config, loader, arguments)
    changes = changer.alternatives(settings["change"] or settings["parts"])
    metric = settings["metric"]
    if not metric.startswith("test/"):
        raise UserError(
            f"ablation.metric={metric} is no score of the test set; give one such as test/acc or test/f1_macro"
        )
    better = direction(metric, settings["mode"], "ablation.mode")
    margin = settings["margin"] if settings["margin"] is not None else MARGIN if is_share(metric) else 0.0
    points = margin / (100 if is_share(metric) else 1)
    plan = Plan(settings["alpha"], points, settings["seeds"], max(settings["seeds"], settings["max_seeds"]))
    runs = Runs(config, launcher, loader, [changer.model, *changes], metric, plan.last)
    work = Ablation(runs, changer, changes, plan, metric, better, settings["pairs"])
    minimum = (1 + len(changes)) * plan.first - sum(seed < plan.first for _, seed in runs.found)
    if runs.budget.runs - len(runs) < minimum:
        raise UserError(
            f"ablation.budget={settings['budget']}: {plan.first} seeds of {1 + len(changes)} settings take {minimum} "
            "runs; give more, or a shorter ablation.change"
        )
    _say_what_suffices(plan, work.size, runs.budget.runs / (1 + len(changes)))
    known = len(runs.found)
    log.info("%d settings, %d runs are there already, in %s", 1 + len(changes), known, runs.folder)
    not_worth = f"less than {in_points(metric, points)} of {metric}" if points else "no difference, however small,"
    log.info("ablation.margin: %s counts as not worth it", not_worth)
    finish(work)


def _say_what_suffices(plan: Plan, size: int, mean_seeds: float) -> None:
    """Of a budget in runs that gives each setting fewer seeds than it may have: what can be decided with them."""
    if mean_seeds < plan.last:
        seeds = max(plan.first, int(mean_seeds))
        fewer = replace(plan, last=seeds)
        log.warning(
            "The budget gives each setting %d seeds, and bounds are made for %d: to show then, a difference has to be "
            "%.1f times its spread over seeds; with ablation.max_seeds=%d it would be %.1f times",
            *(seeds, plan.last, spreads_to_show(plan, size, seeds), seeds, spreads_to_show(fewer, size, seeds)),
        )


def finish(work: Ablation) -> None:
    """Run it to its end; interrupted, say what validation said so far."""
    try:
        with work.runs.board.shown():
            while work.step():
                pass
    except (KeyboardInterrupt, SystemExit):
        for line in work.told():
            print(line)
        print("Interrupted: this is by validation, not tested yet. The same command goes on.")
        return
    from attnlab.experiments.ablation.report import report  # matplotlib waits until there is something to draw

    report(work)
