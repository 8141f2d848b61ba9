"""Test a trained model: `python src/evaluate.py ckpt_path=<run folder or .ckpt> [data=...]`."""

import hydra
from omegaconf import DictConfig

import attnlab.composing  # noqa: F401  (what the config may compute)
from attnlab.config import EXECUTION_WHITELIST
from attnlab.errors import report_in_one_line
from attnlab.process import large_imports


@hydra.main(config_path="../conf", config_name="evaluate", execution_whitelist=EXECUTION_WHITELIST)
def main(cfg: DictConfig) -> None:
    # Imported here so that --help and mistakes in the config do not wait for torch.
    with large_imports():
        from attnlab.training.evaluation import evaluate

    evaluate(cfg)


if __name__ == "__main__":
    report_in_one_line()
    main()
