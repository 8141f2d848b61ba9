"""What a run costs besides training: start-up, tokenising, memory."""

import statistics
import time
from pathlib import Path

from attnlab.config import instantiate
from attnlab.data.datamodule import split_corpus
from attnlab.data.tokens import tokenize
from benchmarks.common import DATA, QUIET, Row, compare, config_of, folder, in_turn, run

IMPORTS = "import torch, lightning.pytorch"
# Everything up to the first step, and as little as possible after it.
ONE_STEP = ["trainer.max_epochs=1", "+trainer.limit_train_batches=1", "+trainer.limit_val_batches=0", "test=false"]
ONE_STEP += [f"callbacks.{name}=null" for name in ("early_stopping", "best_checkpoint", "last_checkpoint")]
ONE_STEP += ["+trainer.enable_checkpointing=false"]


def measure() -> list[Row]:
    with folder() as place:
        run_dir = f"hydra.run.dir={place}/run"
        one_step = [*DATA, *QUIET, *ONE_STEP, run_dir]
        print("start-up, seconds")
        figures = in_turn(
            {
                "imports": lambda: run("-c", IMPORTS, script=None)[0],
                "first step": lambda: run(*one_step)[0],
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
        used = run(*DATA, *QUIET, "experiment=notebook/attention", "trainer.max_epochs=1", run_dir)[1]
    rows.append(Row("peak memory of a run against imports", used, imported, used / imported, "MB", 1.5, False))
    return [*rows, *tokenising()]


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
        Row(f"training the tokenizer and encoding {number:,} articles", cold, None, cold, "s", 6.0, False),
        Row(f"the same {number:,} articles out of the cache", cached, None, cached, "s", 0.3, False),
    ]


def texts_of(*overrides: str) -> dict[str, list[str]]:
    """The articles of each split."""
    source = instantiate(config_of(*DATA, *overrides)["data"])
    return {name: split.texts for name, split in split_corpus(source.load(), source).items()}


def tokenising_seconds(texts: dict[str, list[str]], place: Path) -> float:
    """What the default tokenizer takes, into a cache or out of it."""
    recipe = instantiate(config_of(*DATA)["tokenizer"])
    start = time.perf_counter()
    tokenize(texts, recipe, place)
    return time.perf_counter() - start
