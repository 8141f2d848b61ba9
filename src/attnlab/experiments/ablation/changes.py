"""What an ablation tries: each setting one change away from the model asked about."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig, open_dict

from attnlab.analysis.factors import as_text, flat
from attnlab.config import resolve
from attnlab.errors import UserError
from attnlab.experiments.multirun import compose_job, is_used

log = logging.getLogger(__name__)

FREE = ("budget", "n_jobs", "name", "mode")  # what may change when an ablation is continued, and no job depends on
MODEL = "model"  # the name of the setting that all others are compared with
WORDS = {
    "pe": "positions",
    "scheduler": "schedule",
    "num_heads": "number of heads",
    "num_layers": "number of layers",
    "vocab_size": "vocabulary",
    "embedding": "pretrained vectors",
    "leads": "lead tokens",
    "from_scratch": "pretrained encoder",
}


@dataclass(frozen=True)
class Setting:
    """A model that is trained with several seeds.

    Attributes:
        name: what the change is, or `MODEL`.
        part, before, after: what is changed, in words, what the model has and what it has here.
        overrides: the whole command line but for the seed.
        config: as composed and resolved.
        changes: the values of what is changed, by key.
    """

    name: str
    part: str
    before: str
    after: str
    overrides: tuple[str, ...]
    config: dict[str, Any]
    changes: dict[str, Any]


class Changer:
    """Composes the model asked about and what is one change away from it, as Hydra will for the jobs.

    Args:
        config: of the multirun.
        arguments: the command line.
    """

    def __init__(self, config: DictConfig, loader: ConfigLoader, arguments: Sequence[str]) -> None:
        self._load = partial(compose_job, loader, config)
        kept = [one for one in arguments if not one.startswith(tuple(f"ablation.{key}=" for key in FREE))]
        self.arguments = [*kept, f"ablation.name={config.ablation.name}"]
        self.choices = dict(config.hydra.runtime.choices)
        self.composed = self._load(self.arguments)
        self.model = Setting(MODEL, "", "", "", tuple(self.arguments), self._compose(self.arguments), {})
        self.flat = flat(self.model.config)

    def changed(self, changes: Mapping[str, Any]) -> Setting:
        """The model with these settings or parts in place of its own. Raises `UserError` where there is none."""
        kept = [argument for argument in self.arguments if argument.partition("=")[0].lstrip("+") not in changes]
        overrides = [*kept, *(f"{key}={as_text(value)}" for key, value in changes.items())]
        overrides += self._pinned(overrides, changes)
        before, after = (", ".join(map(_short, values)) for values in ([*map(self._own, changes)], [*changes.values()]))
        name = ", ".join(f"{key.rsplit('.', 1)[-1]}={_short(value)}" for key, value in changes.items())
        return Setting(
            name, _in_words(changes), before, after, tuple(overrides), self._compose(overrides), dict(changes)
        )

    def alternatives(self, change: Mapping[str, Sequence[Any] | None]) -> list[Setting]:
        """One setting for each alternative; the log names those that the model has already or can't have.

        Raises:
            UserError: none is left, or `change` has no list of alternatives for a setting.
        """
        # Imports torch: not before the list has been read.
        from attnlab.experiments.feasibility import infeasibility_reason

        if not isinstance(change, Mapping):
            raise UserError("ablation.change is not a mapping; give lists of values by setting, as in '{pe: [none]}'")
        found: list[Setting] = []
        left: list[str] = []
        already: list[str] = []
        for key, values in change.items():
            if values is not None and not isinstance(values, list):
                raise UserError(
                    f"ablation.change: {key}={as_text(values)} is not a list; give {key}: [{as_text(values)}]"
                )
            if key not in self.choices and key not in self.flat:
                left.append(f"{key} (the model has no such setting)")
                continue
            if not is_used(self.composed, key.split(".")[0]):
                left.append(f"{key} (the model does not use it)")
                continue
            for value in values or []:
                if as_text(value) == self._own(key):
                    already.append(f"{key.rsplit('.', 1)[-1]}={_short(value)}")
                    continue
                try:
                    setting = self.changed({key: value})
                    reason = infeasibility_reason(self._load(setting.overrides), {})
                except UserError as error:
                    reason = str(error)
                if reason:
                    left.append(f"{key}={_short(value)} ({reason})")
                elif setting.name not in [other.name for other in found]:
                    found.append(setting)
        if already:
            left.append(f"{', '.join(already)} (so already)")
        if left:
            log.info("Not changed: %s", "; ".join(left))
        if not found:
            raise UserError(f"there is nothing to change: {'; '.join(left) or 'ablation.change is empty'}")
        return found

    def _own(self, key: str) -> str:
        return as_text(self.choices[key] if key in self.choices else self.flat.get(key))

    def _pinned(self, overrides: list[str], changes: Mapping[str, Any]) -> list[str]:
        """Overrides that keep what else a part would change (the width of its vectors) as the model has it."""
        groups = [key for key in changes if key in self.choices]
        if not groups:
            return []
        now = flat(self._compose(overrides))
        differing = [key for key in now.keys() & self.flat.keys() if now[key] != self.flat[key]]
        own = (*groups, *(f"model.{group}" for group in groups))  # model.pe is a copy of pe
        outside = [key for key in differing if not key.startswith(tuple(f"{group}." for group in own))]
        plain = [key for key in outside if not key.rsplit(".", 1)[-1].startswith("_") and key.split(".")[0] != "pe"]
        return [f"{key}={self.flat[key]}" for key in sorted(plain)]

    def _compose(self, overrides: Sequence[str]) -> dict[str, Any]:
        config = self._load(overrides)
        with open_dict(config):
            del config.hydra, config.ablation
        return resolve(config)


def _short(value: Any) -> str:
    return as_text(value).rsplit("/", 1)[-1] or "none"


def _in_words(changes: Mapping[str, Any]) -> str:
    """`layer norm` for model.layer_norm; the last layer is the attention itself."""
    if changes.get("model.num_layers") == 0:
        return "attention"
    last = [key.rsplit(".", 1)[-1] for key in changes]
    return " and ".join(WORDS.get(key, key.replace("_", " ")) for key in last)
