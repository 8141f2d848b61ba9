"""Where a training step's time goes: `python -m benchmarks.profile attention` (or `mean`), by torch's profiler.

Steps of the model alone, without Lightning: the same as the bare loop of `speed.py`.
"""

import itertools
import sys
import time
from functools import partial

import torch
from torch.profiler import ProfilerActivity, profile

from attnlab.config import instantiate
from benchmarks.common import DATA, QUIET, THREADS, config_of, data_of
from benchmarks.speed import ARTICLES, MODELS, bare_step, new_module

WARM_UP, STEPS = 20, 100


def main(name: str) -> None:
    torch.set_num_threads(THREADS)
    config = config_of(*DATA, *MODELS[name], *QUIET, f"data.limit={ARTICLES}")
    data = data_of(config)
    module = new_module(config, data).train()
    optimizer = instantiate(config["optimizer"], params=module.parameters())
    batches = list(itertools.islice(data.train_dataloader(), WARM_UP + STEPS))

    step = partial(bare_step, module, optimizer, max_norm=config["trainer"]["gradient_clip_val"])
    for batch in batches[:WARM_UP]:
        step(batch)
    start = time.perf_counter()
    for batch in batches[WARM_UP:]:
        step(batch)
    print(f"{name}: {(time.perf_counter() - start) / STEPS * 1e3:.2f} ms a step")
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for batch in batches[WARM_UP:]:
            step(batch)
    print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=12, max_name_column_width=50))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "attention")
