"""The data audit, what truncation, unknown tokens and duplicates cost each split, and the preview of `debug=data`.

The audit is kept as metrics `data/<split>_<check>`, out of which pages and comparisons make their warnings.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from tokenizers import Tokenizer

from attnlab.data.corpus import count_labels
from attnlab.data.tokens import Documents, Tokens

if TYPE_CHECKING:
    from attnlab.data.datamodule import TextDataModule

Keys = npt.NDArray[np.int64]  # [N], one a document

# Of the preview, `debug=data`:
CLASSES = 30  # that are listed; of more the largest
DOCUMENTS = 5
WIDTH = 80


@dataclass(frozen=True)
class Check:
    """One way in which data is lost or counted twice.

    Attributes:
        limit: a split above it gets a warning; a share, or a number of documents.
        what: the quantity that is measured.
        remedy: what to do.
    """

    limit: float
    what: str
    remedy: str


CHECKS = {  # the names are part of the names of metrics, which finished runs have in their metrics.json
    "documents_cut": Check(0.25, "documents truncated at tokenizer.max_length", "raise it"),
    "tokens_cut": Check(0.10, "tokens truncated at tokenizer.max_length", "raise it"),
    "unknown_tokens": Check(0.05, "unknown tokens", "try tokenizer=bpe or raise tokenizer.vocab_size"),
    "empty_documents": Check(0, "documents without any token", "remove them, or use another tokenizer"),
    "duplicates": Check(0, "documents that are also in train", "remove them, or scores are optimistic"),
}
SHARES = ("documents_cut", "tokens_cut", "unknown_tokens")


def audit(
    tokens: Mapping[str, Tokens], documents: Mapping[str, Documents], tokenizer: Tokenizer, validates_on_test: bool
) -> dict[str, float]:
    """All metrics of the splits; duplicates only if there is a training split."""
    metrics = {
        f"data/{split}_{check}": value
        for split, of_split in tokens.items()
        for check, value in audit_tokens(of_split, tokenizer).items()
    }
    if "train" not in documents:
        return metrics
    keys = {split: document_keys(of_split) for split, of_split in documents.items()}
    seen = {"val": keys["train"]}
    if "test" in keys:
        seen["test"] = keys["train"] if validates_on_test else np.concatenate([keys["train"], keys["val"]])
    return metrics | {f"data/{split}_duplicates": int(np.isin(keys[split], seen[split]).sum()) for split in seen}


def audit_tokens(tokens: Tokens, tokenizer: Tokenizer) -> dict[str, float]:
    """Shares of truncated documents, of truncated tokens and of unknown ones among the rest, and empty documents.

    [CLS] and [SEP] are not counted.
    """
    added = tokenizer.num_special_tokens_to_add(tokens.pairs)
    kept, full = tokens.lengths - added, tokens.full_lengths - added
    return {
        "documents_cut": float((full > kept).mean()),
        "tokens_cut": float((full - kept).sum() / max(1, full.sum())),
        "unknown_tokens": float(tokens.unknown / max(1, kept.sum())),
        "empty_documents": int((full == 0).sum()),
    }


def audit_summary(metrics: Mapping[str, float]) -> str:
    """All shares, in lines of 80 characters."""
    splits = [key.removeprefix("data/").split("_")[0] for key in metrics if key.endswith("documents_cut")]
    shares = [
        "{} {}/{} ({})".format(split, *(_percent(metrics[f"data/{split}_{name}"]) for name in SHARES))
        for split in splits
    ]
    return fill(f"Truncated, % of documents/tokens (unknown): {', '.join(shares)}", 80, subsequent_indent="  ")


def _percent(share: float) -> str:
    return f"{100 * share:.1f}" if share < 0.0995 else f"{100 * share:.0f}"


def audit_warnings(metrics: Mapping[str, float]) -> dict[str, str]:
    """A sentence for each check whose limit a split exceeds, by the name of the check."""
    return {
        name: f"{check.what}: {', '.join(amounts)}; {check.remedy}"
        for name, check in CHECKS.items()
        if (amounts := list(_exceeding(metrics, name, check.limit)))
    }


def _exceeding(metrics: Mapping[str, float], name: str, limit: float) -> Iterator[str]:
    for split in ("train", "val", "test"):
        if (split, name) == ("val", "duplicates"):
            continue  # any set has a few; the data module warns of many
        value = metrics.get(f"data/{split}_{name}", 0)
        if value > limit:
            yield f"{100 * value:.0f} % of {split}" if name in SHARES else f"{value:,.0f} in {split}"


def document_keys(documents: Documents) -> Keys:
    """A hash of each document, the same for documents that differ only in case and white space.

    Of 64 bits, because the texts themselves would take the memory of the data once more. The chance that any two of a
    million different documents have the same one is 1 in 20 million.
    """
    # Python salts `hash` in each process, so these keys must only be compared within one, and never be stored.
    return np.fromiter(map(hash, map(_folded, documents)), dtype=np.int64, count=len(documents))


def _folded(document: str | tuple[str, str]) -> str:
    if isinstance(document, tuple):
        return "\0".join(map(_folded, document))
    return " ".join(document.casefold().split())


def print_preview(data: "TextDataModule") -> None:
    """Print the number of documents of each class, the lengths in tokens, and some documents as the model reads them.

    `setup()` of the data module has logged what was read, and the data audit.
    """
    console = Console(width=WIDTH, highlight=False)
    for table in (_classes(data), _lengths(data)):
        console.print(table)
    _show_documents(console, data)


def _classes(data: "TextDataModule") -> Table:
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


def _lengths(data: "TextDataModule") -> Table:
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


def _show_documents(console: Console, data: "TextDataModule") -> None:
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
