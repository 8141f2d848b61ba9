"""Scores by the number of training documents, the power law through them, and what more documents would be worth."""

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import pandas as pd
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.launcher import Launcher
from matplotlib.figure import Figure
from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from scipy import optimize

from attnlab.ablation.changes import Changer, Setting, sweeps
from attnlab.ablation.figures import save
from attnlab.ablation.runs import Runs
from attnlab.config import instantiate, resolve
from attnlab.data.datamodule import TextDataModule
from attnlab.errors import UserError
from attnlab.metrics import is_share
from attnlab.page import embedded, render
from attnlab.paths import shown
from attnlab.study.figures import STYLE
from attnlab.study.statistics import summarise

log = logging.getLogger(__name__)

MISSED = 0.02  # of a score, from which on a law does not describe it
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

    def further(self, gain: float) -> float:
        """How many more documents than `most` lower the error by so much; infinite where none do."""
        left = self.scale - gain
        return (
            self.most * ((left / self.scale) ** (-1 / self.exponent) - 1) if left > 0 and self.exponent > 0 else np.inf
        )


def fit(documents: Numbers, errors: Numbers) -> PowerLaw:
    """The power law through mean errors, both [sizes]; three sizes or more."""
    most = float(documents.max())

    def course(share: Numbers, scale: float, exponent: float, rest: float) -> Numbers:
        return scale * share**-exponent + rest

    lowest = max(float(errors.min()), 1e-6)
    best, loss = (lowest, 0.0, 0.0), np.inf
    for rest in (0.0, 0.5 * lowest, 0.9 * lowest):  # the fit has several valleys
        start = (max(lowest - rest, 1e-6), 0.5, rest)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optimize.OptimizeWarning)  # its own uncertainty, which is not used
                found, _ = optimize.curve_fit(
                    course, documents / most, errors, start, bounds=([0, 0, 0], [1, 3, lowest]), max_nfev=2000
                )
        except RuntimeError:  # it did not settle from there
            continue
        off = float(np.square(course(documents / most, *found) - errors).sum())
        if off < loss:
            best, loss = tuple(found), off
    return PowerLaw(*best, most)


def bootstrap(documents: Numbers, errors: Sequence[Numbers]) -> list[PowerLaw]:
    """Fits to seeds drawn anew; errors: for each number of documents, those of its seeds."""
    draw = np.random.default_rng(0)
    return [fit(documents, np.array([draw.choice(own, len(own)).mean() for own in errors])) for _ in range(RESAMPLES)]


def curve(config: DictConfig, launcher: Launcher, loader: ConfigLoader, arguments: Sequence[str]) -> None:
    """Train each model named on each share of the documents, and report.

    Raises:
        UserError: a share or the metric can't be used, or a run has failed.
    """
    settings = resolve(config.ablation)
    shares, metric = sorted(settings["shares"]), settings["metric"]
    if len(shares) < 3 or shares[0] <= 0 or shares[-1] > 1:
        raise UserError(f"ablation.shares={shares}: give three or more from above 0 to 1, such as [0.01,0.1,1]")
    if not metric.startswith("test/") or not is_share(metric):
        raise UserError(f"ablation.metric={metric}: a data curve wants a share of the test set, such as test/acc")
    if "seed" in sweeps(arguments):
        raise UserError("the seeds of an ablation are its own: ablation.seeds=5")
    parsed = OverridesParser.create().parse_overrides(list(arguments))
    swept = sweeps(arguments)
    models, sizes, wanted = {}, {}, []
    for overrides in BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]:
        name = ", ".join(one for one in overrides if one.partition("=")[0].lstrip("+") in swept) or "the model"
        changer = Changer(config, loader, overrides)
        whole = _documents(changer.model)
        sizes[name] = np.array([max(1, round(share * whole)) for share in shares], dtype=np.float64)
        for size in sizes[name]:
            setting = changer.changed({"data.limit": int(size)})
            models[name, int(size)] = Setting(f"{name} {int(size)}", *[*vars(setting).values()][1:])
    runs = Runs(config, launcher, loader, list(models.values()), metric)
    wanted = [(setting.name, seed) for seed in range(settings["seeds"]) for setting in models.values()]
    log.info(
        "%d runs, of which %d are there, in %s", len(wanted), sum(one in runs.found for one in wanted), runs.folder
    )
    with runs.shown():
        runs.train(wanted)
    if runs.failed:
        name, reason = next(iter(runs.failed.items()))
        raise UserError(f"{len(runs.failed)} settings could not be trained, {name}: {reason}")
    errors = {
        name: [np.array([1 - runs.score(f"{name} {int(n)}", s, metric) for s in range(settings["seeds"])]) for n in own]
        for name, own in sizes.items()
    }
    _report(runs, metric, sizes, errors)


def _documents(model: Setting) -> int:
    """That the model is trained on; tokenised, as all runs will need them."""
    source, recipe = (instantiate(model.config[part]) for part in ("data", "tokenizer"))
    data = TextDataModule(source, recipe, Path(model.config["paths"]["cache_dir"]))
    data.setup()
    return len(data.splits["train"].texts)


