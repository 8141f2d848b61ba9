"""A comparison as files: comparison.csv, comparison.md, figures and one page that holds everything, comparison.html."""

from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from attnlab.errors import relative_to_cwd
from attnlab.metrics import is_share
from attnlab.reports.comparison_figures import draw_figures, movable_figures
from attnlab.reports.drawing import PLOTLY, movable
from attnlab.reports.page import embedded, markdown_table, render
from attnlab.reports.result import MANY_RUNS, PLAN, PRESENTED, Comparison, Study, in_points, signed
from attnlab.runs import write_whole

STYLES = {"better": "bold blue", "worse": "dark_orange"}
MAIN = 6  # the first columns of `display_rows`, up to the verdict
SEEDS_AND_DOCUMENTS = """A difference and its interval are of runs of the same seed on the same test documents, and
take in both sources of chance, other seeds and other documents, as crossed random effects, with a variance of each
setting's own and Satterthwaite's degrees of freedom. One pair of runs is asked by McNemar's exact test, and speaks of
the documents alone."""
SEEDS_ALONE = """A difference and its interval are of runs of the same seed, and take in other seeds but not other test
documents, as {metric} can't be asked of single documents: paired t-tests, with a variance of each setting's own."""


def method(study: Study) -> str:
    """What was done to find the verdicts."""
    first = study.comparisons[0]
    asked = first.rows.get("documents", pd.Series([0.0])).fillna(0) > 0
    how = SEEDS_AND_DOCUMENTS if asked.any() else SEEDS_ALONE.format(metric=first.metric)
    folds = any(run.fold for run in study.runs)
    same = any(str(verdict).startswith("the same") for one in study.comparisons for verdict in one.rows["verdict"])
    parts = [
        "Runs that differ in nothing but the seed make one setting; ± is half of the 95 % interval of its mean over "
        "seeds.",
        " ".join(how.split()),
        "All intervals of a table hold together: they, and the p-values, are corrected by Bonferroni for its number of "
        'comparisons. A setting is called "better" or "worse" where its interval leaves out zero. The same pair may '
        "have a wider interval in a table of more comparisons, or of fewer runs.",
        f'"The same" is an interval that lies within {in_points(first.metric, study.margin or 0)}.' if same else "",
        "Folds of cross-validation count as seeds do, with a variance corrected for what their training sets share "
        "(Nadeau and Bengio, 2003)."
        if folds
        else "",
        '"Smallest that they could" is the true difference that would be found in 80 % of such studies.',
    ]
    return " ".join(part for part in parts if part)


def headline(study: Study) -> str:
    """The answer in a sentence."""
    main = study.comparisons[0]
    rows, number = main.rows.iloc[1:], len(main.rows) - 1
    if not main.has_differences:
        return f"{main.metric} {main.rows[f'{main.metric} mean'].iloc[0]:.4f}: nothing to compare with"
    said = rows["verdict"].astype(str)
    best_first = rows.sort_values("difference", ascending=main.better == "min")
    counts = {word: int(said.str.startswith(word).sum()) for word in ("better", "worse", "the same")}
    reference = main.reference[main.by[0]] if len(main.by) == 1 else "the reference"
    settings = f"{number} setting{'s' if number > 1 else ''}"
    rest = [f"{count} {word}" for word, count in list(counts.items())[1:] if count]
    if open_ := number - sum(counts.values()):
        rest.append(f"{open_} not told apart")
    if not counts["better"]:
        return f"Of {settings} none is shown to be better than {reference}: {', '.join(rest)}"
    best = best_first[best_first["verdict"].astype(str).str.startswith("better")].iloc[0]
    low, high = (signed(main.metric, best[key]) for key in ("low", "high"))
    gain = in_points(main.metric, abs(best["difference"]))
    which = f"{best.name} is better than {reference} by {gain} of {main.metric} [{low}, {high}]"
    if number == 1:
        return which
    more = [f"{counts['better'] - 1} more better"] if counts["better"] > 1 else []
    return f"{which}; of {number - 1} other settings {', '.join([*more, *rest])}"


def write_report(folder: Path, study: Study) -> None:
    """Write everything into `folder`."""
    figures = draw_figures(folder / "figures", study)
    tables = [comparison.rows.assign(comparison=comparison.title) for comparison in study.comparisons]
    table = pd.concat(tables).rename_axis("setting").reset_index()
    table.insert(0, "comparison", table.pop("comparison"))
    write_whole(folder / "comparison.csv", table.to_csv(index=False))
    write_whole(folder / "comparison.md", _markdown(folder, study, figures))
    write_whole(folder / "comparison.html", _page(folder, study, figures))


