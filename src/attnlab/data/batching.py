"""Batches of documents of similar length, sliced from the flat token array a whole batch at a time."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from attnlab.data.corpus import Labels
from attnlab.data.tokens import Tokens


class Batch(NamedTuple):
    """B documents padded to the longest of them, T tokens."""

    input_ids: Tensor  # [B, T] int64
    attention_mask: Tensor  # [B, T] bool, False on padding
    labels: Tensor  # [B] int64, or [B, C] float32 where a document is of several classes
    indices: Tensor  # [B] int64, the documents' places in their split


class TokenDataset(Dataset[Batch]):
    """Tokenised documents with labels; an index is a list of documents, which gives a whole batch."""

    def __init__(self, tokens: Tokens, labels: Labels, pad_id: int) -> None:
        assert len(tokens.offsets) == len(labels) + 1
        self.tokens, self.labels, self.pad_id = tokens, labels, pad_id

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: list[int]) -> Batch:
        index = np.asarray(indices)
        starts = self.tokens.offsets[index]
        lengths = self.tokens.offsets[index + 1] - starts
        columns = np.arange(lengths.max())
        mask = columns < lengths[:, None]
        input_ids = np.full(mask.shape, self.pad_id, dtype=np.int64)
        input_ids[mask] = self.tokens.ids[(starts[:, None] + columns)[mask]]
        return Batch(*map(torch.from_numpy, (input_ids, mask, self.labels[index], index)))


class VectorDataset(TokenDataset):
    """The same documents as the vectors of a frozen encoder, which stand in `input_ids`: [B, D] float32."""

    def __init__(self, tokens: Tokens, labels: Labels, pad_id: int, vectors: npt.NDArray[np.float32]) -> None:
        super().__init__(tokens, labels, pad_id)
        self.vectors = vectors

    def __getitem__(self, indices: list[int]) -> Batch:
        index = np.asarray(indices)
        mask = np.ones((len(index), 1), dtype=np.bool_)
        return Batch(*map(torch.from_numpy, (self.vectors[index], mask, self.labels[index], index)))


class BucketSampler(Sampler[list[int]]):
    """Yields batches as lists of document indices, with documents of similar length together.

    In training, documents are shuffled, sorted by length within windows of `WINDOW` batches and divided into batches,
    which are shuffled. This order depends only on (seed, epoch), and each rank takes every `world_size`-th batch of it.
    Without `shuffle`, batches and their order are the same in every epoch and for every seed.
    """

    WINDOW = 50

    def __init__(
        self,
        lengths: npt.NDArray[np.int64],
        batch_size: int,
        *,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.lengths, self.shuffle, self.seed = lengths, shuffle, seed
        self.rank, self.world_size = rank, world_size
        # A multiple of the number of ranks: with a batch fewer on one of them the others would wait for its gradients.
        self.num_batches = -(-len(lengths) // (batch_size * world_size)) * world_size
        self.epoch = 0
        self.start = 0  # batches of this rank to skip, where an epoch is resumed in its middle

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this at the start of each epoch."""
        # If it is the same epoch again, it is being resumed and keeps its start.
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def __len__(self) -> int:
        return self.num_batches // self.world_size

    def __iter__(self) -> Iterator[list[int]]:
        batches = self._batches()[self.rank :: self.world_size]
        yield from (batch.tolist() for batch in batches[self.start :])

    def _batches(self) -> list[npt.NDArray[np.int64]]:
        if not self.shuffle:
            batches = np.array_split(np.argsort(self.lengths, kind="stable"), self.num_batches)
            # Not from short to long, or a limit on the number of batches would select the short documents.
            return [batches[i] for i in np.random.default_rng(0).permutation(self.num_batches)]
        # From seed and epoch only, so that every rank and a resumed run draw the same order without any state.
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(len(self.lengths))
        window = np.arange(len(order)) * self.num_batches // (len(order) * self.WINDOW)
        order = order[np.lexsort((self.lengths[order], window))]
        # Equal parts, as a remainder of two documents would have the weight of a whole batch.
        batches = np.array_split(order, self.num_batches)
        return [batches[i] for i in rng.permutation(self.num_batches)]


class BucketLoader(DataLoader[Batch]):
    """A loader that knows its position in the epoch, so that a run can resume in the middle of one."""

    sampler: BucketSampler

    def __init__(self, dataset: TokenDataset, sampler: BucketSampler, num_workers: int = 0) -> None:
        # batch_size=None, as an index of the sampler is a batch already. A generator of its own, because a loader draws
        # a number for its workers in each epoch, which would change the numbers that dropout draws.
        generator = torch.Generator()
        super().__init__(dataset, sampler=sampler, batch_size=None, num_workers=num_workers, generator=generator)
        self.position = 0

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        self.position = self.sampler.start
        # Without workers the iterator of torch does nothing but take time, which shows in the step of a small model.
        for batch in super().__iter__() if self.num_workers else map(self.dataset.__getitem__, self.sampler):
            # Counted here, where a batch is used: workers have fetched further batches already.
            self.position += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The position in the epoch."""
        return {"epoch": self.sampler.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue at `state`: batches before it are skipped."""
        self.sampler.epoch, self.sampler.start = state["epoch"], state["position"]
