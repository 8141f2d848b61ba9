"""Train a text classifier: `python src/train.py model.pooling=max pe=learned`; `--help` lists every choice."""

from omegaconf import DictConfig

from attnlab.composing import run
from attnlab.process import large_imports


def main(cfg: DictConfig) -> float | None:
    # Imported here so that --help and mistakes in the config do not wait for torch.
    with large_imports():
        from attnlab.training.train import train

    return train(cfg).get(cfg.monitor.metric)  # what a sweeper that searches goes by


if __name__ == "__main__":
    run("train", main)
