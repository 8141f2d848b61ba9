"""The launcher of `hydra/launcher=ray`. Hydra imports this file at every start: nothing heavy here."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydra_plugins.attnlab_sweeper import one_line

STARTING = Lock()  # trials of a search that begin together start Ray once


class RayLauncher(Launcher):
    """Runs each job as a task of Ray's, of which one that dies costs no other one's result.

    Args:
        ray: arguments of `ray.init` and of `ray.remote`.
    """

    def __init__(self, ray: DictConfig) -> None:
        self.settings = ray

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from attnlab.errors import needs_extra

        with one_line(), needs_extra("ray", "hydra/launcher=ray"):
            import ray

        self.ray, self.context, self.task_function, self.config = ray, hydra_context, task_function, config
        self.under_way: set[Any] = set()
        self.interrupted = False

    def slots(self, n_jobs: int) -> int:
        """How many trials run at once of a search that asks for `n_jobs`; -1: as many as the cluster has room for."""
        if n_jobs > 0:
            return n_jobs
        self._start()
        there, remote = self.ray.cluster_resources(), self.settings.remote
        wanted = {"CPU": remote.get("num_cpus", 1), "GPU": remote.get("num_gpus", 0)}
        return max(1, int(min(there.get(name, 0) / share for name, share in wanted.items() if share)))

    def interrupt(self) -> None:
        """Hand Ctrl-C to the tasks that run; those that wait for a place in the cluster never start."""
        self.interrupted = True
        for task in list(self.under_way):
            self.ray.cancel(task)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from attnlab.experiments.board import watching
        from attnlab.experiments.workers import finish

        self._start()
        with (
            watching(self.config, self.context.config_loader, job_overrides, initial_job_idx),
            ThreadPoolExecutor(len(job_overrides)) as waiting,
        ):
            jobs = [waiting.submit(self._run, job, number) for number, job in enumerate(job_overrides, initial_job_idx)]
            finish(jobs, self.interrupt)
            return [job.result() for job in jobs]

    def _start(self) -> None:
        from attnlab.redaction import PREFIX

        with STARTING:
            if not self.ray.is_initialized():
                here = Path.cwd()
                secrets = {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}

                def enter() -> None:
                    """Ray has folders of its own; relative paths are of the one that the sweep began in."""
                    os.chdir(here)
                    os.environ.update(secrets)

                settings = dict(self.settings.init)
                added = {"worker_process_setup_hook": enter} | dict(settings.get("runtime_env") or {})
                self.ray.init(**settings | {"runtime_env": added})

    def _run(self, overrides: Sequence[str], number: int) -> JobReturn:
        """One job, from its start to its end; raises KeyboardInterrupt where that was Ctrl-C's."""
        from attnlab.errors import first_line
        from attnlab.experiments.workers import Died, run_elsewhere

        task = self.ray.remote(**self.settings.remote)(run_elsewhere).remote(
            *(self.context, self.task_function, self.config, overrides, number, Singleton.get_state())
        )
        self.under_way.add(task)
        try:
            if self.interrupted:
                self.ray.cancel(task)
            result: JobReturn = self.ray.get(task)
        except Exception as error:
            if self.interrupted:
                raise KeyboardInterrupt from error
            return JobReturn(overrides=overrides, status=JobStatus.FAILED, _return_value=Died(first_line(error)))
        finally:
            self.under_way.discard(task)
        return result
