"""Compare finished runs: `python src/compare.py runs=logs/train/multiruns/<sweep> [by=pe]`."""

from omegaconf import DictConfig

from attnlab.composing import run
from attnlab.process import large_imports


def main(cfg: DictConfig) -> None:
    # Imported here so that --help does not wait for pandas and statsmodels.
    with large_imports():
        from attnlab.analysis.comparison import compare

    compare(cfg)


if __name__ == "__main__":
    run("compare", main)
