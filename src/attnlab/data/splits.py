"""The division of a corpus into train, val and test: stratified by class, and by whole groups where it has any."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from attnlab.data.corpus import Corpus, Labels, Mask, Split, count_labels, shortened
from attnlab.errors import UserError

log = logging.getLogger(__name__)

MIN_CLASS_SIZE = 3  # documents of a class from which one may be cut for the test: train and val need one each


def split_corpus(
    corpus: Corpus, validation: float | Literal["test"] = 0.1, limit: int | None = None, seed: int = 0
) -> dict[str, Split]:
    """The run's train, val and test splits; for the arguments see `attnlab.data.sources.Source`."""
    train, val = corpus.train, corpus.val
    if not train.texts:
        raise UserError("the training set is empty")
    counts = count_labels(train.labels, len(corpus.label_names))
    if train.labels.ndim == 1 and np.count_nonzero(counts) < 2:
        raise UserError("the training set has one class only; a classifier needs two or more")
    if validation == "test":
        if not corpus.test.texts:
            raise UserError(
                "data.validation=test, and the test set has no labels to validate on; give a share such as 0.1"
            )
        log.warning("Validating on the test set (data.validation=test): the test score will be optimistic")
        val = corpus.test
    elif val is None:
        train, val = _cut_validation(corpus, validation, seed)
    # After validation is cut, so that runs on fewer training documents are validated on the same ones.
    if limit is not None and limit < len(train.texts):
        train = train.take(stratified_mask(train.labels, limit, seed))
    splits = {"train": train, "val": val, "test": corpus.test}
    if not corpus.test.texts:
        del splits["test"]
    for name, split in splits.items():
        missing = (counts > 0) & (count_labels(split.labels, len(counts)) == 0)
        if absent := [corpus.label_names[i] for i in np.flatnonzero(missing)]:
            log.warning("No document of %s in %s: metrics there do not cover it", ", ".join(absent[:20]), name)
    return splits


def _cut_validation(corpus: Corpus, share: float, seed: int) -> tuple[Split, Split]:
    """The rest of train, and the part that is set aside for validation."""
    train, counts = corpus.train, count_labels(corpus.train.labels, len(corpus.label_names))
    single = [corpus.label_names[number] for number in np.flatnonzero(counts == 1)]
    if single and train.labels.ndim == 1 and train.groups is None:
        raise UserError(
            f"{len(single)} of {len(counts)} classes have one document in the training set, which can't be split for "
            f"validation ({shortened(single)}): data.min_label_count=2 leaves them out, or give a validation split "
            "with data.val"
        )
    size = max(1, round(len(train.labels) * share))
    chosen = split_mask(train.labels, size, seed, train.groups)
    if not chosen.any() or chosen.all():
        raise UserError(f"data.group leaves no part of train to validate on: each has many more documents than {size}")
    return train.take(~chosen), train.take(chosen)


def cut_test(corpus: Corpus, share: float, seed: int) -> Corpus:
    """The corpus with a stratified part of train as its test set; a class of one or two documents stays in train."""
    train = corpus.train
    chosen = split_mask(train.labels, round(len(train.labels) * share), seed, train.groups)
    if train.groups is None and train.labels.ndim == 1:
        chosen &= count_labels(train.labels, len(corpus.label_names))[train.labels] >= MIN_CLASS_SIZE
    if not chosen.any():
        raise UserError(f"data.test={share} of {len(chosen):,} documents leaves no test documents; give a larger share")
    return Corpus(corpus.label_names, train.take(~chosen), train.take(chosen), corpus.val)


