"""Where a run writes: the resolvers that `conf/paths` and `conf/hydra` use. Importing this module registers them."""

import secrets
from datetime import datetime

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf


def run_id() -> str:
    """`<date>_<time>_<short id>`: two runs that start in the same second do not share a folder."""
    return f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{secrets.token_hex(2)}"


def run_dir(parent: str) -> str:
    """The folder that Hydra made for this job; outside Hydra's command line a new one below `parent`."""
    if HydraConfig.initialized():
        return str(HydraConfig.get().runtime.output_dir)
    return f"{parent}/runs/{run_id()}"


# Cached, so that a config names the same folder wherever it is asked.
OmegaConf.register_resolver("run_id", run_id, use_cache=True, replace=True)
OmegaConf.register_resolver("run_dir", run_dir, use_cache=True, replace=True)
