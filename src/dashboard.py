"""Pages in W&B for all runs of a project: `python src/dashboard.py project=attnlab`."""

from omegaconf import DictConfig

from attnlab.composing import run
from attnlab.process import large_imports


def main(cfg: DictConfig) -> None:
    # Imported here so that --help does not wait for torch.
    with large_imports():
        from attnlab.training.dashboard import dashboard

    dashboard(cfg)


if __name__ == "__main__":
    run("dashboard", main)
