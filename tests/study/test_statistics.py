import gc
from collections.abc import Iterator
from itertools import product

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from attnlab.study.statistics import compare_settings, detectable, documents_test, summarise

ALPHA = 0.05


@pytest.fixture(scope="module", autouse=True)
def quick_garbage_collection() -> Iterator[None]:
    """statsmodels collects garbage on every correction for multiple tests: slow beside all that torch has loaded."""
    gc.freeze()
    yield
    gc.unfreeze()


def scores_of(table: npt.NDArray[np.float64]) -> pd.DataFrame:
    """table: [settings, seeds], the first setting being the reference "s0"."""
    return pd.DataFrame(
        [
            {"setting": f"s{i}", "block": str(j), "value": table[i, j]}
            for i, j in product(range(table.shape[0]), range(table.shape[1]))
        ]
    )


def test_two_settings_are_the_paired_t_test() -> None:
    table = np.random.default_rng(0).normal(size=(2, 6))
    row = compare_settings(scores_of(table), "s0", None, ALPHA).loc["s1"]
    expected = stats.ttest_rel(table[1], table[0])
    assert row["p_seeds"] == row["p"] == row["p_holm"] == pytest.approx(expected.pvalue)
    assert [row["low"], row["high"]] == pytest.approx(list(expected.confidence_interval(1 - ALPHA)))
    assert row["difference"] == pytest.approx((table[1] - table[0]).mean()) and row["pairs"] == 6


def test_several_settings_are_a_two_way_analysis_of_variance() -> None:
    table = np.random.default_rng(1).normal(size=(4, 3)) + np.arange(3)
    rows = compare_settings(scores_of(table), "s0", None, ALPHA)
    residual = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0) + table.mean()
    df = 3 * 2
    error = np.sqrt((residual**2).sum() / df * 2 / 3)
    expected = [2 * stats.t.sf(abs(table[i].mean() - table[0].mean()) / error, df) for i in (1, 2, 3)]
    assert rows["p_seeds"].tolist() == pytest.approx(expected)
    assert rows["p_holm"].tolist() == pytest.approx(multipletests(expected, method="holm")[1])


def test_one_pair_of_runs_is_mcnemars_exact_test() -> None:
    ours, theirs = np.random.default_rng(0).random((2, 1, 500)) < np.array([0.85, 0.8])[:, None, None]
    only_ours, only_theirs = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    expected = stats.binomtest(only_ours, only_ours + only_theirs).pvalue
    assert documents_test(ours, theirs, ALPHA)["p"] == pytest.approx(expected)


def test_several_pairs_are_a_paired_bootstrap_over_documents() -> None:
    rng = np.random.default_rng(3)
    skill = rng.random(2000)
    ours, theirs = rng.random((3, 2000)) < 0.7 + 0.3 * skill, rng.random((3, 2000)) < 0.65 + 0.3 * skill
    found = documents_test(ours, theirs, ALPHA)
    reference = stats.ttest_1samp(ours.mean(axis=0) - theirs.mean(axis=0), 0)
    assert [found["low"], found["high"]] == pytest.approx(list(reference.confidence_interval(1 - ALPHA)), abs=0.002)
    assert found["p"] == pytest.approx(reference.pvalue, abs=0.01)


@pytest.mark.slow
def test_no_effect_is_called_one_in_about_5_percent_of_studies() -> None:
    rng = np.random.default_rng(0)
    single, any_of_three = [], []
    for _ in range(400):
        rows = compare_settings(scores_of(rng.normal(0.86, 0.003, size=(4, 3))), "s0", None, ALPHA)
        single += (rows["p"] < ALPHA).tolist()
        any_of_three.append((rows["p_holm"] < ALPHA).any())
    assert 0.03 < np.mean(single) < 0.07  # 1,200 comparisons, three a study: two standard errors are 1.6 points
    assert 0.02 < np.mean(any_of_three) < 0.08  # Holm keeps 5 % for all of a study together


@pytest.mark.slow
@pytest.mark.parametrize("num_seeds", [1, 3])
def test_no_effect_on_documents_is_called_one_in_about_5_percent_of_studies(num_seeds: int) -> None:
    rng = np.random.default_rng(1)
    found = []
    for _ in range(300):
        skill = rng.beta(4, 1, size=300)
        ours, theirs = rng.random((2, num_seeds, 300)) < skill
        found.append(documents_test(ours, theirs, ALPHA)["p"] < ALPHA)
    assert 0.015 < np.mean(found) < 0.09  # McNemar's exact test keeps below 5 %


def test_a_large_effect_is_found_and_both_tests_have_to_agree() -> None:
    rng = np.random.default_rng(0)
    skill = rng.random(3000)
    correct = {
        (setting, str(seed)): rng.random(3000) < np.clip(skill + gain, 0, 1)
        for setting, gain in (("old", 0.3), ("new", 0.36))
        for seed in range(5)
    }
    scores = pd.DataFrame([{"setting": s, "block": b, "value": right.mean()} for (s, b), right in correct.items()])
    row = compare_settings(scores, "old", correct, ALPHA).loc["new"]
    assert row["difference"] > 0.03 and row["p_holm"] < 0.01 and row["low"] > 0
    assert row["p"] == max(row["p_seeds"], row["p_documents"])
    # The same scores on 30 documents would say nothing about others.
    few = {key: right[:30] for key, right in correct.items()}
    assert compare_settings(scores, "old", few, ALPHA).loc["new", "p_holm"] > 0.05


