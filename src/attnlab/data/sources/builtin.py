"""The built-in corpus as a source."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge

from attnlab.data import headlines
from attnlab.data.corpus import SPLITS, Corpus, Split
from attnlab.data.labels import Labels, multi_hot
from attnlab.data.sources.base import Source
from attnlab.data.tables import Origin
from attnlab.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Headlines(Source):
    """The built-in corpus (see `attnlab.data.headlines`), written anew from `corpus_seed` each time.

    Args:
        topics: what a document's labels are: None for the topic of its title, "all" for those it tells of, one or two.
    """

    train_size: int
    test_size: int
    noise: float
    order_share: float
    corpus_seed: Annotated[int, Ge(0)] = 0
    topics: Literal["all"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("noise", "order_share"):
            if not 0 <= getattr(self, key) <= 1:
                raise UserError(f"data.{key}={getattr(self, key)} is a share: give a number from 0 to 1")
        for key in ("train_size", "test_size"):
            if getattr(self, key) < 1:
                raise UserError(f"data.{key}={getattr(self, key)} must be at least 1")

    def load(self, splits: Collection[str] = SPLITS) -> Corpus:
        del splits  # test is written after train, from the same stream of random numbers
        rng = np.random.default_rng(self.corpus_seed)
        train, test = (
            headlines.generate(size, self.noise, self.order_share, rng) for size in (self.train_size, self.test_size)
        )
        names = list(headlines.TOPICS)
        labels: tuple[Labels, ...] = train.labels, test.labels
        if self.topics == "all":
            both = (zip(part.labels, part.body_topics, strict=True) for part in (train, test))
            labels = tuple(multi_hot(topics, len(names)) for topics in both)
        of_train, of_test = (
            Split(part.texts, own, origin=Origin.of_one(f"headlines {name}", len(part.texts)))
            for name, part, own in zip(("train", "test"), (train, test), labels, strict=True)
        )
        if self.topics == "all":
            return Corpus(names, of_train, of_test)
        aware, blind = headlines.ceilings(self.noise, self.order_share)
        ceilings = {"ceiling/order_aware": aware, "ceiling/order_blind": blind}
        return Corpus(names, of_train, of_test, ceilings=ceilings)
