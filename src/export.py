"""A trained model as a folder for use without attnlab: `python src/export.py ckpt_path=<run or .ckpt> format=onnx`."""

import hydra
from omegaconf import DictConfig

import attnlab.composing  # noqa: F401  (what the config may compute)
from attnlab.config import EXECUTION_WHITELIST
from attnlab.errors import report_in_one_line
from attnlab.process import large_imports


@hydra.main(config_path="../conf", config_name="export", execution_whitelist=EXECUTION_WHITELIST)
def main(cfg: DictConfig) -> None:
    # Imported here so that --help and mistakes in the config do not wait for torch.
    with large_imports():
        from attnlab.inference.export import export

    export(cfg)


if __name__ == "__main__":
    report_in_one_line()
    main()