@pytest.mark.parametrize(("num_seeds", "alpha"), [(3, 0.05), (5, 0.05), (5, 0.01), (20, 0.003)])
def test_the_smallest_detectable_difference_is_that_of_a_power_analysis(num_seeds: int, alpha: float) -> None:
    expected = TTestPower().solve_power(nobs=num_seeds, alpha=alpha, power=0.8)
    assert detectable(1 / np.sqrt(num_seeds), num_seeds - 1, alpha) == pytest.approx(expected, rel=1e-3)


def test_more_settings_make_the_smallest_detectable_difference_larger() -> None:
    table = np.random.default_rng(0).normal(size=(6, 40))
    few, many = (compare_settings(scores_of(table[:n]), "s0", None, ALPHA)["detectable"].iloc[0] for n in (2, 6))
    assert many > 1.1 * few


def test_equal_runs_are_no_difference_and_a_constant_one_is() -> None:
    same = np.tile([0.8, 0.81, 0.82], (2, 1))
    assert compare_settings(scores_of(same), "s0", None, ALPHA).loc["s1", "p"] == 1
    assert compare_settings(scores_of(same + np.array([[0], [0.1]])), "s0", None, ALPHA).loc["s1", "p"] == 0


def test_one_seed_without_predictions_has_no_p_value() -> None:
    row = compare_settings(scores_of(np.array([[0.8], [0.9]])), "s0", None, ALPHA).loc["s1"]
    assert np.isnan(row["p"]) and row["difference"] == pytest.approx(0.1)


def test_settings_are_compared_on_the_seeds_they_share() -> None:
    scores = scores_of(np.random.default_rng(0).normal(size=(3, 4)))
    scores = scores[~((scores["setting"] == "s1") & (scores["block"] == "3"))]
    scores.loc[scores["setting"] == "s2", "block"] = "elsewhere" + scores["block"]
    rows = compare_settings(scores, "s0", None, ALPHA)
    assert list(rows.index) == ["s1"] and rows.loc["s1", "pairs"] == 3
    assert rows.loc["s1", "low"] < rows.loc["s1", "difference"] < rows.loc["s1", "high"]
    assert rows.loc["s1", ["low", "high"]].mean() == pytest.approx(rows.loc["s1", "difference"])


def test_summary_has_the_t_interval() -> None:
    values = pd.Series([0.8, 0.82, 0.81, 0.85])
    found = summarise(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found["mean"] == pytest.approx(0.82) and found["sd"] == pytest.approx(values.std())
    assert [found["low"], found["high"]] == pytest.approx(list(expected))
    assert np.isnan(summarise(values[:1])["low"]) and summarise(values[:1])["mean"] == 0.8


def test_folds_are_corrected_for_what_they_share() -> None:
    """The corrected paired t-test, by hand (Nadeau and Bengio, 2003)."""
    rng = np.random.default_rng(0)
    ours, theirs = 0.82 + 0.01 * rng.standard_normal(5), 0.80 + 0.01 * rng.standard_normal(5)
    rows = [
        {"setting": name, "block": f"0 {fold}/5", "fold": f"{fold}/5", "value": values[fold]}
        for name, values in (("a", theirs), ("b", ours))
        for fold in range(5)
    ]
    row = compare_settings(pd.DataFrame(rows), "a", None, 0.05).loc["b"]
    difference = ours - theirs
    error = np.sqrt((1 / 5 + 1 / 4) * difference.var(ddof=1))
    assert row["p_seeds"] == pytest.approx(2 * stats.t.sf(abs(difference.mean()) / error, 4))
    assert row["high"] - row["difference"] == pytest.approx(error * stats.t.isf(0.025, 4))
    alone = pd.DataFrame(rows).assign(fold="0/5")  # five seeds on one fold share no more than seeds do
    assert compare_settings(alone, "a", None, 0.05).loc["b", "p_seeds"] == pytest.approx(
        stats.ttest_rel(ours, theirs).pvalue
    )


def test_documents_of_all_folds_are_asked_together() -> None:
    """Three seeds on each of two folds of unlike size, where one setting has every document right."""
    rows, correct = [], {}
    for setting in ("a", "b"):
        for seed in range(3):
            for fold, size in ((0, 30), (1, 20)):
                block = f"{seed} {fold}/2"
                rows.append({"setting": setting, "block": block, "fold": f"{fold}/2", "value": 0.5 + seed / 100})
                correct[setting, block] = np.arange(size) % 2 == 0 if setting == "a" else np.ones(size, dtype=bool)
    row = compare_settings(pd.DataFrame(rows), "a", correct, 0.05).loc["b"]
    assert row["pairs"] == 6 and row["p_documents"] < 0.001
