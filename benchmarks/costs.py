"""The overhead of a run: start-up, tokenising, memory, that of a million documents too."""

import statistics
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from attnlab.config import instantiate
from attnlab.data.sources.headlines import generate
from attnlab.data.splits import split_corpus
from attnlab.data.tokens import tokenize
from benchmarks.common import DATA, QUIET, Row, compare, config_of, folder, in_turn, run

IMPORTS = "import torch, lightning.pytorch"
# Everything up to the first step, and as little as possible after it.
ONE_STEP = ["trainer.max_epochs=1", "+trainer.limit_train_batches=1", "+trainer.limit_val_batches=0", "test=false"]
ONE_STEP += [f"callbacks.{name}=null" for name in ("early_stopping", "best_checkpoint", "last_checkpoint")]
ONE_STEP += ["+trainer.enable_checkpointing=false"]
MANY = (250_000, 1_000_000)


def measure() -> list[Row]:
    with folder() as place:
        one_step = [*DATA, *QUIET, *ONE_STEP]
        print("start-up, seconds")
        figures = in_turn(
            {
                "imports": lambda: run("-c", IMPORTS, script=None)[0],
                "first step": lambda: run(*one_step, f"hydra.run.dir={place}/{time.perf_counter()}")[0],
                "help": lambda: run("--help")[0],
            }
        )
        helped = statistics.median(figures["help"])
        rows = [
            compare(
                f"prompt to first step against {IMPORTS!r}",
                "s",
                figures["first step"],
                figures["imports"],
                target=1.5,
                at_least=False,
            ),
            Row("python src/train.py --help", helped, None, helped, "s", 1.5, False),
        ]
        print("memory")
        imported = run("-c", IMPORTS, script=None)[1]
        attention = [*DATA, *QUIET, "experiment=notebook/attention", "trainer.max_epochs=1"]
        used = run(*attention, f"hydra.run.dir={place}/run")[1]
    rows.append(Row("peak memory of a run against imports", used, imported, used / imported, "MB", 1.5, False))
    return [*rows, *many_documents(), *tokenising()]


def many_documents() -> list[Row]:
    """The peak memory of a run on a parquet file of a million documents, and what each takes over its text."""
    print("many documents")
    used, text = {}, 0.0
    for number in MANY:
        with folder() as place:
            texts = generate(number, noise=0.0, order_share=0.5, rng=np.random.default_rng(0)).texts
            text = sum(map(len, texts)) / number / 1024  # all of it ASCII
            table = pa.table({"text": texts, "label": np.arange(number) % 4})
            pyarrow.parquet.write_table(table, place / "train.parquet")
            pyarrow.parquet.write_table(table[:1000], place / "test.parquet")
            del texts, table
            settings = ["data=files", f"data.train={place}/train.parquet", f"data.test={place}/test.parquet"]
            settings += ["model=bag", f"paths.cache_dir={place}/cache", f"hydra.run.dir={place}/run"]
            used[number] = run(*settings, *QUIET, *ONE_STEP)[1]
    few, many = MANY
    more = (used[many] - used[few]) * 1024 / (many - few)
    return [
        Row(f"peak memory of a run on {many:,} documents", used[many], None, used[many], "MB", 1200, False),
        Row(f"each document over {few:,}", more, text, more - text, "KB", 0.4, False),
    ]


def tokenising() -> list[Row]:
    """Training the default tokenizer and encoding every split; and the same out of the cache."""
    print("tokenising, seconds")
    texts = texts_of()
    number = sum(map(len, texts.values()))
    with folder() as place:
        figures = in_turn(
            {
                "cold": lambda: tokenising_seconds(texts, place / str(time.perf_counter())),
                "cached": lambda: tokenising_seconds(texts, place / "cache"),
            }
        )
    cold, cached = (statistics.median(figures[name]) for name in ("cold", "cached"))
    return [
        Row(f"training the tokenizer and encoding {number:,} documents", cold, None, cold, "s", 6.0, False),
        Row(f"the same {number:,} documents out of the cache", cached, None, cached, "s", 0.3, False),
    ]


def texts_of(*overrides: str) -> dict[str, list[str]]:
    """The documents of each split."""
    source = instantiate(config_of(*DATA, *overrides)["data"])
    return {
        name: split.texts
        for name, split in split_corpus(source.load(), source.validation, source.limit, source.split_seed).items()
    }


def tokenising_seconds(texts: dict[str, list[str]], place: Path) -> float:
    """What the default tokenizer takes, into a cache or out of it."""
    recipe = instantiate(config_of(*DATA)["tokenizer"])
    start = time.perf_counter()
    tokenize(texts, recipe, place)
    return time.perf_counter() - start