def _report(runs: Runs, metric: str, sizes: dict[str, Numbers], errors: dict[str, list[Numbers]]) -> None:
    """data.csv, .md, .png, .svg and .html in the sweep's folder."""
    folder, rows, said = runs.folder, [], []
    laws = {}
    for name, documents in sizes.items():
        law = fit(documents, np.array([own.mean() for own in errors[name]]))
        drawn = bootstrap(documents, errors[name])
        laws[name] = (law, drawn)
        for n, own in zip(documents, errors[name], strict=True):
            summary = summarise(pd.Series(1 - own))
            rows.append(
                {"model": name, "documents": int(n), "seeds": len(own), **summary, "power_law": float(1 - law(n))}
            )
        said.append(_in_words(name, metric, law, drawn, documents, np.array([own.mean() for own in errors[name]])))
    pd.DataFrame(rows).to_csv(folder / "data.csv", index=False)
    _draw(runs, metric, sizes, errors, laws)
    cells: list[dict[str, str]] = [
        {"model": str(row["model"]), "documents": f"{row['documents']:,}", "seeds": str(row["seeds"])}
        | {metric: f"{row['mean']:.4f} [{row['low']:.4f}, {row['high']:.4f}]", "power law": f"{row['power_law']:.4f}"}
        for row in rows
    ]
    lines = [list(cells[0]), ["---"] * len(cells[0]), *(list(row.values()) for row in cells)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    title, words = f"{metric} by the number of training documents", " ".join(said)
    (folder / "data.md").write_text(
        "\n\n".join([f"# {title}", words, table, "![data](data.png)", METHOD]) + "\n", encoding="utf-8"
    )
    page = render(
        "ablation/page.html",
        title=title,
        sentences=words,
        rows=cells,
        figure=embedded(folder / "data.svg"),
        method=METHOD,
        command=words,
        made=f"{datetime.now():%Y-%m-%d %H:%M}",
    )
    (folder / "data.html").write_text(page, encoding="utf-8")
    console = Console()
    shown_table = Table(*cells[0], box=None, pad_edge=False)
    for row in cells:
        shown_table.add_row(*(escape(text) for text in row.values()))
    console.print(shown_table)
    console.print(words, highlight=False, markup=False)
    console.print(f"Everything is in {shown(folder)}; data.html is the page to read", soft_wrap=True, highlight=False)


def _in_words(name: str, metric: str, law: PowerLaw, drawn: list[PowerLaw], documents: Numbers, means: Numbers) -> str:
    exponent = np.percentile([one.exponent for one in drawn], [2.5, 97.5])
    rest = np.percentile([one.rest for one in drawn], [2.5, 97.5])
    more = np.percentile([one.further(0.01) for one in drawn], [2.5, 97.5], method="nearest")
    best = law.further(0.01)
    gain = (
        f"one more point would take {best:,.0f} more documents (95 % interval {_many(more[0])} to {_many(more[1])})"
        if np.isfinite(best)
        else "no number of documents would bring one more point, if it goes on as it went"
    )
    missed = float(np.abs(law(documents) - means).max())
    doubt = (
        f" The law misses the scores by up to {100 * missed:.1f} points, so little is to be made of it: it holds where "
        "more documents help steadily (ablation.shares leaves the smallest out)."
        if missed > MISSED
        else ""
    )
    return (
        f"{name}: {metric} {1 - means[-1]:.4f} with {law.most:,.0f} documents; error = {law.scale:.3g} * "
        f"(n / {law.most:,.0f})^-{law.exponent:.2f} + {law.rest:.3g} (exponent [{exponent[0]:.2f}, {exponent[1]:.2f}], "
        f"rest [{rest[0]:.3f}, {rest[1]:.3f}]); {gain}.{doubt}"
    )


def _many(number: float) -> str:
    return f"{number:,.0f}" if np.isfinite(number) else "no end"


def _draw(runs: Runs, metric: str, sizes: dict[str, Numbers], errors: dict[str, list[Numbers]], laws: Any) -> None:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.2, 4), layout="constrained")
        axes = figure.add_subplot(xlabel="training documents", ylabel=metric, xscale="log")
        for number, (name, documents) in enumerate(sizes.items()):
            color = f"C{number}"
            law, drawn = laws[name]
            grid = np.geomspace(documents.min(), 3 * documents.max())
            low, high = np.percentile([1 - one(grid) for one in drawn], [2.5, 97.5], axis=0)
            axes.fill_between(grid, low, high, color=color, alpha=0.15, linewidth=0)
            axes.plot(grid, 1 - law(grid), color=color, label=name)
            for n, own in zip(documents, errors[name], strict=True):
                axes.plot([n] * len(own), 1 - own, ".", color=color)
        axes.legend(fontsize=8, loc="lower right")
        save(figure, runs.folder, "data")
