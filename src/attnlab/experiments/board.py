"""What a sweep or a search shows: one live table of its jobs on a terminal, a line a job elsewhere, and the ranking."""

import os
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.errors import CompactHydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from attnlab import progress
from attnlab.metrics import direction
from attnlab.paths import shown
from attnlab.runs import choose_job_dir

WAITING, DIED = "waiting", "died"
GONE = "its process has ended, for want of memory perhaps; the same command with resume=latest goes on"
OVER = ("done", "pruned", "failed", "interrupted", DIED, "not begun")
STYLES = {"running": "cyan", "testing": "cyan", "failed": "red", DIED: "red", "interrupted": "yellow", "done": "green"}
SECONDS = 0.5  # between two looks
RANKED = 20  # rows of the table at the end
OF_THE_SWEEP = ("hparams_search.", "ablation.", "resume")  # no settings of a job
AROUND = 6  # lines of a table besides its jobs


@dataclass
class Job:
    """`told`: as `progress.tell` has it."""

    number: int
    overrides: dict[str, str]
    folder: Path
    told: dict[str, Any] = field(default_factory=dict)
    said: bool = False

    @property
    def state(self) -> str:
        state = self.told.get("state", WAITING)
        return "pruned" if state == "done" and self.told.get("pruned") else state

    def look(self) -> None:
        if self.state not in OVER:
            self.told = progress.read(self.folder) or self.told

    def give_up(self, interrupted: bool) -> None:
        """Nobody is at it any more."""
        self.look()
        if self.state not in OVER:
            self.told["state"] = "not begun" if not self.told else "interrupted" if interrupted else DIED


