"""How many epochs a pruned search needs to be as good as another one: `make bench-search ARGS="data.limit=1000"`.

For each sampler seed, four searches of 20 trials by validation accuracy on the same articles: the notebook's random
search, random search in the project's own space, `hparams_search=optuna` without pruning, and as it comes, pruned. What
the pruned search spends until it is as good as the best that each of the others found in all its trials is compared
with what those spent. Further arguments go to every search. Runs on AG News where `AG_NEWS_PATH` is set, else on the
built-in corpus. A run that is given again goes on with the searches that are there, in `logs/bench/search`.
"""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from statistics import median

import optuna

from benchmarks.common import AG_NEWS, DATA_NAME, RESULTS, ROOT

Searches = dict[tuple[str, int], list[optuna.trial.FrozenTrial]]
SEARCHES = {
    "notebook": ["experiment=notebook/search"],
    "random": ["hparams_search=random"],
    "unpruned": ["hparams_search=optuna", "hparams_search/pruner=none"],
    "pruned": ["hparams_search=optuna"],
}
SEEDS = (0, 1, 2)


def run_search(kind: str, seed: int, arguments: list[str], folder: Path) -> list[optuna.trial.FrozenTrial]:
    """The trials of a search, in order."""
    storage = f"sqlite:///{folder}/{kind}-{seed}.db"
    command = [sys.executable, str(ROOT / "src" / "train.py"), "-m", *SEARCHES[kind]]
    command += ["monitor.metric=val/acc", "monitor.mode=max", f"hparams_search.sampler.seed={1000 * seed}"]
    command += [f"hparams_search.storage={storage}", f"hparams_search.study_name={kind}-{seed}"]
    command += [f"paths.log_dir={folder}", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return optuna.load_study(study_name=f"{kind}-{seed}", storage=storage).trials


def cost(trials: list[optuna.trial.FrozenTrial], target: float = float("inf")) -> tuple[int, float, float]:
    """Epochs and seconds until `target` was reached, or in all, and the best score by then."""
    epochs, seconds, best = 0, 0.0, 0.0
    for trial in trials:
        epochs += len(trial.intermediate_values)
        seconds += trial.duration.total_seconds() if trial.duration else 0.0
        best = max(best, trial.value or 0.0)
        if best >= target:
            break
    return epochs, seconds, best


def main() -> None:
    arguments = sys.argv[1:]
    if AG_NEWS:
        arguments = ["data=ag_news", f"data.path={AG_NEWS}", *arguments]
    folder = ROOT / "logs" / "bench" / "search"
    folder.mkdir(parents=True, exist_ok=True)
    trials = {}
    for seed in SEEDS:
        for kind in SEARCHES:
            trials[kind, seed] = run_search(kind, seed, arguments, folder)
            epochs, seconds, best = cost(trials[kind, seed])
            print(f"seed {seed} {kind}: best {best:.4f}, {epochs} epochs, {seconds:,.0f} s", flush=True)
    write(trials, sys.argv[1:])


def write(trials: Searches, arguments: list[str]) -> None:
    """search.md and search.png in `benchmarks/results`."""
    lines = [
        f"# search: {DATA_NAME}, {' '.join(arguments)}",
        "",
        "What the pruned search spends until it is as good as the best that another one found in 20 trials.",
        "",
        "| against | seed | its best | its epochs | its s | ours | epochs to it | s to it | epochs, ratio |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for other in (kind for kind in SEARCHES if kind != "pruned"):
        ratios = []
        for seed in SEEDS:
            epochs, seconds, target = cost(trials[other, seed])
            our_epochs, our_seconds, best = cost(trials["pruned", seed], target)
            ratios.append(our_epochs / epochs if best >= target else float("inf"))
            reached = f"{ratios[-1]:.2f}" if best >= target else "not reached"
            cells = (
                f"{target:.4f}",
                f"{epochs}",
                f"{seconds:,.0f}",
                f"{best:.4f}",
                f"{our_epochs}",
                f"{our_seconds:,.0f}",
            )
            lines.append(f"| {other} | {seed} | {' | '.join(cells)} | {reached} |")
        lines.append(f"| {other} | median | | | | | | | {median(ratios):.2f} |")
    overhead = median(_overhead(found) for found in trials.values())
    lines += ["", f"Outside of the trials: {overhead:.2f} s a trial (median of the searches; target <= 1 s)."]
    text = "\n".join(lines) + "\n"
    (RESULTS / "search.md").write_text(text, encoding="utf-8")
    print(text)
    _draw(trials)


def _draw(trials: Searches) -> None:
    """The best score by the epochs spent, a line a search."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4), layout="constrained")
    for number, kind in enumerate(SEARCHES):
        for seed in SEEDS:
            found = trials[kind, seed]
            points = [cost(found[: count + 1]) for count in range(len(found))]
            label = kind if seed == SEEDS[0] else None
            spent, best = [point[0] for point in points], [point[2] for point in points]
            axes.step(spent, best, where="post", color=f"C{number}", alpha=0.8, label=label)
    axes.set(xlabel="epochs spent", ylabel="best validation accuracy so far")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(RESULTS / "search.png", dpi=120)


def _overhead(trials: list[optuna.trial.FrozenTrial]) -> float:
    """Median seconds from the end of a trial to the start of the next."""
    gaps = [(b.datetime_start - a.datetime_complete).total_seconds() for a, b in pairwise(trials)]  # type: ignore[operator]
    return median(gaps)


if __name__ == "__main__":
    main()
