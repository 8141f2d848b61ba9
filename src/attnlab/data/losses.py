"""What data loses on its way into a model, in words: from the metrics that a run keeps of it, `data/<split>_<loss>`."""

from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import fill

import numpy as np
import numpy.typing as npt

from attnlab.data.tokens import Documents

Keys = npt.NDArray[np.int64]  # [N], one a document


@dataclass(frozen=True)
class Loss:
    """One way to lose something.

    Attributes:
        limit: where more than this is lost it is worth a warning; a share, or a number of documents.
        what: is lost.
        remedy: the setting that mends it.
    """

    limit: float
    what: str
    remedy: str


LOSSES = {
    "documents_cut": Loss(0.25, "documents cut at tokenizer.max_length", "raise it"),
    "tokens_cut": Loss(0.10, "tokens cut off at tokenizer.max_length", "raise it"),
    "unknown_tokens": Loss(0.05, "unknown tokens", "try tokenizer=bpe or raise tokenizer.vocab_size"),
    "empty_documents": Loss(0, "documents without any token", "remove them, or use another tokenizer"),
    "duplicates": Loss(0, "documents that also stand in train", "remove them, or scores are optimistic"),
}
SHARES = ("documents_cut", "tokens_cut", "unknown_tokens")


def describe(metrics: Mapping[str, float]) -> str:
    """All shares, in lines that fit into a terminal."""
    splits = [key.removeprefix("data/").split("_")[0] for key in metrics if key.endswith("documents_cut")]
    shares = [
        "{} {}/{} ({})".format(split, *(_percent(metrics[f"data/{split}_{name}"]) for name in SHARES))
        for split in splits
    ]
    return fill(f"Cut, % of documents/tokens (unknown): {', '.join(shares)}", 80, subsequent_indent="  ")


def _percent(share: float) -> str:
    return f"{100 * share:.1f}" if share < 0.0995 else f"{100 * share:.0f}"


def complaints(metrics: Mapping[str, float]) -> dict[str, str]:
    """A sentence for each loss that is large in any split, by its name; metrics that lack a loss have none."""
    sentences = {}
    for name, loss in LOSSES.items():
        large = {
            split: value
            for split in ("train", "val", "test")
            if (split, name) != ("val", "duplicates")  # a few are in any set, and validation is cut out of train
            and (value := metrics.get(f"data/{split}_{name}", 0)) > loss.limit
        }
        if large:
            amounts = (f"{100 * value:.0f} % of" if name in SHARES else f"{value:,.0f} in" for value in large.values())
            shown = ", ".join(f"{amount} {split}" for amount, split in zip(amounts, large, strict=True))
            sentences[name] = f"{loss.what}: {shown}; {loss.remedy}"
    return sentences


def keys_of(documents: Documents) -> Keys:
    """A number for each document, the same for those that differ in case and white space alone.

    Of 64 bits: a million documents have one in common by chance once in 20 million times. The folded texts themselves
    would take the memory of the data once more.
    """
    return np.fromiter(map(hash, map(_folded, documents)), dtype=np.int64, count=len(documents))


def _folded(document: str | tuple[str, str]) -> str:
    if isinstance(document, tuple):
        return "\0".join(map(_folded, document))
    return " ".join(document.casefold().split())
