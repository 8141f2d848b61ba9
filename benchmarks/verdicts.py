"""How often verdicts err and what they find: `python -m benchmarks.verdicts [<folder of runs>]`.

Studies are drawn from known truths: settings against a reference, each with some runs on the same documents. A score is
the setting's worth + what the run adds + what its documents add + both together; the last two have the variances that
single documents have in the predictions of real runs, of a folder that is given or those of `FROM`. Printed for each
method: how often a study in which nothing differs calls anything (family-wise error, 5 % is promised), how often a true
difference is called one (power, where all settings spread alike, also at the level at which the method errs in just 5 %
of studies), and how often the 95 % interval holds the truth.
"""

import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special, stats

from attnlab.analysis.runs import correctness, read_runs
from attnlab.analysis.statistics import compare_settings
from benchmarks.common import RESULTS

Array = npt.NDArray[np.float64]

# Variances of a document's score by setting and by run, as `components` finds them in
# python src/train.py -m model=bag optimizer.lr=0.01 tokenizer.vocab_size=1000,4000 seed=0,1,2,3,4,5,6,7,8,9
#   trainer.max_epochs=3 data=ag_news data.path=$AG_NEWS_PATH data.limit=20000
FROM = (0.0331, 0.0172)
STUDIES = 40_000
ALPHA = 0.05
SD = 0.0016  # root mean square over settings of what runs add: 0.16 points
EFFECT = {500: 0.03, 7600: 0.006}  # by number of test documents
GRID = list(product((500, 7600), (1, 5, 17), (2, 3, 5, 10), (1, 3, 10)))


def components(folder: Path) -> tuple[float, float]:
    """Variance of a document's score by setting, and by run of a setting, over settings with two runs or more."""
    runs, _ = read_runs([folder])
    rows = [right for _, right in filter(None, correctness(runs))]
    settings = pd.Series([str(run.config["tokenizer"]) + str(run.config["model"]) for run in runs])
    tables = [np.stack([rows[i] for i in group.index]) for _, group in settings.groupby(settings) if len(group) > 1]
    by_run = float(np.mean([table.var(axis=0, ddof=1).mean() for table in tables]))
    means = [table.mean(axis=0) for table in tables]
    between = float(np.mean([(a - b).var() / 2 for i, a in enumerate(means) for b in means[:i]]))
    return between - by_run / len(tables[0]), by_run


def draw(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    documents: int,
    spread: int,
    effect: float,
    of: tuple[float, float],
) -> Array:
    """[studies, settings, runs] scores, the reference first; every setting but it is better by `effect`."""
    studies, settings, _ = shape
    sd = np.geomspace(1, spread, settings)
    sd = rng.permuted(np.tile(SD * sd / np.sqrt((sd**2).mean()), (studies, 1)), axis=1)
    scores = rng.normal(size=shape) * sd[:, :, None] + effect * (np.arange(settings) > 0)[:, None]
    scores += rng.normal(size=(studies, settings, 1)) * np.sqrt(of[0] / documents)
    return scores + rng.normal(size=shape) * np.sqrt(of[1] / documents)


def t_test(difference: Array, error: Array, df: Array | float) -> tuple[Array, Array]:
    """p-values, and halves of the intervals."""
    return 2 * stats.t.sf(np.abs(difference) / error, df), stats.t.isf(ALPHA / 2, df) * error


def pooled(scores: Array, _: float, documents: float, interaction: float) -> tuple[Array, Array]:
    """The method of before: one variance for all settings, seeds and documents asked one by one."""
    _, settings, runs = scores.shape
    rest = scores - scores.mean(2, keepdims=True) - scores.mean(1, keepdims=True) + scores.mean((1, 2), keepdims=True)
    df = (runs - 1) * (settings - 1)
    error = np.sqrt(2 * (rest**2).sum((1, 2)) / df / runs)[:, None]
    of_runs = t_test(differences(scores), error, df)
    of_documents = t_test(differences(scores), np.sqrt(np.full_like(error, documents + interaction)), np.inf)
    return np.maximum(of_runs[0], of_documents[0]), np.maximum(*np.broadcast_arrays(of_runs[1], of_documents[1]))


