"""Which documents are set aside: a stratified part of a split, of whole groups where there are any."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from attnlab.data.labels import Labels, strata

Mask = npt.NDArray[np.bool_]


def set_aside(labels: Labels, size: int, seed: int, groups: Sequence[str] | None = None) -> Mask:
    """A random mask of [N] with `size` entries set, or about so many where groups must stay together."""
    return stratified(labels, size, seed) if groups is None else whole_groups(labels, size, seed, groups)


def stratified(labels: Labels, size: int, seed: int) -> Mask:
    """A random mask with `size` entries set, each class in proportion, to within one document.

    Systematic sampling: documents sorted by class, at random within a class, and every k-th taken.
    """
    n = len(labels)
    size = max(1, size)
    order = by_class(labels, seed)
    mask = np.zeros(n, dtype=bool)
    mask[order[(np.arange(size) * n + n // 2) // size]] = True
    return mask


def by_class(labels: Labels, seed: int) -> npt.NDArray[np.int64]:
    """The numbers of all documents, [N], sorted by class and at random within a class."""
    return np.lexsort((np.random.default_rng(seed).random(len(labels)), strata(labels)))


def whole_groups(labels: Labels, size: int, seed: int, groups: Sequence[str]) -> Mask:
    """A random mask with about `size` entries set that cuts no group; a document of group "" is one by itself.

    Groups come in random order, and each is taken that brings the number of every class closer to its share: the first
    that fit, and then those that fill the gaps.
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
        if (counts * (counts - 2 * wanted[classes])).sum() < 0:  # the squared distance from what is wanted shrinks
            mask[members[number]] = True
            wanted[classes] -= counts
    return mask
