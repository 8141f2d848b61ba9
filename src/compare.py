"""Compare finished runs: `python src/compare.py runs=logs/train/multiruns/<sweep> [by=pe]`."""

import hydra
from omegaconf import DictConfig

import attnlab.composing  # noqa: F401  (what the config may compute)
from attnlab.config import EXECUTION_WHITELIST
from attnlab.errors import report_in_one_line
from attnlab.process import large_imports


@hydra.main(config_path="../conf", config_name="compare", execution_whitelist=EXECUTION_WHITELIST)
def main(cfg: DictConfig) -> None:
    # Imported here so that --help does not wait for pandas and statsmodels.
    with large_imports():
        from attnlab.study.comparison import compare

    compare(cfg)


if __name__ == "__main__":
    report_in_one_line()
    main()
