"""Jobs of a multirun in processes beside this one, of which each may die alone, and what Ctrl-C does to jobs."""

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ALL_COMPLETED, FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import cache
from queue import Empty, SimpleQueue
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from joblib.externals.loky.process_executor import BrokenProcessPool, ProcessPoolExecutor
from omegaconf import DictConfig, open_dict

from attnlab.errors import UserError, first_line
from attnlab.process import DECIDES_NUMBER, available

ORPHAN_SECONDS = 60  # in which a job whose multirun is gone writes its checkpoint
TRIES = 3  # of a job whose process dies; settings that take it down each time must not keep the others from their end


class Died(UserError):
    """The process of a job has ended before the job has."""


def launch(launcher: Launcher, jobs: Sequence[Sequence[str]], first: int) -> Sequence[JobReturn]:
    """Run jobs, numbered from `first`; all have died where the launcher raises, as most do if one of them has."""
    try:
        return launcher.launch(jobs, initial_job_idx=first)
    except Exception as error:
        return [JobReturn(status=JobStatus.FAILED, _return_value=Died(first_line(error))) for _ in jobs]


def at_once(launcher: Launcher, n_jobs: int) -> int:
    """How many trials the launcher trains at once where `n_jobs` are asked for; -1: as many as it has room for."""
    slots = getattr(launcher, "slots", None)  # other people's launchers have none
    return int(slots(n_jobs)) if slots else n_jobs if n_jobs > 0 else available()


def finish(futures: Sequence[Future[Any]], interrupt: Callable[[], None]) -> None:
    """Wait until all have ended, or one has raised; those that have not begun then never do.

    Ctrl-C is handed to those that run, by `interrupt`, as often as it is pressed, and is raised when they have ended:
    the first one has a run write its checkpoint, the second one ends it at once.
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


class Workers:
    """Processes that are kept from job to job, as importing torch takes longer than many a job.

    Args:
        threads: with which each computes.
    """

    def __init__(self, context: HydraContext, task: TaskFunction, config: DictConfig, threads: int) -> None:
        self.context, self.task, self.config, self.threads = context, task, config, threads
        self.idle: SimpleQueue[Any] = SimpleQueue()
        self.busy: set[Any] = set()
        self.starting, self.interrupted = threading.Lock(), False

    def run(self, overrides: Sequence[str], number: int) -> JobReturn:
        """Run one job to its end; `Died` is what it returns where its process has not come to that."""
        with self.starting:
            if self.interrupted:
                raise KeyboardInterrupt
            worker = self._worker()
            self.busy.add(worker)
            state = Singleton.get_state()
            job: Future[JobReturn] = worker.submit(_run, self.context, self.task, self.config, overrides, number, state)
        try:
            found = job.result()
        except BrokenProcessPool:
            worker.shutdown(wait=False)
            return JobReturn(overrides=overrides, status=JobStatus.FAILED, _return_value=Died("its process died"))
        finally:
            self.busy.discard(worker)
        self.idle.put(worker)
        return found

    def run_all(self, jobs: Sequence[Sequence[str]], first: int, at_once: int) -> list[JobReturn]:
        """Run jobs, numbered from `first`, so many at once: the next one starts as soon as one has ended."""
        with ThreadPoolExecutor(at_once) as slots:
            started = [slots.submit(self.run, job, number) for number, job in enumerate(jobs, first)]
            finish(started, self.interrupt)
            return [job.result() for job in started]

    def interrupt(self) -> None:
        """Hand Ctrl-C to the jobs that run, which are in process groups of their own; no other one starts."""
        with self.starting:
            self.interrupted = True
            for process in [process for worker in self.busy for process in worker._processes]:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGINT)

    def _worker(self) -> Any:
        try:
            return self.idle.get_nowait()
        except Empty:
            given = {name: os.environ.get(name, str(self.threads)) for name in DECIDES_NUMBER}
            # Or `python -m` and `-c`, by which loky starts, would import from the working directory before all else.
            os.environ.setdefault("PYTHONSAFEPATH", "1")
            return ProcessPoolExecutor(max_workers=1, env=given)


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
            os.kill(os.getpid(), signal.SIGKILL)  # nobody is left to take the result


@cache
def _end_with(parent: int) -> None:
    """Have this process stop once `parent` is gone: it would train in a folder in which the resumed multirun does.

    The terminal's Ctrl-C is for `parent` alone, which hands it on: a run that gets two writes no checkpoint.
    """
    os.setpgid(0, 0)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ORPHAN_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
