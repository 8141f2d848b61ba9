import numpy as np
import pytest

from attnlab.data.splitting import set_aside, stratified, whole_groups


@pytest.mark.parametrize("size", [1, 7, 50, 99, 100])
def test_stratified_is_of_the_size_and_in_proportion(size: int) -> None:
    labels = np.array([0] * 60 + [1] * 30 + [2] * 10)
    chosen = stratified(labels, size, seed=0)
    assert chosen.sum() == size
    assert np.abs(np.bincount(labels[chosen], minlength=3) - size * np.array([0.6, 0.3, 0.1])).max() <= 1


@pytest.mark.parametrize("seed", [0, 1])
def test_groups_stay_whole_and_classes_in_proportion(seed: int) -> None:
    """Groups of 1 to 9 documents, two in three of them of one class."""
    rng = np.random.default_rng(seed)
    groups = [str(number) for number in range(300) for _ in range(rng.integers(1, 10))]
    labels = np.array([0 if int(group) % 3 else rng.integers(1, 3) for group in groups])
    chosen = whole_groups(labels, len(labels) // 5, seed, groups)
    inside, outside = ({g for g, c in zip(groups, chosen, strict=True) if c == side} for side in (True, False))
    assert not inside & outside
    shares = np.bincount(labels[chosen]) / np.bincount(labels)
    assert np.abs(shares - 0.2).max() < 0.03
    assert (chosen == whole_groups(labels, len(labels) // 5, seed, groups)).all()
    assert (chosen != whole_groups(labels, len(labels) // 5, seed + 2, groups)).any()


def test_documents_without_a_group_are_alone() -> None:
    labels = np.zeros(50, dtype=np.int64)
    assert whole_groups(labels, 10, 0, [""] * 50).sum() == 10
    assert not whole_groups(labels, 10, 0, ["one"] * 50).any()  # rather than all
    assert set_aside(labels, 10, 0).sum() == set_aside(labels, 10, 0, [""] * 50).sum() == 10
