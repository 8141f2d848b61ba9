"""Answers for new texts: `python src/predict.py ckpt_path=<run folder or .ckpt> input=new.csv output=answers.csv`."""

from omegaconf import DictConfig

from attnlab.composing import run
from attnlab.process import large_imports


def main(cfg: DictConfig) -> None:
    # Imported here so that --help and mistakes in the config do not wait for torch.
    with large_imports():
        from attnlab.inference.prediction import predict

    predict(cfg)


if __name__ == "__main__":
    run("predict", main)
