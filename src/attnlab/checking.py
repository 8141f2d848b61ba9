"""Every setting against what it may be, before anything is done: by the annotations of what the config calls."""

import inspect
import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_type_hints

from annotated_types import Ge, Interval
from pydantic import ConfigDict, StringConstraints, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from attnlab.config import find_allowed
from attnlab.errors import UserError

# Other people's arguments that say their type but not that a number may be too small.
NARROWER: dict[tuple[str, str], Any] = {
    ("Trainer", "threads"): Annotated[int, Ge(1)] | None,  # ours
    ("Trainer", "max_epochs"): Annotated[int, Ge(-1)] | None,
    ("Trainer", "gradient_clip_val"): Annotated[float, Ge(0)] | None,
    ("Trainer", "log_every_n_steps"): Annotated[int, Ge(1)],
    ("Trainer", "accumulate_grad_batches"): Annotated[int, Ge(1)],
    ("Trainer", "check_val_every_n_epoch"): Annotated[int, Ge(1)] | None,
    ("Trainer", "val_check_interval"): Annotated[int, Ge(1)] | Annotated[float, Interval(gt=0, le=1)] | None,
    ("Trainer", "max_time"): Annotated[str, StringConstraints(pattern=r"^\d+:\d\d:\d\d:\d\d$")] | None,
    ("Trainer", "num_sanity_val_steps"): Annotated[int, Ge(-1)],
    ("EarlyStopping", "patience"): Annotated[int, Ge(0)],
    ("RichModelSummary", "max_depth"): Annotated[int, Ge(-1)],
    ("ModelTable", "max_depth"): Annotated[int, Ge(-1)],
    ("HyperbandPruner", "max_resource"): Annotated[int, Ge(1)] | Literal["auto"],
}
# What pydantic says of the classes in a union, which no plain value can be.
ABOUT_CLASSES = ("is_instance_of", "needs_python_object")
# What every run has; callbacks and loggers may be taken away.
PARTS = ("task", "data", "tokenizer", "model", "optimizer", "scheduler", "trainer", "monitor", "paths")


def check_parts(config: dict[str, Any]) -> None:
    """Make callbacks and loggers empty groups where there are none. Raises `UserError` where one of `PARTS` is not."""
    for part in PARTS:
        if not isinstance(config.get(part), dict):
            raise UserError(f"{part} is missing: a run has one, so leave out ~{part}; {part}=<name> chooses another")
    for part in ("callbacks", "logger"):
        config[part] = {} if config.get(part) is None else config[part]
        if not isinstance(config[part], dict):
            raise UserError(f"{part}={config[part]} is no group of parts by name; ~{part} is for none")
    for callback in config["callbacks"].values():
        if isinstance(callback, dict) and callback.get("mode", "") is None:  # what `check_selection` then finds out
            del callback["mode"]


def check_config(config: dict[str, Any], settings: Mapping[str, Any]) -> None:
    """Check every value of the config: by `settings`, key to annotation, or as an argument of what it is for.

    Raises:
        UserError: the first one that is of another type, or out of range.
    """
    model_last = dict(sorted(config.items(), key=lambda part: part[0] == "model"))  # which holds pe once more
    for key, target, argument, value in _leaves(model_last):
        if key in settings:
            _check(key, value, settings[key])
        elif target:
            annotation = _annotations(target).get(argument, Any)
            _check(key, value, NARROWER.get((target.split(".")[-1], argument), annotation))


def _leaves(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, str, str, Any]]:
    """Key, target ("" where there is none), name and value of everything in a config but the targets themselves."""
    for name, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{path}{name}.")
        elif not str(name).startswith("_"):
            yield f"{path}{name}", str(node.get("_target_", "")), name, value


def _annotations(target: str) -> dict[str, Any]:
    try:
        called = find_allowed(target)
        return get_type_hints(called.__init__ if inspect.isclass(called) else called, include_extras=True)
    except (UserError, NameError):  # refused when it is called; a name that only a type checker imports
        return {}


def _check(key: str, value: Any, annotation: Any) -> None:
    try:
        # As JSON, where a list is as good as a tuple and a string as a path.
        adapter = TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
        adapter.validate_json(json.dumps(value), strict=True)
    except PydanticUserError:  # a class of its own, which no plain value can be; the call itself will say so
        return
    except ValidationError as error:
        found = [detail for detail in error.errors() if detail["type"] not in ABOUT_CLASSES] or error.errors()
        wanted = dict.fromkeys(detail["msg"].removeprefix("Input should be ") for detail in found)
        raise UserError(f"{key}={value} should be {' or '.join(wanted)}") from error