class Board:
    """The jobs of a multirun, as their folders tell.

    Args:
        config: of the multirun.
        loader: composes the configs of its jobs.
        total: how many jobs there will be; None: those that are known.
    """

    def __init__(self, config: DictConfig, loader: ConfigLoader, total: int | None = None) -> None:
        self.config, self.loader, self.total, self.jobs = config, loader, total, list[Job]()
        self.metric = config.monitor.metric
        self.sign = {"min": 1, "max": -1}[direction(self.metric, config.monitor.mode, "monitor.mode")]
        self.folder = Path(config.hydra.sweep.dir)
        self.names: dict[str, str] = {}
        self.adding = threading.Lock()  # trials of a search begin side by side
        self.verdicts: list[tuple[str, ...]] = []  # of an ablation: a row of the table for each change, the open first
        self.lines: list[str] = []  # what has been found and not been said yet, for where there is no table

    @contextmanager
    def shown(self) -> Iterator[None]:
        """While this lasts, nothing else is on the terminal: what this process prints goes to its output.log."""
        global _current
        self.folder.mkdir(parents=True, exist_ok=True)
        with progress.output_into(self.folder / progress.OUTPUT) as terminal:
            console, over = Console(file=terminal), threading.Event()
            watch = self._show_table if terminal.isatty() and not console.is_dumb_terminal else self._say_lines
            thread = threading.Thread(target=watch, args=(console, over), daemon=True)
            thread.start()
            _current = self
            try:
                yield
            finally:
                _current = None
                over.set()
                thread.join()

    def _show_table(self, console: Console, over: threading.Event) -> None:
        with Live(
            console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
        ) as live:
            while not over.wait(SECONDS):
                columns, lines = os.get_terminal_size(console.file.fileno())
                console.size = (columns or 80, lines or 24)
                live.update(self._table(console.height - AROUND), refresh=True)

    def _say_lines(self, console: Console, over: threading.Event) -> None:
        while not over.wait(SECONDS):
            self._say(console)
        self._say(console)

    @contextmanager
    def running(self, overrides: Sequence[Sequence[str]], first: int) -> Iterator[None]:
        """Show jobs that begin now and have ended when this ends: the overrides of each, the number of the first."""
        new = [Job(number, _by_key(job), self._folder(job, number)) for number, job in enumerate(overrides, first)]
        for job in new:
            (job.folder / progress.FILE).unlink(missing_ok=True)  # of an attempt before
        interrupted = False
        with self.adding:
            jobs = [*self.jobs, *new]
            self.names = self._names(jobs)  # first, as another thread draws what it finds
            self.jobs = jobs
        try:
            yield
        except (KeyboardInterrupt, SystemExit):
            interrupted = True
            raise
        finally:
            for job in new:
                job.give_up(interrupted)

    def _names(self, jobs: Sequence[Job]) -> dict[str, str]:
        """The settings that differ between the jobs, without the name of their part where that is clear."""
        given = _by_key(self.config.hydra.overrides.task)
        keys = dict.fromkeys(key for job in jobs for key in job.overrides if not key.startswith(OF_THE_SWEEP))
        values = {key: {job.overrides.get(key) for job in jobs} for key in keys}
        alone = len(jobs) == 1
        differing = [key for key in keys if len(values[key]) > 1 or (alone and {given.get(key)} != values[key])]
        short = {key: key.rsplit(".", 1)[-1] for key in differing}
        count = Counter(short.values())
        return {key: (name if count[name] == 1 else key).lstrip("+") for key, name in short.items()}

    def settings(self, job: Job) -> str:
        """Those in which it differs from the others."""
        return " ".join(f"{n}={_short(job.overrides[k])}" for k, n in self.names.items() if k in job.overrides)

    def _score(self, job: Job) -> float | None:
        value: float | None = job.told.get("metrics", {}).get(self.metric, job.told.get("best"))
        return value

    def _rank(self, job: Job) -> float:
        score = self._score(job)
        return float("inf") if score is None or score != score else self.sign * score

    def _summary(self) -> str:
        counts = ", ".join(f"{number} {state}" for state, number in Counter(job.state for job in self.jobs).items())
        return f"{len(self.jobs)}{f' of {self.total}' if (self.total or 0) > len(self.jobs) else ''} jobs: {counts}"

    def _time_left(self) -> float | None:
        """Seconds until all jobs have ended, if they take as long as those that have; None while none has."""
        took = [job.told["seconds"] for job in self.jobs if job.state == "done" and job.told.get("seconds")]
        at_work = [job for job in self.jobs if job.state not in (*OVER, WAITING)]
        if not took or not at_work:
            return None
        mean = sum(took) / len(took)
        known = [job.told.get("left") for job in at_work]
        waiting = max(self.total or 0, len(self.jobs)) - sum(job.state != WAITING for job in self.jobs)
        return (waiting * mean + sum(mean / 2 if left is None else left for left in known)) / len(at_work)

    def _table(self, rows: int) -> Group:
        for job in self.jobs:
            job.look()
        parts: list[Table | str] = []
        if self.verdicts:
            at_work = sum(job.state not in (*OVER, WAITING) for job in self.jobs)
            room, rows = max(1, rows - at_work - 3), max(1, at_work)
            verdicts = Table("change", "seeds", "difference", "interval", "verdict", pad_edge=False, box=None)
            _lay_out(verdicts, right=(1, 2, 3), one_line=True)
            for row in self.verdicts[:room]:
                verdicts.add_row(*map(escape, row))
            parts = [verdicts, f"{len(self.verdicts) - room} more" if len(self.verdicts) > room else ""]
        table = Table("#", "settings", "epoch", self.metric, "state", "left", pad_edge=False, box=None)
        _lay_out(table, right=(0, 2, 3, 5), one_line=True)
        urgent = sorted(self.jobs, key=lambda job: (job.state in OVER, job.state == WAITING, self._rank(job)))
        chosen = urgent[: max(1, rows)]
        for job in sorted(chosen, key=lambda job: job.number):
            epoch, epochs, left = (job.told.get(key) for key in ("epoch", "epochs", "left"))
            reached = "" if epoch is None else f"{epoch}/{epochs}" if epochs else str(epoch)
            row = (str(job.number), escape(self.settings(job)), reached, _number(self._score(job)), job.state)
            table.add_row(*row, _clock(left), style=STYLES.get(job.state, "dim"))
        hidden = 0 if self.verdicts else len(self.jobs) - len(chosen)
        lines = [self._summary() + f"; {hidden} of them not shown here" * bool(hidden)]
        if (left := self._time_left()) is not None:
            lines.append(f"all done in about {_clock(left)}")
        best = None if self.verdicts else min(self.jobs, key=self._rank, default=None)
        if best is not None and self._score(best) is not None:
            lines.append(f"best so far: #{best.number} {self.metric} {_number(self._score(best))}")
        return Group(*parts, table, *lines)

    def _say(self, console: Console) -> None:
        """A line for each job that has ended since the last time, and for each verdict."""
        for job in self.jobs:
            job.look()
            if job.state in OVER and not job.said:
                job.said = True
                parts = [f"#{job.number}", self.settings(job), self._result(job), _clock(job.told.get("seconds"))]
                console.print("  ".join(filter(None, parts)), soft_wrap=True, highlight=False, markup=False)
        while self.lines:
            console.print(self.lines.pop(0), soft_wrap=True, highlight=False, markup=False)

    def _result(self, job: Job) -> str:
        scores = "  ".join(f"{key} {_number(value)}" for key, value in job.told.get("metrics", {}).items())
        if job.state == "done":
            return scores
        if job.state == "pruned":
            return f"{scores}  pruned after epoch {job.told.get('epoch')}"
        if job.state in ("failed", DIED):
            return f"{job.state}: {job.told.get('reason', GONE)}"
        return job.state

    def failed(self) -> list[Job]:
        return [job for job in self.jobs if job.state in ("failed", DIED)]

    def print_ranked(self) -> None:
        """All that have ended, the best first; below them what went wrong."""
        console = Console()
        ended = sorted((job for job in self.jobs if job.told.get("metrics")), key=self._rank)
        console.print(f"{self._summary()}; the best by {self.metric} first", highlight=False)
        keys = list(dict.fromkeys(key for job in ended for key in (self.metric, *job.told["metrics"])))
        if ended:
            table = Table("", "#", "settings", *keys, "time", pad_edge=False, box=None)
            _lay_out(table, right=(0, 1, *range(3, 4 + len(keys))))
            for rank, job in enumerate(ended[:RANKED], start=1):
                scores = [_number(job.told["metrics"].get(key)) for key in keys]
                name = escape(self.settings(job)) or shown(job.folder).name
                table.add_row(str(rank), str(job.number), name, *scores, _clock(job.told.get("seconds")))
            console.print(table)
        for job in self.failed():
            line = f"#{job.number} {self.settings(job)}: {self._result(job)} ({shown(job.folder) / progress.OUTPUT})"
            console.print(line, style="red", soft_wrap=True, highlight=False, markup=False)
        hidden = f"; {len(ended) - RANKED} more jobs than shown here" if len(ended) > RANKED else ""
        lines = [f"Everything is in {shown(self.folder)}{hidden}"]
        if len(ended) > 1:
            lines += ["Whether a difference is more than chance:", f"  python src/compare.py runs={shown(self.folder)}"]
        console.print("\n".join(lines), soft_wrap=True, highlight=False, markup=False)

    def _folder(self, overrides: Sequence[str], number: int) -> Path:
        """Where a job's files will be. To compose its whole config takes 0.1 s, which the usual names do without."""
        subdir = OmegaConf.to_container(self.config.hydra.sweep, resolve=False)["subdir"]  # type: ignore[index,call-overload]
        if subdir == "${hparams_search.trial}":
            return self.folder / str(number)
        if str(subdir).startswith("${job_dir:"):
            return self.folder / choose_job_dir(self.config.get("resume"), str(self.folder), number, overrides)
        composed = self.loader.load_sweep_config(self.config, list(overrides))
        with open_dict(composed):
            composed.hydra.job.num = number
        return Path(composed.hydra.sweep.dir, str(composed.hydra.sweep.subdir))


