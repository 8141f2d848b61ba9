"""What an ablation errs and saves, where the truth is known: `python -m benchmarks ablation`.

Simulated studies of nine changes; each setting's spread over seeds is drawn from 0.3 to 0.9 points (1:3),
log-uniformly. In "no effect" none makes a difference, in "mixed" five do, of 0.7 to 4 points, in "few large" three.
Beside it stands the fixed number of seeds for all settings, each with a paired t-test and Holm's rule, that finds as
many of the effects.

The command itself, on the built-in corpus: positions are worth at most what lies between the ceilings of models that
see order and of models that don't (`docs/results.md`), which grows with `data.order_share`; weights of its classes,
which are equally large, are worth nothing.
"""

import numpy as np
import numpy.typing as npt
import pandas as pd
from omegaconf import OmegaConf
from scipy import stats

from attnlab.experiments.ablation.ablate import MARGIN
from attnlab.experiments.ablation.sequential import BETTER, OPEN, SAME, WORSE, Plan, judge
from benchmarks.common import RESULTS, ROOT, Row, folder, run

PARTS = OmegaConf.load(ROOT / "conf" / "ablation" / "parts.yaml").ablation
PLAN = Plan(PARTS.alpha, MARGIN / 100, PARTS.seeds, PARTS.max_seeds)
STUDIES = {
    "no effect": (0.0,) * 9,
    "mixed": (0, 0, 0, 0, 0.7, -1, 1.5, -2.5, 4),
    "few large": (0, 0, 0, 0, 0, 0, 1.5, -2, 4),
}
NUMBER = {"no effect": 3000, "mixed": 1500, "few large": 1500}
FIXED = range(3, 31)
ORDER = (0.0, 0.05, 0.3)  # shares of the corpus's documents in which the order of the sentences decides
NOISE = 0.05
COMMAND = ["-m", "ablation=parts", "ablation.change={pe: [none], task.class_weights: [balanced]}", "ablation.margin=1"]
COMMAND += [f"data.noise={NOISE}", "data.test_size=5000", "ablation.name=corpus"]
Numbers = npt.NDArray[np.float64]


def draw(effects: Numbers, rng: np.random.Generator, seeds: int) -> Numbers:
    """The difference of each change from the model, by seed: [changes, seeds]."""
    spreads = 0.003 * np.exp(rng.uniform(0, np.log(3), len(effects) + 1))
    values = spreads[:, None] * rng.standard_normal((len(spreads), seeds))
    return effects[:, None] + values[1:] - values[0]


def adaptive(effects: Numbers, rng: np.random.Generator) -> tuple[int, float, bool]:
    """Runs, the share of the effects found, and whether a verdict was wrong."""
    values = draw(effects, rng, PLAN.max_seeds)
    seeds = np.full(len(effects), PLAN.min_seeds)
    while True:
        found = judge({str(k): values[k, : seeds[k]] for k in range(len(effects))}, PLAN, len(effects))
        waiting = [k for k in range(len(effects)) if found[str(k)].verdict == OPEN]
        if not waiting:
            break
        seeds[min(waiting, key=lambda k: (found[str(k)].seeds_to_verdict, seeds[k]))] += 1
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
    return [*simulated(), *on_the_corpus()]


def on_the_corpus() -> list[Row]:
    """What the command finds, beside what is there to be found, in points."""
    rows, right, runs = [], [], 0
    for share in ORDER:
        print(f"ablation=parts on the built-in corpus, order_share={share}", flush=True)
        there = 100 * share * ((1 - NOISE) / 2)  # between the ceilings
        with folder() as place:
            run(*COMMAND, f"data.order_share={share}", f"paths.log_dir={place}", threads=None)
            sweep = place / "train" / "ablations" / "corpus"
            found = pd.read_csv(sweep / "ablation.csv", index_col="change")
            runs += len(list(sweep.glob("*/metrics.json")))
        print(found[["worth", "low", "high", "verdict", "seeds"]], flush=True)
        order, weights = (found[found["part"] == part].iloc[0] for part in ("positions", "class weights"))
        right += [
            (order["verdict"] == "matters") == bool(share),
            weights["verdict"] not in ("matters", "better changed"),
        ]
        for part, row, truth in (("positions", order, there), ("weights of equal classes", weights, 0.0)):
            worth = 100 * row["worth"]
            rows.append(
                Row(f"order decides {share:.0%}: {part} worth, {row['verdict']}", worth, truth, worth - truth, "points")
            )
    rows.append(Row(f"right of {len(right)} verdicts", sum(right), None, sum(right), "", len(right)))
    most = 3 * PLAN.max_seeds * len(ORDER)
    return [
        *rows,
        Row(f"runs, against {PLAN.max_seeds} seeds of each setting", runs, most, runs / most, "runs", 0.6, False),
    ]


def simulated() -> list[Row]:
    """Family-wise error and runs; `ablation-power.png` beside them."""
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