def display_rows(comparison: Comparison) -> list[dict[str, str]]:
    """A comparison as people read it: a dict of column and text for each setting."""
    metric = comparison.metric
    difference = "difference, points" if is_share(metric) else "difference"
    lines = []
    for name, row in comparison.rows.iterrows():
        line = {"setting": str(name), "seeds": f"{row['seeds']:.0f}", metric: _mean(row, metric)}
        line[difference] = line["p"] = ""
        if pd.notna(row.get("p")):
            shown_values = (signed(metric, row[key]) for key in ("difference", "low", "high"))
            line[difference] = "{} [{}, {}]".format(*shown_values)
            line["p"] = "< 0.001" if row["p_adjusted"] < 0.001 else f"{row['p_adjusted']:.3f}"
        line["verdict"] = row["verdict"]
        for column in (column for column in comparison.rows if str(column).startswith(PLAN)):
            number = row[column]
            line[str(column)] = "" if pd.isna(number) else f"{number:.0f}" if np.isfinite(number) else f"> {MANY_RUNS}"
        line["runs"] = f"{row['runs']:.0f}"
        line["sd"] = _number(row[f"{metric} sd"], ".4f")
        line |= {other: _mean(row, other) for other in PRESENTED if other != metric and f"{other} mean" in row}
        line["parameters"] = _number(row.get("model/parameters"), ",.0f")
        line["epochs"] = _number(row.get("train/epochs"), ".1f")
        line["training, s"] = _number(row.get("train/seconds"), ",.1f")
        line["samples/s"] = _number(row.get("train/samples_per_second"), ",.0f")
        lines.append(line)
    return lines


def print_report(folder: Path, study: Study) -> None:
    """The caveats, the tables and the folder where everything lies."""
    console = Console()
    console.print(f"[bold]{escape(headline(study))}[/]", highlight=False)
    for warning in study.warnings:
        console.print(f"[yellow]warning:[/] {escape(warning)}", highlight=False)
    for comparison in study.comparisons:
        console.print(f"\n[bold]{comparison.title}[/]: {escape(_introduction(comparison))}", highlight=False)
        lines = display_rows(comparison)
        console.print(_table(lines, [column for column in list(lines[0])[:MAIN] if column != "p"]))
        if planned := [column for column in lines[0] if column.startswith(PLAN)]:
            console.print(_table(lines[1:], ["setting", *planned]))
    console.print(
        f"Everything is in {relative_to_cwd(folder)}; comparison.html is the page to read",
        soft_wrap=True,
        highlight=False,
    )


def _table(lines: list[dict[str, str]], columns: list[str]) -> Table:
    numbers = {column for column in columns if column not in ("setting", "verdict")}
    headers = (Column(column, justify="right" if column in numbers else "left") for column in columns)
    table = Table(*headers, pad_edge=False, box=None, padding=(0, 1, 1, 0))
    for line in lines:
        table.add_row(*(escape(line[column]) for column in columns), style=STYLES.get(line["verdict"].split()[0]))
    return table


def _introduction(comparison: Comparison) -> str:
    settings = ", ".join(f"{key}={value}" for key, value in comparison.reference.items() if value != "-")
    metric, better = comparison.metric, {"max": "higher", "min": "lower"}[comparison.better]
    text = f"{len(comparison.all_runs)} runs, {metric} ({better} is better), reference {settings or 'none'}"
    number = comparison.rows["comparisons"].max() if "comparisons" in comparison.rows else 0
    if not number > 0:
        return text
    together = f"{100 * (1 - comparison.alpha):g} %"
    if number == 1:
        return f"{text}; one comparison, its interval holds with {together}"
    each = f"{100 * (1 - comparison.alpha / number):.3g} %"
    return f"{text}; {number:.0f} comparisons, whose intervals hold together with {together} ({each} each)"


def _markdown(folder: Path, study: Study, figures: dict[str, list[Path]]) -> str:
    parts = [f"# {headline(study)}", *(f"> Warning: {warning}" for warning in study.warnings)]
    for comparison in study.comparisons:
        parts += [f"## {comparison.title}", f"{_introduction(comparison)}.", markdown_table(display_rows(comparison))]
        for file in figures[comparison.title]:
            parts.append(f"![{file.stem}]({file.relative_to(folder).with_suffix('.png')})")
    return "\n\n".join([*parts, "## How to read this", method(study)]) + "\n"


def _page(folder: Path, study: Study, figures: dict[str, list[Path]]) -> str:
    sections = []
    for comparison in study.comparisons:
        rows = display_rows(comparison)
        columns = list(rows[0])
        sections.append(
            {
                "title": comparison.title,
                "introduction": _introduction(comparison),
                "rows": rows,
                "main": columns[:MAIN],
                "more": ["setting", *columns[MAIN:]],
                "interactive": movable(movable_figures(comparison), folder),
                "figures": [(file.stem.replace("_", " "), embedded(file)) for file in figures[comparison.title]],
            }
        )
    return render(
        "comparison.html",
        sections=sections,
        warnings=study.warnings,
        method=method(study),
        program=PLOTLY,
        headline=headline(study),
        num_runs=len(study.runs),
        folders=[str(run.path) for run in study.runs],
    )


def _mean(row: pd.Series, metric: str) -> str:
    """With half of its 95 % interval where there is one."""
    mean, half = row[f"{metric} mean"], (row[f"{metric} high"] - row[f"{metric} low"]) / 2
    return f"{mean:.4f} ± {half:.4f}" if pd.notna(half) else f"{mean:.4f}"


def _number(value: float | None, form: str) -> str:
    return "" if value is None or pd.isna(value) else format(value, form)
