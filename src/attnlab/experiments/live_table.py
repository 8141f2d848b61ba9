"""The live table of a multirun: its jobs on a terminal, a line for each that has ended elsewhere, and the ranking."""

import os
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from attnlab import progress
from attnlab.errors import relative_to_cwd
from attnlab.metrics import direction
from attnlab.run_dirs import choose_job_dir

WAITING, DIED, NOT_BEGUN = "waiting", "died", "not begun"
GONE = "its process has ended, perhaps for lack of memory; the same command with resume=latest resumes it"
ENDED = ("done", "pruned", "failed", "interrupted", DIED, NOT_BEGUN)
STYLES = {"running": "cyan", "testing": "cyan", "failed": "red", DIED: "red", "interrupted": "yellow", "done": "green"}
SECONDS = 0.5  # between two updates
RANKED = 20  # rows of the table at the end
OF_THE_SWEEP = ("hparams_search.", "ablation.", "resume")  # not settings of a job
OTHER_LINES = 6  # of the table: heading, summary and margin


@dataclass
class Job:
    """A run of a multirun, and a row of the table.

    Attributes:
        overrides: its command line.
        number: of Hydra's; None until the runner has given it one.
        key: what its planner knows it by.
        folder, report, printed: set by the table; `report` is what the job reported last.
    """

    overrides: Sequence[str]
    number: int | None = None
    key: Any = None
    folder: Path = Path()
    report: dict[str, Any] = field(default_factory=dict)
    printed: bool = False

    @cached_property
    def settings(self) -> dict[str, str]:
        return _by_key(self.overrides)

    @property
    def state(self) -> str:
        state = self.report.get("state", WAITING)
        return "pruned" if state == "done" and self.report.get("pruned") else state

    def refresh(self) -> None:
        if self.state not in ENDED:
            self.report |= progress.read(self.folder)

    def end(self, interrupted: bool) -> None:
        """Name what a job ended with that reported no end itself."""
        self.refresh()
        if self.state not in ENDED:
            self.report["state"] = NOT_BEGUN if not self.report else "interrupted" if interrupted else DIED


