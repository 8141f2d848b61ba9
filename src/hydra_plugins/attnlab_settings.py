"""Puts ours in the place of `hydra/sweeper: basic`. Hydra imports this file at every start: nothing heavy here."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override
from hydra.errors import CompactHydraException

NUMBER = re.compile(r"=[-+]?[\d.]+(e[-+]?\d+)?$", re.IGNORECASE)


@dataclass
class SettingsSweeperConfig(BasicSweeperConf):
    """`settings`, each the overrides of one job as on the command line: `[[pe=none], [pe=learned, pe.max_len=5]]`."""

    _target_: str = "hydra_plugins.attnlab_settings.SettingsSweeper"
    settings: list[list[str]] = field(default_factory=list)


# Hydra's default: an override in `conf/train.yaml` would win over those of `hparams_search` and `ablation`.
ConfigStore.instance().store(
    group="hydra/sweeper", name="basic", node=SettingsSweeperConfig, provider="attnlab", replace=True
)


class SettingsSweeper(BasicSweeper):
    """A sweep over settings that are no product, each of them with every combination that the command line asks for.

    Without settings it is Hydra's own sweep.
    """

    def __init__(self, settings: list[list[str]], max_batch_size: int | None, params: dict[str, str] | None) -> None:
        super().__init__(max_batch_size, params)
        self.settings = [list(setting) for setting in settings] or [[]]

    def split_arguments(  # type: ignore[override]  # Hydra's needs no instance
        self, overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        varied = {override.partition("=")[0] for setting in self.settings for override in setting}
        if both := sorted(varied & {override.get_key_element() for override in overrides}):
            raise CompactHydraException(f"error: {', '.join(both)}: this sweep has values of its own for that")
        (jobs,) = super().split_arguments(overrides, None)
        every = [[*setting, *job] for setting in self.settings for job in jobs]
        return list(self.split_overrides_to_chunks(every, max_batch_size))

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Compose one of the jobs alike but for numbers; Hydra composes all before the first begins, at 0.1 s each."""
        distinct: dict[tuple[str, ...], Sequence[str]] = {}
        for job in batch:
            distinct.setdefault(tuple(NUMBER.sub("=0", override) for override in job), job)
        super().validate_batch_is_legal(list(distinct.values()))
