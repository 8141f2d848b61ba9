"""`make bench-gpu`: training steps on a GPU, by precision, compilation, batch size and where the data is.

Writes `benchmarks/results/gpu.md` with the device's name. Bare steps of our models (no Lightning), on AG News where
`AG_NEWS_PATH` is set. "In kernels" is the share of a step's time in which the GPU works, by torch's profiler.
"""

import itertools
import platform
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from attnlab.config import instantiate
from attnlab.data.batching import Batch
from benchmarks.common import DATA, DATA_NAME, RESULTS, config_of, data_of
from benchmarks.speed import new_module

MODELS = ("attention", "transformer", "ngram_bag")
PRECISIONS = ("fp32", "tf32", "bf16")
BATCH_SIZES = (32, 128, 512, 2048, 8192)
WARM_UP, STEPS = 10, 50
COLUMNS = ("model", "batch", "precision", "compiled", "data", "samples/s", "in kernels", "peak MB")


def main() -> None:
    if not torch.cuda.is_available():
        raise SystemExit("no GPU here: nothing to measure")
    device = torch.device("cuda")
    rows = list(itertools.chain.from_iterable(measure(model, device) for model in MODELS))
    properties = torch.cuda.get_device_properties(device)
    lines = [
        f"# GPU: {properties.name}, {properties.total_memory / 2**30:.0f} GiB, torch {torch.__version__}, "
        f"Python {platform.python_version()}, {DATA_NAME}",
        "",
        f"Large matrix product, the chip's limit in practice: {', '.join(limits(device))}.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "| --- " * len(COLUMNS) + "|",
        *(f"| {' | '.join(str(cell) for cell in row)} |" for row in rows),
    ]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "gpu.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def measure(model: str, device: torch.device) -> list[tuple[Any, ...]]:
    """Every precision at one batch size, then batch size, compilation and copying in bf16."""
    cases: list[tuple[int, str, str | None, str]]
    cases = [(512, precision, None, "on the device") for precision in PRECISIONS]
    cases += [(512, "bf16", None, "copied")]
    cases += [(512, "bf16", mode, "on the device") for mode in ("default", "reduce-overhead")]
    cases += [(size, "bf16", None, "on the device") for size in BATCH_SIZES if size != 512]
    rows = []
    for batch_size, precision, mode, place in cases:
        if mode and model == "ngram_bag":
            continue  # its sparse gradients are not compiled
        config = config_of(*DATA, f"model={model}", f"data.batch_size={batch_size}")
        batches = list(itertools.islice(data_of(config).train_dataloader(), WARM_UP + STEPS))
        step = training_step(config, device, precision, mode)
        rows.append((model, batch_size, precision, mode or "no", place, *timed(step, batches, device, place)))
        print(*rows[-1], sep="  ", flush=True)
    return rows


def training_step(
    config: dict[str, Any], device: torch.device, precision: str, mode: str | None
) -> Callable[[Batch], None]:
    """One step of the config's model and optimizer."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    module = new_module(config, data_of(config)).to(device).train()
    model: nn.Module = torch.compile(module.model, mode=mode, dynamic=True) if mode else module.model  # type: ignore[assignment]
    optimizer = instantiate(config["optimizer"], params=module.model.parameters())

    def step(batch: Batch) -> None:
        mixed = torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
        with mixed:
            loss: Tensor = F.cross_entropy(model(batch.input_ids, batch.attention_mask), batch.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def timed(
    step: Callable[[Batch], None], batches: list[Batch], device: torch.device, place: str
) -> tuple[str, str, str]:
    """Samples a second, share of time in kernels and peak memory, over the batches after the warm-up."""

    def move(batch: Batch) -> Batch:
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in batch))

    resident = [move(batch) for batch in batches] if place == "on the device" else batches
    for batch in resident[:WARM_UP]:
        step(move(batch))
    torch.accelerator.synchronize()
    torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    for batch in resident[WARM_UP:]:
        step(move(batch))
    torch.accelerator.synchronize()
    seconds = time.perf_counter() - start
    articles = sum(len(batch.labels) for batch in resident[WARM_UP:])
    memory = torch.cuda.max_memory_allocated() / 2**20
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for batch in resident[WARM_UP:]:
            step(move(batch))
        torch.accelerator.synchronize()
    busy = sum(event.self_device_time_total for event in profiler.key_averages()) / 1e6
    return f"{articles / seconds:,.0f}", f"{busy / seconds:.0%}", f"{memory:,.0f}"


def limits(device: torch.device, size: int = 8192) -> list[str]:
    """TFLOP/s of a matrix product in each precision."""
    found = []
    for precision in PRECISIONS:
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        a = torch.randn(size, size, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
        a @ a
        torch.accelerator.synchronize()
        start = time.perf_counter()
        for _ in range(10):
            a @ a
        torch.accelerator.synchronize()
        found.append(f"{precision} {10 * 2 * size**3 / (time.perf_counter() - start) / 1e12:,.0f} TFLOP/s")
    return found


if __name__ == "__main__":
    main()
