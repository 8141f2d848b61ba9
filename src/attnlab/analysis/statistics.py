"""Is one setting better than another? One interval takes in both sources of chance.

*Seeds*: would it be so with other first weights and another order of documents? *Documents*: would it be so on other
test documents? The difference of two settings is asked run by run and document by document; runs and documents are
crossed random effects. Runs are paired by block: what is equal but for the setting, the seed above all. The variance of
the mean difference is that between its runs, over their number, and that between its documents, over theirs, less
their interaction, which is in both. Every setting has a variance of its own, so that a noisy one makes no other
uncertain; the t-distribution's degrees of freedom (Satterthwaite, 1946) are found with the mean of the runs' variances
over all pairs of settings, whichever is the reference, because a variance of few runs that is small by chance would
claim too many.

*Folds* of cross-validation are blocks as seeds are, and more alike: any two of k models share a part of what they were
trained on, so that the variance of their scores is too small. It is corrected by Nadeau and Bengio (2003), for several
seeds as Bouckaert and Frank (2004) have it. Each fold has documents of its own, so the runs' variance has theirs in it.

One pair of runs can tell of the documents alone: McNemar's exact test, with the interval of Clopper and Pearson (1934)
for the documents on which the two differ. What can't be asked of single documents (a loss, a macro mean) is asked of
the runs alone. Intervals and p-values are corrected by Bonferroni for the settings compared with the reference, so that
a verdict falls exactly where the interval leaves out zero. How often this errs and what it finds:
`python -m benchmarks.verdicts`.
"""

from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import optimize, stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.power import TTestPower

from attnlab.reports.result import MANY_RUNS

POWER = 0.8

# For each run, by (setting, block): which documents it got right.
Correct = Mapping[tuple[str, str], npt.NDArray[np.bool_]]


def overlap(folds: Collection[str]) -> float:
    """Test documents for each training document, by which runs on several folds are alike; 0 for one fold or none.

    folds: of each run, such as "0/5".
    """
    if len(set(folds)) < 2:
        return 0.0
    return 1 / (min(int(fold.split("/")[1]) for fold in folds if fold) - 1)


def summarise(values: pd.Series, overlapping: float = 0.0) -> dict[str, float]:
    """Mean, standard deviation and the 95 % t-interval of the mean; one value alone has a mean only."""
    mean, sd = float(values.mean()), float(values.std(ddof=1))
    half = sd * np.sqrt(1 / len(values) + overlapping) * stats.t.isf(0.025, len(values) - 1)
    return {"mean": mean, "sd": sd, "low": float(mean - half), "high": float(mean + half)}


@dataclass(frozen=True)
class Difference:
    """The mean difference of two settings and what it is uncertain by.

    Attributes:
        mean: over their common runs.
        pairs: how many these are.
        between_runs: the variance between single runs; NaN of one pair.
        overlapping: see `overlap`.
        between_documents: the share of the variance of the mean that more runs do not take away.
        documents: the number of test documents; 0 where they can't be asked.
        only: of one pair of runs, how many documents it alone and the reference alone got right.
    """

    mean: float
    pairs: int
    between_runs: float
    overlapping: float
    between_documents: float
    documents: int
    only: tuple[int, int] = (0, 0)

    def error(self, pairs: int | None = None) -> float:
        """Standard error of the mean, as it is or as it would be with so many pairs of runs."""
        runs = 0.0 if self.pairs == 1 else self.between_runs * (1 / (pairs or self.pairs) + self.overlapping)
        return float(np.sqrt(runs + self.between_documents))

    def df(self, typical: float, pairs: int | None = None) -> float:
        """Degrees of freedom; typical: variance between runs, as over all settings."""
        if self.pairs == 1:
            return self.documents - 1
        number = pairs or self.pairs
        runs = max(typical, 1e-30) * (1 / number + self.overlapping)
        documents = self.between_documents**2 / max(self.documents - 1, 1)
        return float((runs + self.between_documents) ** 2 / (runs**2 / (number - 1) + documents))

    def pairs_to_show(self, effect: float, typical: float, alpha: float) -> float:
        """Pairs of runs with which a true difference of `effect` is found in 80 % of studies; inf where none do."""
        if self.pairs == 1 or effect <= 0:
            return np.inf
        numbers = range(2, MANY_RUNS + 1)
        place = bisect_left(
            numbers, True, key=lambda n: detectable(self.error(n), self.df(typical, n), alpha) <= effect
        )
        return numbers[place] if place < len(numbers) else np.inf


