"""The runs of an ablation or a data curve: those that exist, wherever they were trained, and the budget for more."""

import json
import logging
import re
import statistics
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig

from attnlab.analysis.factors import IGNORED, flat
from attnlab.config import instantiate
from attnlab.data.sources import with_absolute_paths
from attnlab.environment import code, libraries, origin
from attnlab.errors import UserError, first_line
from attnlab.experiments.ablation.changes import MODEL, Setting
from attnlab.experiments.live_table import Job
from attnlab.experiments.runner import launches_at_once
from attnlab.runs import METRICS, RunFolder

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from attnlab.data.datamodule import TextDataModule

# What a run's scores do not depend on, besides what every comparison ignores.
ELSEWHERE = (
    *IGNORED,
    "ablation",
    "hparams_search",
    "preview",
    "test",
    "trainer.threads",
    "trainer.enable_model_summary",
)
UNITS = {"h": 3600.0, "min": 60.0, "s": 1.0}


class Budget:
    """`2h`, `90min`, `60runs`, or None for no end. Raises `UserError` for anything else."""

    def __init__(self, text: str | None) -> None:
        match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(h|min|s|runs)", text or "")
        if text is not None and match is None:
            raise UserError(f"ablation.budget={text} can't be read; give a time or a number of runs: 2h, 90min, 60runs")
        self.runs = self.seconds = float("inf")
        if match and match[2] == "runs":
            self.runs = float(match[1])
        elif match:
            self.seconds = float(match[1]) * UNITS[match[2]]


