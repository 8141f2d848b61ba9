"""Feasibility: with which values of a search or an ablation a model can be built at all."""

import random
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from torch import nn
from torch.overrides import TorchFunctionMode

from attnlab.config import instantiate, resolve
from attnlab.errors import UserError, first_line
from attnlab.experiments.multirun import parse
from attnlab.training.encoder import model_settings

# How many random settings are tried around a value before it is dropped. If one in three can be built, all of them fail
# once in 190,000 times.
ATTEMPTS = 30

Settings = dict[str, BaseDistribution]
Values = dict[str, Any]


def keep_feasible(config: DictConfig, settings: Settings) -> tuple[Settings, dict[tuple[str, Any], str]]:
    """The settings with the choices that fit `config`, and why the others do not.

    A choice is dropped if no model can be built with it, whatever the other settings are. `config` is modified: it ends
    with the values tried last.

    Raises:
        UserError: no model can be built at all, and why.
    """
    draw = random.Random(0)  # seeded: every process of a search must build the same space
    good: dict[str, set[Any]] = defaultdict(set)

    def why_not(wanted: Values) -> str | None:
        reasons: Counter[str] = Counter()
        for _ in range(ATTEMPTS if settings.keys() - wanted.keys() else 1):
            values = {name: draw.choice(_samples(space)) for name, space in settings.items()} | wanted
            reason = infeasibility_reason(config, values)
            if reason is None:
                for name, value in values.items():
                    good[name].add(value)
                return None
            reasons[reason] += 1
        return reasons.most_common(1)[0][0]

    if reason := why_not({}):
        raise UserError(reason)
    kept, refused = dict(settings), {}
    for name, space in settings.items():
        if isinstance(space, CategoricalDistribution):
            for value in space.choices:
                if value not in good[name] and (reason := why_not({name: value})):
                    refused[name, value] = reason
            kept[name] = CategoricalDistribution([value for value in space.choices if (name, value) not in refused])
    return kept, refused


def infeasibility_reason(config: DictConfig, values: Values) -> str | None:
    """Why tokenizer, model, optimizer or schedule reject these values; None if they accept them.

    All is built at its smallest size and without memory for weights, except for one weight to make a step with.
    """
    for name, value in values.items():
        OmegaConf.update(config, *_parse(name, value), merge=False, force_add=True)
    try:
        recipe = instantiate(resolve(config.tokenizer))
        with torch.device("meta"), _WithoutMemory():
            settings = model_settings(resolve(config.model))
            model = instantiate(settings, vocab_size=1, num_classes=2, pad_id=0, max_length=recipe.max_length)
        sparse = any(getattr(module, "sparse", False) for module in model.modules())
        weight = nn.Parameter(torch.zeros(1, 1))
        weight.grad = torch.zeros(1, 1).to_sparse() if sparse else torch.zeros(1, 1)
        optimizer = instantiate(resolve(config.optimizer), params=[weight])
        instantiate(resolve(config.scheduler), optimizer=optimizer, total_steps=1)
    except UserError as error:
        return first_line(error)
    except Exception:  # for one, a model that can't be built without memory: its trials will tell
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # from torch's own Adagrad
            optimizer.step()
    except RuntimeError as error:
        return first_line(error)
    except Exception:  # an optimizer that needs more than gradients: its trials will tell
        return None
    return None


class _WithoutMemory(TorchFunctionMode):
    """Makes tensors without memory even if a model names a device for them."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return func(*args, **{name: "meta" if name == "device" else value for name, value in (kwargs or {}).items()})


def _samples(space: BaseDistribution) -> tuple[Any, ...]:
    if isinstance(space, CategoricalDistribution):
        return space.choices
    assert isinstance(space, FloatDistribution | IntDistribution)
    return space.low, space.high


@cache
def _parse(name: str, value: Any) -> tuple[str, Any]:
    """Key and value as Hydra parses them on the command line."""
    (override,) = parse([f"{name}={value}"])
    return override.key_or_group, override.value()
