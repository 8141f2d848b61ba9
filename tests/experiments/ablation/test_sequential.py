from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from attnlab.experiments.ablation.sequential import (
    BETTER,
    OPEN,
    SAME,
    UNDECIDABLE,
    WORSE,
    Plan,
    bounds,
    judge,
    spreads_to_show,
)

PLAN = Plan(alpha=0.05, margin=0.003, min_seeds=3, max_seeds=10)


def values(mean: float, sd: float, seeds: int) -> np.ndarray:
    """With exactly this mean and standard deviation."""
    drawn = np.random.default_rng(0).standard_normal(seeds)
    return mean + sd * (drawn - drawn.mean()) / drawn.std(ddof=1)


def test_looking_after_every_seed_errs_as_often_as_the_level_says() -> None:
    seen = np.random.default_rng(7).standard_normal((40_000, 10))
    out = bounds(0.05, 3, 10)
    crossed = np.zeros(len(seen), dtype=bool)
    for seeds in range(3, 11):
        part = seen[:, :seeds]
        crossed |= np.abs(part.mean(axis=1)) / part.std(axis=1, ddof=1) * np.sqrt(seeds) > out[seeds]
    assert crossed.mean() == pytest.approx(0.05, abs=0.004)
    assert np.isinf(out[:3]).all()


@pytest.mark.parametrize("last", [5, 20, 100])
def test_the_first_bound_is_a_quantile_of_t_and_all_are_finite(last: int) -> None:
    for first in (2, 3, 5):
        for questions in (1, 14, 40):
            level = 0.05 / questions
            out = bounds(level, first, last)
            assert out[first] == pytest.approx(stats.t.isf(level * (first / last) ** 2 / 2, first - 1), rel=0.01)
            assert np.isfinite(out[first:]).all() and (np.diff(out[first:]) < 0).all()
            assert out[last] > stats.t.isf(level / 2, last - 1)  # all looks together cost more than the last alone


@pytest.mark.parametrize(("alpha", "first", "last"), [(1e-12, 2, 100), (0.99, 2, 6), (0.05, 5, 5)])
def test_bounds_of_extreme_settings_are_numbers(alpha: float, first: int, last: int) -> None:
    assert np.isfinite(bounds(alpha, first, last)[first:]).all()


@pytest.mark.parametrize(("first", "last", "questions"), [(2, 20, 15), (3, 20, 1), (3, 100, 14)])
def test_all_questions_and_looks_together_err_as_often_as_alpha(first: int, last: int, questions: int) -> None:
    out, draw, studies = bounds(0.05 / questions, first, last), np.random.default_rng(3), 8000
    wrong = np.zeros(studies, dtype=bool)
    seeds = np.arange(1, last + 1)
    for _ in range(questions):
        seen = draw.standard_normal((studies, last))
        sums, squares = seen.cumsum(axis=1), np.square(seen).cumsum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            t = sums / np.sqrt(seeds) / np.sqrt((squares - sums**2 / seeds) / (seeds - 1))
        wrong |= (np.abs(t) > out[1:])[:, first - 1 :].any(axis=1)
    assert wrong.mean() == pytest.approx(0.05, abs=0.0075)  # three standard errors


@pytest.mark.parametrize(
    ("mean", "sd", "seeds", "verdict"),
    [
        (0.05, 0.002, 6, BETTER),
        (-0.05, 0.002, 6, WORSE),
        (0.0, 0.0005, 6, SAME),
        (0.01, 0.01, 4, OPEN),
        (0.001, 0.02, 9, UNDECIDABLE),
        (0.05, 0.002, 2, OPEN),
    ],
)
def test_a_verdict(mean: float, sd: float, seeds: int, verdict: str) -> None:
    (standing,) = judge({"one": values(mean, sd, seeds)}, PLAN, 1).values()
    assert standing.verdict == verdict and standing.seeds == seeds


def test_what_is_clearer_falls_sooner_and_a_spent_budget_leaves_what_is_open() -> None:
    asked = {"clear": values(0.02, 0.006, 4), "dim": values(0.012, 0.006, 4)}
    standings = judge(asked, PLAN, 2)
    assert standings["clear"].seeds_to_verdict < standings["dim"].seeds_to_verdict
    assert {standing.verdict for standing in judge(asked, PLAN, 2, left=0).values()} <= {BETTER, UNDECIDABLE}


def test_so_many_spreads_show_and_no_fewer() -> None:
    needed = spreads_to_show(PLAN, 2, 6)
    for spreads, verdict in ((1.001 * needed, BETTER), (0.999 * needed, OPEN)):
        assert judge({"one": values(spreads * 0.01, 0.01, 6)}, PLAN, 2)["one"].verdict == verdict
    assert spreads_to_show(replace(PLAN, max_seeds=6), 2, 6) < needed < spreads_to_show(PLAN, 2, 5)


def test_one_that_has_fallen_leaves_the_others_its_part_of_alpha() -> None:
    clear = values(0.05, 0.002, 8)
    alone = judge({"dim": values(0.01, 0.01, 8)}, PLAN, 2)["dim"]
    beside = judge({"dim": values(0.01, 0.01, 8), "clear": clear}, PLAN, 2)["dim"]
    assert beside.high - beside.low < alone.high - alone.low
