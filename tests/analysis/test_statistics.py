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

from attnlab.analysis.statistics import compare_settings, detectable, documents_test, summarise

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
    assert row["p"] == row["p_adjusted"] == pytest.approx(expected.pvalue)
    assert [row["low"], row["high"]] == pytest.approx(list(expected.confidence_interval(1 - ALPHA)))
    assert row["difference"] == pytest.approx((table[1] - table[0]).mean()) and row["pairs"] == 6


def test_each_setting_has_the_variance_of_its_own_differences() -> None:
    rng = np.random.default_rng(1)
    table = rng.normal(size=(4, 5)) * np.array([[0.1], [0.1], [0.1], [5.0]])
    rows = compare_settings(scores_of(table), "s0", None, ALPHA)
    for i in (1, 2, 3):
        difference = table[i] - table[0]
        assert rows.loc[f"s{i}", "error"] == pytest.approx(difference.std(ddof=1) / np.sqrt(5))
        assert rows.loc[f"s{i}", "p"] == pytest.approx(stats.ttest_1samp(difference, 0).pvalue)
    assert rows["p_adjusted"].tolist() == pytest.approx(multipletests(rows["p"], method="holm")[1])


def test_one_pair_of_runs_is_mcnemars_exact_test() -> None:
    ours, theirs = np.random.default_rng(0).random((2, 1, 500)) < np.array([0.85, 0.8])[:, None, None]
    only_ours, only_theirs = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    expected = stats.binomtest(only_ours, only_ours + only_theirs).pvalue
    assert documents_test(ours[0], theirs[0]) == pytest.approx(expected)
    scores = pd.DataFrame([{"setting": s, "block": "0", "value": x.mean()} for s, x in (("a", theirs), ("b", ours))])
    row = compare_settings(scores, "a", {("a", "0"): theirs[0], ("b", "0"): ours[0]}, ALPHA).loc["b"]
    assert row["p"] == pytest.approx(expected) and row["low"] < ours.mean() - theirs.mean() < row["high"]


def crossed(
    rng: np.random.Generator, settings: int, runs: int, documents: int
) -> tuple[pd.DataFrame, dict[tuple[str, str], npt.NDArray[np.bool_]]]:
    """Equally good settings: their runs differ, and each finds other documents hard."""
    skill = 1 + rng.normal(size=documents)
    rows, correct = [], {}
    for setting in range(settings):
        own = skill + 0.5 * rng.normal(size=documents)
        for run in range(runs):
            right = own + 0.1 * rng.normal() + 0.5 * rng.normal(size=documents) > 0
            correct[f"s{setting}", str(run)] = right
            rows.append({"setting": f"s{setting}", "block": str(run), "value": right.mean()})
    return pd.DataFrame(rows), correct


def test_the_error_is_that_of_runs_and_documents_drawn_anew() -> None:
    """Against the spread of the difference over studies, each with new runs and new documents."""
    rng = np.random.default_rng(0)
    rows = pd.concat([compare_settings(*_of(crossed(rng, 2, 4, 400)), ALPHA) for _ in range(200)])
    assert np.sqrt((rows["error"] ** 2).mean()) == pytest.approx(rows["difference"].std(), rel=0.12)
    assert 0.1 < rows["from_runs"].mean() < 0.9


def _of(
    study: tuple[pd.DataFrame, dict[tuple[str, str], npt.NDArray[np.bool_]]],
) -> tuple[pd.DataFrame, str, dict[tuple[str, str], npt.NDArray[np.bool_]]]:
    return study[0], "s0", study[1]


def test_a_margin_makes_equal_settings_the_same_and_not_those_that_differ() -> None:
    rng = np.random.default_rng(0)
    table = rng.normal(0.9, 0.001, size=(3, 6)) + np.array([[0], [0], [0.02]])
    rows = compare_settings(scores_of(table), "s0", None, ALPHA, margin=0.01)
    assert rows.loc["s1", "p_same"] < 0.001 and rows.loc["s2", "p_same"] > 0.99 and rows.loc["s2", "p_adjusted"] < 0.001
    assert compare_settings(scores_of(table), "s0", None, ALPHA)["p_same"].isna().all()


