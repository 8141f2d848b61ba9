"""`make bench`: every measurement beside its peers, into `benchmarks/results/`.

    make bench                          # all of PARTS
    make bench ARGS="speed costs"       # some
    AG_NEWS_PATH=<folder> make bench    # on the AG News part rather than the built-in corpus

Two threads; medians of 5 turns after one to warm up where systems take turns.
"""

import os
import sys
from importlib import import_module

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ |= {"WANDB_MODE": "offline", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}

from benchmarks.common import THREADS
from benchmarks.report import write

PARTS = ("speed", "busy", "sweep", "sweeps", "accuracy", "costs", "scaling", "predict", "pretrained", "ablation")


def main(parts: list[str]) -> None:
    import torch

    if unknown := set(parts) - set(PARTS):
        raise SystemExit(f"unknown: {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")
    torch.set_num_threads(THREADS)
    for part in parts or PARTS:
        write(part, import_module(f"benchmarks.{part}").measure())


if __name__ == "__main__":
    main(sys.argv[1:])
