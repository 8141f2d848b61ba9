"""The space of a search, and how it is built from the ranges that a config and a command line give.

Parts are drawn first, then the settings that a model of these parts has. What can't be searched leaves the space.
"""

import logging
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any

import optuna
from hydra.core.config_loader import ConfigLoader
from hydra.errors import HydraException
from hydra_plugins.hydra_optuna_sweeper._impl import create_params_from_overrides
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import BaseTrial, FrozenTrial, TrialState

from attnlab.config import resolve
from attnlab.errors import UserError, as_user_error
from attnlab.experiments.multirun import compose_job, is_used, parse

log = logging.getLogger(__name__)

HEADS, WIDTH = "model.num_heads", "model.embed_dim"

SHOWN = 5  # of what was dropped for one reason, in the line that says so
NOTHING = "there is nothing to search"

Settings = dict[str, BaseDistribution]


@dataclass(frozen=True)
class Branch:
    """The settings drawn under one choice of parts, and the overrides that all trials under it share."""

    fixed: list[str]
    settings: Settings
    embed_dim: int | None = None


@dataclass(frozen=True)
class Space:
    """What a search draws: one of the choices of `parts` in `branches`, then the settings of that branch."""

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
        """Optuna allows one set of choices for a name, so each other set gets a name of its own."""
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


def build_space(config: DictConfig, arguments: list[str], loader: ConfigLoader) -> Space:
    """The space of `hparams_search.space` and of the command line, without what can't be searched.

    A setting that the chosen parts do not have is dropped, and so is a value with which no model can be built; one line
    in the log says so.

    Raises:
        UserError: a range can't be searched, a setting exists nowhere, or there is nothing to search.
    """
    drawn, fixed = read_ranges(resolve(config.hparams_search)["space"] or {}, arguments)
    return _SpaceBuilder(config, loader, drawn, fixed, arguments).build()


def read_ranges(space: Mapping[str, Any], arguments: list[str]) -> tuple[Settings, list[str]]:
    """The settings drawn from a range or from choices, and the fixed overrides.

    `arguments` add to `space`; a single value in them takes a setting out of it, and so does null in `space`.

    Raises:
        UserError: a range can't be searched, or there is none.
    """
    given = [f"{key}={values}" for key, values in space.items() if values is not None]
    with as_user_error("hparams_search.space", only=(AssertionError, HydraException, NotImplementedError, ValueError)):
        drawn, fixed, deletions = create_params_from_overrides([*given, *arguments])
    drawn = {name: distribution for name, distribution in drawn.items() if name not in fixed}
    if not drawn:
        raise UserError(f"{NOTHING}: every setting of hparams_search.space was given a value")
    if own := [name for name in drawn if _group_of(name) == "hparams_search"]:
        raise UserError(f"{own[0]} is a setting of the search itself: give it one value")
    return drawn, [*(f"{name}={value}" for name, value in fixed.items()), *deletions]


