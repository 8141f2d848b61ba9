"""What an ablation found: the test set is read here, and nothing is decided by it."""

import shlex
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from attnlab.analysis.runs import correctness
from attnlab.analysis.statistics import compare_settings
from attnlab.experiments.ablation.changes import MODEL
from attnlab.experiments.ablation.planner import TOGETHER, Ablation
from attnlab.experiments.ablation.sequential import BETTER, WORSE, Standing, bounds
from attnlab.metrics import is_share
from attnlab.reports.ablation import draw_worth, publish
from attnlab.reports.result import in_points, signed
from attnlab.runs import write_whole

MATTERS, HURTS, SAME, SAME_HERE, OPEN = "matters", "better changed", "not worth it", "not worth it here", "open"
MORE, LESS = TOGETHER[BETTER], TOGETHER[WORSE]


def report(work: Ablation) -> None:
    """Write ablation.csv, .md, .tex, .png, .svg and .html into the sweep's folder, and print what they say."""
    folder = work.runs.folder
    rows = worth(work)
    mean = _mean(work, MODEL, work.metric, work.runs.seeds(MODEL))
    write_whole(folder / "ablation.csv", rows.to_csv(index_label="change"))
    draw_worth(folder, rows, work.metric, work.better, mean)
    table = pd.DataFrame([_cells(work, row) for _, row in rows.iterrows()])
    latex = table.to_latex(index=False, escape=True, column_format="lllrlrrr")
    write_whole(folder / "ablation.tex", f"% \\usepackage{{booktabs}}\n{latex}")
    title = f"What each part is worth: {work.metric} of the model {mean:.4f}"
    words, method, command = in_words(work, rows), methods(work, rows), smallest(work, rows)
    publish(folder, "ablation", title, words, table, method, command, {MATTERS: "bold blue", HURTS: "dark_orange"})


def worth(work: Ablation) -> pd.DataFrame:
    """A row for each change, the most valuable part first: `worth`, `low` and `high` (what the model's own choice is
    worth against the change, a share where the metric is one), `low_here` and `high_here` (on these documents alone),
    `verdict`, `seeds`, `score`, `seconds`, `parameters` and, of the model's own, `seconds_ratio`.
    """
    judged = work.judged(work.metric)
    apart = _with_documents(work, judged)
    own_seconds = _mean(work, MODEL, "train/seconds", work.runs.seeds(MODEL))
    rows = {}
    for name, standing in judged.items():
        setting = work.runs.settings.get(name)
        low, high = apart.get(name, (standing.low, standing.high))
        row: dict[str, Any] = {"part": setting.part if setting else name, "model": "", "instead": ""}
        if setting:
            row |= {"model": setting.before, "instead": setting.after}
        sign = -1 if setting else 1  # an interaction is what two changes add, not what a part is worth
        row |= {"worth": sign * standing.difference}
        row["low"], row["high"] = sorted((sign * low, sign * high))
        row["low_here"], row["high_here"] = sorted((sign * standing.low, sign * standing.high))
        row |= {"verdict": _verdict(row, work.plan.margin), "seeds": standing.seeds}
        row["documents"] = name in apart
        if setting:
            row["score"] = _mean(work, name, work.metric, standing.seeds)
            row["seconds"] = _mean(work, name, "train/seconds", standing.seeds)
            row["parameters"] = _mean(work, name, "model/parameters", standing.seeds)
            row["seconds_ratio"] = own_seconds / row["seconds"]
        rows[name] = row
    return pd.DataFrame.from_dict(rows, orient="index").sort_values("worth", ascending=False)


def _with_documents(work: Ablation, judged: Mapping[str, Standing]) -> dict[str, tuple[float, float]]:
    """Intervals for other seeds and other test documents, at the level of the look at which each setting stopped.

    Of the settings whose runs can be asked document by document, over the very seeds that they were judged by.
    """
    if work.metric != "test/acc":
        return {}
    seeds = {name: standing.seeds for name, standing in judged.items() if name in work.runs.settings}
    seeds[MODEL] = max(seeds.values(), default=0)
    keys = [(name, seed) for name, number in seeds.items() for seed in range(number)]
    runs = [work.runs.found[key] for key in keys]
    rows = []
    correct = {}
    for (name, seed), run, known in zip(keys, runs, correctness(runs), strict=True):
        rows.append((name, str(seed), work.sign * run.metrics[work.metric], known and known[0]))
        if known:
            correct[name, str(seed)] = known[1]
    table = pd.DataFrame(rows, columns=["setting", "block", "value", "documents"])
    out = bounds(work.plan.alpha / work.size, work.plan.min_seeds, work.plan.max_seeds)
    found = {}
    for name, row in compare_settings(table, MODEL, correct, work.plan.alpha).iterrows():
        pairs = int(row["pairs"])
        if row["documents"] and np.isfinite(out[pairs]):
            level = 2 * stats.t.sf(out[pairs], pairs - 1)  # of this look alone
            half = row["error"] * stats.t.isf(level / 2, row["df"])
            found[str(name)] = (row["difference"] - half, row["difference"] + half)
    return found


def _verdict(row: dict[str, Any], margin: float) -> str:
    if row["low"] > 0 or row["high"] < 0:
        if not row["instead"]:
            return MORE if row["low"] > 0 else LESS
        return MATTERS if row["low"] > 0 else HURTS
    if max(-row["low"], row["high"]) < margin:
        return SAME
    return SAME_HERE if max(-row["low_here"], row["high_here"]) < margin else OPEN


