"""Test a trained model: `python src/evaluate.py ckpt_path=<run folder or .ckpt> [data=...]`."""

from omegaconf import DictConfig

from attnlab.composing import run
from attnlab.process import large_imports


def main(cfg: DictConfig) -> None:
    # Imported here so that --help and mistakes in the config do not wait for torch.
    with large_imports():
        from attnlab.training.evaluate import evaluate

    evaluate(cfg)


if __name__ == "__main__":
    run("evaluate", main)
