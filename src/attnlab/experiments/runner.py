"""The loop behind every multirun: a planner says what comes next, a launcher runs it, the live table shows it."""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from threading import Lock
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig

from attnlab.errors import UserError, first_line, relative_to_cwd
from attnlab.experiments.live_table import GONE, Job, LiveTable
from attnlab.experiments.pool import Died, wait_for_all
from attnlab.process import available

TRIES = 3  # of a job whose process dies: one that dies each time must not keep the others from finishing


class Planner(ABC):
    """Decides which jobs a multirun trains. Its methods are called by one thread at a time, apart from `tell`.

    Attributes:
        tries: how often a job is started whose process dies.
        next_number: of the next job that has no number of its own.
    """

    tries = TRIES
    next_number = 0

    @abstractmethod
    def ask(self) -> list[Job] | None:
        """Jobs to launch together; empty: none until a running one ends; None: there are no more."""

    @abstractmethod
    def tell(self, job: Job, result: JobReturn) -> None:
        """Take in what a job returned; `Died` where its process ended before it, in each of its tries."""

    def running(self, jobs: Sequence[Job]) -> AbstractContextManager[Any]:
        """Entered while the jobs run."""
        return nullcontext()

    def put_back(self, jobs: Sequence[Job]) -> None:  # noqa: B027  (most planners find their jobs by the runs' folders)
        """Keep jobs that Ctrl-C ended for the next time."""


def launches_at_once(launcher: Launcher, n_jobs: int) -> int:
    """How many jobs the launcher runs at once if `n_jobs` are requested; -1: as many as it has room for."""
    slots = getattr(launcher, "slots", None)  # launchers of other packages have none
    return int(slots(n_jobs)) if slots else n_jobs if n_jobs > 0 else available()


def execute(planner: Planner, launcher: Launcher, table: LiveTable, slots: int = 1) -> None:
    """Run what the planner asks for until it has no more.

    Args:
        slots: launches at once. How many of the jobs of one launch run at once, the launcher decides.

    Raises:
        KeyboardInterrupt: after Ctrl-C, once the jobs have written their checkpoints.
    """
    execution = _Execution(planner, launcher, table)
    with table.on_terminal():
        if slots == 1:  # in this thread: only here can a job that runs in this process handle signals
            return execution.fill_slot()
        with ThreadPoolExecutor(slots) as threads:
            filled = [threads.submit(execution.fill_slot) for _ in range(slots)]
            try:
                wait_for_all(filled, execution.interrupt)
            finally:
                execution.ended = True
    for slot in filled:
        slot.result()


class _Execution:
    """Each slot takes its next jobs as soon as its last ones have ended."""

    def __init__(self, planner: Planner, launcher: Launcher, table: LiveTable) -> None:
        self.planner, self.launcher, self.table = planner, launcher, table
        self.asking = Lock()
        self.ended = self.interrupted = False

    def interrupt(self) -> None:
        self.ended = self.interrupted = True
        if interrupt := getattr(self.launcher, "interrupt", None):
            interrupt()

    def fill_slot(self) -> None:
        while True:
            with self.asking:
                jobs = None if self.ended else self.planner.ask()
            if jobs is None:
                return
            if jobs:
                self._run(jobs)
            else:
                time.sleep(1)

    def _run(self, jobs: list[Job]) -> None:
        ended: list[tuple[Job, JobReturn]] = []
        try:
            with self.planner.running(jobs):
                for tries_left in reversed(range(self.planner.tries)):
                    tried = [Job(job.overrides, job.number, job.key) for job in jobs]  # each try is a row of the table
                    results = self._launch(tried)
                    died = [isinstance(result._return_value, Died) for result in results]
                    if self.interrupted and any(died):  # Ctrl-C ended it
                        raise KeyboardInterrupt
                    ended += [
                        (job, result)
                        for job, result, dead in zip(tried, results, died, strict=True)
                        if not (dead and tries_left)
                    ]
                    jobs = [job for job, dead in zip(jobs, died, strict=True) if dead]
                    if not jobs:
                        break
        except (KeyboardInterrupt, SystemExit):
            self.planner.put_back(jobs)
            raise
        for job, result in ended:
            self.planner.tell(job, result)

    def _launch(self, jobs: list[Job]) -> Sequence[JobReturn]:
        with self.asking:
            first = self.planner.next_number if jobs[0].number is None else jobs[0].number
            if jobs[0].number is None:
                self.planner.next_number += len(jobs)
        for number, job in enumerate(jobs, first):
            job.number = number
        with self.table.running(jobs):
            try:
                return self.launcher.launch([job.overrides for job in jobs], initial_job_idx=first)
            except Exception as error:  # most launchers raise if the process of one job dies: all count as died
                died = Died(first_line(error))
                for job in jobs:
                    job.report["reason"] = str(died)
                return [JobReturn(status=JobStatus.FAILED, _return_value=died) for _ in jobs]


class _Grid(Planner):
    """All jobs of a sweep. A job that dies is not started again: resume=latest is the user's choice here."""

    tries = 1

    def __init__(self, batches: Sequence[Sequence[Sequence[str]]], table: LiveTable) -> None:
        self.batches, self.table = list(batches), table

    def ask(self) -> list[Job] | None:
        return [Job(job) for job in self.batches.pop(0)] if self.batches and not self.table.failed() else None

    def tell(self, job: Job, result: JobReturn) -> None:
        pass  # the table has it from the job's folder


def run_grid(
    config: DictConfig, launcher: Launcher, loader: ConfigLoader, batches: Sequence[Sequence[Sequence[str]]]
) -> None:
    """Run the jobs of a plain sweep, and print them ranked.

    Raises:
        UserError: jobs have failed.
    """
    number = sum(map(len, batches))
    print(f"{number} jobs in {relative_to_cwd(Path(config.hydra.sweep.dir))}", flush=True)
    table = LiveTable(config, loader, number)
    try:
        execute(_Grid(batches, table), launcher, table)
    finally:
        table.print_ranked()  # also if interrupted
    if failed := table.failed():
        reason = failed[0].report.get("reason", GONE)
        raise UserError(f"{len(failed)} of {number} jobs failed; #{failed[0].number}: {reason}")
