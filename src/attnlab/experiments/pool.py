"""Pools: where the jobs of a multirun run, each in a process that may die alone, and how Ctrl-C reaches them."""

import os
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ALL_COMPLETED, FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import cache
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from joblib.externals.loky.process_executor import BrokenProcessPool, ProcessPoolExecutor
from omegaconf import DictConfig, open_dict

from attnlab.errors import UserError, first_line, needs_extra
from attnlab.process import DECIDES_NUMBER
from attnlab.redaction import PREFIX

ORPHAN_SECONDS = 60  # for a job whose multirun has ended to write its checkpoint


class Died(UserError):
    """The process of a job ended before the job did."""


def wait_for_all(futures: Sequence[Future[Any]], interrupt: Callable[[], None]) -> None:
    """Wait until all have ended, or one has raised; those that have not started by then are cancelled.

    `interrupt` hands Ctrl-C to those that run, as often as it is pressed; KeyboardInterrupt is raised once they have
    ended. After the first Ctrl-C a run writes its checkpoint, the second one ends it at once.
    """
    pressed, ended = None, False
    while not ended:
        try:
            if pressed:
                interrupt()
            wait(futures, return_when=FIRST_EXCEPTION if pressed is None else ALL_COMPLETED)
            ended = True
        except KeyboardInterrupt as error:
            pressed = error
        for future in futures:
            future.cancel()
    if pressed:
        raise pressed


class Pool(ABC):
    """Runs jobs in other processes, each of which may die without the others."""

    def __init__(self, context: HydraContext, task: TaskFunction, config: DictConfig) -> None:
        self.context, self.task, self.config = context, task, config
        self.interrupted = False

    @abstractmethod
    def run(self, overrides: Sequence[str], number: int) -> JobReturn:
        """Run one job to its end; it returns `Died` if its process ended before it.

        Raises:
            KeyboardInterrupt: Ctrl-C ended it.
        """

    @abstractmethod
    def interrupt(self) -> None:
        """Hand Ctrl-C to the jobs that run; no other one starts."""

    def run_all(self, jobs: Sequence[Sequence[str]], first: int, at_once: int) -> list[JobReturn]:
        """Run jobs, numbered from `first`, so many at once: the next one starts as soon as one has ended."""
        with ThreadPoolExecutor(at_once) as slots:
            started = [slots.submit(self.run, job, number) for number, job in enumerate(jobs, first)]
            wait_for_all(started, self.interrupt)
            return [job.result() for job in started]


class Processes(Pool):
    """Processes on this machine, kept from job to job: importing torch takes longer than many jobs do.

    Args:
        threads: of each.
    """

    def __init__(self, context: HydraContext, task: TaskFunction, config: DictConfig, threads: int) -> None:
        super().__init__(context, task, config)
        self.threads = threads
        self.idle: SimpleQueue[Any] = SimpleQueue()
        self.busy: set[Any] = set()
        self.starting = threading.Lock()

    def run(self, overrides: Sequence[str], number: int) -> JobReturn:
        with self.starting:
            if self.interrupted:
                raise KeyboardInterrupt
            process = self._process()
            self.busy.add(process)
            state = Singleton.get_state()
            job: Future[JobReturn] = process.submit(
                _run, self.context, self.task, self.config, overrides, number, state
            )
        try:
            result = job.result()
        except BrokenProcessPool:
            process.shutdown(wait=False)
            return JobReturn(overrides=overrides, status=JobStatus.FAILED, _return_value=Died("its process died"))
        finally:
            self.busy.discard(process)
        self.idle.put(process)
        return result

    def interrupt(self) -> None:
        with self.starting:
            self.interrupted = True
            # They are in process groups of their own, which the terminal's Ctrl-C does not reach.
            for number in [number for process in self.busy for number in process._processes]:
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGINT)

    def _process(self) -> Any:
        try:
            return self.idle.get_nowait()
        except Empty:
            given = {name: os.environ.get(name, str(self.threads)) for name in DECIDES_NUMBER}
            # Or `python -m` and `-c`, by which loky starts, would import from the working directory before all else.
            os.environ.setdefault("PYTHONSAFEPATH", "1")
            return ProcessPoolExecutor(max_workers=1, env=given)


