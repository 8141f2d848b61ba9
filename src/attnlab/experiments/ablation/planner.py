"""An ablation of parts: trains what decides a verdict next, until all are reached or the budget is spent."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Interval
from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, open_dict

from attnlab.config import resolve
from attnlab.errors import UserError
from attnlab.experiments.ablation.changes import FREE, MODEL, Changer, Setting
from attnlab.experiments.ablation.runs import Runs
from attnlab.experiments.ablation.sequential import (
    BETTER,
    OPEN,
    SAME,
    UNDECIDABLE,
    WORSE,
    Plan,
    Standing,
    Values,
    judge,
    spreads_to_show,
)
from attnlab.experiments.live_table import Job, LiveTable
from attnlab.experiments.multirun import check_devices, name_by_settings, sweeps
from attnlab.experiments.runner import Planner, execute
from attnlab.metrics import Direction, direction, is_share
from attnlab.reports.result import in_points, signed
from attnlab.validation import validate_values

log = logging.getLogger(__name__)

TOGETHER = {BETTER: "more together", WORSE: "less together"}  # than the sum of what two changes make one by one
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


class Ablation(Planner):
    """Launches batches of runs, and judges all verdicts between them.

    Args:
        changes: the settings to compare with the model.
        metric: of the test; decisions go by the same one of validation.
        better: whether less or more of it.
        pairs: whether to ask for the interaction of the two largest.
    """

    def __init__(
        self,
        runs: Runs,
        table: LiveTable,
        changer: Changer,
        changes: Sequence[Setting],
        plan: Plan,
        metric: str,
        better: Direction,
        pairs: bool,
    ) -> None:
        self.runs, self.table, self.changer, self.plan, self.metric = runs, table, changer, plan, metric
        self.pairs, self.next_number = pairs, runs.next_number
        # Each question is a contrast: settings with their weights.
        self.questions: dict[str, dict[str, int]] = {one.name: {one.name: 1, MODEL: -1} for one in changes}
        self.size = len(changes) + pairs
        self.standings: dict[str, Standing] = {}
        self.better = better
        self.sign = {"max": 1, "min": -1}[better]
        same = f"not worth {in_points(metric, plan.margin)}"
        self.words = {SAME: same, BETTER: "better", WORSE: "worse", OPEN: "open", UNDECIDABLE: "left open"}

    def _values(self, weights: dict[str, int], metric: str) -> Values:
        """The contrast after each seed; more is better."""
        score, seeds = self.runs.score, range(self.runs.seeds(*weights))
        contrasts = [sum(weight * score(name, seed, metric) for name, weight in weights.items()) for seed in seeds]
        return self.sign * np.array(contrasts)

    def judged(self, metric: str) -> dict[str, Standing]:
        """How each question stands by this score."""
        asked = {
            name: self._values(weights, metric)
            for name, weights in self.questions.items()
            if not weights.keys() & self.runs.failed.keys()
        }
        return judge(asked, self.plan, self.size, self.runs.left)

    def ask(self) -> list[Job] | None:
        before, self.standings = self.standings, self.judged(self.metric.replace("test/", "val/"))
        decided = {name: now.verdict for name, now in self.standings.items() if now.verdict != OPEN}
        self.table.lines += [self.line(name) for name in decided if name not in before or before[name].verdict == OPEN]
        rows = {name: (name, *self._cells(name)) for name in self.standings}
        self.table.verdicts = [rows[name] for name in sorted(rows, key=lambda name: name in decided)]
        batch = self._first() or self._next()
        if not batch and self.pairs and len(self.questions) < self.size and self._ask_for_interaction():
            return self.ask()
        return self.runs.jobs(batch) if batch and self.runs.left >= 1 else None

    def tell(self, job: Job, result: JobReturn) -> None:
        self.runs.record(job, result)

    def _first(self) -> list[tuple[str, int]]:
        """The next of the seeds that all settings start with."""
        there = self.runs
        for seed in range(self.plan.min_seeds):
            pairs = [(name, seed) for name in there.settings if name not in there.failed]
            if missing := [pair for pair in pairs if pair not in there.found]:
                return missing[: max(1, int(min(there.left, len(missing))))]
        return []

    def _next(self) -> list[tuple[str, int]]:
        """The runs that the questions nearest to their verdict need, as many as run at once."""
        nearest = sorted((s.seeds_to_verdict, s.seeds, name) for name, s in self.standings.items() if s.verdict == OPEN)
        limit = int(min(self.runs.at_once, self.runs.left))
        batch: list[tuple[str, int]] = []
        for ahead in count():
            if len(batch) >= limit or all(seeds + ahead >= self.plan.max_seeds for _, seeds, _ in nearest):
                return batch[:limit]
            for _, seeds, name in nearest:
                wanted = [(setting, seeds + ahead) for setting in self.questions[name]]
                if seeds + ahead < self.plan.max_seeds:
                    batch += [run for run in wanted if run not in self.runs.found and run not in batch]
        raise AssertionError

    def _ask_for_interaction(self) -> bool:
        """Ask about the two largest differences in different parts; False if no two can be combined."""
        found = [name for name, s in self.standings.items() if s.verdict in (BETTER, WORSE)]
        found.sort(key=lambda name: -abs(self.standings[name].difference))
        settings = self.runs.settings
        for other in found[1:]:
            first = found[0]
            changes = [settings[name].changes for name in (first, other)]
            if changes[0].keys() == changes[1].keys():
                continue
            try:
                both = self.changer.changed(changes[0] | changes[1])
            except UserError:
                continue
            self.runs.add(both)
            name = f"{first} x {other}"
            self.questions[name] = {both.name: 1, first: -1, other: -1, MODEL: 1}
            return True
        self.pairs = False
        return False

    def line(self, name: str) -> str:
        seeds, difference, interval, verdict = self._cells(name)
        return f"{name}: {difference} {interval} on validation after {seeds} seeds: {verdict}"

    def _cells(self, name: str) -> tuple[str, str, str, str]:
        """Seeds, difference, interval and verdict, as shown."""
        now, words = self.standings[name], self.words | ({} if name in self.runs.settings else TOGETHER)
        low, high = sorted((self.sign * now.low, self.sign * now.high))
        interval = f"[{signed(self.metric, low)}, {signed(self.metric, high)}]" if np.isfinite(low) else ""
        difference = signed(self.metric, self.sign * now.difference) if now.seeds else ""
        return str(now.seeds), difference, interval, words[now.verdict]
