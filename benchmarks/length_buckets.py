"""How much faster a model trains on length-bucketed batches than on the same batches padded to `max_length`.

    make bench                                      # the built-in corpus
    make bench ARGS="data=ag_news data.path=..."    # other data, any override of the training config

Both train the same model on the same articles in one process, in turn; the ratio of the medians is what counts.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from torch.nn import functional as F

import attnlab.paths  # noqa: F401  (the resolvers that the config uses)
from attnlab.config import instantiate, resolve
from attnlab.data.batching import Batch
from attnlab.data.datamodule import TextDataModule
from attnlab.training.module import TextClassification

WARM_UP, BATCHES, REPETITIONS = 10, 100, 5


def samples_per_second(module: TextClassification, batches: list[Batch]) -> float:
    """Training throughput over these batches."""
    optimizer = torch.optim.AdamW(module.parameters(), fused=True)
    start = time.perf_counter()
    for input_ids, attention_mask, labels, _ in batches:
        loss = F.cross_entropy(module(input_ids, attention_mask), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return sum(len(batch.labels) for batch in batches) / (time.perf_counter() - start)


def main(overrides: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder, initialize_config_dir(str(Path(__file__).parents[1] / "conf")):
        config = resolve(compose("train", overrides=[*overrides]))
        recipe = instantiate(config["tokenizer"])
        data = TextDataModule(instantiate(config["data"]), recipe, Path(folder))
        data.setup()
        parts = config["model"], config["optimizer"], config["scheduler"]
        module = TextClassification(*parts, data.label_names, data.tokenizer.to_str()).train()
        buckets = [batch for batch, _ in zip(data.train_dataloader(), range(BATCHES), strict=False)]
    pad_id = data.datasets["train"].pad_id
    padded = [
        Batch(F.pad(ids, (0, missing), value=pad_id), F.pad(mask, (0, missing)), labels, index)
        for ids, mask, labels, index in buckets
        for missing in [recipe.max_length - ids.size(1)]
    ]
    samples_per_second(module, buckets[:WARM_UP] + padded[:WARM_UP])
    speeds = [(samples_per_second(module, buckets), samples_per_second(module, padded)) for _ in range(REPETITIONS)]
    bucketed, full = (statistics.median(column) for column in zip(*speeds, strict=True))
    print(f"length buckets             {bucketed:8,.0f} samples/s (median of {REPETITIONS})")
    print(f"padded to {recipe.max_length:<4}             {full:8,.0f} samples/s")
    print(f"ratio                      {bucketed / full:8.2f}")


if __name__ == "__main__":
    main(sys.argv[1:])
