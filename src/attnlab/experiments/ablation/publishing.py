"""What an ablation or a data curve has found, in files and on the terminal."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from attnlab.paths import shown
from attnlab.reports.page import embedded, render
from attnlab.runs import write_whole

IN_FILES_ALONE = ("seconds", "parameters")  # columns for which a terminal has no room


def publish(
    folder: Path,
    name: str,
    title: str,
    words: str,
    table: pd.DataFrame,
    method: str,
    command: str = "",
    styles: Mapping[str, str] | None = None,
) -> None:
    """Write <name>.md and <name>.html around the picture <name>.png and .svg, and print what they say.

    Args:
        table: as people read it, all of it text.
        command: trains the smallest model that is not worse.
        styles: of the terminal, by the word in the column "verdict".
    """
    cells = table.map(lambda text: text.replace("|", "\\|"))
    lines = [list(cells), ["---"] * len(cells.columns), *cells.to_numpy()]
    rows = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    parts = [f"# {title}", words, rows, f"![{name}]({name}.png)", method, *([f"    {command}"] if command else [])]
    write_whole(folder / f"{name}.md", "\n\n".join(parts) + "\n")
    page = render(
        "experiments/ablation/page.html",
        title=title,
        sentences=words,
        rows=table.to_dict("records"),
        figure=embedded(folder / f"{name}.svg"),
        method=method,
        command=command,
        made=f"{datetime.now():%Y-%m-%d %H:%M}",
    )
    write_whole(folder / f"{name}.html", page)
    _print(folder / f"{name}.html", title, words, table, command, styles or {})


def _print(page: Path, title: str, words: str, table: pd.DataFrame, command: str, styles: Mapping[str, str]) -> None:
    console = Console()
    console.print(f"\n[bold]{escape(title)}", highlight=False)
    printed = table.drop(columns=[column for column in IN_FILES_ALONE if column in table])
    lines = Table(*printed, box=None, pad_edge=False)
    for _, row in printed.iterrows():
        lines.add_row(*map(escape, row), style=styles.get(row.get("verdict", "")))
    console.print(lines)
    console.print(words, highlight=False, markup=False)
    if command:
        console.print(f"The smallest that is not worse: {command}", soft_wrap=True, highlight=False, markup=False)
    console.print(
        f"Everything is in {shown(page.parent)}; {page.name} is the page to read", soft_wrap=True, highlight=False
    )
