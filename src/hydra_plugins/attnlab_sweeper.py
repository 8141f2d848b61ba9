"""Makes our sweepers known to Hydra, which imports this file at every start: nothing heavy here."""

from abc import abstractmethod
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


@dataclass
class AblationSweeperConfig:
    """All settings of an ablation stand in `conf/ablation`."""

    _target_: str = "hydra_plugins.attnlab_sweeper.AblationSweeper"


for _name, _node in (("attnlab", SearchSweeperConfig), ("ablation", AblationSweeperConfig)):
    ConfigStore.instance().store(group="hydra/sweeper", name=_name, node=_node, provider="attnlab")


class OwnSweeper(Sweeper):
    """Has the launcher that the config names made, once the config is found to be usable."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        with one_line():
            self.prepared = self.prepare(config)
        self.loader = hydra_context.config_loader
        self.own_launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    @abstractmethod
    def prepare(self, config: DictConfig) -> DictConfig:
        """The config of the multirun, checked. Raises `UserError` where it can't be used."""


class SearchSweeper(OwnSweeper):
    """Hands a multirun to `attnlab.experiments`."""

    def __init__(self, params: dict[str, str] | None) -> None:
        self.params = params or {}

    def prepare(self, config: DictConfig) -> DictConfig:
        from attnlab.experiments.study import prepare

        return prepare(config)

    def sweep(self, arguments: list[str]) -> None:
        from attnlab.experiments.sweep import search

        with one_line():
            given = [f"{name}={values}" for name, values in self.params.items()]
            search(self.prepared, self.own_launcher, self.loader, [*given, *arguments])


class AblationSweeper(OwnSweeper):
    """Hands a multirun to `attnlab.experiments.ablation`."""

    def prepare(self, config: DictConfig) -> DictConfig:
        from attnlab.experiments.ablation.sweep import prepare

        return prepare(config)

    def sweep(self, arguments: list[str]) -> None:
        from attnlab.experiments.ablation.sweep import ablate

        with one_line():
            ablate(self.prepared, self.own_launcher, self.loader, arguments)


@contextmanager
def one_line() -> Iterator[None]:
    """Hydra shows a traceback for what a sweeper raises, unless it is of its own compact kind."""
    try:
        yield
    except UserError as error:
        raise CompactHydraException(f"error: {error}") from error
