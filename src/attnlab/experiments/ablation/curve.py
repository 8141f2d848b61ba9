"""Scores by the number of training documents, the power law through them, and what more documents would be worth."""

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig
from scipy import optimize

from attnlab.analysis.statistics import summarise
from attnlab.config import resolve
from attnlab.errors import UserError
from attnlab.experiments.ablation.changes import Changer, Setting
from attnlab.experiments.ablation.runs import Runs, documents
from attnlab.experiments.live_table import Job, LiveTable
from attnlab.experiments.multirun import parse, sweeps
from attnlab.experiments.runner import Planner, execute
from attnlab.metrics import is_share
from attnlab.reports.ablation import Band, draw_data_curve, publish
from attnlab.runs import write_whole

log = logging.getLogger(__name__)

MISSED = 0.01  # of a score: a law that is further off can't tell what one more point takes
RESAMPLES = 500
Numbers = npt.NDArray[np.float64]
METHOD = """Each model was trained on a stratified part of the training documents, with the same epochs, schedule and
seeds for each number of them, and tested on all test documents. Intervals of means are 95 % t-intervals over seeds.
The power law is error = a * n^-b + c, fitted by least squares; its intervals are 95 % percentile intervals of a
bootstrap over seeds within each number of documents."""


@dataclass(frozen=True)
class PowerLaw:
    """`error = scale * (documents / most) ** -exponent + rest`."""

    scale: float
    exponent: float
    rest: float
    most: float

    def __call__(self, documents: Any) -> Any:
        return self.scale * (np.asarray(documents) / self.most) ** -self.exponent + self.rest

    def documents_for(self, gain: float) -> float:
        """How many more documents than `most` lower the error by so much; infinite where none do."""
        left = self.scale - gain
        return (
            self.most * ((left / self.scale) ** (-1 / self.exponent) - 1) if left > 0 and self.exponent > 0 else np.inf
        )


def fit(documents: Numbers, errors: Numbers) -> PowerLaw:
    """The power law through mean errors, both [sizes]; three sizes or more."""
    most = float(documents.max())

    def course(documents: Numbers, scale: float, exponent: float, rest: float) -> Any:
        return PowerLaw(scale, exponent, rest, most)(documents)

    lowest = max(float(errors.min()), 1e-6)
    best, loss = (lowest, 0.0, 0.0), np.inf
    for rest in (0.0, 0.5 * lowest, 0.9 * lowest):  # the fit has several valleys
        start = (max(lowest - rest, 1e-6), 0.5, rest)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optimize.OptimizeWarning)  # its own uncertainty, which is not used
                found, _ = optimize.curve_fit(
                    course, documents, errors, start, bounds=([0, 0, 0], [1, 3, lowest]), max_nfev=2000
                )
        except RuntimeError:  # it did not settle from there
            continue
        off = float(np.square(course(documents, *found) - errors).sum())
        if off < loss:
            best, loss = tuple(found), off
    return PowerLaw(*best, most)


def bootstrap(documents: Numbers, errors: Sequence[Numbers]) -> list[PowerLaw]:
    """Fits to seeds drawn anew; errors: for each number of documents, those of its seeds."""
    draw = np.random.default_rng(0)
    return [fit(documents, np.array([draw.choice(own, len(own)).mean() for own in errors])) for _ in range(RESAMPLES)]


@dataclass(frozen=True)
class Course:
    """How the errors of a model go with the number of documents.

    Attributes:
        documents: [sizes].
        errors: for each number of documents, those of its seeds.
    """

    name: str
    documents: Numbers
    errors: list[Numbers]

    @cached_property
    def means(self) -> Numbers:
        """[sizes]."""
        return np.array([own.mean() for own in self.errors])

    @cached_property
    def law(self) -> PowerLaw:
        return fit(self.documents, self.means)

    @cached_property
    def drawn(self) -> list[PowerLaw]:
        return bootstrap(self.documents, self.errors)

    def rows(self) -> list[dict[str, Any]]:
        """Those of data.csv: a dict of column and value for each number of documents."""
        return [
            {"model": self.name, "documents": int(n), "seeds": len(own)}
            | summarise(pd.Series(1 - own))
            | {"power_law": float(1 - self.law(n))}
            for n, own in zip(self.documents, self.errors, strict=True)
        ]


class _DataCurve(Planner):
    """Trains each setting with each seed that is missing, all in one launch."""

    def __init__(self, runs: Runs, wanted: Sequence[tuple[str, int]]) -> None:
        self.runs, self.wanted, self.next_number = runs, wanted, runs.next_number

    def ask(self) -> list[Job] | None:
        missing = [(name, seed) for name, seed in self.wanted if (name, seed) not in self.runs.found]
        return self.runs.jobs([one for one in missing if one[0] not in self.runs.failed]) or None

    def tell(self, job: Job, result: JobReturn) -> None:
        self.runs.record(job, result)


