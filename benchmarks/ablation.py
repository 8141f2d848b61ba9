"""What an ablation errs and saves, on simulated studies of known truths: `python -m benchmarks ablation`.

Nine changes of a model; each setting's spread over seeds is drawn from 0.3 to 0.9 points (1:3), log-uniformly. In "no
effect" none makes a difference, in "mixed" five do, of 0.7 to 4 points, in "few large" three. Beside it stands the
fixed number of seeds for all settings, each with a paired t-test and Holm's rule, that finds as many of the effects.
"""

import numpy as np
import numpy.typing as npt
from scipy import stats

from attnlab.ablation.sequential import BETTER, OPEN, SAME, WORSE, Plan, judge
from benchmarks.common import RESULTS, Row

PLAN = Plan(alpha=0.05, margin=0.003, first=3, last=16)
STUDIES = {
    "no effect": (0.0,) * 9,
    "mixed": (0, 0, 0, 0, 0.7, -1, 1.5, -2.5, 4),
    "few large": (0, 0, 0, 0, 0, 0, 1.5, -2, 4),
}
NUMBER = {"no effect": 3000, "mixed": 1500, "few large": 1500}
FIXED = range(3, 31)
Numbers = npt.NDArray[np.float64]


def draw(effects: Numbers, rng: np.random.Generator, seeds: int) -> Numbers:
    """The difference of each change from the model, by seed: [changes, seeds]."""
    spreads = 0.003 * np.exp(rng.uniform(0, np.log(3), len(effects) + 1))
    values = spreads[:, None] * rng.standard_normal((len(spreads), seeds))
    return effects[:, None] + values[1:] - values[0]


def adaptive(effects: Numbers, rng: np.random.Generator) -> tuple[int, float, bool]:
    """Runs, the share of the effects found, and whether a verdict was wrong."""
    values = draw(effects, rng, PLAN.last)
    seeds = np.full(len(effects), PLAN.first)
    while True:
        found = judge({str(k): values[k, : seeds[k]] for k in range(len(effects))}, PLAN, len(effects))
        waiting = [k for k in range(len(effects)) if found[str(k)].verdict == OPEN]
        if not waiting:
            break
        seeds[min(waiting, key=lambda k: (found[str(k)].further, seeds[k]))] += 1
    verdicts = [found[str(k)].verdict for k in range(len(effects))]
    right = [verdict == (BETTER if effect > 0 else WORSE) for verdict, effect in zip(verdicts, effects, strict=True)]
    wrong = any(
        (verdict in (BETTER, WORSE) and not ok) or (verdict == SAME and abs(effect) >= PLAN.margin)
        for verdict, ok, effect in zip(verdicts, right, effects, strict=True)
    ) or any(v in (BETTER, WORSE) and e == 0 for v, e in zip(verdicts, effects, strict=True))
    real = effects != 0
    return int(seeds.sum() + seeds.max()), float(np.mean(np.array(right)[real])) if real.any() else 0.0, wrong


def fixed_power(effects: Numbers, rng: np.random.Generator, seeds: int) -> float:
    """The share of the effects that so many seeds of every setting find."""
    values = draw(effects, rng, seeds)
    t = values.mean(axis=1) / values.std(axis=1, ddof=1) * np.sqrt(seeds)
    p = 2 * stats.t.sf(np.abs(t), seeds - 1)
    order, found = np.argsort(p), np.zeros(len(effects), dtype=bool)
    for rank, k in enumerate(order):
        if p[k] > PLAN.alpha / (len(effects) - rank):
            break
        found[k] = True
    return float((found & (np.sign(t) == np.sign(effects)))[effects != 0].mean())


def measure() -> list[Row]:
    """Family-wise error and runs; `ablation.png` beside them."""
    rows, power = [], {}
    for name, points in STUDIES.items():
        effects, rng = np.array(points, dtype=np.float64) / 100, np.random.default_rng(2)
        runs, found, wrong = map(np.mean, zip(*(adaptive(effects, rng) for _ in range(NUMBER[name])), strict=True))
        rows.append(Row(f"{name}: family-wise error", float(wrong), None, float(wrong), "share", 0.055, at_least=False))
        if not effects.any():
            continue
        powers = np.array([np.mean([fixed_power(effects, rng, n) for _ in range(1500)]) for n in FIXED])
        needed = float(np.interp(found, np.maximum.accumulate(powers), FIXED))
        fixed = needed * (len(effects) + 1)
        power[name] = (powers, float(runs), float(found))
        rows.append(
            Row(f"{name}: runs at power {found:.2f}", float(runs), fixed, float(runs) / fixed, "runs", 0.6, False)
        )
    _draw(power)
    return rows


def _draw(power: dict[str, tuple[Numbers, float, float]]) -> None:
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.use("Agg")
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="runs", ylabel="share of the true differences found")
    for number, (name, (powers, runs, found)) in enumerate(power.items()):
        axes.plot([10 * n for n in FIXED], powers, color=f"C{number}", label=f"{name}: fixed number of seeds")
        axes.plot(runs, found, "D", color=f"C{number}", label=f"{name}: ablation=parts")
    axes.legend(fontsize=8)
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(RESULTS / "ablation-power.png", dpi=120)


if __name__ == "__main__":
    from benchmarks.report import write

    write("ablation", measure())