def cut_fold(corpus: Corpus, fold: int, folds: int, seed: int) -> Corpus:
    """The corpus with one fold of its training documents as test set, and the others to train on.

    As in `sklearn.model_selection.StratifiedKFold`, every document is tested once, by the one of k models that was not
    trained on it. The documents of a validation split take part: each run cuts its own validation set out of what it
    trains on. The test set of the data is not used; it remains for the final test.
    """
    whole = corpus.train if corpus.val is None else corpus.train + corpus.val
    if len(whole.texts) < folds:
        raise UserError(f"data.folds={folds} of {len(whole.texts):,} documents: give fewer folds")
    tested = fold_numbers(whole.labels, folds, seed, whole.groups) == fold
    log.info("Fold %d of %d is the test set; the data's own test set is not used", fold, folds)
    test = replace(whole.take(tested), places=np.flatnonzero(tested))
    return replace(corpus, train=whole.take(~tested), val=None, test=test)


def fold_numbers(labels: Labels, folds: int, seed: int, groups: Sequence[str] | None = None) -> npt.NDArray[np.int64]:
    """The fold of each document, [N]; in every class the sizes of folds differ by at most one, with groups by more."""
    # Not `StratifiedKFold`, which shuffles differently: published runs name their folds by `data.split_seed`.
    if groups is not None:
        numbers, left = np.full(len(labels), folds - 1), np.arange(len(labels))
        for fold in range(folds - 1):
            size = round(len(left) / (folds - fold))
            chosen = group_mask(labels[left], size, seed, [groups[row] for row in left.tolist()])
            numbers[left[chosen]] = fold
            left = left[~chosen]
        return numbers
    numbers = np.empty(len(labels), dtype=np.int64)
    numbers[_order_by_class(labels, seed)] = np.arange(len(labels)) % folds
    return numbers


def split_mask(labels: Labels, size: int, seed: int, groups: Sequence[str] | None = None) -> Mask:
    """A random stratified mask, [N], with `size` entries set, or about `size` where groups must stay together."""
    return stratified_mask(labels, size, seed) if groups is None else group_mask(labels, size, seed, groups)


def stratified_mask(labels: Labels, size: int, seed: int) -> Mask:
    """A random mask with `size` entries set, each class in proportion, to within one document."""
    # Systematic sampling: sort documents by class, at random within a class, and take every k-th.
    n = len(labels)
    size = max(1, size)
    order = _order_by_class(labels, seed)
    mask = np.zeros(n, dtype=bool)
    mask[order[(np.arange(size) * n + n // 2) // size]] = True
    return mask


def _order_by_class(labels: Labels, seed: int) -> npt.NDArray[np.int64]:
    """The indices of all documents, [N], sorted by class and at random within a class."""
    return np.lexsort((np.random.default_rng(seed).random(len(labels)), strata(labels)))


def strata(labels: Labels) -> npt.NDArray[np.int64]:
    """The strata of N documents, [N]: their class, or the rank of their combination of labels.

    Combinations are sorted by their rarest labels, so that systematic sampling divides at least the rare classes in
    proportion where a combination is too rare to be divided.
    """
    if labels.ndim == 1:
        return labels.astype(np.int64)
    rarest_first = np.argsort(labels.sum(axis=0), kind="stable")
    return np.unique(labels[:, rarest_first], axis=0, return_inverse=True)[1].ravel()


def group_mask(labels: Labels, size: int, seed: int, groups: Sequence[str]) -> Mask:
    """A random mask with about `size` entries set that divides no group; each document of group "" is a group.

    In random order, each group is chosen that brings the numbers of documents by class closer to their shares.
    """
    labels = strata(labels)
    numbers: dict[str | int, int] = {}
    group = np.array([numbers.setdefault(name or row, len(numbers)) for row, name in enumerate(groups)])
    order = np.argsort(group, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
    wanted = np.bincount(labels) * (size / len(labels))
    mask = np.zeros(len(labels), dtype=bool)
    for number in np.random.default_rng(seed).permutation(len(members)):
        classes, counts = np.unique(labels[members[number]], return_counts=True)
        if (counts * (counts - 2 * wanted[classes])).sum() < 0:  # the squared distance from the shares decreases
            mask[members[number]] = True
            wanted[classes] -= counts
    return mask