class RayTasks(Pool):
    """Tasks of Ray, on this machine or on a cluster.

    Args:
        settings: arguments of `ray.init` and of `ray.remote`.

    Raises:
        UserError: Ray is not installed.
    """

    def __init__(self, context: HydraContext, task: TaskFunction, config: DictConfig, settings: DictConfig) -> None:
        super().__init__(context, task, config)
        with needs_extra("ray", "hydra/launcher=ray"):
            import ray

        self.ray, self.settings = ray, settings
        self.running: set[Any] = set()
        self.starting = threading.Lock()

    def room(self) -> int:
        """How many jobs the cluster runs at once."""
        self._start()
        there, remote = self.ray.cluster_resources(), self.settings.remote
        needed = {"CPU": remote.get("num_cpus", 1), "GPU": remote.get("num_gpus", 0)}
        return max(1, int(min(there.get(name, 0) / share for name, share in needed.items() if share)))

    def run(self, overrides: Sequence[str], number: int) -> JobReturn:
        self._start()
        task = self.ray.remote(**self.settings.remote)(run_elsewhere).remote(
            *(self.context, self.task, self.config, overrides, number, Singleton.get_state())
        )
        self.running.add(task)
        try:
            if self.interrupted:
                self.ray.cancel(task)
            result: JobReturn = self.ray.get(task)
        except Exception as error:
            if self.interrupted:
                raise KeyboardInterrupt from error
            return JobReturn(overrides=overrides, status=JobStatus.FAILED, _return_value=Died(first_line(error)))
        finally:
            self.running.discard(task)
        return result

    def interrupt(self) -> None:
        self.interrupted = True
        for task in list(self.running):
            self.ray.cancel(task)

    def _start(self) -> None:
        with self.starting:  # once, by whichever of the first jobs comes first
            if self.ray.is_initialized():
                return
            here = Path.cwd()
            secrets = {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}

            def enter() -> None:
                """Ray has folders of its own; relative paths start where the sweep was started."""
                os.chdir(here)
                os.environ.update(secrets)

            settings = dict(self.settings.init)
            added = {"worker_process_setup_hook": enter} | dict(settings.get("runtime_env") or {})
            self.ray.init(**settings | {"runtime_env": added})


def run_elsewhere(
    context: HydraContext,
    task: TaskFunction,
    config: DictConfig,
    overrides: Sequence[str],
    number: int,
    state: dict[Any, Any],
) -> JobReturn:
    """One job of the multirun of `config`, in a process other than the multirun's, whose singletons are `state`."""
    setup_globals()
    Singleton.set_state(state)
    own = context.config_loader.load_sweep_config(config, list(overrides))
    with open_dict(own):
        own.hydra.job.id = f"{own.hydra.job.name}_{number}"
        own.hydra.job.num = number
    try:
        return run_job(
            hydra_context=context,
            config=own,
            task_function=task,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
    except (KeyboardInterrupt, SystemExit) as error:
        vars(error).clear()  # Hydra 1.4.0rc3 leaves a JobReturn there that holds the error: pickling them never ends
        raise


def _run(*job: Any) -> JobReturn:
    """`run_elsewhere`, in a process that ends with its parent."""
    parent = os.getppid()
    _end_with(parent)
    try:
        return run_elsewhere(*job)
    finally:
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)  # nobody is left to receive the result


@cache
def _end_with(parent: int) -> None:
    """Stop this process once `parent` has ended, or it would train in the folder of the resumed multirun's job."""
    # The terminal's Ctrl-C then reaches `parent` alone, which hands it on: a run that gets two writes no checkpoint.
    os.setpgid(0, 0)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ORPHAN_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
