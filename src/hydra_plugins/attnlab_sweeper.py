"""Makes `hydra/sweeper: attnlab` known to Hydra, which imports this file at every start: nothing heavy here."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.errors import CompactHydraException
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from attnlab.errors import UserError


@dataclass
class SearchSweeperConfig:
    """`params`, as of any sweeper, add to the space; all other settings of a search stand in `conf/hparams_search`."""

    _target_: str = "hydra_plugins.attnlab_sweeper.SearchSweeper"
    params: dict[str, str] | None = None


ConfigStore.instance().store(group="hydra/sweeper", name="attnlab", node=SearchSweeperConfig, provider="attnlab")


class SearchSweeper(Sweeper):
    """Hands a multirun to `attnlab.search`."""

    def __init__(self, params: dict[str, str] | None) -> None:
        self.params = params or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from attnlab.search.study import prepare

        with one_line():
            self.search_config = prepare(config)
        self.search_loader = hydra_context.config_loader
        self.search_launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        from attnlab.search.sweep import search

        with one_line():
            given = [f"{name}={values}" for name, values in self.params.items()]
            search(self.search_config, self.search_launcher, self.search_loader, [*given, *arguments])


@contextmanager
def one_line() -> Iterator[None]:
    """Hydra shows a traceback for what a sweeper raises, unless it is of its own compact kind."""
    try:
        yield
    except UserError as error:
        raise CompactHydraException(f"error: {error}") from error
