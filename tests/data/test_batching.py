import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlab.data.batching import BucketLoader, BucketSampler, TokenDataset
from attnlab.data.tokens import Tokens

LENGTHS = np.random.default_rng(0).integers(3, 60, 1003)


def sampler(seed: int = 0, rank: int = 0, world_size: int = 1, shuffle: bool = True) -> BucketSampler:
    return BucketSampler(LENGTHS, 16, shuffle=shuffle, seed=seed, rank=rank, world_size=world_size)


def dataset() -> TokenDataset:
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)])
    ids = np.concatenate([np.full(length, i) for i, length in enumerate(LENGTHS)]).astype(np.int32)
    return TokenDataset(Tokens(ids, offsets, np.diff(offsets)), np.arange(len(LENGTHS)), pad_id=-7)


def test_a_batch_holds_its_articles_padded() -> None:
    batch = dataset()[[5, 0, 7]]
    assert batch.input_ids.shape == (3, max(LENGTHS[[5, 0, 7]]))
    assert batch.indices.tolist() == batch.labels.tolist() == [5, 0, 7]
    assert batch.attention_mask.sum(dim=1).tolist() == LENGTHS[[5, 0, 7]].tolist()
    for row, article in enumerate([5, 0, 7]):
        assert (batch.input_ids[row][batch.attention_mask[row]] == article).all()
        assert (batch.input_ids[row][~batch.attention_mask[row]] == -7).all()


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("world_size", [1, 3])
def test_an_epoch_is_every_article_once(shuffle: bool, world_size: int) -> None:
    ranks = [list(sampler(rank=rank, world_size=world_size, shuffle=shuffle)) for rank in range(world_size)]
    assert len({len(batches) for batches in ranks}) == 1
    assert sorted(i for batches in ranks for batch in batches for i in batch) == list(range(len(LENGTHS)))
    sizes = [len(batch) for batches in ranks for batch in batches]
    assert max(sizes) <= 16 and min(sizes) >= max(sizes) - 1


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    first, again, other_seed, other_epoch = sampler(), sampler(), sampler(seed=1), sampler()
    other_epoch.set_epoch(1)
    assert list(first) == list(again) == list(first)
    assert list(first) != list(other_seed) and list(first) != list(other_epoch)


def test_articles_of_like_length_go_together() -> None:
    padded = sum(len(batch) * LENGTHS[batch].max() for batch in sampler())
    shuffled = np.random.default_rng(1).permutation(len(LENGTHS))
    padded_plain = sum(len(part) * LENGTHS[part].max() for part in np.array_split(shuffled, len(sampler())))
    assert LENGTHS.sum() <= padded < 1.1 * LENGTHS.sum() < padded_plain


def test_the_first_batches_of_a_split_are_of_all_lengths() -> None:
    """Those that a limit on their number leaves."""
    batches = list(sampler(shuffle=False))
    few = np.concatenate([LENGTHS[batch] for batch in batches[: len(batches) // 4]])
    assert few.mean() == pytest.approx(LENGTHS.mean(), rel=0.15)
    assert batches == list(sampler(shuffle=False, seed=5))


def test_a_restored_loader_goes_on_where_it_was() -> None:
    whole = [batch.indices.tolist() for batch in BucketLoader(dataset(), sampler())]
    interrupted = BucketLoader(dataset(), sampler())
    batches = iter(interrupted)
    seen = [next(batches).indices.tolist() for _ in range(10)]
    restored = BucketLoader(dataset(), sampler())
    restored.load_state_dict(interrupted.state_dict())
    assert seen + [batch.indices.tolist() for batch in restored] == whole
    restored.sampler.set_epoch(1)
    assert sum(len(batch.indices) for batch in restored) == len(LENGTHS)  # the next epoch is whole again


@pytest.mark.parametrize("num_workers", [0, 2])
def test_pool_do_not_change_the_batches(num_workers: int) -> None:
    loader = BucketLoader(dataset(), sampler(), num_workers)
    assert [batch.indices.tolist() for batch in loader] == list(sampler())


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=60),
    batch_size=st.integers(1, 20),
    world_size=st.integers(1, 3),
    epoch=st.integers(0, 3),
    shuffle=st.booleans(),
    skipped=st.integers(0, 5),
)
def test_any_batches_hold_every_article_once(
    lengths: list[int], batch_size: int, world_size: int, epoch: int, shuffle: bool, skipped: int
) -> None:
    ids = np.arange(sum(lengths), dtype=np.int32)
    tokens = Tokens(ids, np.concatenate([[0], np.cumsum(lengths)]), np.array(lengths))
    dataset = TokenDataset(tokens, np.zeros(len(lengths), dtype=np.int64), pad_id=-1)
    seen: list[int] = []
    for rank in range(world_size):
        sampler = BucketSampler(tokens.lengths, batch_size, shuffle=shuffle, seed=3, rank=rank, world_size=world_size)
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        sampler.start = skipped
        assert list(sampler) == batches[skipped:]
        for indices in filter(None, batches):
            batch = dataset[indices]
            assert batch.input_ids[batch.attention_mask].tolist() == [
                token for i in indices for token in range(*tokens.offsets[i : i + 2])
            ]
            assert (batch.input_ids[~batch.attention_mask] == -1).all() and len(indices) <= batch_size
            seen += indices
    assert sorted(seen) == list(range(len(lengths)))
