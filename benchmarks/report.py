"""Measurements as files: one table a part, and figures."""

import platform
from pathlib import Path

import matplotlib
import pandas as pd
import torch

from benchmarks.common import DATA_NAME, RESULTS, THREADS, Row

matplotlib.use("Agg")

BUILT_IN = ("sweep", "sweeps", "ablation")  # whatever AG_NEWS_PATH says


def write(part: str, rows: list[Row]) -> None:
    """`<part>.md`, and a figure where there is something to see."""
    from matplotlib import pyplot

    RESULTS.mkdir(exist_ok=True)
    data = "built-in corpus" if part in BUILT_IN else DATA_NAME
    lines = [
        f"# {part}: {data}, {THREADS} threads, torch {torch.__version__}, Python {platform.python_version()}",
        "",
        "| what | ours | peer | unit | measure | target | |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *map(_line, rows),
    ]
    text = "\n".join(lines) + "\n"
    (RESULTS / f"{part}.md").write_text(text, encoding="utf-8")
    print(text, flush=True)
    if part == "scaling":
        _draw_scaling(RESULTS / "scaling.png", rows)
    elif judged := [row for row in rows if row.target is not None]:
        figure, axes = pyplot.subplots(figsize=(8, 0.5 + 0.5 * len(judged)), layout="constrained")
        colors = ["tab:green" if row.passed else "tab:red" for row in judged]
        axes.barh(range(len(judged)), [row.ratio / (row.target or 1) for row in judged], color=colors)
        axes.set_yticks(
            range(len(judged)), [f"{row.what}\n({_sign(row)} {row.target:g})" for row in judged], fontsize=7
        )
        axes.axvline(1, color="black", linewidth=1)
        axes.invert_yaxis()
        axes.set_xlabel("measure as a multiple of its target (green: met)")
        figure.savefig(RESULTS / f"{part}.png", dpi=120)


def _line(row: Row) -> str:
    peer = "" if row.peer is None else _number(row.peer)
    target, verdict = "", ""
    if row.target is not None:
        target, verdict = f"{_sign(row)} {row.target:g}", "pass" if row.passed else "miss"
    cells = row.what, _number(row.ours), peer, row.unit, _number(row.ratio), target, verdict
    return f"| {' | '.join(cells)} |"


def _sign(row: Row) -> str:
    return ">=" if row.at_least else "<="


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.4f}" if abs(value) < 1 else f"{value:.2f}"


def _draw_scaling(file: Path, rows: list[Row]) -> None:
    from matplotlib import pyplot

    table = pd.DataFrame(
        [(*row.what.split(), row.ours, row.peer) for row in rows], columns=["model", "size", "ours", "bare"]
    )
    table[["setting", "value"]] = table["size"].str.split("=", expand=True)
    settings = list(dict.fromkeys(table["setting"]))
    memory = table["model"] == "memory"
    figure, axes = pyplot.subplots(1, len(settings) + 1, figsize=(4 * len(settings) + 4, 3.5), layout="constrained")
    panels = [(setting, "samples/s", table[~memory & (table["setting"] == setting)]) for setting in settings]
    for axis, (setting, unit, shown) in zip(axes, [*panels, ("data.limit", "peak MB", table[memory])], strict=True):
        for model, part in shown.groupby("model"):
            (line,) = axis.plot(part["value"].astype(int), part["ours"], marker="o", label=model)
            if part["bare"].notna().all():
                axis.plot(
                    part["value"].astype(int),
                    part["bare"],
                    linestyle="--",
                    color=line.get_color(),
                    label=f"{model}, bare loop",
                )
        axis.set(xlabel=setting, ylabel=unit, xscale="log", yscale="linear" if unit == "peak MB" else "log")
        sizes = sorted(shown["value"].astype(int).unique())
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axis.minorticks_off()
    axes[0].legend(fontsize=7)
    axes[-1].set_ylim(bottom=0)
    figure.savefig(file, dpi=120)
