"""From finished runs to conclusions: which setting is better than which, and what makes the answer doubtful."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from omegaconf import DictConfig

from attnlab.analysis.factors import ABSENT, Factors, as_text, find_factors, short_name
from attnlab.analysis.runs import correctness, mixtures, read_runs
from attnlab.analysis.statistics import compare_settings, overlap, summarise
from attnlab.config import resolve
from attnlab.data.audit import audit_warnings
from attnlab.errors import UserError
from attnlab.metrics import Direction, direction, is_share
from attnlab.reports.result import MANY_RUNS, PLAN, PRESENTED, Comparison, Study, in_points
from attnlab.run_dirs import make_run_dir
from attnlab.runs import METRICS, RunFolder

if TYPE_CHECKING:
    from attnlab.analysis.ranks import Ranks

# Values that single out a setting, a value of the only factor, or None to choose one.
Reference = dict[str, Any] | str | None
BUSY = 1.5  # processes for each core, from which on times are of something else
PLANNED = (0.002, 0.005, 0.01, 0.02)  # differences of shares
COSTS = ("model/parameters", "train/epochs", "train/seconds", "train/samples_per_second")


def compare(cfg: DictConfig) -> "Study | Ranks":
    """Compare the finished runs below `cfg.runs` and write a folder with tables, figures and a page.

    Raises:
        UserError: there is nothing to compare, or `by`, `reference` or `metric` name nothing that is there.
    """
    from attnlab.reports.comparison import (  # matplotlib waits until the arguments are checked
        print_report,
        write_report,
    )

    config = resolve(cfg)
    names, by = ([value] if isinstance(value, str) else value for value in (config["runs"], config["by"]))
    folders = [Path(name) for name in names]
    if config["across"]:
        from attnlab.analysis.ranks import rank_settings, write_ranks

        runs, warnings = read_runs(folders)
        runs, without = _having(config["metric"], runs)
        ranks = rank_settings(runs, *(config[key] for key in ("metric", "alpha", "mode", "reference")))
        write_ranks(make_run_dir(config), ranks, config["metric"], [*warnings, *without, *_mixed(runs)])
        return ranks
    asked = (config[key] for key in ("reference", "metric", "alpha", "margin", "plan", "mode"))
    study = make_study(folders, by, *asked)
    folder = make_run_dir(config)
    write_report(folder, study)
    print_report(folder, study)
    return study


def make_study(
    folders: Sequence[Path],
    by: list[str] | None = None,
    reference: Reference = None,
    metric: str = "test/acc",
    alpha: float = 0.05,
    margin: float | None = None,
    planned: bool = False,
    mode: Direction | None = None,
) -> Study:
    """Read the runs, find out what differs and compare.

    Args:
        folders: runs, multiruns or folders above them.
        by: the factors of interest, all others held equal; None for every factor.
        reference: factors and their values that single out a setting or, where one factor is compared, its value; None
            for the setting from which the others differ least, the first of several.
        metric: what "better" goes by; a key of metrics.json.
        alpha: how often to see a difference where there is none, over all settings of a comparison.
        margin: what difference counts as none, in points of a share, else as the metric is.
        planned: whether to say how many runs would show the margin, or differences of several sizes.
        mode: whether less or more of the metric is better, where this program does not measure it itself.
    """
    _check_numbers(alpha, margin)
    runs, warnings = read_runs(folders)
    runs, without = _having(metric, runs)
    warnings += without
    if not any(name == "data" or name.startswith("data.") for name in by or []):
        runs, others = _newest_data(runs)
        warnings += others
    if planned and margin is None and not is_share(metric):
        raise UserError(f"plan=true of {metric} requires a difference that is of interest: give margin=<difference>")
    better = direction(metric, mode)
    factors = find_factors(runs)
    names = list(factors.values) if by is None else [factors.named(name) for name in by]

    repeated = factors.values.assign(block=[run.block for run in runs]).duplicated(keep="last")
    if repeated.any():
        warnings.append(f"{repeated.sum()} runs repeat another's settings and seed; the last of each counts")
    table = pd.DataFrame([run.metrics for run in runs]).assign(run=runs, fold=[run.fold for run in runs])
    asked = correctness(runs) if metric == "test/acc" else [None] * len(runs)
    table["documents"] = [one and one[0] for one in asked]
    table["right"] = [one and one[1] for one in asked]

    if margin is not None and is_share(metric):
        margin /= 100
    comparer = _Comparer(factors.values[~repeated], table[~repeated], metric, better, alpha, margin, planned)
    main = comparer.compare(names, reference)
    if main is None:
        differing = ", ".join(factors.values)
        raise UserError(f"by={','.join(names)}: no two runs differ in this alone; what differs: {differing}")
    parts = [comparer.compare([name], None, main.reference.get(name)) for name in names] if len(names) > 1 else []
    if alone := len(comparer.runs) - len(main.all_runs):
        warnings.append(f"{alone} runs have no counterpart that differs in {names[0]} alone")
    if metric == "test/acc" and (unasked := sum(row.get("documents") == 0 for _, row in main.rows.iterrows())):
        warnings.append(
            f"{unasked} of {len(main.rows) - 1} settings have no predictions on the test documents of the reference: "
            "of these the seeds alone could be asked"
        )
    warnings += _caveats(runs, factors, main)
    return Study(runs, [main, *(part for part in parts if part is not None)], warnings, margin)


def _check_numbers(alpha: float, margin: float | None) -> None:
    if not 0 < alpha < 1:
        raise UserError(f"alpha={alpha} is a probability: give a number between 0 and 1, such as 0.05")
    if margin is not None and margin <= 0:
        raise UserError(
            f"margin={margin} is a difference that counts as none: give a number above 0, such as 0.5 (points)"
        )


def _having(metric: str, runs: list[RunFolder]) -> tuple[list[RunFolder], list[str]]:
    """The runs that were tested by this metric, and a line on the others: pruned trials, runs with test=false."""
    kept = [run for run in runs if metric in run.metrics]
    if not kept:
        known = ", ".join(key for key in PRESENTED if key in runs[0].metrics)
        raise UserError(f"metric={metric} is not in {runs[0].path}/{METRICS}; choose one of {known}")
    lacking = [run for run in runs if metric not in run.metrics]
    told = f"{len(lacking)} runs have no {metric} and are left out (pruned or not tested), as {{}}"
    return kept, [told.format(lacking[0].path)] if lacking else []


@dataclass(frozen=True)
class _Comparer:
    factors: pd.DataFrame  # of each run that counts
    runs: pd.DataFrame  # likewise its metrics, `run`, `fold`, and where they are known `documents` and `right`
    metric: str
    better: Direction  # less or more of it
    alpha: float
    margin: float | None  # as the metric is
    planned: bool

    def compare(self, by: list[str], reference: Reference, level: str | None = None) -> Comparison | None:
        """Compare by these factors, runs being matched on all others and the seed; None where nothing matches.

        Without a `reference` it is the one where the only factor is at `level`, if there is one.
        """
        others = self.factors.drop(columns=by)
        blocks = ["|".join([*row, run.block]) for row, run in zip(others.to_numpy(), self.runs["run"], strict=True)]
        values = list(map(tuple, self.factors[by].to_numpy()))
        table = self.runs.assign(values=values, block=blocks, value=self.runs[self.metric])
        if len(others.columns):
            table = table[table.groupby("block")["values"].transform("nunique") > 1]
            if table.empty:
                return None
        chosen = _pick_reference(by, list(dict.fromkeys(table["values"])), reference, level)
        own_name = _name(by, chosen, chosen)
        table = table.assign(setting=[_name(by, setting, chosen) for setting in table["values"]])
        if len(others.columns):  # a mean over runs without a counterpart would be one of something else
            table = table[table["block"].isin(table.loc[table["setting"] == own_name, "block"])]
        rows = self._rows(by, own_name, table)
        runs = {str(name): table.loc[table["setting"] == name, "run"].to_list() for name in rows.index}
        comparing = dict(zip(by, chosen, strict=True))
        return Comparison(self.metric, self.better, self.alpha, by, comparing, rows, runs)

    def _rows(self, by: list[str], reference: str, table: pd.DataFrame) -> pd.DataFrame:
        """Those of a `Comparison`; table: the runs with their factors' `values` and what `compare_settings` takes."""
        found = {}
        sign = {"max": -1, "min": 1}[self.better] if len(by) > 1 else 0
        places = sign * table.groupby("setting")["value"].mean()  # the best first, or as they come
        for name in sorted(table["setting"].unique(), key=lambda name: (name != reference, places[name])):
            mine = table[table["setting"] == name]
            seeds = {str(run.config["seed"]) for run in mine["run"]}
            row = dict(zip(by, mine["values"].iloc[0], strict=True)) | {"runs": len(mine), "seeds": len(seeds)}
            for metric in dict.fromkeys((self.metric, *PRESENTED)):
                if metric in mine:
                    summary = summarise(mine[metric], overlap(mine["fold"].to_list()))
                    row |= {f"{metric} {key}": value for key, value in summary.items()}
            found[name] = row | {cost: mine[cost].mean() for cost in COSTS if cost in mine}
        rows = pd.DataFrame.from_dict(found, orient="index")
        known = table[table["documents"].notna()]
        correct = known.set_index(["setting", "block"])["right"].to_dict()
        effects = ([self.margin] if self.margin else list(PLANNED)) if self.planned else []
        judged = compare_settings(table, reference, correct, self.alpha, self.margin, effects)
        rows = rows.join(judged.drop(columns=effects))
        alone = not (self.factors.loc[table.index].drop(columns=by).nunique() > 1).any()
        folds = table["fold"].any()
        noun = "seed" if alone and not folds else "fold" if alone and rows["seeds"].max() == 1 else "pair"
        rows["verdict"] = [self._verdict(row, noun) for _, row in rows.iterrows()]
        rows.loc[reference, "verdict"] = "reference"
        return rows.join(judged[effects].rename(columns=lambda effect: f"{PLAN}{in_points(self.metric, effect)}"))

    def _verdict(self, row: pd.Series, noun: str) -> str:
        if pd.isna(row.get("p")):
            return "no counterpart to compare with" if pd.isna(row.get("pairs")) else f"one {noun} can't show anything"
        pairs = f"{row['pairs']:.0f} {noun}{'s' if row['pairs'] != 1 else ''}"
        if self.margin is not None and max(-row["low"], row["high"]) < self.margin:
            return f"the same within {in_points(self.metric, self.margin)}"
        if row["low"] > 0 or row["high"] < 0:
            sign = {"max": 1, "min": -1}[self.better]
            good = sign * row["difference"] > 0
            return ("better" if good else "worse") + (f" on these documents; {pairs} only" if row["pairs"] == 1 else "")
        smallest = in_points(self.metric, row["detectable"])
        return f"no difference that {pairs} can show (smallest that they could: {smallest}; {self._needed(row, noun)})"

    def _needed(self, row: pd.Series, noun: str) -> str:
        """What would show the difference that is of interest, or else the one that it looks like."""
        effect = in_points(self.metric, self.margin or abs(row["difference"]))
        if np.isfinite(row["runs_needed"]):
            return f"{row['runs_needed']:.0f} {noun}s would show {effect}"
        return (
            f"{effect} require more test documents"
            if row["from_runs"] < 0.5
            else f"{effect} are too few for {MANY_RUNS} {noun}s"
        )