_current: Board | None = None  # that is shown


@contextmanager
def watching(config: DictConfig, loader: ConfigLoader, jobs: Sequence[Sequence[str]], first: int) -> Iterator[None]:
    """Show the jobs of a sweep while they run, and then the best; of a search, which has a board, nothing more.

    Raises:
        CompactHydraException: jobs have failed; Hydra would say so in lines as long as their settings.
    """
    if _current is not None:
        yield
        return
    print(f"{len(jobs)} jobs in {shown(Path(config.hydra.sweep.dir))}", flush=True)
    board = Board(config, loader)
    try:
        with board.shown(), board.running(jobs, first):
            yield
    finally:
        board.print_ranked()  # also where this is interrupted
    if failed := board.failed():
        what = f"{len(failed)} of {len(jobs)} jobs failed; #{failed[0].number}: {failed[0].told.get('reason', GONE)}"
        raise CompactHydraException(f"error: {what}")


def _by_key(overrides: Sequence[str]) -> dict[str, str]:
    return dict(override.partition("=")[::2] for override in overrides)


def _lay_out(table: Table, right: Sequence[int], one_line: bool = False) -> None:
    """`one_line`: rows of one line each, as many as the terminal was found to have room for."""
    table.expand = one_line
    for i, column in enumerate(table.columns):
        column.justify = "right" if i in right else "left"
        long = column.header in ("settings", "change")
        column.no_wrap, column.overflow = not long, "fold"
        if one_line and long:  # it gives way to the others
            column.no_wrap, column.overflow, column.ratio = True, "ellipsis", 1


def _short(value: str) -> str:
    """Three digits of what was drawn from a range, which has sixteen."""
    try:
        return f"{float(value):.3g}" if len(value) > 7 else value
    except ValueError:
        return value


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _clock(seconds: float | None) -> str:
    """`5.2 s`, `1:05`, `2:00:00`."""
    if seconds is None:
        return ""
    clock = str(timedelta(seconds=int(seconds)))
    return f"{seconds:.1f} s" if seconds < 60 else clock.removeprefix("0:").lstrip("0")