class _SpaceBuilder:
    """Composes the config of each choice of parts, as Hydra will for the jobs, and sees what exists there."""

    def __init__(
        self, config: DictConfig, loader: ConfigLoader, drawn: Settings, fixed: list[str], arguments: list[str]
    ) -> None:
        self.config, self.loader, self.fixed = config, loader, fixed
        self._load = partial(compose_job, loader, config)
        self.parts = [name for name in drawn if name.lstrip("+") in config.hydra.runtime.choices]
        self.parts.sort(key=lambda name: name != "model")  # first, as it decides which settings exist
        self.options = grid({name: drawn[name] for name in self.parts}).values()
        self.first = [values[0] for values in self.options]  # of each part
        self.settings = {name: distribution for name, distribution in drawn.items() if name not in self.parts}
        self.typed = {override.get_key_element() for override in parse(arguments)}
        self.left: dict[str, list[str]] = {}  # what was dropped, by the reason

    def build(self) -> Space:
        from attnlab.experiments.feasibility import (
            keep_feasible,  # imports torch: not before there is something to search
        )

        branches: dict[tuple[Any, ...], Branch] = {}
        refused: dict[tuple[str, Any], dict[tuple[Any, ...], str]] = defaultdict(dict)
        found: set[str] = set()
        absent: dict[str, DictConfig] = {}
        refusals: list[str] = []
        for chosen in product(*self.options):
            config, fixed, missing = self._compose(chosen)
            unused = {name for name in (*self.parts, *self.settings) if not is_used(config, _group_of(name))}
            for name in sorted(unused):
                self._note("the model does not use it", name)
            if any(
                value != first
                for name, value, first in zip(self.parts, chosen, self.first, strict=True)
                if name in unused
            ):
                continue  # the same run as with the first of these
            there = {name: space for name, space in self.settings.items() if _exists(config, name)}
            missing += [name for name in self.settings if name not in there]
            there = {name: space for name, space in there.items() if name not in unused}
            found |= {*there, *(_key(override) for override in fixed)}
            absent |= dict.fromkeys(missing, config)
            for name in missing:
                group = _group_of(name)
                self._note(f"{group}={config.hydra.runtime.choices.get(group)} has no such setting", name)
            if WIDTH in there and OmegaConf.is_interpolation(config.model, "embed_dim"):
                del there[WIDTH]
                self._note("the vectors of embedding.path decide it", WIDTH)
            try:
                embed_dim = resolve(config.model).get("embed_dim") if "model" in config else None
                possible, reasons = keep_feasible(config, there)
            except UserError as error:
                refusals.append(str(error))
                self._note(str(error), self._shown(chosen))
                continue
            branches[chosen] = Branch(fixed, possible, embed_dim)
            for setting, reason in reasons.items():
                refused[setting][chosen] = reason
        for name in sorted(absent.keys() - found):
            self._must_exist_elsewhere(name, absent[name])
        if not branches:
            raise UserError(f"no trial could build its model: {refusals[0]}")
        for (name, value), places in refused.items():
            everywhere = len(places) == sum(name in branch.settings for branch in branches.values())
            for chosen, reason in places.items():
                self._note(reason, f"{name}={value}" if everywhere else f"{self._shown(chosen)} {name}={value}")
        space = _without_constants(Space(branches, self.parts))
        lines = [f"{_shortened(names)} ({reason})" for reason, names in self.left.items()]
        if not space.parts and not any(branch.settings for branch in space.branches.values()):
            raise UserError("; ".join([NOTHING, *lines]))
        if lines:
            log.info("Not searched: %s", "; ".join(lines))
        return space

    def _compose(self, chosen: Sequence[Any]) -> tuple[DictConfig, list[str], list[str]]:
        """The config of these parts, the fixed overrides that fit it, and the names of those that do not."""
        try:
            return self._load([*self.fixed, *self._overrides(chosen)]), self.fixed, []
        except UserError:
            plain = [override for override in self.fixed if self._is_setting(override)]
        others = [override for override in self.fixed if override not in plain]
        bare = self._load([*others, *self._overrides(chosen)])
        missing = [override for override in plain if not _exists(bare, _key(override))]
        fixed = [override for override in self.fixed if override not in missing]
        return self._load([*fixed, *self._overrides(chosen)]), fixed, [_key(override) for override in missing]

    def _is_setting(self, override: str) -> bool:
        (parsed,) = parse([override])
        special = parsed.is_add() or parsed.is_force_add() or parsed.is_delete()
        return not special and parsed.key_or_group not in self.config.hydra.runtime.choices

    def _must_exist_elsewhere(self, name: str, config: DictConfig) -> None:
        """A setting that none of the chosen parts has may be one of their siblings', unless it was asked for by hand.

        Raises:
            UserError: it is not.
        """
        group = _group_of(name)
        choice = config.hydra.runtime.choices.get(group)
        others = [override for override in self.fixed if not self._is_setting(override) and _key(override) != group]
        for option in [] if name in self.typed or choice is None else self.loader.get_group_options(group):
            with suppress(UserError):  # an option that needs more settings than its name
                if _exists(self._load([*others, f"{group}={option}"]), name):
                    return
        parent = OmegaConf.select(config, name.rpartition(".")[0]) if "." in name else None
        known = ", ".join(str(key) for key in parent or () if not str(key).startswith("_"))
        there = f"{group}={choice} has no such setting; it has {known}" if known else "there is no such setting"
        raise UserError(f"{name} can't be searched: {there}")

    def _note(self, reason: str, name: str) -> None:
        names = self.left.setdefault(reason, [])
        if name not in names:
            names.append(name)

    def _overrides(self, chosen: Sequence[Any]) -> list[str]:
        return [f"{name}={value}" for name, value in zip(self.parts, chosen, strict=True)]

    def _shown(self, chosen: Sequence[Any]) -> str:
        return " ".join(self._overrides(chosen))


def _without_constants(space: Space) -> Space:
    """Make whatever has one value left an override."""
    constant = [name for name in space.parts if len(space.choices(name)) == 1]
    parts = [name for name in space.parts if name not in constant]
    branches = {}
    for chosen, branch in space.branches.items():
        values = dict(zip(space.parts, chosen, strict=True))
        fixed = {name: values[name] for name in constant}
        fixed |= {name: space.choices(name)[0] for name in branch.settings if len(space.choices(name)) == 1}
        settings = {name: distribution for name, distribution in branch.settings.items() if name not in fixed}
        overrides = [*branch.fixed, *(f"{name}={value}" for name, value in fixed.items())]
        embed_dim = fixed.get(WIDTH, branch.embed_dim)
        branches[tuple(values[name] for name in parts)] = Branch(overrides, settings, embed_dim)
    return Space(branches, parts)


def _key(override: str) -> str:
    return override.partition("=")[0]


def _group_of(name: str) -> str:
    return name.lstrip("+").split(".")[0]


def _exists(config: DictConfig, name: str) -> bool:
    """Whether it can be overridden; with a leading + it is added."""
    parent, _, key = name.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    return name.startswith("+") or (isinstance(node, DictConfig) and key in list(node.keys()))


def _shortened(names: list[str]) -> str:
    more = [f"and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return ", ".join([*names[:SHOWN], *more])


def merge_settings(study: optuna.Study) -> optuna.Study:
    """The finished trials, each setting under one name: Optuna keeps one for each set of choices (`Space.suggest`)."""
    trials = [t for t in study.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE]
    choices: dict[str, dict[Any, None]] = {}
    for trial in trials:
        for label, kind in trial.distributions.items():
            if isinstance(kind, CategoricalDistribution):
                choices.setdefault(setting_of(label), {}).update(dict.fromkeys(kind.choices))
    merged = optuna.create_study(direction=study.direction)
    for trial in trials:
        kinds = {setting_of(label): kind for label, kind in trial.distributions.items()}
        kinds |= {name: CategoricalDistribution(list(choices[name])) for name in kinds.keys() & choices}
        merged.add_trial(optuna.create_trial(value=trial.value, params=settings_of(trial), distributions=kinds))
    return merged
