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
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt
from scipy import special, stats

Values = npt.NDArray[np.float64]

EDGES = np.linspace(0.0, 10.0, 301)  # of cells of normal scores; the last is out at a chance of 1e-23
POWER = 2.0  # of the share of seeds; 3 is like O'Brien and Fleming's bounds, 1 like Pocock's
WORTH_A_TRY = 0.2  # chance of a verdict below which a setting gets no more runs

BETTER, WORSE, SAME, OPEN, UNDECIDABLE = "better", "worse", "same", "open", "undecidable"


@dataclass(frozen=True)
class Plan:
    """What decides verdicts.

    Attributes:
        alpha: chance of any wrong verdict, over all questions and all looks.
        margin: a difference that is not worth it, as a share; 0 for none.
        min_seeds, max_seeds: seeds that each setting starts with, and has at most.
    """

    alpha: float
    margin: float
    min_seeds: int
    max_seeds: int


@dataclass(frozen=True)
class Standing:
    """How a question stands after `seeds` of them.

    Attributes:
        difference, low, high: estimate and interval, which holds for all questions and looks together.
        verdict: "better", "worse", "same" (within the margin), "open", or "undecidable": open, and unlikely
            to be decided with the seeds that are left.
        seeds_to_verdict: more seeds that it takes if difference and spread stay; infinite if no number does.
    """

    seeds: int
    difference: float
    low: float
    high: float
    verdict: str
    seeds_to_verdict: float = 0.0


def _t_at(score: Values, seeds: int) -> Values:
    """The t of so many seeds that is as far out as a normal `score`, however far that is."""
    return np.asarray(stats.t.isf(stats.norm.sf(score), seeds - 1))


@lru_cache(maxsize=128)
def _chance_beyond(seeds: int) -> Values:
    """P(|t| after one seed more is beyond an edge | |t| after `seeds` is in a cell): [cells, edges].

    Where there is no difference, the direction of the values is independent of their length. So w = sum / length is a
    Markov chain: the next is w cos(a) + sin(a) with an angle a for which sqrt(seeds) tan(a) is a t of `seeds` degrees
    of freedom. It passes a bound while a is within an arc about the angle of (w, 1).
    """
    now, then = _t_at((EDGES[1:] + EDGES[:-1]) / 2, seeds)[:, None], _t_at(EDGES, seeds + 1)
    w = np.sqrt(seeds * now**2 / (seeds - 1 + now**2))
    bound = np.sqrt((seeds + 1) * then**2 / (seeds + then**2))
    # 1 + w^2 - bound^2, without taking nearly equal numbers from each other
    room = (seeds + 1) * seeds / (seeds + then**2) - seeds * (seeds - 1) / (seeds - 1 + now**2)
    half = np.where(room > 0, np.arctan2(np.sqrt(np.maximum(room, 0.0)), bound), 0.0)
    angles = np.linspace(-np.pi / 2, np.pi / 2, 8001)
    below = special.stdtr(seeds, np.sqrt(seeds) * np.tan(angles))
    chance = np.zeros_like(half)
    for middle in (np.arctan2(1.0, w), np.arctan2(1.0, -w)):  # on the side where it is, and on the other
        start, end = (np.clip(middle + part, angles[0], angles[-1]) for part in (-half, half))
        chance += np.interp(end, angles, below) - np.interp(start, angles, below)
    return np.maximum(chance, 0.0)


@cache
def bounds(level: float, first: int, last: int) -> Values:
    """How far |t| has to be out after n seeds to be significant: [last + 1], by n; infinite before `first`.

    The first is a quantile of t. The others follow from what each look leaves undecided, carried on from look to look
    (Armitage, McPherson and Rowe, 1969) in cells of the normal score of |t|.
    """
    found = np.full(last + 1, np.inf)
    spent = level * (np.arange(last + 1) / last) ** POWER
    spent[:first] = 0.0
    inside = np.zeros(len(EDGES) - 1)  # the chance of each cell, and of no verdict so far
    for seeds in range(first, last + 1):
        allowed = spent[seeds] - spent[seeds - 1]
        beyond = inside @ _chance_beyond(seeds - 1) if seeds > first else 2 * stats.norm.sf(EDGES)
        if seeds == first:
            score = float(stats.norm.isf(allowed / 2))
        else:
            score = float(np.interp(-np.log(allowed), -np.log(np.maximum(beyond, 1e-300)), EDGES))
        found[seeds] = _t_at(np.array(score), seeds)
        inside = -np.diff(beyond)
        cut = min(int(score / EDGES[1]), len(inside) - 1)
        inside[cut:] = 0.0
        # What is left of the cell that the bound cuts goes to it and the one before, so that its mean stays.
        left, share = beyond[cut] - allowed, (1 + (score - EDGES[cut]) / EDGES[1]) / 2
        inside[cut] = left * share
        inside[max(cut - 1, 0)] += left * (1 - share)
    return found


def spreads_to_show(plan: Plan, size: int, seeds: int) -> float:
    """How many times its spread over seeds a difference has to be to show after so many, if it is the first to."""
    return float(bounds(plan.alpha / size, plan.min_seeds, plan.max_seeds)[seeds] / np.sqrt(seeds))


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
    seeds = min(len(values), plan.max_seeds)
    if seeds < max(2, plan.min_seeds):
        mean = float(values.mean()) if seeds else np.nan
        return Standing(seeds, mean, -np.inf, np.inf, OPEN, max(2, plan.min_seeds) - seeds)
    values = values[:seeds]
    difference, sd = float(values.mean()), max(float(values.std(ddof=1)), 1e-9)
    looks = np.arange(seeds, int(min(plan.max_seeds, seeds + left)) + 1)
    half = bounds(level, plan.min_seeds, plan.max_seeds)[looks] * sd / np.sqrt(looks)
    narrow = plan.margin - bounds(strict, plan.min_seeds, plan.max_seeds)[looks] * sd / np.sqrt(
        looks
    )  # what equivalence takes
    found = (seeds, difference, difference - half[0], difference + half[0])
    if abs(difference) > half[0]:
        return Standing(*found, BETTER if difference > 0 else WORSE)
    if abs(difference) < narrow[0]:
        return Standing(*found, SAME)
    if len(looks) == 1 or _chance(difference, sd, looks[[0, -1]], half[-1], narrow[-1]) < WORTH_A_TRY:
        return Standing(*found, UNDECIDABLE)
    falls = np.flatnonzero((abs(difference) > half) | (abs(difference) < narrow))
    return Standing(*found, OPEN, float(falls[0]) if len(falls) else np.inf)


def _chance(difference: float, sd: float, looks: npt.NDArray[np.int64], half: float, narrow: float) -> float:
    """Of a verdict at the last look, by what is known now: the predictive distribution of the mean then."""
    spread = sd * np.sqrt(1 / looks[0] - 1 / looks[1])

    def below(value: float) -> float:
        return float(special.stdtr(looks[0] - 1, (value - difference) / spread))

    return below(-half) + 1 - below(half) + max(0.0, below(narrow) - below(-narrow))
