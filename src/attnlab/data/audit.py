"""The data audit: what truncation, unknown tokens and duplicates cost each split.

The audit is kept as metrics `data/<split>_<check>`, out of which pages and comparisons make their warnings.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from attnlab.data.tokens import Documents, Tokens

if TYPE_CHECKING:
    pass

Keys = npt.NDArray[np.int64]  # [N], one a document


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
