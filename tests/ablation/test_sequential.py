from dataclasses import replace

import numpy as np
import pytest

from attnlab.ablation.sequential import BETTER, LEFT, OPEN, SAME, WORSE, Plan, bounds, judge, spreads_to_show

PLAN = Plan(alpha=0.05, margin=0.003, first=3, last=10)


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


@pytest.mark.parametrize(
    ("mean", "sd", "seeds", "verdict"),
    [
        (0.05, 0.002, 6, BETTER),
        (-0.05, 0.002, 6, WORSE),
        (0.0, 0.0005, 6, SAME),
        (0.01, 0.01, 4, OPEN),
        (0.001, 0.02, 9, LEFT),
        (0.05, 0.002, 2, OPEN),
    ],
)
def test_a_verdict(mean: float, sd: float, seeds: int, verdict: str) -> None:
    (standing,) = judge({"one": values(mean, sd, seeds)}, PLAN, 1).values()
    assert standing.verdict == verdict and standing.seeds == seeds


def test_what_is_clearer_falls_sooner_and_a_spent_budget_leaves_what_is_open() -> None:
    asked = {"clear": values(0.02, 0.006, 4), "dim": values(0.012, 0.006, 4)}
    standings = judge(asked, PLAN, 2)
    assert standings["clear"].further < standings["dim"].further
    assert {standing.verdict for standing in judge(asked, PLAN, 2, left=0).values()} <= {BETTER, LEFT}


def test_so_many_spreads_show_and_no_fewer() -> None:
    needed = spreads_to_show(PLAN, 2, 6)
    for spreads, verdict in ((1.001 * needed, BETTER), (0.999 * needed, OPEN)):
        assert judge({"one": values(spreads * 0.01, 0.01, 6)}, PLAN, 2)["one"].verdict == verdict
    assert spreads_to_show(replace(PLAN, last=6), 2, 6) < needed < spreads_to_show(PLAN, 2, 5)


def test_one_that_has_fallen_leaves_the_others_its_part_of_alpha() -> None:
    clear = values(0.05, 0.002, 8)
    alone = judge({"dim": values(0.01, 0.01, 8)}, PLAN, 2)["dim"]
    beside = judge({"dim": values(0.01, 0.01, 8), "clear": clear}, PLAN, 2)["dim"]
    assert beside.high - beside.low < alone.high - alone.low