def crossed(own: bool, own_df: bool, shrunk: bool) -> Callable[[Array, float, float, float], tuple[Array, Array]]:
    """Crossed random effects; with the variance of each setting's own runs or that of all, likewise for the df."""

    def method(scores: Array, df: float, documents: float, _: float) -> tuple[Array, Array]:
        runs = (scores[:, 1:] - scores[:, :1]).var(2, ddof=1) / scores.shape[2]
        known = np.full(len(runs), df)[:, None]
        typical = runs.mean(1, keepdims=True)
        if shrunk:
            prior, mean = _prior(runs, df)
            runs, known = (prior * mean + df * runs) / (prior + df), np.minimum(prior + df, df * runs.shape[1])
        if not own:
            runs, known = np.broadcast_to(typical, runs.shape), known * runs.shape[1]
        least = runs if own_df else typical
        return t_test(differences(scores), np.sqrt(runs + documents), (least + documents) ** 2 / (least**2 / known))

    return method


def pigeonhole(scores: Array, _: float, documents: float, interaction: float) -> tuple[Array, Array]:
    """The variance that resampling runs and documents together has (Owen, 2007), as normal."""
    number = scores.shape[2]
    runs = (scores[:, 1:] - scores[:, :1]).var(2, ddof=1) / number * (number - 1) / number
    return t_test(differences(scores), np.sqrt(runs + documents + 2 * interaction), np.inf)


def _prior(variances: Array, df: float) -> tuple[Array, Array]:
    """Degrees of freedom and mean of what variances are shrunk to (Smyth, 2004), by moments of their logarithms."""
    if variances.shape[1] < 3:
        return np.zeros((len(variances), 1)), variances.mean(1, keepdims=True)
    logs = np.log(variances) - special.digamma(df / 2) + np.log(df / 2)
    excess = np.maximum(logs.var(1, ddof=1, keepdims=True) - special.polygamma(1, df / 2), 1e-4)
    half = 0.5 + 1 / excess
    for _ in range(30):  # Newton's method for the inverse of trigamma
        value = special.polygamma(1, half)
        half = half + value * (1 - value / excess) / special.polygamma(2, half)
    return 2 * half, np.exp(logs.mean(1, keepdims=True) + special.digamma(half) - np.log(half))


METHODS = {
    "pooled (before)": pooled,
    "crossed, one variance": crossed(own=False, own_df=False, shrunk=False),
    "crossed, own, own df": crossed(own=True, own_df=True, shrunk=False),
    "crossed, shrunk": crossed(own=True, own_df=True, shrunk=True),
    "pigeonhole": pigeonhole,
    "crossed, own (chosen)": crossed(own=True, own_df=False, shrunk=False),
}


def differences(scores: Array) -> Array:
    means: Array = scores.mean(2)
    return means[:, 1:] - means[:, :1]


def adjusted(p: Array) -> Array:
    """p-values after Bonferroni's correction; both: [studies, settings]."""
    return np.minimum(1.0, p * p.shape[1])


def measure(of: tuple[float, float]) -> pd.DataFrame:
    rng, rows = np.random.default_rng(0), []
    for documents, settings, runs, spread in GRID:
        shape = STUDIES, settings + 1, runs
        shared, interaction = 2 * of[0] / documents, 2 * of[1] / documents / runs
        null = draw(rng, shape, documents, spread, 0.0, of)
        better = draw(rng, shape, documents, spread, EFFECT[documents], of) if spread == 1 else None
        for name, method in METHODS.items():
            p, half = method(null, runs - 1, shared, interaction)
            p = adjusted(p)
            row = {"method": name, "documents": documents, "settings": settings, "runs": runs, "spread": f"1:{spread}"}
            row |= {"error": (p < ALPHA).any(1).mean(), "coverage": (np.abs(differences(null)) <= half).mean()}
            if better is not None:
                found = adjusted(method(better, runs - 1, shared, interaction)[0])
                row |= {"power": (found < ALPHA).mean(), "fair": (found < np.quantile(p.min(1), ALPHA)).mean()}
            rows.append(row)
    return pd.DataFrame(rows)


