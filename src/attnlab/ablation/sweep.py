"""An ablation: trains what decides a verdict next, until all have fallen or the budget is spent, then reports."""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Interval
from hydra.core.config_loader import ConfigLoader
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf, open_dict

from attnlab.ablation.changes import FREE, MODEL, Changer, Setting, sweeps
from attnlab.ablation.runs import Runs
from attnlab.ablation.sequential import BETTER, LEFT, OPEN, SAME, WORSE, Plan, Standing, Values, judge
from attnlab.checking import check_config
from attnlab.config import resolve
from attnlab.errors import UserError
from attnlab.metrics import direction, is_share
from attnlab.study.result import in_points

log = logging.getLogger(__name__)

SETTINGS: dict[str, Any] = {
    "ablation.alpha": Annotated[float, Interval(gt=0, lt=1)],
    "ablation.margin": Annotated[float, Ge(0)] | None,
    "ablation.seeds": Annotated[int, Ge(2)],
    "ablation.max_seeds": Annotated[int, Ge(2)],
    "ablation.pairs": bool,
    "ablation.budget": str | None,
    "ablation.n_jobs": int | None,
    "ablation.metric": str,
}
ELSEWHERE = ("hydra", "logger", "paths")  # what may change too when an ablation is continued


def prepare(config: DictConfig) -> DictConfig:
    """Give the ablation a name where the user gave none, and a folder.

    Raises:
        UserError: the settings of an ablation are missing or wrong.
    """
    ablation = config.get("ablation")
    if ablation is None:
        raise UserError("hydra/sweeper=ablation wants the settings of an ablation: add ablation=parts")
    if (strategy := config.trainer.get("strategy", "auto")) != "auto":
        raise UserError(
            f"an ablation can't train on several devices (trainer.strategy={strategy}): their processes would start it "
            "all again; use trainer=gpu (one device a run), and hydra/launcher for several runs at once"
        )
    if not config.test:
        raise UserError("test=false: an ablation tells at its end what it found on the test set; leave it out")
    check_config({"ablation": resolve(ablation)}, SETTINGS)
    with open_dict(config):
        if ablation.name is None:
            settings = {key: value for key, value in config.items_ex(resolve=False) if key not in ELSEWHERE}
            own = {key: value for key, value in ablation.items_ex(False) if key not in FREE}
            settings |= {"ablation": own, "resume": None}
            given = [one for one in config.hydra.overrides.task if one.partition("=")[0] in sweeps([one])]
            text = json.dumps([OmegaConf.to_container(OmegaConf.create(settings)), given], sort_keys=True)
            kind = config.hydra.runtime.choices.get("ablation")
            ablation.name = f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
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
        from attnlab.ablation.curve import curve

        curve(config, launcher, loader, arguments)
        return
    if swept := sweeps(arguments):
        what = (
            "its seeds are its own: ablation.seeds, ablation.max_seeds" if swept[0] == "seed" else "give it one value"
        )
        raise UserError(f"ablation=parts asks about one model, and {swept[0]} has several values: {what}")
    changer = Changer(config, loader, arguments)
    changes = changer.alternatives(settings["change"] or settings["parts"])
    metric = settings["metric"]
    if not metric.startswith("test/"):
        raise UserError(
            f"ablation.metric={metric} is no score of the test set; give one such as test/acc or test/f1_macro"
        )
    points = (settings["margin"] or 0.0) / (100 if is_share(metric) else 1)
    plan = Plan(settings["alpha"], points, settings["seeds"], max(settings["seeds"], settings["max_seeds"]))
    runs = Runs(config, launcher, loader, [changer.model, *changes], metric)
    work = Ablation(runs, changer, changes, plan, metric, settings["pairs"])
    minimum = (1 + len(changes)) * plan.first - sum(seed < plan.first for _, seed in runs.found)
    if runs.budget.runs - len(runs) < minimum:
        raise UserError(
            f"ablation.budget={settings['budget']}: {plan.first} seeds of {1 + len(changes)} settings take {minimum} "
            "runs; give more, or a shorter ablation.change"
        )
    known = len(runs.found)
    log.info("%d settings, %d runs are there already, in %s", 1 + len(changes), known, runs.folder)
    finish(work)


def finish(work: "Ablation") -> None:
    """Run it to its end; interrupted, say what validation said so far."""
    try:
        with work.runs.shown():
            while work.step():
                pass
    except (KeyboardInterrupt, SystemExit):
        for line in work.told():
            print(line)
        print("Interrupted: this is by validation, not tested yet. The same command goes on.")
        return
    from attnlab.ablation.report import report  # matplotlib waits until there is something to draw

    report(work)


@dataclass(frozen=True)
class Question:
    """A contrast of settings: the weight of each."""

    name: str
    weights: dict[str, int]