def in_words(work: Ablation, rows: pd.DataFrame) -> str:
    """One paragraph."""
    by = {one: rows[rows["verdict"] == one] for one in (MATTERS, HURTS, MORE, LESS, SAME, SAME_HERE, OPEN)}
    changes = (rows["instead"] != "").sum()
    unit = "" if is_share(work.metric) else f" of {work.metric}"
    said = [f"Of {changes} changes {len(by[MATTERS]) + len(by[HURTS])} make a difference."]
    for verdict, verb, how, sign in (
        (MATTERS, "is worth", "", 1),
        (HURTS, "costs", "", -1),
        (MORE, "make", f" {MORE} than one by one", 1),
        (LESS, "make", f" {LESS} than one by one", -1),
    ):
        for _, row in by[verdict].iterrows():
            amount = in_points(work.metric, sign * row["worth"]) + unit
            said.append(f"{_choice(row)} {verb} {amount}{how} {_interval(work, row)}{_time(row)}.")
    margin = in_points(work.metric, work.plan.margin) + unit
    for verdict, where in ((SAME, ""), (SAME_HERE, " on these documents")):
        if len(by[verdict]):
            said.append(f"Worth less than {margin}{where}: {', '.join(map(_choice, by[verdict].iloc))}.")
    if len(by[OPEN]):
        said.append(f"Not decided: {', '.join(map(_choice, by[OPEN].iloc))}.")
    if work.runs.failed:
        said.append("Could not be trained: " + "; ".join(f"{n} ({why})" for n, why in work.runs.failed.items()) + ".")
    return " ".join(said)


def methods(work: Ablation, rows: pd.DataFrame) -> str:
    """A paragraph to paste."""
    plan, seeds = work.plan, rows["seeds"]
    asked = rows.loc[rows["instead"] != "", "documents"]
    documents = (
        " Intervals take in other seeds alone: the test documents could not be asked one by one."
        if not asked.any()
        else " Intervals take in seeds and test documents as crossed random effects"
        + ("." if asked.all() else f", for {asked.sum()} of {len(asked)} changes; of the others seeds alone.")
    )
    better = {"max": "higher", "min": "lower"}[work.better]
    pair = (
        " An interaction (x) is what two changes make together beyond their sum."
        if (rows["instead"] == "").any()
        else ""
    )
    same = f", or that the difference lay within {in_points(work.metric, plan.margin)}" if plan.margin else ""
    return (
        "Each change was made to the model alone, all else held equal, and compared with it on the same seeds. Worth "
        f"is how much better {work.metric} is with the model's own part ({better} is better). Each setting began with "
        f"{plan.min_seeds} seeds; further seeds, up to {plan.max_seeds}, went to the change whose verdict "
        f"was nearest, until the validation score had shown a difference{same}, or no verdict was to be expected "
        f"any more ({seeds.min():.0f} to {seeds.max():.0f} seeds, {_runs(work, rows)} runs). Repeated looks were "
        "paid for by group-sequential t-bounds with alpha spending (Lan and DeMets, 1983; Kim and DeMets, 1987, rho "
        f"= 2), {work.size} comparisons by Holm's rule while runs were chosen and by Bonferroni's in the intervals "
        f"given here, at a family-wise level of {plan.alpha:g}. The test scores decided nothing.{documents}{pair}"
    )


def _runs(work: Ablation, rows: pd.DataFrame) -> int:
    """How many the answers come from."""
    needed = {
        (name, seed) for row in rows.index for name in work.questions[row] for seed in range(int(rows["seeds"][row]))
    }
    return len(needed)


def smallest(work: Ablation, rows: pd.DataFrame) -> str:
    """The command of the smallest model that is not worse by more than the margin: its own, or with one change.

    Empty where a smaller one is not decided yet and none is found to be as good.
    """
    single = rows[rows["instead"] != ""]
    own = _mean(work, MODEL, "model/parameters", work.runs.seeds(MODEL))
    smaller = single[single["parameters"] < own].sort_values(["parameters", "seconds"])
    fine = smaller[(smaller["high"] < work.plan.margin) | smaller["verdict"].isin([SAME, SAME_HERE, HURTS])]
    if not len(fine) and (single["verdict"] == OPEN).any():
        return ""
    setting = work.runs.settings[str(fine.index[0]) if len(fine) else MODEL]
    kept = [one for one in setting.overrides if not one.lstrip("+").startswith(("ablation", "hydra"))]
    return shlex.join(["python", "src/train.py", *kept])


def _mean(work: Ablation, name: str, key: str, seeds: int) -> float:
    """Of the runs of a setting with the first so many seeds; NaN of none."""
    found = [work.runs.found[name, seed].metrics[key] for seed in range(seeds)]
    return float(np.mean(found)) if found else np.nan


def _choice(row: pd.Series) -> str:
    return f"{row['part']} ({row['model']} rather than {row['instead']})" if row["instead"] else str(row["part"])


def _interval(work: Ablation, row: pd.Series) -> str:
    return f"[{signed(work.metric, row['low'])}, {signed(work.metric, row['high'])}]"


def _time(row: pd.Series) -> str:
    ratio = row.get("seconds_ratio", np.nan)
    return f" and takes {ratio:.1f} times the time" if ratio > 1.5 else ""


def _cells(work: Ablation, row: pd.Series) -> dict[str, str]:
    cells = {"part": str(row["part"]), "model": str(row["model"]), "instead": str(row["instead"])}
    worth_in = "worth, points" if is_share(work.metric) else "worth"
    cells[worth_in] = f"{signed(work.metric, row['worth'])} {_interval(work, row)}"
    cells |= {"verdict": row["verdict"], "seeds": f"{row['seeds']:.0f}"}
    has = pd.notna(row.get("score"))
    cells["seconds"] = f"{row['seconds']:,.0f}" if has else ""
    cells["parameters"] = f"{row['parameters']:,.0f}" if has else ""
    return cells
