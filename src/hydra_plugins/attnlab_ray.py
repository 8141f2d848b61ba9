"""The launcher of `hydra/launcher=ray`. Hydra imports this file at every start: nothing heavy here."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydra_plugins.attnlab_sweeper import one_line

STARTING = Lock()  # trials of a search that begin together start Ray once


class WatchedRayLauncher(Launcher):
    """Ray's, with the table of a sweep; a job that dies costs no other one's result."""

    def __init__(self, ray: DictConfig) -> None:
        self.settings = ray

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from attnlab.errors import needs_extra

        with one_line(), needs_extra("ray", "hydra/launcher=ray"):
            from hydra_plugins.hydra_ray_launcher.ray_launcher import RayLauncher

        self.config, self.loader = config, hydra_context.config_loader
        self.plain: Any = RayLauncher(self.settings)
        self.plain.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        import ray

        from attnlab.redaction import PREFIX
        from attnlab.search.board import watching
        from attnlab.search.workers import launch

        with STARTING:
            if not ray.is_initialized():
                here, secrets = (
                    Path.cwd(),
                    {name: value for name, value in os.environ.items() if name.startswith(PREFIX)},
                )

                def enter() -> None:
                    """Ray has folders of its own; relative paths are of the one that the sweep began in."""
                    os.chdir(here)
                    os.environ.update(secrets)

                settings = dict(self.settings.init)
                added = {"worker_process_setup_hook": enter} | dict(settings.get("runtime_env") or {})
                ray.init(**settings | {"runtime_env": added})
        with (
            watching(self.config, self.loader, job_overrides, initial_job_idx),
            ThreadPoolExecutor(len(job_overrides)) as waiting,  # one job a call: a call fails as a whole
        ):
            numbers = range(initial_job_idx, initial_job_idx + len(job_overrides))
            return list(waiting.map(lambda job, number: launch(self.plain, [job], number)[0], job_overrides, numbers))
