"""The preview of `debug=data`: the data of a run as the model reads it, without training."""

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from attnlab.data.corpus import count_labels
from attnlab.data.datamodule import TextDataModule

CLASSES = 30  # that are listed; of more the largest
DOCUMENTS = 5
WIDTH = 80


def print_preview(data: TextDataModule) -> None:
    """Print the number of documents of each class, the lengths in tokens, and some documents as the model reads them.

    `setup()` of the data module has logged what was read, and the data audit.
    """
    console = Console(width=WIDTH, highlight=False)
    for table in (_classes(data), _lengths(data)):
        console.print(table)
    _show_documents(console, data)


def _classes(data: TextDataModule) -> Table:
    counts = {name: count_labels(split.labels, len(data.label_names)) for name, split in data.splits.items()}
    table = Table("class", *counts, "% of train", title="Documents of each class", title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    share = 100 * counts["train"] / len(data.splits["train"].labels)
    shown = np.argsort(-counts["train"], kind="stable")[:CLASSES] if len(share) > CLASSES else range(len(share))
    for number in shown:
        numbers = [f"{of_split[number]:,}" for of_split in counts.values()]
        table.add_row(escape(data.label_names[number]), *numbers, f"{share[number]:.1f}")
    if len(share) > CLASSES:
        rest = [f"{of_split.sum() - of_split[shown].sum():,}" for of_split in counts.values()]
        table.add_row(f"{len(share) - CLASSES:,} others", *rest, f"{share.sum() - share[shown].sum():.1f}")
    return table


def _lengths(data: TextDataModule) -> Table:
    table = Table("split", "shortest", "median", "95 %", "longest", title="Tokens a document", title_justify="left")
    table.add_column("truncated documents")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, dataset in data.datasets.items():
        lengths = dataset.tokens.full_lengths
        quantiles = np.quantile(lengths, [0, 0.5, 0.95, 1], method="lower")
        cut = data.audit[f"data/{name}_documents_cut"]
        table.add_row(name, *(f"{length:,}" for length in quantiles), f"{100 * cut:.1f} %")
    return table


def _show_documents(console: Console, data: TextDataModule) -> None:
    """Documents from all over train, with their tokens."""
    split, tokens = data.splits["train"], data.datasets["train"].tokens
    documents = split.as_single_texts
    for row in np.unique(np.linspace(0, len(split.texts) - 1, DOCUMENTS).astype(int)):
        ids = tokens.ids[tokens.offsets[row] : tokens.offsets[row + 1]]
        label = split.labels[row]
        numbers = np.flatnonzero(label) if label.ndim else [label]
        names = ", ".join(data.label_names[number] for number in numbers) or "no label"
        console.print(f"[bold]{escape(names)}[/bold]", no_wrap=True, overflow="ellipsis")
        _show_in_lines(console, documents[row], 3)
        _show_in_lines(console, " | ".join(str(data.tokenizer.id_to_token(token)) for token in ids), 4)


def _show_in_lines(console: Console, text: str, most: int) -> None:
    """Print the beginning of a text, indented."""
    lines = Text(" ".join(text[: most * WIDTH].split())).wrap(console, WIDTH - 4)
    for line in lines[:most]:
        console.print("  ", line.plain, sep="", markup=False)
