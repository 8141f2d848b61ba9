"""What a model says of all documents of a split."""

from typing import Any

import torch
import torch.distributed
from torch import Tensor

from attnlab.data.batching import Batch
from attnlab.data.corpus import Labels


class Collected:
    """The logits of N documents, K each, in the order of their split.

    In one piece of memory: pieces of each batch's leave holes between them, many times as large with many classes.
    """

    def __init__(self, labels: Labels, num_outputs: int, device: torch.device) -> None:
        self.labels = torch.from_numpy(labels).to(device)
        self.logits = torch.zeros(len(labels), num_outputs, dtype=torch.float32, device=device)
        self.seen = torch.zeros(len(labels), dtype=torch.bool, device=device)

    def add(self, batch: Batch, logits: Tensor) -> None:
        """logits: [B, K]"""
        self.logits[batch.indices] = logits.to(self.logits.dtype)
        self.seen[batch.indices] = True

    def gather(self) -> tuple[Tensor, Tensor, Tensor]:
        """The place in the split, logits and labels of each document that any process has seen."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            mine = self.seen.nonzero().squeeze(1)
            parts: list[Any] = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(parts, (mine.cpu(), self.logits[mine].cpu()))
            for index, logits in parts:
                self.seen[index], self.logits[index] = True, logits.to(self.logits.device)
        index = self.seen.nonzero().squeeze(1)
        if len(index) == len(self.seen):  # as without a limit on the number of batches
            return index, self.logits, self.labels
        return index, self.logits[index], self.labels[index]
