"""The launchers: each is a pool that runs the jobs of a multirun. Hydra imports this at every start: keep it light."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.attnlab_sweeper import as_compact_error

if TYPE_CHECKING:
    from attnlab.experiments.pool import Pool


@dataclass
class LocalLauncherConfig:
    """`jobs` at once; null: one for each core that this process may use, and one where training is on a GPU."""

    _target_: str = "hydra_plugins.attnlab_launchers.LocalLauncher"
    jobs: int | None = None


ConfigStore.instance().store(group="hydra/launcher", name="local", node=LocalLauncherConfig, provider="attnlab")


class LocalLauncher(Launcher):
    """Runs jobs on this machine, in parallel if it has the cores."""

    def __init__(self, jobs: int | None) -> None:
        self.jobs = jobs

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.task_function, self.config = hydra_context, task_function, config
        self.pool: Pool | None = None

    def slots(self, n_jobs: int) -> int:
        """How many jobs run at once if `n_jobs` are requested; -1: one a core, or one on a GPU."""
        return self._share(n_jobs, n_jobs)[0]

    def interrupt(self) -> None:
        """Hand Ctrl-C to the jobs in other processes."""
        if self.pool is not None:
            self.pool.interrupt()

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from hydra._internal.core_plugins.basic_launcher import BasicLauncher

        from attnlab.experiments.pool import Processes

        # A search launches each trial alone, so many at once.
        trials = OmegaConf.select(self.config, "hparams_search.n_jobs")
        n_jobs = trials or OmegaConf.select(self.config, "ablation.n_jobs") or -1
        at_once, threads = self._share(n_jobs, trials or len(job_overrides))
        if at_once == 1:  # in this process: a new one would import torch again
            launcher = BasicLauncher()
            launcher.setup(hydra_context=self.context, task_function=self.task_function, config=self.config)
            return launcher.launch(job_overrides, initial_job_idx)
        self.pool = self.pool or Processes(self.context, self.task_function, self.config, threads)
        return self.pool.run_all(job_overrides, initial_job_idx, at_once)

    def _share(self, n_jobs: int, number: int) -> tuple[int, int]:
        """How many of `number` jobs run at once if at most `n_jobs` may, and with how many threads each."""
        from attnlab.process import available, share

        most = self.jobs or (n_jobs if n_jobs > 0 else None)
        return share(number if number > 0 else available(), most, self.config.get("trainer") or {})


class RayLauncher(Launcher):
    """Runs each job as a task of Ray.

    Args:
        ray: arguments of `ray.init` and of `ray.remote`.
    """

    def __init__(self, ray: DictConfig) -> None:
        self.settings = ray

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from attnlab.experiments.pool import RayTasks

        with as_compact_error():
            self.pool = RayTasks(hydra_context, task_function, config, self.settings)

    def slots(self, n_jobs: int) -> int:
        """How many jobs run at once if `n_jobs` are requested; -1: as many as the cluster has room for."""
        return n_jobs if n_jobs > 0 else self.pool.room()

    def interrupt(self) -> None:
        """Hand Ctrl-C to the tasks that run; those that wait for a place in the cluster never start."""
        self.pool.interrupt()

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        return self.pool.run_all(job_overrides, initial_job_idx, len(job_overrides))


with suppress(ImportError):  # without the extra "slurm"
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher

    class ResilientSlurmLauncher(SlurmLauncher):
        """submitit's, except that a job that dies does not take the results of the others with it."""

        def slots(self, n_jobs: int) -> int:
            """How many jobs run at once if `n_jobs` are requested; -1: as many as jobs of an array."""
            return n_jobs if n_jobs > 0 else int(self.params["array_parallelism"])

        def interrupt(self) -> None:
            """Hand Ctrl-C to Slurm's jobs."""
            from attnlab.experiments.slurm import interrupt

            interrupt()

        def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
            from attnlab.experiments.slurm import use_these_jobs

            use_these_jobs()
            return super().launch(job_overrides, initial_job_idx)
