"""The data module: from a source and a tokenizer to the batches of a run."""

import hashlib
import logging
from dataclasses import replace
from pathlib import Path
from textwrap import fill

import numpy as np
import torch
import torch.distributed
from lightning.pytorch import LightningDataModule
from tokenizers import Tokenizer

from attnlab.data.audit import audit, audit_summary, audit_warnings
from attnlab.data.batching import Batch, BucketLoader, BucketSampler, TokenDataset
from attnlab.data.corpus import renumber
from attnlab.data.sources import SPLITS, Source
from attnlab.data.splits import cut_fold, split_corpus
from attnlab.data.tokenization import pad_id
from attnlab.data.tokens import Recipe, fingerprint, tokenize
from attnlab.errors import UserError

log = logging.getLogger(__name__)

# Without gradients a batch of four times the size fits into the memory of the training batch.
EVAL_BATCH_FACTOR = 4
VAL_DUPLICATES = 0.05  # a warning for a larger share of validation; any set has a few


class TextDataModule(LightningDataModule):
    """Reads, splits, tokenises and batches the documents of a source.

    Args:
        source: where the documents come from and how they are split.
        tokenizer: a recipe to train on the training split, or the tokenizer of a checkpoint.
        cache_dir: the folder of the token cache.
        seed: of the order of training batches.
        label_names: the classes of a trained model, in the order of its outputs, by which labels are then numbered.

    After `setup()`: `label_names`, `tokenizer`, `splits` (texts and labels), `pairs` (whether documents are pairs of
    texts), `ceilings`, and `audit`, the metrics of the data audit (`attnlab.data.audit`).
    """

    def __init__(
        self,
        source: Source,
        tokenizer: Recipe | Tokenizer,
        cache_dir: Path,
        seed: int = 0,
        label_names: list[str] | None = None,
    ) -> None:
        super().__init__()
        self.source, self.recipe, self.cache_dir, self.seed = source, tokenizer, cache_dir, seed
        self.model_classes = label_names
        self.datasets: dict[str, TokenDataset] = {}
        self.train_loader: BucketLoader | None = None
        self.resume_from: dict[str, int] | None = None

    def setup(self, stage: str | None = None) -> None:
        """Read and tokenise, for stage "test" only that split; further calls, as by Lightning, do nothing."""
        if self.datasets:
            return
        source = self.source
        alone = stage == "test" and source.folds is None  # a fold is a part of train
        corpus = source.load(["test"] if alone else SPLITS)
        # Before the fold is cut, which is stratified by class number, so that evaluation cuts the one of training.
        if self.model_classes is not None:
            corpus = renumber(corpus, self.model_classes)
        if source.folds is not None:
            corpus = cut_fold(corpus, source.fold, source.folds, source.split_seed)
        self.label_names, self.ceilings = corpus.label_names, corpus.ceilings
        if stage == "test":
            self.splits = {"test": corpus.test}
        else:
            self.splits = split_corpus(corpus, source.validation, source.limit, source.split_seed)
        texts = {name: split.documents for name, split in self.splits.items()}
        self.pairs = any(split.pairs is not None for split in self.splits.values())
        self.tokenizer, tokens = tokenize(texts, self.recipe, self.cache_dir)
        pad = pad_id(self.tokenizer)
        self.datasets = {name: TokenDataset(tokens[name], split.labels, pad) for name, split in self.splits.items()}
        # The labels are part of the fingerprint, as documents with corrected labels are other data.
        digest = hashlib.blake2b(f"{fingerprint(texts)} {self.label_names}".encode(), digest_size=16)
        for split in self.splits.values():
            digest.update(split.labels.tobytes())
        self.fingerprint = digest.hexdigest()
        self.audit = audit(tokens, texts, self.tokenizer, source.validation == "test")
        self._log_summary()

    def _log_summary(self) -> None:
        """Sizes, and the data audit with its warnings."""
        sizes = ", ".join(f"{len(split.texts):,} {name}" for name, split in self.splits.items())
        mean_length = np.concatenate([dataset.tokens.lengths for dataset in self.datasets.values()]).mean()
        log.info("Data: %s documents; %d classes; %.0f tokens each", sizes, len(self.label_names), mean_length)
        log.info("%s", audit_summary(self.audit))
        for sentence in audit_warnings(self.audit).values():
            log.warning("%s", fill(f"Data: {sentence}", 80, subsequent_indent="  "))
        repeated, val_size = self.audit.get("data/val_duplicates", 0), len(self.datasets.get("val", ()))
        if repeated > VAL_DUPLICATES * val_size and self.source.validation != "test":
            log.warning(
                "Data: %s of %s validation documents are also in train, so model selection will favour memorisation; "
                "remove them",
                *(f"{number:,.0f}" for number in (repeated, val_size)),
            )

    @property
    def settings(self) -> str:
        """A hash of the settings of the source other than the batch size."""
        return hashlib.blake2b(repr(replace(self.source, batch_size=1)).encode(), digest_size=8).hexdigest()

    def train_dataloader(self) -> BucketLoader:
        self.train_loader = self._loader("train", self.source.batch_size, shuffle=True)
        if self.resume_from is not None:
            self.train_loader.load_state_dict(self.resume_from)
            self.resume_from = None
        return self.train_loader

    def val_dataloader(self) -> BucketLoader:
        return self._loader("val", self.source.batch_size * EVAL_BATCH_FACTOR)

    def test_dataloader(self) -> BucketLoader:
        return self._loader("test", self.source.batch_size * EVAL_BATCH_FACTOR)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """As Lightning does it for nested collections, in a tenth of the time."""
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in batch))

    # Lightning restores the state of a loader too, but not if a schedule has asked for the number of steps before.
    def state_dict(self) -> dict[str, int]:
        """The position in the training epoch."""
        return {} if self.train_loader is None else self.train_loader.state_dict()

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Continue at this position with the next `train_dataloader()`."""
        self.resume_from = state_dict or None

    def _loader(self, split: str, batch_size: int, shuffle: bool = False) -> BucketLoader:
        # Lightning would replace the sampler by its own in a distributed run, which knows no batches of similar length;
        # `use_distributed_sampler` is off, and this one divides the batches among ranks.
        dataset = self.datasets[split]
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        processes = torch.distributed.get_world_size() if distributed else 1
        if len(dataset) < processes:
            raise UserError(
                f"{split} has {len(dataset)} documents for {processes} processes, each of which needs one: give more "
                "documents, or fewer trainer.devices"
            )
        sampler = BucketSampler(
            dataset.tokens.lengths,
            batch_size,
            shuffle=shuffle,
            seed=self.seed,
            rank=torch.distributed.get_rank() if distributed else 0,
            world_size=processes,
        )
        return BucketLoader(dataset, sampler, self.source.num_workers)
