"""Pages in W&B for all runs of a project: `python src/dashboard.py project=attnlab`."""

import hydra
from omegaconf import DictConfig

import attnlab.composing  # noqa: F401  (the resolvers that the config uses)
from attnlab.config import EXECUTION_WHITELIST
from attnlab.errors import report_in_one_line
from attnlab.process import large_imports


@hydra.main(config_path="../conf", config_name="dashboard", execution_whitelist=EXECUTION_WHITELIST)
def main(cfg: DictConfig) -> None:
    # Imported here so that --help does not wait for torch.
    with large_imports():
        from attnlab.training.dashboard import dashboard

    dashboard(cfg)


if __name__ == "__main__":
    report_in_one_line()
    main()
