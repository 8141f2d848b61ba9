"""Is one setting better than another? Two sources of chance are asked, and both have to agree.

*Seeds*: would it be so with other first weights and another order of documents? A linear model of the score with an
effect of each setting and one of each block (what is equal but for the setting: the seed above all); with two settings
this is the paired t-test. The variance is pooled over all settings, which is what lets three seeds say something.

*Documents*: would it be so on other test documents? McNemar's exact test where there is one pair of runs, a paired
bootstrap of the documents' mean difference where there are more.

*Folds* of cross-validation are blocks as seeds are, and more alike: any two of k models share a part of what they were
trained on, so that the variance of their scores is too small. It is corrected by Nadeau and Bengio (2003), for several
seeds as Bouckaert and Frank (2004) have it. Every document is tested once by a seed, all of them together are asked.

A difference is called one if the larger of the two p-values is below `alpha` after Holm's correction for the number of
settings that are compared with the reference.
"""

from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import optimize, stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

POWER = 0.8
RESAMPLES = 4999

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


def compare_settings(scores: pd.DataFrame, reference: str, correct: Correct | None, alpha: float) -> pd.DataFrame:
    """Each setting against `reference`.

    Args:
        scores: a row for each run, with `setting`, `block`, `value` and in cross-validation `fold`, "" without; a
            setting stands once in a block.
        correct: which documents each run got right, all on the same documents; None leaves the second test out.
        alpha: how often to call a difference where there is none, over all settings together.

    Returns:
        a row for each other setting that shares a block with the reference, by its name: `pairs` (blocks in common),
        `difference`, `low` and `high` (1 - alpha interval of the test that decides), `p_seeds`, `p_documents`, `p` (the
        larger), `p_holm` and `detectable`, the smallest difference that would be called one in 80 % of such studies.
    """
    scores = scores if "fold" in scores else scores.assign(fold="")
    fold_of = dict(zip(scores["block"], scores["fold"], strict=True))
    blocks = scores.groupby("setting")["block"].agg(set)
    settings = [name for name in scores["setting"].unique() if name != reference and blocks[name] & blocks[reference]]
    if not settings:
        return pd.DataFrame()
    strict = alpha / len(settings)
    by_seeds = _seeds_test(scores[scores["setting"].isin([reference, *settings])], reference, alpha, strict)
    rows = {}
    for name in settings:
        shared = sorted(blocks[name] & blocks[reference])
        row: dict[str, float] = {"pairs": len(shared)}
        tests = [by_seeds[name]] if name in by_seeds else []
        row["p_seeds"] = tests[0]["p"] if tests else np.nan
        row["p_documents"] = np.nan
        if correct is not None:
            better, worse = (_by_document(correct, which, shared, fold_of) for which in (name, reference))
            tests.append(documents_test(better, worse, alpha, strict))
            row["p_documents"] = tests[-1]["p"]
        values = scores.set_index(["setting", "block"])["value"]
        row["difference"] = float(np.mean([values[name, block] - values[reference, block] for block in shared]))
        if name in by_seeds:  # the same, unless blocks are missing: then the model makes up for what they had in common
            row["difference"] = by_seeds[name]["difference"]
        if tests:
            widest = max(tests, key=lambda test: test["high"] - test["low"])
            row |= {"low": widest["low"], "high": widest["high"], "p": max(test["p"] for test in tests)}
            row["detectable"] = max(test["detectable"] for test in tests)
        rows[name] = row
    table = pd.DataFrame.from_dict(rows, orient="index").reindex(
        columns=["pairs", "difference", "low", "high", "p_seeds", "p_documents", "p", "detectable"]
    )
    tested = table["p"].notna()
    table["p_holm"] = np.nan
    if tested.any():
        table.loc[tested, "p_holm"] = multipletests(table.loc[tested, "p"], method="holm")[1]
    return table


def _by_document(correct: Correct, name: str, blocks: list[str], fold_of: Mapping[str, str]) -> npt.NDArray[np.bool_]:
    """[runs, documents] of a setting: the documents of all folds side by side, the runs on each below each other."""
    folds: dict[str, list[npt.NDArray[np.bool_]]] = {}
    for block in blocks:
        folds.setdefault(fold_of[block], []).append(correct[name, block])
    fewest = min(map(len, folds.values()))  # runs on a fold; a table has no holes
    return np.concatenate([np.stack(runs[:fewest]) for runs in folds.values()], axis=1)


def _seeds_test(scores: pd.DataFrame, reference: str, alpha: float, strict: float) -> dict[str, dict[str, float]]:
    """Contrasts with the reference in `value ~ setting + block`; empty where nothing is left to tell chance by."""
    settings = pd.get_dummies(scores["setting"], dtype=float).drop(columns=reference)
    blocks = pd.get_dummies(scores["block"], dtype=float, prefix="block")
    fit = OLS(scores["value"], settings.join(blocks)).fit()
    if fit.df_resid < 1:
        return {}
    rows = {}
    for name in settings:
        runs = scores[scores["setting"] == name]
        difference = float(fit.params[name])
        # What holds of a mean over runs, 1 / runs, becomes 1 / runs + overlap (Nadeau and Bengio, 2003).
        error = float(fit.bse[name]) * np.sqrt(1 + len(runs) * overlap(runs["fold"].to_list()))
        half = error * float(stats.t.isf(alpha / 2, fit.df_resid))
        # Equal runs have no spread: what does not differ at all has p = 1, what differs always p = 0.
        apart = float(2 * stats.t.sf(abs(difference) / error, fit.df_resid)) if error > 1e-12 else None
        rows[name] = {
            "p": float(abs(difference) < 1e-12) if apart is None else apart,
            "difference": difference,
            "low": difference - half,
            "high": difference + half,
            "detectable": detectable(error, float(fit.df_resid), strict),
        }
    return rows


def documents_test(
    ours: npt.NDArray[np.bool_], theirs: npt.NDArray[np.bool_], alpha: float, strict: float | None = None
) -> dict[str, float]:
    """McNemar's test or a paired bootstrap over documents; both: [runs, documents], row by row of the same block."""
    difference = ours.mean(axis=0) - theirs.mean(axis=0)
    bootstrap = stats.bootstrap(
        (difference,), np.mean, n_resamples=RESAMPLES, confidence_level=1 - alpha, method="percentile", batch=100, rng=0
    )
    if len(ours) == 1:
        only_ours, only_theirs = int((ours & ~theirs).sum()), int((~ours & theirs).sum())
        p = float(mcnemar([[0, only_ours], [only_theirs, 0]], exact=True).pvalue)
    else:
        means = bootstrap.bootstrap_distribution
        p = min(1.0, 2 * (1 + min(int((means <= 0).sum()), int((means >= 0).sum()))) / (RESAMPLES + 1))
    low, high = bootstrap.confidence_interval
    error = float(difference.std(ddof=1) / np.sqrt(len(difference)))
    power = detectable(error, len(difference) - 1, strict or alpha)
    return {"p": p, "low": float(low), "high": float(high), "detectable": power}


def detectable(error: float, df: float, alpha: float) -> float:
    """The true difference that a two-sided t-test finds with a chance of 80 %, from its standard error."""

    def shortfall(effect: float) -> float:
        # One side: scipy has no number for the other side's share, which is below 1e-6.
        return POWER - float(TTestPower().power(effect, 1, alpha / 2, df=df, alternative="larger"))

    return error * float(optimize.brentq(shortfall, 1e-3, 4 * stats.t.isf(alpha / 2, df) + 10))
