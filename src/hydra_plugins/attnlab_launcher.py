"""Makes `hydra/launcher: local` known to Hydra, which imports this file at every start: nothing heavy here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


@dataclass
class LocalLauncherConfig:
    """`jobs` at once; null: one for each core that this process may use, and one where training is on a GPU."""

    _target_: str = "hydra_plugins.attnlab_launcher.LocalLauncher"
    jobs: int | None = None


ConfigStore.instance().store(group="hydra/launcher", name="local", node=LocalLauncherConfig, provider="attnlab")


class LocalLauncher(Launcher):
    """Runs the jobs of a multirun on this machine, side by side where it has the cores for it."""

    def __init__(self, jobs: int | None) -> None:
        self.jobs = jobs

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.task_function, self.config = hydra_context, task_function, config
        self.workers: Any = None

    def slots(self, n_jobs: int) -> int:
        """How many trials run at once of a search that asks for `n_jobs`; -1: one a core, or one on a GPU."""
        return self._share(n_jobs, n_jobs)[0]

    def interrupt(self) -> None:
        """Hand Ctrl-C to the jobs that run elsewhere."""
        if self.workers is not None:
            self.workers.interrupt()

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from hydra._internal.core_plugins.basic_launcher import BasicLauncher

        from attnlab.experiments.board import watching
        from attnlab.experiments.workers import Workers

        # Of a search each trial is launched alone, as many at once as it says.
        trials = OmegaConf.select(self.config, "hparams_search.n_jobs")
        n_jobs = trials or OmegaConf.select(self.config, "ablation.n_jobs") or -1
        jobs, threads = self._share(n_jobs, trials or len(job_overrides))
        with watching(self.config, self.context.config_loader, job_overrides, initial_job_idx):
            if jobs == 1:
                launcher = BasicLauncher()
                launcher.setup(hydra_context=self.context, task_function=self.task_function, config=self.config)
                return launcher.launch(job_overrides, initial_job_idx)
            self.workers = self.workers or Workers(self.context, self.task_function, self.config, threads)
            return self.workers.run_all(job_overrides, initial_job_idx, jobs)

    def _share(self, n_jobs: int, number: int) -> tuple[int, int]:
        """How many of `number` jobs run at once where at most `n_jobs` may, and with how many threads each."""
        from attnlab.process import available, share

        most = self.jobs or (n_jobs if n_jobs > 0 else None)
        return share(number if number > 0 else available(), most, self.config.get("trainer") or {})