class Ablation:
    """Which run comes next.

    Args:
        changes: the settings to compare with the model.
        metric: of the test; decisions go by the same one of validation.
        pairs: whether to ask for the interaction of the two largest.
    """

    def __init__(
        self, runs: Runs, changer: Changer, changes: Sequence[Setting], plan: Plan, metric: str, pairs: bool
    ) -> None:
        self.runs, self.changer, self.plan, self.metric, self.pairs = runs, changer, plan, metric, pairs
        self.questions = {one.name: Question(one.name, {one.name: 1, MODEL: -1}) for one in changes}
        self.size = len(changes) + pairs
        self.standings: dict[str, Standing] = {}
        same = f"not worth {in_points(metric, plan.margin)}"
        self.words = {SAME: same, BETTER: "better", WORSE: "worse", OPEN: "open", LEFT: "left open"}

    def values(self, question: Question, metric: str) -> Values:
        """The contrast after each seed; more is better."""
        sign = {"max": 1, "min": -1}[direction(metric)]
        score = self.runs.score
        return np.array(
            [
                sum(sign * weight * score(name, seed, metric) for name, weight in question.weights.items())
                for seed in range(self.runs.seeds(*question.weights))
            ]
        )

    def judged(self, metric: str) -> dict[str, Standing]:
        """How each question stands by this score."""
        asked = {
            name: self.values(question, metric)
            for name, question in self.questions.items()
            if not question.weights.keys() & self.runs.failed.keys()
        }
        return judge(asked, self.plan, self.size, self.runs.left)

    def step(self) -> bool:
        """Train one batch; False where nothing is left to do."""
        before, self.standings = self.standings, self.judged(self.metric.replace("test/", "val/"))
        fallen = {name: now.verdict for name, now in self.standings.items() if now.verdict != OPEN}
        board = self.runs.board
        assert board is not None
        board.lines += [self._line(name) for name in fallen if name not in before or before[name].verdict == OPEN]
        rows = {name: (name, *self._cells(now)) for name, now in self.standings.items()}
        board.verdicts = [rows[name] for name in sorted(rows, key=lambda name: name in fallen)]
        batch = self._first() or self._next()
        if not batch and self.pairs and len(self.questions) < self.size and self._ask_for_interaction():
            return True
        if not batch or self.runs.left < 1:
            return False
        self.runs.train(batch)
        return True

    def told(self) -> list[str]:
        """A line for each question."""
        return list(map(self._line, self.standings))

    def _first(self) -> list[tuple[str, int]]:
        """The next of the seeds that all settings begin with."""
        there = self.runs
        for seed in range(self.plan.first):
            pairs = [(name, seed) for name in there.settings if name not in there.failed]
            if missing := [pair for pair in pairs if pair not in there.found]:
                return missing[: max(1, int(min(there.left, len(missing))))]
        return []

    def _next(self) -> list[tuple[str, int]]:
        """The runs that the questions nearest to their verdict want, as many as run at once."""
        nearest = sorted((s.further, s.seeds, name) for name, s in self.standings.items() if s.verdict == OPEN)
        limit = int(min(self.runs.at_once, self.runs.left))
        batch: list[tuple[str, int]] = []
        for ahead in count():
            if len(batch) >= limit or all(seeds + ahead >= self.plan.last for _, seeds, _ in nearest):
                return batch[:limit]
            for _, seeds, name in nearest:
                wanted = [(setting, seeds + ahead) for setting in self.questions[name].weights]
                if seeds + ahead < self.plan.last:
                    batch += [run for run in wanted if run not in self.runs.found and run not in batch]
        raise AssertionError

    def _ask_for_interaction(self) -> bool:
        """Of the two largest differences in different parts; False where there are no two that can be had together."""
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
            self.questions[name] = Question(name, {both.name: 1, first: -1, other: -1, MODEL: 1})
            return True
        self.pairs = False
        return False

    def _line(self, name: str) -> str:
        seeds, difference, interval, verdict = self._cells(self.standings[name])
        return f"{name}: {difference} {interval} on validation after {seeds} seeds: {verdict}"

    def _cells(self, now: Standing) -> tuple[str, str, str, str]:
        """Seeds, difference, interval and verdict, as shown."""
        sign = {"max": 1, "min": -1}[direction(self.metric)]
        scale = 100 * sign if is_share(self.metric) else sign
        low, high = sorted((scale * now.low, scale * now.high))
        interval = f"[{low:+.2f}, {high:+.2f}]" if np.isfinite(low) else ""
        difference = f"{scale * now.difference:+.2f}" if now.seeds else ""
        return str(now.seeds), difference, interval, self.words[now.verdict]
