"""Train a text classifier: `python src/train.py model.pooling=max pe=learned`; `--help` lists every choice."""

import hydra
from omegaconf import DictConfig

import attnlab.composing  # noqa: F401  (what the config may compute)
from attnlab.config import EXECUTION_WHITELIST
from attnlab.errors import report_in_one_line
from attnlab.process import large_imports


@hydra.main(config_path="../conf", config_name="train", execution_whitelist=EXECUTION_WHITELIST)
def main(cfg: DictConfig) -> float | None:
    # Imported here so that --help and mistakes in the config do not wait for torch.
    with large_imports():
        from attnlab.training.run import train

    return train(cfg).get(cfg.monitor.metric)  # what a sweeper that searches goes by


if __name__ == "__main__":
    report_in_one_line()
    main()