def _pick_reference(
    by: list[str], settings: list[tuple[str, ...]], wanted: Reference, level: str | None
) -> tuple[str, ...]:
    if wanted is None:
        if (level,) in settings:
            return (level,)  # type: ignore[return-value]
        return min(settings, key=lambda a: sum(x != y for b in settings for x, y in zip(a, b, strict=True)))
    if not isinstance(wanted, dict):
        wanted = {by[0]: wanted} if len(by) == 1 else {str(wanted): "?"}
    keys = [short_name(key, by) for key in by]
    as_given = {setting: [f"{key}={value}" for key, value in zip(keys, setting, strict=True)] for setting in settings}
    asked = {f"{short_name(key, by)}={as_text(value)}" for key, value in wanted.items()}
    found = [setting for setting, given in as_given.items() if asked <= set(given)]
    if len(found) != 1:
        what = f"fits {len(found)} settings" if found else "fits no setting"
        listed = "; ".join(", ".join(as_given[setting]) for setting in (found or settings)[:8])
        shown = ", ".join(sorted(asked))
        raise UserError(f"reference: {shown} {what}; give values that single one out, like {{pe: none}}, of: {listed}")
    return found[0]


def _name(by: list[str], setting: tuple[str, ...], reference: tuple[str, ...]) -> str:
    """A single factor's value, or the values of several in which a setting differs from the reference."""
    if len(by) == 1:
        return setting[0]
    pairs = [(short_name(key, by), own) for key, own, other in zip(by, setting, reference, strict=True) if own != other]
    told = [pair for pair in pairs if pair[1] != ABSENT] or pairs
    return ", ".join(f"{key}={value}" for key, value in told) or "reference"


