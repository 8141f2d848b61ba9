"""Makes `hydra/launcher: local` known to Hydra, which imports this file at every start: nothing heavy here."""

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
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
        self.in_this_process = Lock()  # which one job at a time can use, also where a search asks for more

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from hydra._internal.core_plugins.basic_launcher import BasicLauncher

        from attnlab.process import available, share
        from attnlab.search.board import watching
        from attnlab.search.workers import Workers

        # Of a search each trial is launched alone, as many at once as it says.
        slots = OmegaConf.select(self.config, "hparams_search.n_jobs") or 0  # -1: as many as there are cores
        at_once = available() if slots < 0 else slots or len(job_overrides)
        jobs, threads = share(at_once, self.jobs or max(slots, 0) or None, self.config.get("trainer") or {})
        with watching(self.config, self.context.config_loader, job_overrides, initial_job_idx):
            if jobs == 1:
                launcher = BasicLauncher()
                launcher.setup(hydra_context=self.context, task_function=self.task_function, config=self.config)
                with self.in_this_process:
                    return launcher.launch(job_overrides, initial_job_idx)
            self.workers = self.workers or Workers(self.context, self.task_function, self.config, threads)
            return self.workers.run_all(job_overrides, initial_job_idx, jobs)
