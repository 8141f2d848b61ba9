"""What the config of a run holds, as `conf/train.yaml` composes it: its type, and by it the check of its values."""

from collections.abc import Iterator
from typing import Annotated, Any, TypedDict, get_type_hints, is_typeddict

from annotated_types import Interval

from attnlab.metrics import Direction

Part = dict[str, Any]  # what is called, `_target_`, and its arguments: checked by the annotations of what is called


class Monitor(TypedDict):
    """By what the best checkpoint is chosen."""

    metric: str
    mode: Direction


class Paths(TypedDict):
    """Where a run writes."""

    log_dir: str
    cache_dir: str
    run_dir: str | None


class Settings(TypedDict):
    """A run's settings: what each key means stands beside it in `conf/train.yaml`."""

    task_name: str
    seed: Annotated[int, Interval(ge=0, lt=2**32)]
    monitor: Monitor
    test: bool
    preview: bool
    halve_batch_on_oom: bool
    tags: list[str]
    paths: Paths
    task: Part
    data: Part
    tokenizer: Part
    embedding: Part
    model: Part
    optimizer: Part
    scheduler: Part
    trainer: Part
    callbacks: dict[str, Part | None]
    logger: dict[str, Part | None]


def _annotations(kind: type, path: str = "") -> Iterator[tuple[str, Any]]:
    """Each key and its annotation, but for parts."""
    for name, annotation in get_type_hints(kind, include_extras=True).items():
        if is_typeddict(annotation):
            yield from _annotations(annotation, f"{path}{name}.")
        elif annotation not in (Part, dict[str, Part | None]):
            yield f"{path}{name}", annotation


NO_ARGUMENTS = {"model.path": str, "model.init_from": str | None, "model.from_scratch": bool}  # of a model
CHECKED: dict[str, Any] = {**dict(_annotations(Settings)), **NO_ARGUMENTS}
CHECKED["monitor.mode"] = Direction | None  # which `check_selection` finds out where there is none