def _caveats(runs: list[RunFolder], factors: Factors, main: Comparison) -> list[str]:
    """What makes a comparison unfair, one line each."""
    warnings = [
        f"{factor} always changes together with {', '.join(others)}: the difference may come from any of them"
        for factor, others in factors.companions.items()
        if others
    ]
    if data := factors.differing_data():
        warnings.append(f"the runs differ in their data or its splits: {', '.join(data)}")
    if budget := factors.differing_budget():
        warnings.append(f"the runs differ in their training budget: {', '.join(budget)}")
    warnings += _mixed(runs)
    warnings += _audit_warnings(runs)
    if busy := [run.load for run in runs if run.load > BUSY]:
        warnings.append(
            f"{len(busy)} of {len(runs)} runs were timed on a busy machine (up to {max(busy):.1f} processes a core): "
            "their seconds tell little"
        )
    if on_test := sum(_selected_on_test(run.config["data"]) for run in runs):
        warnings.append(f"{on_test} runs were selected on the test set: optimistic scores")
    if len({frozenset(run.block for run in own) for own in main.runs.values()}) > 1:
        warnings.append("not every setting was run with the same seeds and folds; those in common are compared")
    return warnings


def _newest_data(runs: list[RunFolder]) -> tuple[list[RunFolder], list[str]]:
    """The runs on the data set that was trained on last, as scores on different sets say nothing of each other."""
    newest = max(runs, key=lambda run: (run.path / METRICS).stat().st_mtime).data_set
    kept = [run for run in runs if run.data_set == newest]
    counts = Counter(run.data_set for run in runs if run.data_set != newest)
    left_out = ", ".join(f"{number} on {name}" for name, number in counts.items())
    told = (
        f"compared are the {len(kept)} runs on {newest}, the newest; left out: {left_out}; across=true ranks over sets"
    )
    return kept, [told] if counts else []


def _mixed(runs: list[RunFolder]) -> list[str]:
    return [f"the runs differ in their {what}: a difference may come from that" for what in mixtures(runs)]


def _selected_on_test(data: dict[str, Any]) -> bool:
    return data.get("validation") == "test" or data.get("val") == data.get("test", "test")


def _audit_warnings(runs: list[RunFolder]) -> list[str]:
    """The warnings of the data audits of these runs, one line each, with the worst values."""
    keys = {key for run in runs for key in run.metrics if key.startswith("data/")}
    worst = audit_warnings({key: max(run.metrics.get(key, 0) for run in runs) for key in keys})
    count = Counter(name for run in runs for name in audit_warnings(run.metrics))
    return [f"in {count[name]} of {len(runs)} runs, at worst: {sentence}" for name, sentence in worst.items()]
