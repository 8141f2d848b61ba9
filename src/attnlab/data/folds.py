"""Cross-validation: the labelled documents in k parts, of which each is the test set once."""

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from attnlab.data.labels import Labels
from attnlab.data.sources import Corpus, Source
from attnlab.data.splitting import by_class, whole_groups
from attnlab.errors import UserError

log = logging.getLogger(__name__)


def cut_fold(corpus: Corpus, source: Source) -> Corpus:
    """The corpus with fold `source.fold` of its training documents as test set, and the others to train on.

    As `sklearn.model_selection.StratifiedKFold` does it: every document is tested by one of the k models, which has not
    seen it. Documents of a validation split take part; each run cuts its own validation set, for early stopping and the
    best epoch, out of what it trains on. The set's own test documents take no part: they are left for the end.

    Raises:
        UserError: there are fewer documents than folds.
    """
    folds = source.folds
    assert folds is not None
    whole = corpus.train if corpus.val is None else corpus.train + corpus.val
    if len(whole.texts) < folds:
        raise UserError(f"data.folds={folds} of {len(whole.texts):,} documents: give fewer folds")
    tested = fold_numbers(whole.labels, folds, source.split_seed, whole.groups) == source.fold
    log.info("Fold %d of %d is the test set; the data's own test set is not used", source.fold, folds)
    test = replace(whole.take(tested), places=np.flatnonzero(tested))
    return replace(corpus, train=whole.take(~tested), val=None, test=test)


def fold_numbers(labels: Labels, folds: int, seed: int, groups: Sequence[str] | None = None) -> npt.NDArray[np.int64]:
    """[N] the fold of each document, of every class as many in one as in another or one more.

    Where groups must stay together it is about as many.
    """
    if groups is not None:
        numbers, left = np.full(len(labels), folds - 1), np.arange(len(labels))
        for fold in range(folds - 1):
            size = round(len(left) / (folds - fold))
            chosen = whole_groups(labels[left], size, seed, [groups[row] for row in left.tolist()])
            numbers[left[chosen]] = fold
            left = left[~chosen]
        return numbers
    numbers = np.empty(len(labels), dtype=np.int64)
    numbers[by_class(labels, seed)] = np.arange(len(labels)) % folds
    return numbers
