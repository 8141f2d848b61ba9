"""Verdicts that may be looked at after every seed, and which of them is nearest to falling.

A *question* is a contrast of settings, one value a seed: the changed model's score less the model's own, or for an
interaction what two changes together make beyond their sum. After n seeds it is asked with a t-test on those n values,
which no unequal spreads disturb, as each question has its own. Looking again and again would find a difference where
there is none sooner or later, so the looks share one chance of error: which part of it may be used up by then (Lan and
DeMets, 1983) is a power of the share of seeds (Kim and DeMets, 1987), and `bounds` says how far out t has to be.
Whenever one stops, for whatever reason, the chance of error stays below the level.

All questions share `alpha` by Holm's rule (Maurer and Bretz, 2013, for its use with several looks): K open ones are
asked at `alpha / K` each. An interval within `margin` on both sides of 0 is an answer too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr

Values = npt.NDArray[np.float64]

SIMULATIONS = 300_000  # of which the bounds are made: their level is off by 3 % of itself
POWER = 2.0  # of the share of seeds; 3 is like O'Brien and Fleming's bounds, 1 like Pocock's
WORTH_A_TRY = 0.2  # chance of a verdict below which a setting gets no more runs

BETTER, WORSE, SAME, OPEN, LEFT = "better", "worse", "same", "open", "left"


@dataclass(frozen=True)
class Plan:
    """What decides verdicts.

    Attributes:
        alpha: chance of any wrong verdict, over all questions and all looks.
        margin: a difference that is not worth it, as a share; 0 for none.
        first, last: seeds that each setting begins with, and at most.
    """

    alpha: float
    margin: float
    first: int
    last: int


@dataclass(frozen=True)
class Standing:
    """How a question stands after `seeds` of them.

    Attributes:
        difference, low, high: estimate and interval, which holds for all questions and looks together.
        verdict: "better", "worse", "same" (within the margin), "open", or "left": open, and hardly to be decided with
            the seeds that are left.
        further: seeds until it falls, if it goes on as it stands; infinite where it would not.
    """

    seeds: int
    difference: float
    low: float
    high: float
    verdict: str
    further: float = 0.0


@cache
def _sequences(last: int) -> Values:
    """|t| after 1, 2, ... seeds where there is no difference: [SIMULATIONS, last]."""
    values = np.random.default_rng(0).standard_normal((SIMULATIONS, last), dtype=np.float32)
    seeds = np.arange(1, last + 1, dtype=np.float32)
    mean = values.cumsum(axis=1) / seeds
    with np.errstate(divide="ignore", invalid="ignore"):
        sd = np.sqrt((np.square(values).cumsum(axis=1) - seeds * mean**2) / (seeds - 1))
        return np.abs(mean) / sd * np.sqrt(seeds)


@cache
def bounds(level: float, first: int, last: int) -> Values:
    """How far |t| has to be out after n seeds to be significant: [last + 1], by n; infinite where nothing is.

    Found by simulation, as a t of few seeds has no closed form over several looks.
    """
    sequences = _sequences(last)
    inside = np.ones(len(sequences), dtype=bool)
    found = np.full(last + 1, np.inf)
    for seeds in range(first, last + 1):
        allowed = round(level * (seeds / last) ** POWER * SIMULATIONS) - int((~inside).sum())
        if allowed > 0:
            t = sequences[:, seeds - 1]
            found[seeds] = np.partition(t[inside], -allowed - 1)[-allowed - 1]
            inside &= t <= found[seeds]
    return found


def spreads_to_show(plan: Plan, size: int, seeds: int) -> float:
    """How many times its spread over seeds a difference has to be to show after so many, if it is the first to."""
    return float(bounds(plan.alpha / size, plan.first, plan.last)[seeds] / np.sqrt(seeds))


def judge(questions: Mapping[str, Values], plan: Plan, size: int, left: float = np.inf) -> dict[str, Standing]:
    """How each question stands.

    Args:
        questions: the contrast after each seed.
        size: how many questions there are in all, those that are not asked yet among them.
        left: runs that the budget still has.
    """
    standings: dict[str, Standing] = {}
    while True:
        level = plan.alpha / max(1, size - sum(found.verdict in (BETTER, WORSE) for found in standings.values()))
        undecided = [
            name for name in questions if name not in standings or standings[name].verdict not in (BETTER, WORSE)
        ]
        latest = {name: _judge_one(questions[name], plan, level, plan.alpha / size, left) for name in undecided}
        standings |= latest
        if not any(standing.verdict in (BETTER, WORSE) for standing in latest.values()):
            return {name: standings[name] for name in questions}


def _judge_one(values: Values, plan: Plan, level: float, strict: float, left: float) -> Standing:
    """`strict` is the level of equivalence, which Holm's rule does not raise."""
    seeds = min(len(values), plan.last)
    if seeds < max(2, plan.first):
        mean = float(values.mean()) if seeds else np.nan
        return Standing(seeds, mean, -np.inf, np.inf, OPEN, max(2, plan.first) - seeds)
    values = values[:seeds]
    difference, sd = float(values.mean()), max(float(values.std(ddof=1)), 1e-9)
    looks = np.arange(seeds, int(min(plan.last, seeds + left)) + 1)
    half = bounds(level, plan.first, plan.last)[looks] * sd / np.sqrt(looks)
    narrow = plan.margin - bounds(strict, plan.first, plan.last)[looks] * sd / np.sqrt(looks)  # what equivalence takes
    found = (seeds, difference, difference - half[0], difference + half[0])
    if abs(difference) > half[0]:
        return Standing(*found, BETTER if difference > 0 else WORSE)
    if abs(difference) < narrow[0]:
        return Standing(*found, SAME)
    if len(looks) == 1 or _chance(difference, sd, looks[[0, -1]], half[-1], narrow[-1]) < WORTH_A_TRY:
        return Standing(*found, LEFT)
    falls = np.flatnonzero((abs(difference) > half) | (abs(difference) < narrow))
    return Standing(*found, OPEN, float(falls[0]) if len(falls) else np.inf)


def _chance(difference: float, sd: float, looks: npt.NDArray[np.int64], half: float, narrow: float) -> float:
    """Of a verdict at the last look, by what is known now: the predictive distribution of the mean then."""
    spread = sd * np.sqrt(1 / looks[0] - 1 / looks[1])

    def below(value: float) -> float:
        return float(stdtr(looks[0] - 1, (value - difference) / spread))

    return below(-half) + 1 - below(half) + max(0.0, below(narrow) - below(-narrow))