def on_real_predictions(folder: Path, runs: int, documents: int, studies: int = 400) -> float:
    """How often two groups of runs of one setting are called different, which by construction they are not."""
    found, _ = read_runs([folder])
    rows = [right for _, right in filter(None, correctness(found))]
    settings = pd.Series([str(run.config["tokenizer"]) + str(run.config["model"]) for run in found])
    groups = [group.index.to_numpy() for _, group in settings.groupby(settings) if len(group) >= 2 * runs]
    rng, calls = np.random.default_rng(0), []
    for _ in range(studies):
        chosen = rng.permutation(groups[rng.integers(len(groups))])[: 2 * runs].reshape(2, runs)
        some = rng.choice(len(rows[0]), documents, replace=False)
        correct = {
            (name, str(i)): rows[run][some] for name, own in zip("ab", chosen, strict=True) for i, run in enumerate(own)
        }
        scores = pd.DataFrame([{"setting": s, "block": b, "value": right.mean()} for (s, b), right in correct.items()])
        calls.append(compare_settings(scores, "a", correct, ALPHA).loc["b", "p_adjusted"] < ALPHA)
    return float(np.mean(calls))


def draw_figure(table: pd.DataFrame, file: Path) -> None:
    """Error and power by method, a dot for each kind of study."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    few = table["runs"] < 5
    for axes, (column, promised) in zip(
        panels, {"error": ALPHA, "coverage": 1 - ALPHA, "power": None}.items(), strict=True
    ):
        for y, name in enumerate(METHODS):
            for chosen, color in ((few, "tab:orange"), (~few, "tab:blue")):
                values = table.loc[(table["method"] == name) & chosen, column].dropna()
                axes.plot(values, y + np.linspace(-0.25, 0.25, len(values)), ".", color=color, alpha=0.6)
        axes.set(xlabel={"error": "family-wise error", "coverage": "interval holds the truth"}.get(column, column))
        axes.set_yticks(range(len(METHODS)), METHODS)
        if promised:
            axes.axvline(promised, color="black", linewidth=1)
    panels[0].invert_yaxis()
    figure.legend(
        ["2 or 3 runs", "5 or 10 runs"],
        loc="outside upper right",
        ncols=2,
        labelcolor=["tab:orange", "tab:blue"],
        handlelength=0,
    )
    figure.savefig(file, dpi=120)


def report(table: pd.DataFrame, of: tuple[float, float], real: dict[str, float]) -> str:
    lines = [
        f"# verdicts: {STUDIES:,} studies a row, variances of a document by setting {of[0]:.4f} and by run {of[1]:.4f}",
        "",
        f"Runs add {100 * SD} points (root mean square over settings). A true difference is 3 points on 500 documents,",
        "0.6 points on 7,600.",
        "Worst error and coverage over 1, 5 and 17 settings against one; mean power over them where all spread alike.",
        "",
        "Power at equal error: at the level at which 5 % of studies err.",
        "",
        "| method | documents | runs | error, spreads equal | 1:3 | 1:10 | least coverage | power | at equal error |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (documents, runs, name), part in table.groupby(["documents", "runs", "method"], sort=False):
        worst = part.groupby("spread")["error"].max()
        errors = " | ".join(f"{worst[f'1:{spread}']:.3f}" for spread in (1, 3, 10))
        lines.append(
            f"| {name} | {documents:,} | {runs} | {errors} | {part['coverage'].min():.3f} | "
            f"{part['power'].mean():.2f} | {part['fair'].mean():.2f} |"
        )
    lines += ["", *(f"{what}: {share:.3f}" for what, share in real.items())]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> None:
    folder = Path(arguments[0]) if arguments else None
    of = components(folder) if folder else FROM
    real = {}
    if folder:
        for documents in (500, 5000):
            what = f"Two groups of 5 real runs of one setting on {documents:,} documents, called different"
            real[what] = on_real_predictions(folder, 5, documents)
    table = measure(of)
    text = report(table, of, real)
    (RESULTS / "verdicts.md").write_text(text, encoding="utf-8")
    draw_figure(table, RESULTS / "verdicts.png")
    print(text)


if __name__ == "__main__":
    main(sys.argv[1:])