class LiveTable:
    """The jobs of a multirun, as they report their progress in their folders.

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
        self.adding = threading.Lock()  # trials of a search start in parallel
        self.verdicts: list[tuple[str, ...]] = []  # of an ablation: a row of the table for each change, the open first
        self.lines: list[str] = []  # verdicts that are not printed yet, for where there is no table

    @contextmanager
    def on_terminal(self) -> Iterator[None]:
        """Show the table, and nothing else: what this process prints goes to the sweep's output.log."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with progress.redirect_output(self.folder / progress.OUTPUT) as terminal:
            console, ended = Console(file=terminal), threading.Event()
            watch = self._show_table if terminal.isatty() and not console.is_dumb_terminal else self._print_lines
            thread = threading.Thread(target=watch, args=(console, ended), daemon=True)
            thread.start()
            try:
                yield
            finally:
                ended.set()
                thread.join()

    def _show_table(self, console: Console, ended: threading.Event) -> None:
        with Live(
            console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
        ) as live:
            while not ended.wait(SECONDS):
                columns, lines = os.get_terminal_size(console.file.fileno())
                console.size = (columns or 80, lines or 24)
                live.update(self._table(console.height - OTHER_LINES), refresh=True)

    def _print_lines(self, console: Console, ended: threading.Event) -> None:
        while not ended.wait(SECONDS):
            self._print_ended(console)
        self._print_ended(console)

    @contextmanager
    def running(self, new: Sequence[Job]) -> Iterator[None]:
        """Show jobs that start now and have ended when this ends."""
        for job in new:
            job.folder = self._folder(job)
            (job.folder / progress.FILE).unlink(missing_ok=True)  # of an earlier attempt
        interrupted = False
        with self.adding:
            jobs = [*self.jobs, *new]
            self.names = self._names(jobs)  # before `jobs`: another thread draws the table meanwhile
            self.jobs = jobs
        try:
            yield
        except (KeyboardInterrupt, SystemExit):
            interrupted = True
            raise
        finally:
            for job in new:
                job.end(interrupted)

    def _names(self, jobs: Sequence[Job]) -> dict[str, str]:
        """The settings that differ between the jobs, without the name of their part if that is clear."""
        given = _by_key(self.config.hydra.overrides.task)
        keys = dict.fromkeys(key for job in jobs for key in job.settings if not key.startswith(OF_THE_SWEEP))
        values = {key: {job.settings.get(key) for job in jobs} for key in keys}
        alone = len(jobs) == 1
        differing = [key for key in keys if len(values[key]) > 1 or (alone and {given.get(key)} != values[key])]
        short = {key: key.rsplit(".", 1)[-1] for key in differing}
        count = Counter(short.values())
        return {key: (name if count[name] == 1 else key).lstrip("+") for key, name in short.items()}

    def label(self, job: Job) -> str:
        """The settings in which it differs from the other jobs."""
        return " ".join(f"{n}={_short(job.settings[k])}" for k, n in self.names.items() if k in job.settings)

    def _score(self, job: Job) -> float | None:
        value: float | None = job.report.get("metrics", {}).get(self.metric, job.report.get("best"))
        return value

    def _rank(self, job: Job) -> float:
        score = self._score(job)
        return float("inf") if score is None or score != score else self.sign * score

    def _summary(self) -> str:
        counts = ", ".join(f"{number} {state}" for state, number in Counter(job.state for job in self.jobs).items())
        return f"{len(self.jobs)}{f' of {self.total}' if (self.total or 0) > len(self.jobs) else ''} jobs: {counts}"

    def _time_left(self) -> float | None:
        """Seconds until all jobs have ended, if they take as long as those that have; None if none has."""
        took = [job.report["seconds"] for job in self.jobs if job.state == "done" and job.report.get("seconds")]
        at_work = [job for job in self.jobs if job.state not in (*ENDED, WAITING)]
        if not took or not at_work:
            return None
        mean = sum(took) / len(took)
        known = [job.report.get("left") for job in at_work]
        waiting = max(self.total or 0, len(self.jobs)) - sum(job.state != WAITING for job in self.jobs)
        return (waiting * mean + sum(mean / 2 if left is None else left for left in known)) / len(at_work)

    def _table(self, rows: int) -> Group:
        for job in self.jobs:
            job.refresh()
        parts: list[Table | str] = []
        if self.verdicts:
            at_work = sum(job.state not in (*ENDED, WAITING) for job in self.jobs)
            room, rows = max(1, rows - at_work - 3), max(1, at_work)
            verdicts = Table("change", "seeds", "difference", "interval", "verdict", pad_edge=False, box=None)
            _lay_out(verdicts, right=(1, 2, 3), one_line=True)
            for row in self.verdicts[:room]:
                verdicts.add_row(*map(escape, row))
            parts = [verdicts, f"{len(self.verdicts) - room} more" if len(self.verdicts) > room else ""]
        table = Table("#", "settings", "epoch", self.metric, "state", "left", pad_edge=False, box=None)
        _lay_out(table, right=(0, 2, 3, 5), one_line=True)
        urgent = sorted(self.jobs, key=lambda job: (job.state in ENDED, job.state == WAITING, self._rank(job)))
        chosen = urgent[: max(1, rows)]
        for job in sorted(chosen, key=lambda job: job.number or 0):
            epoch, epochs, left = (job.report.get(key) for key in ("epoch", "epochs", "left"))
            reached = "" if epoch is None else f"{epoch}/{epochs}" if epochs else str(epoch)
            row = (str(job.number), escape(self.label(job)), reached, _number(self._score(job)), job.state)
            table.add_row(*row, _clock(left), style=STYLES.get(job.state, "dim"))
        hidden = 0 if self.verdicts else len(self.jobs) - len(chosen)
        lines = [self._summary() + f"; {hidden} of them not shown here" * bool(hidden)]
        if (left := self._time_left()) is not None:
            lines.append(f"all done in about {_clock(left)}")
        best = None if self.verdicts else min(self.jobs, key=self._rank, default=None)
        if best is not None and self._score(best) is not None:
            lines.append(f"best so far: #{best.number} {self.metric} {_number(self._score(best))}")
        return Group(*parts, table, *lines)

    def _print_ended(self, console: Console) -> None:
        """Print a line for each job that has ended since the last call, and for each verdict."""
        for job in self.jobs:
            job.refresh()
            if job.state in ENDED and not job.printed:
                job.printed = True
                parts = [f"#{job.number}", self.label(job), self._result(job), _clock(job.report.get("seconds"))]
                console.print("  ".join(filter(None, parts)), soft_wrap=True, highlight=False, markup=False)
        while self.lines:
            console.print(self.lines.pop(0), soft_wrap=True, highlight=False, markup=False)

    def _result(self, job: Job) -> str:
        scores = "  ".join(f"{key} {_number(value)}" for key, value in job.report.get("metrics", {}).items())
        if job.state == "done":
            return scores
        if job.state == "pruned":
            return f"{scores}  pruned after epoch {job.report.get('epoch')}"
        if job.state in ("failed", DIED):
            return f"{job.state}: {job.report.get('reason', GONE)}"
        return job.state

    def failed(self) -> list[Job]:
        return [job for job in self.jobs if job.state in ("failed", DIED)]

    def print_ranked(self) -> None:
        """Print the jobs that have ended, the best first, and below them those that failed."""
        console = Console()
        ended = sorted((job for job in self.jobs if job.report.get("metrics")), key=self._rank)
        console.print(f"{self._summary()}; the best by {self.metric} first", highlight=False)
        keys = list(dict.fromkeys(key for job in ended for key in (self.metric, *job.report["metrics"])))
        if ended:
            table = Table("", "#", "settings", *keys, "time", pad_edge=False, box=None)
            _lay_out(table, right=(0, 1, *range(3, 4 + len(keys))))
            for rank, job in enumerate(ended[:RANKED], start=1):
                scores = [_number(job.report["metrics"].get(key)) for key in keys]
                name = escape(self.label(job)) or relative_to_cwd(job.folder).name
                table.add_row(str(rank), str(job.number), name, *scores, _clock(job.report.get("seconds")))
            console.print(table)
        for job in self.failed():
            output = relative_to_cwd(job.folder) / progress.OUTPUT
            line = f"#{job.number} {self.label(job)}: {self._result(job)} ({output})"
            console.print(line, style="red", soft_wrap=True, highlight=False, markup=False)
        hidden = f"; {len(ended) - RANKED} more jobs than shown here" if len(ended) > RANKED else ""
        lines = [f"Everything is in {relative_to_cwd(self.folder)}{hidden}"]
        if len(ended) > 1:
            lines += [
                "Whether a difference is more than chance:",
                f"  python src/compare.py runs={relative_to_cwd(self.folder)}",
            ]
        console.print("\n".join(lines), soft_wrap=True, highlight=False, markup=False)

    def _folder(self, job: Job) -> Path:
        """Where its files will be, by the usual names without composing its config, which takes 0.1 s."""
        subdir = OmegaConf.to_container(self.config.hydra.sweep, resolve=False)["subdir"]  # type: ignore[index,call-overload]
        if subdir == "${hparams_search.trial}":
            return self.folder / str(job.number)
        if str(subdir).startswith("${job_dir:"):
            resume = self.config.get("resume")
            return self.folder / choose_job_dir(resume, str(self.folder), job.number or 0, job.overrides)
        composed = self.loader.load_sweep_config(self.config, list(job.overrides))
        with open_dict(composed):
            composed.hydra.job.num = job.number
        return Path(composed.hydra.sweep.dir, str(composed.hydra.sweep.subdir))


def _by_key(overrides: Sequence[str]) -> dict[str, str]:
    return dict(override.partition("=")[::2] for override in overrides)


def _lay_out(table: Table, right: Sequence[int], one_line: bool = False) -> None:
    """`one_line`: rows of one line each, as the number of rows was chosen to fit the terminal."""
    table.expand = one_line
    for i, column in enumerate(table.columns):
        column.justify = "right" if i in right else "left"
        long = column.header in ("settings", "change")
        column.no_wrap, column.overflow = not long, "fold"
        if one_line and long:  # it is shortened first
            column.no_wrap, column.overflow, column.ratio = True, "ellipsis", 1


def _short(value: str) -> str:
    """Three of the sixteen digits of a value drawn from a range."""
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
