"""Training throughput: our run against the transformers Trainer as the notebook used it, and against a bare loop."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import Timer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from attnlab.config import instantiate
from attnlab.data.batching import Batch
from attnlab.data.datamodule import TextDataModule
from attnlab.data.sources import Split
from attnlab.training.encoder import model_settings
from attnlab.training.job import tidy_process
from attnlab.training.module import TextClassification
from attnlab.training.trainer import make_trainer
from benchmarks.common import DATA, QUIET, Row, compare, config_of, data_of, folder, in_turn

ARTICLES = 12_800
MODELS = {
    "attention": ["experiment=notebook/positions", "pe=learned"],
    "mean": ["experiment=notebook/baseline"],
}
TARGETS = {"attention": (3.0, 0.95), "mean": (4.0, 0.85)}


class NotebookModel(nn.Module):
    """The notebook's models, in its own form: run 1, or run 4 (learned positions, attention, max pooling)."""

    def __init__(self, vocab_size: int, num_classes: int, attention: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, 100, padding_idx=3)
        self.positions = nn.Embedding(128, 100) if attention else None
        self.attention = nn.MultiheadAttention(100, 2) if attention else None
        self.head = nn.Linear(100, num_classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Tensor]:
        x = self.embedding(input_ids)
        if self.attention is None or self.positions is None:
            pooled = x.mean(dim=1)
        else:
            x = (x + self.positions.weight[: x.size(1)]).transpose(0, 1)
            x, _ = self.attention(x, x, x, key_padding_mask=~attention_mask.bool())
            pooled = x.transpose(0, 1).max(dim=1).values
        logits = self.head(pooled)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def measure() -> list[Row]:
    rows = []
    for name, overrides in MODELS.items():
        print(f"training throughput of the {name} model, samples/s")
        config = config_of(*DATA, *overrides, *QUIET, "trainer.max_epochs=1", f"data.limit={ARTICLES}")
        data = data_of(config)
        systems: dict[str, Callable[[], float]] = {
            "ours": partial(ours, config, data),
            "bare loop": partial(bare_loop, config, data),
            "transformers": transformers_trainer(name, config, data),
        }
        figures = in_turn(systems)
        for peer, target in zip(("transformers", "bare loop"), TARGETS[name], strict=True):
            what = f"{name} model against {'the transformers Trainer' if peer == 'transformers' else 'a bare loop'}"
            rows.append(compare(what, "samples/s", figures["ours"], figures[peer], target=target))
    return rows


def ours(config: dict[str, Any], data: TextDataModule) -> float:
    """As `src/train.py` trains it."""
    with folder() as place, tidy_process():
        seed_everything(0, verbose=False)
        module = new_module(config, data)
        trainer = make_trainer(config, place, timer := Timer())
        trainer.fit(module, data)
        return len(data.datasets["train"]) / (timer.time_elapsed("train") - timer.time_elapsed("validate"))


def bare_loop(config: dict[str, Any], data: TextDataModule) -> float:
    """The same model, batches, optimizer, schedule and clipping, without Lightning."""
    seed_everything(0, verbose=False)
    module = new_module(config, data).train()
    loader = data.train_dataloader()
    optimizer = instantiate(config["optimizer"], params=module.parameters())
    scheduler = instantiate(config["scheduler"], optimizer=optimizer, total_steps=len(loader))
    start = time.perf_counter()
    for batch in loader:
        bare_step(module, optimizer, batch, config["trainer"]["gradient_clip_val"])
        scheduler.step()
    return len(data.datasets["train"]) / (time.perf_counter() - start)


def bare_step(module: nn.Module, optimizer: Optimizer, batch: Batch, max_norm: float) -> None:
    """Forth, back, clip and step, in torch alone."""
    loss = F.cross_entropy(module(batch.input_ids, batch.attention_mask), batch.labels)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(module.parameters(), max_norm)
    optimizer.step()


class WithLoss(nn.Module):
    """A model of ours as the transformers Trainer wants it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.model(input_ids, attention_mask.bool())
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def transformers_trainer(
    name: str, config: dict[str, Any], data: TextDataModule, seconds: float | None = None, evaluate: bool = False
) -> Callable[[], float]:
    """The notebook's pipeline: every document padded to 128, in a data set of the `datasets` library.

    It trains the notebook's own model where there is one by this name, ours otherwise, for one epoch or `seconds`;
    with `evaluate` it keeps the best of its checkpoints by validation and tests it.
    """
    from datasets import Dataset
    from transformers import Trainer, TrainerCallback, TrainingArguments, logging

    logging.set_verbosity_error()
    pad = data.datasets["train"].pad_id

    def padded(split: Split) -> Dataset:
        encodings = data.tokenizer.encode_batch_fast(split.texts)
        for encoding in encodings:
            encoding.pad(128, pad_id=pad)
        columns = {
            "input_ids": [encoding.ids for encoding in encodings],
            "attention_mask": [encoding.attention_mask for encoding in encodings],
            "label": split.labels,
        }
        return Dataset.from_dict(columns)

    documents = {name: padded(split) for name, split in data.splits.items() if evaluate or name == "train"}

    class Clock(TrainerCallback):
        """Ends training in time, and knows how fast it was."""

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.start = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            elapsed = time.perf_counter() - self.start
            self.speed = state.global_step * args.per_device_train_batch_size / elapsed
            control.should_training_stop = seconds is not None and elapsed > seconds

    def train() -> float:
        torch.manual_seed(0)
        model: nn.Module
        if name in MODELS:
            model = NotebookModel(data.tokenizer.get_vocab_size(), len(data.label_names), name == "attention")
        else:
            model = WithLoss(new_module(config, data).model)
        with folder() as place:
            settings = TrainingArguments(
                output_dir=str(place),
                learning_rate=config["optimizer"]["lr"],
                per_device_train_batch_size=32,
                num_train_epochs=1 if seconds is None else 1000,
                save_strategy="epoch" if evaluate else "no",
                eval_strategy="epoch" if evaluate else "no",
                load_best_model_at_end=evaluate,
                report_to="none",
                use_cpu=True,
                disable_tqdm=True,
            )
            clock, val = Clock(), documents.get("val")
            trainer = Trainer(model, settings, train_dataset=documents["train"], eval_dataset=val, callbacks=[clock])
            trainer.train()
            if evaluate:
                trainer.predict(documents["test"])
        return clock.speed

    return train


def new_module(config: dict[str, Any], data: TextDataModule) -> TextClassification:
    parts = model_settings(config["model"]), config["optimizer"], config["scheduler"]
    return TextClassification(*parts, data.label_names, data.tokenizer.to_str(), False, config["task"], {})
