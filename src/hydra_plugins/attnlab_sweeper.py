"""The sweeper, under three names. Hydra imports this at every start: keep it light."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import CompactHydraException
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from attnlab.errors import UserError

NUMBER = re.compile(r"=[-+]?[\d.]+(e[-+]?\d+)?$", re.IGNORECASE)
GRID, SEARCH, ABLATION = "basic", "attnlab", "ablation"


@dataclass
class SweeperConfig(BasicSweeperConf):
    """`settings`, each the overrides of one job as on the command line: `[[pe=none], [pe=learned, pe.max_len=5]]`.

    `params` adds to the ranges of a sweep or a search; all other settings of a search or an ablation are in
    `conf/hparams_search` and `conf/ablation`.
    """

    _target_: str = "hydra_plugins.attnlab_sweeper.Sweeper"
    kind: str = GRID
    settings: list[list[str]] = field(default_factory=list)


# In the place of Hydra's default: an override in `conf/train.yaml` would win over those of hparams_search and ablation.
for _kind in (GRID, SEARCH, ABLATION):
    ConfigStore.instance().store(
        group="hydra/sweeper", name=_kind, node=SweeperConfig(kind=_kind), provider="attnlab", replace=True
    )


class Sweeper(BasicSweeper):
    """Hands a multirun to its planner.

    A plain sweep goes over `settings`, which need not be a product, each with every combination that the command line
    asks for. Without settings it is Hydra's own sweep.
    """

    def __init__(
        self, kind: str, settings: list[list[str]], max_batch_size: int | None, params: dict[str, str] | None
    ) -> None:
        super().__init__(max_batch_size, params)
        self.kind, self.settings = kind, [list(setting) for setting in settings] or [[]]

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        with as_compact_error():
            if self.kind == SEARCH:
                from attnlab.experiments.study import prepare as prepare_search

                prepare_search(config)
            elif self.kind == ABLATION:
                from attnlab.experiments.ablation.ablate import prepare as prepare_ablation

                prepare_ablation(config)
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> None:
        assert self.config is not None and self.launcher is not None and self.hydra_context is not None
        loader = self.hydra_context.config_loader
        arguments = [*(f"{name}={values}" for name, values in self.params.items()), *arguments]
        with as_compact_error():
            if self.kind == SEARCH:
                from attnlab.experiments.search import search

                search(self.config, self.launcher, loader, arguments)
            elif self.kind == ABLATION:
                from attnlab.experiments.ablation.ablate import ablate

                ablate(self.config, self.launcher, loader, arguments)
            else:
                from attnlab.experiments.runner import run_grid

                overrides = OverridesParser.create(config_loader=loader).parse_overrides(arguments)
                batches = self.split_arguments(overrides, self.max_batch_size)
                folder = Path(self.config.hydra.sweep.dir)
                folder.mkdir(parents=True, exist_ok=True)
                OmegaConf.save(self.config, folder / "multirun.yaml")
                self.validate_batch_is_legal([job for batch in batches for job in batch])
                run_grid(self.config, self.launcher, loader, batches)

    def split_arguments(  # type: ignore[override]  # Hydra's needs no instance
        self, overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        varied = {override.partition("=")[0] for setting in self.settings for override in setting}
        if both := sorted(varied & {override.get_key_element() for override in overrides}):
            raise UserError(f"{', '.join(both)}: this sweep varies that already; leave it out")
        (jobs,) = super().split_arguments(overrides, None)
        every = [[*setting, *job] for setting in self.settings for job in jobs]
        return list(self.split_overrides_to_chunks(every, max_batch_size))

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Compose one of the jobs that differ only in numbers: Hydra would compose all first, at 0.1 s each."""
        distinct: dict[tuple[str, ...], Sequence[str]] = {}
        for job in batch:
            distinct.setdefault(tuple(NUMBER.sub("=0", override) for override in job), job)
        super().validate_batch_is_legal(list(distinct.values()))


@contextmanager
def as_compact_error() -> Iterator[None]:
    """Hydra shows a traceback of what a sweeper raises, unless it is of its own compact kind."""
    try:
        yield
    except UserError as error:
        raise CompactHydraException(f"error: {error}") from error
