"""A trained model as a folder for use without attnlab: `python src/export.py ckpt_path=<run or .ckpt> format=onnx`."""

from omegaconf import DictConfig

from attnlab.composing import run
from attnlab.process import large_imports


def main(cfg: DictConfig) -> None:
    # Imported here so that --help and mistakes in the config do not wait for torch.
    with large_imports():
        from attnlab.inference.export import export

    export(cfg)


if __name__ == "__main__":
    run("export", main)
