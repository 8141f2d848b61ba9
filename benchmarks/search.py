"""How many epochs a pruned search needs to be as good as a random one: `python benchmarks/search.py`.

For each sampler seed, three searches of 20 trials by validation accuracy on the same articles: the notebook's
random search, random search in the project's own space, and `hparams_search=optuna`, which prunes. What the pruned
search spends until it is as good as the best that each of the others found in all its trials is compared with what
those spent. Further arguments go to every search. Runs on AG News where `AG_NEWS_PATH` is set, else on the built-in
corpus.
"""

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from statistics import median

import optuna
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parent.parent
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
    console = Console()
    arguments = sys.argv[1:]
    if path := os.environ.get("AG_NEWS_PATH"):
        arguments = ["data=ag_news", f"data.path={path}", *arguments]
    folder = ROOT / "logs" / "bench" / "search"
    folder.mkdir(parents=True, exist_ok=True)
    columns = ("seed", "against", "its best", "its epochs", "its s", "ours", "epochs to it", "s to it", "epochs, ratio")
    table = Table(*columns, title="A pruned search against unpruned ones", title_justify="left")
    ratios: dict[str, list[float]] = {kind: [] for kind in SEARCHES if kind != "pruned"}
    for seed in SEEDS:
        trials = {kind: run_search(kind, seed, arguments, folder) for kind in SEARCHES}
        for other, found in ratios.items():
            epochs, seconds, target = cost(trials[other])
            our_epochs, our_seconds, best = cost(trials["pruned"], target)
            found.append(our_epochs / epochs if best >= target else float("inf"))
            reached = f"{found[-1]:.2f}" if best >= target else "not reached"
            row = (target, epochs, seconds, best, our_epochs, our_seconds)
            table.add_row(str(seed), other, *(f"{v:.4f}" if 0 < v < 1 else f"{v:,.0f}" for v in row), reached)
        overhead = _overhead(trials["random"])
        console.print(f"seed {seed}: {overhead:.2f} s a trial outside of the trial")
    console.print(table)
    for other, found in ratios.items():
        console.print(f"epochs against {other}: median {median(found):.2f}")


def _overhead(trials: list[optuna.trial.FrozenTrial]) -> float:
    """Mean seconds from the end of a trial to the start of the next."""
    gaps = [(b.datetime_start - a.datetime_complete).total_seconds() for a, b in pairwise(trials)]  # type: ignore[operator]
    return sum(gaps) / len(gaps)


if __name__ == "__main__":
    main()
