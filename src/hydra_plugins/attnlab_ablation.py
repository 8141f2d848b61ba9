"""Makes `hydra/sweeper: ablation` known to Hydra, which imports this file at every start: nothing heavy here."""

from dataclasses import dataclass

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydra_plugins.attnlab_sweeper import one_line


@dataclass
class AblationSweeperConfig:
    """All settings of an ablation stand in `conf/ablation`."""

    _target_: str = "hydra_plugins.attnlab_ablation.AblationSweeper"


ConfigStore.instance().store(group="hydra/sweeper", name="ablation", node=AblationSweeperConfig, provider="attnlab")


class AblationSweeper(Sweeper):
    """Hands a multirun to `attnlab.ablation`."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from attnlab.ablation.sweep import prepare

        with one_line():
            self.prepared = prepare(config)
        self.loader = hydra_context.config_loader
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        from attnlab.ablation.sweep import ablate

        with one_line():
            assert self.launcher is not None
            ablate(self.prepared, self.launcher, self.loader, arguments)
