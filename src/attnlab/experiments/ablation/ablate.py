"""The command of an ablation: its settings in, its runs trained, its report out."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Interval
from hydra.core.config_loader import ConfigLoader
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, open_dict

from attnlab.config import resolve
from attnlab.errors import UserError
from attnlab.experiments.ablation.changes import FREE, Changer
from attnlab.experiments.ablation.planner import Ablation
from attnlab.experiments.ablation.runs import Runs
from attnlab.experiments.ablation.sequential import Plan, spreads_to_show
from attnlab.experiments.live_table import LiveTable
from attnlab.experiments.multirun import check_devices, name_by_settings, sweeps
from attnlab.experiments.runner import execute
from attnlab.metrics import Direction, direction, is_share
from attnlab.reports.result import in_points
from attnlab.validation import validate_values

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
    """Give the ablation a folder, and a name if the user gave none.

    Raises:
        UserError: the settings of an ablation are missing or wrong.
    """
    ablation = config.get("ablation")
    if ablation is None:
        raise UserError("hydra/sweeper=ablation requires the settings of an ablation: add ablation=parts")
    check_devices(config, "an ablation", "run")
    if not config.test:
        raise UserError("test=false: an ablation reports its results on the test set; leave it out")
    validate_values({"ablation": resolve(ablation)}, SETTINGS)
    with open_dict(config):
        if ablation.name is None:
            kind = config.hydra.runtime.choices.get("ablation")
            # Without the value of resume, which is set below.
            ablation.name = f"{kind}-{name_by_settings(config, 'ablation', FREE, {'resume': None})}"
        config.resume = "latest"  # its jobs resume what was started
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

        return curve(config, launcher, loader, arguments)
    if swept := sweeps(arguments):
        key = swept[0].get_key_element()
        what = "its seeds are its own: ablation.seeds, ablation.max_seeds" if key == "seed" else "give it one value"
        raise UserError(f"ablation=parts asks about one model, and {key} has several values: {what}")
    changer = Changer(config, loader, arguments)
    changes = changer.alternatives(settings["change"] or settings["parts"])
    metric = settings["metric"]
    if not metric.startswith("test/"):
        raise UserError(
            f"ablation.metric={metric} is not a score on the test set; give one such as test/acc or test/f1_macro"
        )
    better = direction(metric, settings["mode"], "ablation.mode")
    margin = settings["margin"] if settings["margin"] is not None else MARGIN if is_share(metric) else 0.0
    points = margin / (100 if is_share(metric) else 1)
    plan = Plan(settings["alpha"], points, settings["seeds"], max(settings["seeds"], settings["max_seeds"]))
    runs = Runs(config, launcher, [changer.model, *changes], metric, plan.max_seeds)
    table = LiveTable(config, loader)
    work = Ablation(runs, table, changer, changes, plan, metric, better, settings["pairs"])
    minimum = (1 + len(changes)) * plan.min_seeds - sum(seed < plan.min_seeds for _, seed in runs.found)
    if runs.budget.runs - len(runs) < minimum:
        raise UserError(
            f"ablation.budget={settings['budget']}: {plan.min_seeds} seeds of {1 + len(changes)} settings take "
            f"{minimum} runs; give more, or a shorter ablation.change"
        )
    mean_seeds = runs.budget.runs / (1 + len(changes))
    if mean_seeds < plan.max_seeds:
        seeds = max(plan.min_seeds, int(mean_seeds))
        fewer = replace(plan, max_seeds=seeds)
        log.warning(
            "The budget gives each setting %d seeds, and bounds are made for %d: to show then, a difference has to be "
            "%.1f times its spread over seeds; with ablation.max_seeds=%d it would be %.1f times",
            *(seeds, plan.max_seeds, spreads_to_show(plan, work.size, seeds)),
            *(seeds, spreads_to_show(fewer, work.size, seeds)),
        )
    log.info("%d settings, %d runs are there already, in %s", 1 + len(changes), len(runs.found), runs.folder)
    not_worth = f"less than {in_points(metric, points)} of {metric}" if points else "no difference, however small,"
    log.info("ablation.margin: %s counts as not worth it", not_worth)
    try:
        execute(work, launcher, table)
    except (KeyboardInterrupt, SystemExit):
        for name in work.standings:
            print(work.line(name))
        print("Interrupted: this is by validation, not tested yet. The same command resumes the ablation.")
        return
    from attnlab.experiments.ablation.report import report  # imports matplotlib: not before there is something to draw

    report(work)