class Runs:
    """The finished runs of some settings, by setting and seed.

    Args:
        config: of the multirun.
        settings: what is to be trained; more can be added.
        metric: what a run must have been tested by to count.
        max_seeds: how many seeds of a setting count.

    Raises:
        UserError: runs of this very ablation were trained by other code, with other libraries or on other documents.
    """

    def __init__(
        self,
        config: DictConfig,
        launcher: Launcher,
        settings: Sequence[Setting],
        metric: str,
        max_seeds: int,
    ) -> None:
        self.config, self.metric, self.max_seeds = config, metric, max_seeds
        self.folder = Path(config.hydra.sweep.dir)
        self.first_seed = int(config.seed)
        self.settings: dict[str, Setting] = {}
        self.found: dict[tuple[str, int], RunFolder] = {}
        self.failed: dict[str, str] = {}
        self._fingerprints: dict[str, str] = {}
        self.budget = Budget(config.ablation.budget)
        self.at_once = launches_at_once(launcher, config.ablation.n_jobs or -1)
        for setting in settings:
            self.add(setting)
        self.next_number = 1 + max(
            [int(path.name) for path in self.folder.glob("*") if path.name.isdigit()], default=-1
        )
        self.start = time.monotonic() - sum(run.seconds for run in self._own()) / self.at_once

    def add(self, setting: Setting) -> None:
        """Add a setting, and the runs of it that an earlier sweep or an earlier part of this one has trained."""
        self.settings[setting.name] = setting
        wanted = _identity(setting.config)
        refused: dict[str, int] = {}
        for identity, run in self._there:
            seed = int(run.config["seed"]) - self.first_seed
            if not (identity == wanted and self.metric in run.metrics and 0 <= seed < self.max_seeds):
                continue
            if not (differing := self._differing(run, setting)):
                self.found[setting.name, seed] = run
            elif run.path.parent == self.folder:
                raise UserError(
                    f"{run.path.name} of {self.folder} can't be continued with runs of another origin ({differing}): "
                    "bring that back, or give ablation.name=<another> to restart"
                )
            else:
                refused[differing] = refused.get(differing, 0) + 1
        for differing, number in refused.items():
            log.info("%s: %d finished runs do not count, as they differ in %s", setting.name, number, differing)

    def __len__(self) -> int:
        """Runs of this ablation's own that count towards its budget."""
        return len(self._own())

    def _differing(self, run: RunFolder, setting: Setting) -> str:
        """In what a finished run differs from one that would be trained now; empty if in nothing."""
        then, now = origin(run.environment), origin({"code": code(), **libraries()})
        if "data" in run.environment:
            then["documents"], now["documents"] = run.environment["data"], self._fingerprint(setting)
        differing = [key for key, value in then.items() if now.get(key, value) != value]
        return ", ".join(key if key in ("code", "documents") else f"{key} {then[key]}" for key in differing)

    def _fingerprint(self, setting: Setting) -> str:
        key = json.dumps([setting.config[part] for part in ("data", "tokenizer")], sort_keys=True)
        if key not in self._fingerprints:
            self._fingerprints[key] = documents(setting).fingerprint
        return self._fingerprints[key]

    @property
    def left(self) -> float:
        """Runs that the budget still has."""
        seconds = [run.seconds for run in self.found.values()]
        in_time = (self.budget.seconds - (time.monotonic() - self.start)) * self.at_once
        return max(0.0, min(self.budget.runs - len(self), in_time / statistics.mean(seconds) if seconds else in_time))

    def seeds(self, *names: str) -> int:
        """How many seeds, from the first on, all of these settings have."""
        count = 0
        while all((name, count) in self.found for name in names):
            count += 1
        return count

    def score(self, name: str, seed: int, metric: str) -> float:
        """Of one run. Raises `UserError` where it has no such score."""
        run = self.found[name, seed]
        if metric not in run.metrics:
            known = ", ".join(key for key in run.metrics if key.startswith(metric.split("/")[0]))
            raise UserError(f"ablation.metric: {metric} is not in {run.path}/{METRICS}; it has {known}")
        return run.metrics[metric]

    def jobs(self, wanted: Sequence[tuple[str, int]]) -> list[Job]:
        """Those that train these settings with these seeds; what an ended process began is resumed in its folder."""
        return [
            Job((*self.settings[name].overrides, "resume=latest", f"seed={self.first_seed + seed}"), key=(name, seed))
            for name, seed in wanted
        ]

    def record(self, job: Job, result: JobReturn) -> None:
        """Take in the run of a job, or why its setting can't be trained.

        Raises:
            UserError: that is the model itself.
        """
        if (run := _read(job.folder)) is not None:  # also where the launcher raised because of another job
            self.found[job.key] = run
            return
        failed = result.status == JobStatus.FAILED
        name, reason = job.key[0], first_line(result._return_value) if failed else "no results"
        self.failed[name] = reason
        if name == MODEL:
            raise UserError(f"the model itself can't be trained: {reason}")

    def _own(self) -> list[RunFolder]:
        return [run for run in self.found.values() if run.path.parent == self.folder]

    @cached_property
    def _there(self) -> list[tuple[str, RunFolder]]:
        root = Path(self.config.paths.log_dir, self.config.task_name)
        folders = [*root.glob("runs/*/"), *root.glob("multiruns/*/*/"), *root.glob("ablations/*/*/")]
        found = []
        for run in filter(None, map(_read, sorted(folders))):
            with suppress(UserError):  # from a source that configs may not call, so of no setting of this ablation
                if run.devices == "1":  # as an ablation's own are
                    found.append((_identity(run.config), run))
        return found


def documents(setting: Setting) -> "TextDataModule":
    """What it is trained and tested on; tokenised, as all runs will need them."""
    from attnlab.data.datamodule import TextDataModule  # imports torch: not before the settings have been read

    source, recipe = (instantiate(setting.config[part]) for part in ("data", "tokenizer"))
    data = TextDataModule(source, recipe, Path(setting.config["paths"]["cache_dir"]))
    data.setup()
    return data


def _identity(config: dict[str, Any]) -> str:
    """Equal for runs that differ at most in the seed, of one device each."""
    parts = {part: config.get(part) or {} for part in ("data", "embedding")}
    values = flat(
        config | {part: with_absolute_paths(own) if "_target_" in own else own for part, own in parts.items()}
    )
    hidden = tuple(f"{key}." for key in ELSEWHERE)
    kept = {key: value for key, value in values.items() if key not in ELSEWHERE and not key.startswith(hidden)}
    return json.dumps(kept, sort_keys=True)


def _read(folder: Path) -> RunFolder | None:
    """None for a run that has not finished."""
    run = RunFolder(folder)
    with suppress(UserError):  # somebody else's config.yaml
        return run if run.metrics and run.config else None
    return None
