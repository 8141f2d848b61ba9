"""The planner of an ablation of parts: what decides a verdict next, until all are reached or the budget is spent."""

import logging
from collections.abc import Sequence
from itertools import count

import numpy as np
from hydra.core.utils import JobReturn

from attnlab.errors import UserError
from attnlab.experiments.ablation.changes import MODEL, Changer, Setting
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
)
from attnlab.experiments.live_table import Job, LiveTable
from attnlab.experiments.runner import Planner
from attnlab.metrics import Direction
from attnlab.reports.result import in_points, signed

log = logging.getLogger(__name__)

TOGETHER = {BETTER: "more together", WORSE: "less together"}  # than the sum of what two changes make one by one


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