def test_a_plan_says_how_many_runs_show_a_difference() -> None:
    rng = np.random.default_rng(0)
    scores = scores_of(rng.normal(size=(2, 50)))
    sd = compare_settings(scores, "s0", None, ALPHA).loc["s1", "error"] * np.sqrt(50)
    effects = [sd, 3 * sd, sd / 100]
    planned = compare_settings(scores, "s0", None, ALPHA, effects=effects).loc["s1", effects]
    assert planned.iloc[0] == np.ceil(TTestPower().solve_power(effect_size=1, alpha=ALPHA, power=0.8))
    assert planned.iloc[1] < planned.iloc[0] and np.isinf(planned.iloc[2])
    few = crossed(rng, 2, 5, 60)  # of which no number of runs can say anything finer
    assert np.isinf(compare_settings(few[0], "s0", few[1], ALPHA, effects=[0.005]).loc["s1", 0.005])


@pytest.mark.slow
@pytest.mark.parametrize("documents", [None, 300])
def test_no_effect_is_called_one_in_about_5_percent_of_studies(documents: int | None) -> None:
    rng = np.random.default_rng(0)
    single, any_of_three = [], []
    for _ in range(400):
        scores, correct = crossed(rng, 4, 5, documents or 300)
        if documents is None:
            scores["value"] = rng.normal(0.86, 0.003, size=len(scores)) + scores["block"].astype(int)
        rows = compare_settings(scores, "s0", correct if documents else None, ALPHA)
        single += (rows["p"] < ALPHA).tolist()
        any_of_three.append((rows["p_adjusted"] < ALPHA).any())
    assert 0.025 < np.mean(single) < 0.075  # 1,200 comparisons, three a study: two standard errors are 1.6 points
    assert np.mean(any_of_three) < 0.08  # Holm keeps 5 % for all of a study together


def test_a_large_effect_is_found_and_few_documents_show_nothing() -> None:
    rng = np.random.default_rng(0)
    skill = rng.random(3000)
    correct = {
        (setting, str(seed)): rng.random(3000) < np.clip(skill + gain, 0, 1)
        for setting, gain in (("old", 0.3), ("new", 0.36))
        for seed in range(5)
    }

    def scores(correct: dict[tuple[str, str], npt.NDArray[np.bool_]]) -> pd.DataFrame:
        return pd.DataFrame([{"setting": s, "block": b, "value": right.mean()} for (s, b), right in correct.items()])

    row = compare_settings(scores(correct), "old", correct, ALPHA).loc["new"]
    assert row["difference"] > 0.03 and row["p_adjusted"] < 0.01 and row["low"] > 0
    # The same scores on 30 documents would say nothing about others.
    few = {key: right[:30] for key, right in correct.items()}
    assert compare_settings(scores(few), "old", few, ALPHA).loc["new", "p_adjusted"] > 0.05


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
    assert row["p"] == pytest.approx(2 * stats.t.sf(abs(difference.mean()) / error, 4))
    assert row["high"] - row["difference"] == pytest.approx(error * stats.t.isf(0.025, 4))
    alone = pd.DataFrame(rows).assign(fold="0/5")  # five seeds on one fold share no more than seeds do
    assert compare_settings(alone, "a", None, 0.05).loc["b", "p"] == pytest.approx(stats.ttest_rel(ours, theirs).pvalue)


def test_documents_of_all_folds_are_asked_together() -> None:
    """Three seeds on each of two folds of unlike size, where one setting has every document right."""
    rows, correct = [], {}
    for setting in ("a", "b"):
        for seed in range(3):
            for fold, size in ((0, 30), (1, 20)):
                block = f"{seed} {fold}/2"
                right = np.arange(size) % 2 == 0 if setting == "a" else np.ones(size, dtype=bool)
                rows.append({"setting": setting, "block": block, "fold": f"{fold}/2", "value": right.mean()})
                correct[setting, block] = right
    row = compare_settings(pd.DataFrame(rows), "a", correct, 0.05).loc["b"]
    assert row["pairs"] == 6 and row["p"] < 0.001
