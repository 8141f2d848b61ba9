"""How throughput, tokenising and memory grow with the number of documents, their length and the width of the model."""

from benchmarks.common import DATA, QUIET, Row, config_of, data_of, folder, run
from benchmarks.costs import texts_of, tokenising_seconds
from benchmarks.speed import MODELS, bare_loop, ours

SIZES = {
    "data.limit": (10_000, 20_000, 40_000, 57_000),
    "tokenizer.max_length": (16, 32, 64, 128),
    "model.embed_dim": (32, 100, 256, 512),
}


def measure() -> list[Row]:
    """One run each, of our run and the bare loop in turn."""
    rows = costs()
    for name, overrides in MODELS.items():
        for setting, values in SIZES.items():
            for value in values:
                size = {"data.limit": 6400} | {setting: value}
                arguments = [*overrides, *(f"{key}={number}" for key, number in size.items())]
                config = config_of(*DATA, *QUIET, "trainer.max_epochs=1", *arguments)
                data = data_of(config)
                mine, bare = ours(config, data), bare_loop(config, data)
                print(f"  {name} {setting}={value}: {mine:,.0f} samples/s, bare loop {bare:,.0f}", flush=True)
                rows.append(Row(f"{name} {setting}={value}", mine, bare, mine / bare, "samples/s"))
    return rows


def costs() -> list[Row]:
    """Documents a second through the default tokenizer, its training included, and the peak memory of a run."""
    rows = []
    for value in SIZES["data.limit"]:
        size = f"data.limit={value}"
        with folder() as place:
            texts = texts_of(size)
            speed = sum(map(len, texts.values())) / tokenising_seconds(texts, place / "cache")
            arguments = [*MODELS["mean"], *QUIET, "trainer.max_epochs=1", size, f"hydra.run.dir={place}/run"]
            memory = run(*DATA, *arguments)[1]
        print(f"  {size}: {speed:,.0f} documents/s, {memory:,.0f} MB", flush=True)
        rows.append(Row(f"tokenising {size}", speed, None, speed, "documents/s"))
        rows.append(Row(f"memory {size}", memory, None, memory, "MB"))
    return rows