def curve(config: DictConfig, launcher: Launcher, loader: ConfigLoader, arguments: Sequence[str]) -> None:
    """Train each model named on each share of the documents, and report.

    Raises:
        UserError: a share or the metric can't be used, or a run has failed.
    """
    settings = resolve(config.ablation)
    shares, metric, seeds = sorted(settings["shares"]), settings["metric"], range(settings["seeds"])
    if len(shares) < 3 or shares[0] <= 0 or shares[-1] > 1:
        raise UserError(f"ablation.shares={shares}: give three or more from above 0 to 1, such as [0.01,0.1,1]")
    if not metric.startswith("test/") or not is_share(metric):
        raise UserError(f"ablation.metric={metric}: a data curve requires a share of the test set, such as test/acc")
    swept = [override.get_key_element() for override in sweeps(arguments)]
    if "seed" in swept:
        raise UserError("the seeds of an ablation are its own: ablation.seeds=5")
    sizes: dict[str, list[int]] = {}
    models: dict[str, Setting] = {}
    for overrides in BasicSweeper.split_arguments(parse(arguments), max_batch_size=None)[0]:
        name = ", ".join(one for one in overrides if one.partition("=")[0].lstrip("+") in swept) or "the model"
        changer = Changer(config, loader, overrides)
        whole = len(documents(changer.model).splits["train"].texts)
        sizes[name] = [max(1, round(share * whole)) for share in shares]
        for size in sizes[name]:
            models[f"{name} {size}"] = replace(changer.changed({"data.limit": size}), name=f"{name} {size}")
    runs = Runs(config, launcher, list(models.values()), metric, settings["seeds"])
    wanted = [(name, seed) for seed in seeds for name in models]
    there = sum(one in runs.found for one in wanted)
    log.info("%d runs, of which %d are there, in %s", len(wanted), there, runs.folder)
    execute(_DataCurve(runs, wanted), launcher, LiveTable(config, loader))
    if runs.failed:
        name, reason = next(iter(runs.failed.items()))
        raise UserError(f"{len(runs.failed)} settings could not be trained, {name}: {reason}")
    courses = []
    for name, own in sizes.items():
        errors = [np.array([1 - runs.score(f"{name} {size}", seed, metric) for seed in seeds]) for size in own]
        courses.append(Course(name, np.array(own, dtype=np.float64), errors))
    _report(runs.folder, metric, courses)


def _report(folder: Path, metric: str, courses: list[Course]) -> None:
    """data.csv, .md, .png, .svg and .html."""
    rows = pd.DataFrame([row for course in courses for row in course.rows()])
    write_whole(folder / "data.csv", rows.to_csv(index=False))
    draw_data_curve(folder, metric, [_band(course) for course in courses])
    cells = [
        {"model": row["model"], "documents": f"{row['documents']:,}", "seeds": str(row["seeds"])}
        | {metric: f"{row['mean']:.4f} [{row['low']:.4f}, {row['high']:.4f}]", "power law": f"{row['power_law']:.4f}"}
        for _, row in rows.iterrows()
    ]
    title, words = f"{metric} by the number of training documents", " ".join(in_words(metric, one) for one in courses)
    publish(folder, "data", title, words, pd.DataFrame(cells), METHOD)


def in_words(metric: str, course: Course) -> str:
    """What a course says of more documents, and whether it can be believed."""
    law = course.law
    exponent, rest = (
        np.percentile([getattr(one, name) for one in course.drawn], [2.5, 97.5]) for name in ("exponent", "rest")
    )
    low, high = np.percentile([one.documents_for(0.01) for one in course.drawn], [2.5, 97.5], method="nearest")
    best = law.documents_for(0.01)
    gain = (
        f"one more point would take {best:,.0f} more documents (95 % interval {_many(low)} to {_many(high)})"
        if np.isfinite(best)
        else "no number of documents would bring one more point, if the law continues to hold"
    )
    missed = float(np.abs(law(course.documents) - course.means).max())
    doubt = (
        f" The law misses the scores by up to {100 * missed:.1f} points, so do not rely on it: it holds where "
        "more documents help steadily (leave the smallest out of ablation.shares)."
        if missed > MISSED
        else ""
    )
    return (
        f"{course.name}: {metric} {1 - course.means[-1]:.4f} with {law.most:,.0f} documents; error = {law.scale:.3g} * "
        f"(n / {law.most:,.0f})^-{law.exponent:.2f} + {law.rest:.3f} (exponent [{exponent[0]:.2f}, {exponent[1]:.2f}], "
        f"rest [{rest[0]:.3f}, {rest[1]:.3f}]); {gain}.{doubt}"
    )


def _many(number: float) -> str:
    return f"{number:,.0f}" if np.isfinite(number) else "no end"


def _band(course: Course) -> Band:
    grid = np.geomspace(course.documents.min(), 3 * course.documents.max())
    low, high = np.percentile([1 - one(grid) for one in course.drawn], [2.5, 97.5], axis=0)
    points = [(n, 1 - own) for n, own in zip(course.documents, course.errors, strict=True)]
    return Band(course.name, grid, 1 - course.law(grid), low, high, points)