def compare_settings(
    scores: pd.DataFrame,
    reference: str,
    correct: Correct | None,
    alpha: float,
    margin: float | None = None,
    effects: Sequence[float] = (),
) -> pd.DataFrame:
    """Each setting against `reference`.

    Args:
        scores: a row for each run, with `setting`, `block`, `value`, in cross-validation `fold`, "" without, and
            `documents`, the same for runs of the same test documents; a setting stands once in a block.
        correct: which documents runs got right. A pair of settings is asked document by document where all its runs
            are there, those of one fold on the same documents; else its runs are asked alone.
        alpha: how often to call a difference where there is none, over all settings together.
        margin: a difference below it counts as none; `p_same` and `runs_needed` are for it.
        effects: true differences, each with a column of its own: the pairs of runs with which it would be found in 80 %
            of studies; inf where none do.

    Returns:
        a row for each other setting that shares a block with the reference, by its name: `pairs` (blocks in common),
        `difference`, `error` (its standard error), `df`, `comparisons` (how many share `alpha`), `low` and `high` (with
        those of all other rows they hold at 1 - alpha), `p`, `p_adjusted` (below alpha where the interval leaves out
        0), `p_same` (likewise where it lies within the margin), `documents` (0 where they were not asked), `from_runs`
        (the share of the variance that more runs would lessen), `detectable`, the smallest difference that would be
        called one in 80 % of such studies, and `runs_needed`, the pairs that would so show one of `margin`, or else the
        one observed.
    """
    scores = scores.assign(**{name: "" for name in ("fold", "documents") if name not in scores})
    blocks = scores.groupby("setting")["block"].agg(set)
    settings = [name for name in scores["setting"].unique() if name != reference and blocks[name] & blocks[reference]]
    if not settings:
        return pd.DataFrame(columns=list(effects))
    found = {name: _difference(scores, name, reference, correct or {}) for name in settings}
    typical = _typical_variance(scores)
    comparisons = max(1, sum(one.pairs > 1 or one.documents > 0 for one in found.values()))
    rows: dict[str, dict[Any, float]] = {}
    for name, one in found.items():
        planned = {effect: one.pairs_to_show(effect, typical, alpha / comparisons) for effect in effects}
        rows[name] = _row(one, typical, alpha, comparisons, margin) | planned
    return pd.DataFrame(rows).T


def _typical_variance(scores: pd.DataFrame) -> float:
    """Of the difference of two settings between runs: the mean over all pairs of settings, whichever the reference."""
    wide = scores.pivot(index="block", columns="setting", values="value")
    variances = [wide.iloc[:, i + 1 :].sub(wide.iloc[:, i], axis=0).var(ddof=1) for i in range(wide.shape[1] - 1)]
    return float(pd.concat(variances).mean())


def _row(one: Difference, typical: float, alpha: float, comparisons: int, margin: float | None) -> dict[str, float]:
    row = {"pairs": one.pairs, "difference": one.mean, "error": np.nan, "df": np.nan, "comparisons": comparisons}
    row |= {"low": np.nan, "high": np.nan, "p": np.nan, "p_adjusted": np.nan, "p_same": np.nan}
    row |= {"documents": one.documents, "from_runs": np.nan, "detectable": np.nan, "runs_needed": np.nan}
    if one.pairs == 1 and not one.documents:
        return row
    strict = alpha / comparisons
    error, df = one.error(), one.df(typical)
    if one.pairs == 1:
        row["low"], row["high"] = _exact_interval(*one.only, one.documents, strict)
        row["p"] = _exact_test(*one.only)
    else:
        half = error * float(stats.t.isf(strict / 2, df))
        row["low"], row["high"] = one.mean - half, one.mean + half
        # Equal runs have no spread: what does not differ at all has p = 1, what differs always p = 0.
        row["p"] = float(2 * stats.t.sf(abs(one.mean) / error, df)) if error > 1e-12 else float(abs(one.mean) < 1e-12)
    row |= {"error": error, "df": df, "p_adjusted": min(1.0, comparisons * row["p"])}
    row["from_runs"] = 1 - one.between_documents / error**2 if error > 1e-12 else np.nan
    row["detectable"] = detectable(error, df, strict)
    if margin is not None:  # two one-sided tests at half of the level each, as the interval shown has it
        within = margin - abs(one.mean)
        beyond = float(stats.t.sf(within / error, df)) if error > 1e-12 else float(within <= 0)
        row["p_same"] = min(1.0, 2 * comparisons * beyond)
    row["runs_needed"] = one.pairs_to_show(margin or abs(one.mean), typical, strict)
    return row


