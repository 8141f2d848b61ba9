"""The space of a search: the parts that are drawn first, and the settings that a model of these parts has."""

import math
from dataclasses import dataclass, field
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import BaseTrial, FrozenTrial

from attnlab.errors import UserError

HEADS, WIDTH = "model.num_heads", "model.embed_dim"

Settings = dict[str, BaseDistribution]


@dataclass(frozen=True)
class Branch:
    """What is drawn under one choice of parts, and the overrides that all trials under it have in common."""

    fixed: list[str]
    settings: Settings
    embed_dim: int | None = None


@dataclass(frozen=True)
class Space:
    """What a search draws: one of the choices of `parts` that `branches` has, then the settings of that branch."""

    branches: dict[tuple[Any, ...], Branch]
    parts: list[str] = field(default_factory=list)

    def suggest(self, trial: BaseTrial) -> list[str]:
        """Draw a trial: the overrides of its job.

        Raises:
            UserError: none of the heads divides the width.
        """
        chosen: tuple[Any, ...] = ()
        for name in self.parts:
            ahead = [key[len(chosen)] for key in self.branches if key[: len(chosen)] == chosen]
            chosen += (self._draw(trial, name, CategoricalDistribution(list(dict.fromkeys(ahead)))),)
        branch = self.branches[chosen]
        values: dict[str, Any] = dict(zip(self.parts, chosen, strict=True))
        for name in sorted(branch.settings, key=lambda name: name == HEADS):  # heads after the width
            distribution = branch.settings[name]
            if name == HEADS and isinstance(distribution, CategoricalDistribution):
                distribution = dividing(distribution, int(values.get(WIDTH, branch.embed_dim or 0)))
            values[name] = self._draw(trial, name, distribution)
        return [*branch.fixed, *(f"{name}={value}" for name, value in values.items())]

    def _draw(self, trial: BaseTrial, name: str, distribution: BaseDistribution) -> Any:
        """Optuna wants one set of choices for a name, so each other one has a name of its own."""
        if isinstance(distribution, FloatDistribution):
            return trial.suggest_float(
                name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
            )
        if isinstance(distribution, IntDistribution):
            return trial.suggest_int(
                name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
            )
        assert isinstance(distribution, CategoricalDistribution)
        choices = distribution.choices
        label = name if choices == self.choices(name) else f"{name} of {', '.join(map(str, choices))}"
        return trial.suggest_categorical(label, choices)

    def choices(self, name: str) -> tuple[Any, ...]:
        """All that a part or a setting is drawn from in one branch or another."""
        if name in self.parts:
            return tuple(dict.fromkeys(key[self.parts.index(name)] for key in self.branches))
        found = (branch.settings[name] for branch in self.branches.values() if name in branch.settings)
        listed = (d.choices for d in found if isinstance(d, CategoricalDistribution))
        return tuple(dict.fromkeys(value for choices in listed for value in choices))

    def size(self) -> int:
        """How many different trials there are. Raises `UserError` for a range without steps."""
        return sum(_size(branch) for branch in self.branches.values())


def settings_of(trial: FrozenTrial) -> dict[str, Any]:
    """What was drawn, by the names of parts and settings."""
    return {setting_of(label): value for label, value in trial.params.items()}


def setting_of(label: str) -> str:
    """The setting that Optuna has under this name, see `Space.suggest`."""
    return label.split(" of ")[0]


def dividing(heads: CategoricalDistribution, width: int) -> CategoricalDistribution:
    """Those of the heads that divide `width`. Raises `UserError` where none does."""
    left = [choice for choice in heads.choices if width % int(str(choice)) == 0]
    if not left:
        raise UserError(f"hparams_search.space: no {HEADS} of {heads.choices} divides embed_dim={width}")
    return CategoricalDistribution(left)


def grid(settings: Settings) -> dict[str, list[Any]]:
    """All values of each setting. Raises `UserError` for a range without steps."""
    values: dict[str, list[Any]] = {}
    for name, distribution in settings.items():
        if isinstance(distribution, CategoricalDistribution):
            values[name] = list(distribution.choices)
        elif isinstance(distribution, IntDistribution) and not distribution.log:
            values[name] = list(range(distribution.low, distribution.high + 1, distribution.step))
        elif isinstance(distribution, FloatDistribution) and distribution.step is not None:
            count = round((distribution.high - distribution.low) / distribution.step)
            values[name] = [distribution.low + i * distribution.step for i in range(count + 1)]
        else:
            raise UserError(f"hparams_search=grid can't list all of {name}: give choice(...) or range(..., step=...)")
    return values


def _size(branch: Branch) -> int:
    values = grid(branch.settings)
    heads = branch.settings.get(HEADS)
    if isinstance(heads, CategoricalDistribution):
        widths = values.pop(WIDTH, [branch.embed_dim or 0])
        del values[HEADS]
        values["both"] = [(width, count) for width in widths for count in dividing(heads, int(width)).choices]
    return math.prod(map(len, values.values()))
