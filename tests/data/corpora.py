"""Corpora for tests, and a source that gives them."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from attnlab.data.sources import SPLITS, Corpus, Source, Split


@dataclass(frozen=True, kw_only=True)
class Given(Source):
    """A source for a corpus that a test made."""

    corpus: Corpus | None = None

    def load(self, splits: Collection[str] = SPLITS) -> Corpus:
        assert self.corpus is not None and set(splits) <= set(SPLITS)
        return self.corpus


def corpus(train: list[int], test: list[int] = [0, 1], val: list[int] | None = None) -> Corpus:  # noqa: B006
    def split(name: str, labels: list[int]) -> Split:
        return Split([f"{name} {i}" for i in range(len(labels))], np.array(labels, dtype=np.int64))

    return Corpus(
        ["a", "b"], split("train", train), split("test", test), split("val", val) if val is not None else None
    )
