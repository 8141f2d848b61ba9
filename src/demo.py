"""A page to try trained models on: `python src/demo.py ckpt_path=<run folder or .ckpt>`."""

from omegaconf import DictConfig

from attnlab.composing import run
from attnlab.process import large_imports


def main(cfg: DictConfig) -> None:
    # Imported here so that --help and mistakes in the config do not wait for torch.
    with large_imports():
        from attnlab.inference.demo import serve

    serve(cfg)


if __name__ == "__main__":
    run("demo", main)