def _difference(scores: pd.DataFrame, name: str, reference: str, correct: Correct) -> Difference:
    of = {key: group.set_index("block") for key, group in scores.groupby("setting") if key in (name, reference)}
    shared = sorted(set(of[name].index) & set(of[reference].index))
    values = (of[name]["value"] - of[reference]["value"]).loc[shared]
    fold_of = of[name]["fold"].to_dict()
    runs = float(values.var(ddof=1))
    overlapping = overlap([fold_of[block] for block in shared])
    both = pd.concat([of[which].loc[shared, ["fold", "documents"]] for which in (name, reference)])
    known = all((which, block) in correct for which in (name, reference) for block in shared)
    if not known or both.groupby("fold")["documents"].nunique().max() > 1:
        return Difference(float(values.mean()), len(shared), runs, overlapping, 0.0, 0)
    ours, theirs = (_by_document(correct, which, shared, fold_of) for which in (name, reference))
    single = ours.astype(np.float32) - theirs  # [runs, documents]
    documents = float(single.mean(axis=0).var(ddof=1)) / single.shape[1]
    only = (0, 0)
    if len(shared) == 1:
        only = _only(ours[0], theirs[0])
    elif overlapping:
        documents = max(0.0, documents - runs * (1 / len(shared) + overlapping))
    else:
        documents = max(0.0, documents - _interaction(single))
    return Difference(float(values.mean()), len(shared), runs, overlapping, documents, single.shape[1], only)


def _interaction(single: npt.NDArray[np.float32]) -> float:
    """Its part of the variance of the mean of [runs, documents]; a run at a time, as documents may be many."""
    column = single.mean(axis=0)
    squares = sum(float(np.square(run - run.mean() - column + column.mean()).sum()) for run in single)
    return squares / ((len(single) - 1) * (len(column) - 1)) / single.size


def _by_document(correct: Correct, name: str, blocks: list[str], fold_of: Mapping[str, str]) -> npt.NDArray[np.bool_]:
    """[runs, documents] of a setting: the documents of all folds side by side, the runs on each below each other."""
    folds: dict[str, list[npt.NDArray[np.bool_]]] = {}
    for block in blocks:
        folds.setdefault(fold_of[block], []).append(correct[name, block])
    fewest = min(map(len, folds.values()))  # runs on a fold; a table has no holes
    return np.concatenate([np.stack(runs[:fewest]) for runs in folds.values()], axis=1)


def documents_test(ours: npt.NDArray[np.bool_], theirs: npt.NDArray[np.bool_]) -> float:
    """The p-value of McNemar's exact test; which of the same documents two models got right, both: [documents]."""
    return _exact_test(*_only(ours, theirs))


def _only(ours: npt.NDArray[np.bool_], theirs: npt.NDArray[np.bool_]) -> tuple[int, int]:
    return int((ours & ~theirs).sum()), int((~ours & theirs).sum())


def _exact_test(only_ours: int, only_theirs: int) -> float:
    return float(mcnemar([[0, only_ours], [only_theirs, 0]], exact=True).pvalue)


def _exact_interval(only_ours: int, only_theirs: int, documents: int, alpha: float) -> tuple[float, float]:
    """Of the difference of two shares; it leaves out 0 exactly where McNemar's test is below alpha."""
    differing = only_ours + only_theirs
    if not differing:  # so rare that none was seen
        most = float(1 - alpha ** (1 / documents))
        return -most, most
    share = stats.binomtest(only_ours, differing).proportion_ci(1 - alpha, method="exact")
    return differing / documents * (2 * share.low - 1), differing / documents * (2 * share.high - 1)


def detectable(error: float, df: float, alpha: float) -> float:
    """The true difference that a two-sided t-test finds with a chance of 80 %, from its standard error."""

    def shortfall(effect: float) -> float:
        # One side: scipy has no number for the other side's share, which is below 1e-6.
        return POWER - float(TTestPower().power(effect, 1, alpha / 2, df=df, alternative="larger"))

    return error * float(optimize.brentq(shortfall, 1e-3, 4 * stats.t.isf(alpha / 2, df) + 10))
