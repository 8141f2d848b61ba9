"""Validation of a config, all of it, before any data is read: missing parts, types and ranges, contradictions.

Types and ranges come from the annotations of the classes and functions that a config names, so a part of your own is
validated by what its arguments say.
"""

import inspect
import json
import logging
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, TypedDict, cast, get_type_hints, is_typeddict

from annotated_types import Ge, Interval
from pydantic import ConfigDict, StringConstraints, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from attnlab.config import find_allowed, instantiate
from attnlab.errors import UserError, as_user_error
from attnlab.metrics import Direction, direction, known_direction

log = logging.getLogger(__name__)

Part = dict[str, Any]  # `_target_`, the class or function to call, and its arguments


class Monitor(TypedDict):
    """What the best checkpoint is chosen by."""

    metric: str
    mode: Direction


class Paths(TypedDict):
    """Where a run writes."""

    log_dir: str
    cache_dir: str
    run_dir: str | None


class Settings(TypedDict):
    """The config of a run; `conf/train.yaml` says what each key means."""

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


def _annotations_of(kind: type, path: str = "") -> Iterator[tuple[str, Any]]:
    """Each key of a TypedDict and its annotation, parts left out."""
    for name, annotation in get_type_hints(kind, include_extras=True).items():
        if is_typeddict(annotation):
            yield from _annotations_of(annotation, f"{path}{name}.")
        elif annotation not in (Part, dict[str, Part | None]):
            yield f"{path}{name}", annotation


# Settings that are not arguments of what their part calls, by their key.
RUN_SETTINGS: dict[str, Any] = {
    **dict(_annotations_of(Settings)),
    "monitor.mode": Direction | None,  # where it is None, `_validate_monitor` finds it out
    "model.path": str,
    "model.init_from": str | None,
    "model.from_scratch": bool,
}
# Arguments of other libraries whose annotation has a type but no range.
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
# Errors of pydantic about the classes in a union, which no value of a config can be.
ABOUT_CLASSES = ("is_instance_of", "needs_python_object")
# Parts that no run can do without; callbacks and loggers may be removed.
PARTS = ("task", "data", "tokenizer", "model", "optimizer", "scheduler", "trainer", "monitor", "paths")

# Arguments of Lightning's Trainer that contradict what a run does, with what to use.
REFUSED_ARGUMENTS = {
    "default_root_dir": "a run writes into its own folder; use paths.run_dir=<folder>",
    "overfit_batches": "use debug=overfit, or data.limit=<number of documents>, to overfit a few documents",
    "barebones": "it stores nothing of a run; use debug=fast to see whether one works",
}
# Callbacks of Lightning likewise, by the name of their class: importing them here would cost every command a second.
OTHER_WEIGHTS = "it tests other weights than it chooses or saves; use callbacks=ema or callbacks=swa"
TRAINS_ITSELF = "it trains outside of the run; search instead: -m hparams_search=optuna"
REFUSED_CALLBACKS = {
    "WeightAveraging": OTHER_WEIGHTS,
    "StochasticWeightAveraging": OTHER_WEIGHTS,
    "BatchSizeFinder": TRAINS_ITSELF,
    "LearningRateFinder": TRAINS_ITSELF,
    "BaseFinetuning": "it requires a model with a backbone",
    "ModelPruning": "it replaces weights that the model reads directly",
    "SpikeDetection": "a loss that is not finite ends a run anyway",
}


def validate(config: dict[str, Any]) -> Settings:
    """The config of a run, valid and complete: `monitor.mode` and the `mode` of callbacks follow from their metric.

    Raises:
        UserError: the first value that is missing, of the wrong type, out of range or contradicts another.
    """
    config.pop("hydra", None)  # of a config that was composed with it
    _validate_parts(config)
    validate_values(config, RUN_SETTINGS)
    settings = cast(Settings, config)
    validate_trainer(settings)
    _validate_limits(settings)
    _validate_monitor(settings)
    return settings


def _validate_parts(config: dict[str, Any]) -> None:
    """Raises `UserError` for a missing part. Callbacks and loggers that were removed become empty groups."""
    for part in PARTS:
        if not isinstance(config.get(part), dict):
            raise UserError(f"{part} is missing, and every run needs one: leave out ~{part}; {part}=<name> selects one")
    for part in ("callbacks", "logger"):
        config[part] = {} if config.get(part) is None else config[part]
        if not isinstance(config[part], dict):
            raise UserError(f"{part}={config[part]} must be a group of parts by name; ~{part} removes all of them")
    for callback in config["callbacks"].values():
        if isinstance(callback, dict) and callback.get("mode", "") is None:  # `_validate_monitor` finds it out
            del callback["mode"]


def validate_values(config: dict[str, Any], annotations: Mapping[str, Any]) -> None:
    """Validate the type and range of each value, for any program.

    Args:
        annotations: by key; a value of any other key is validated as an argument of what its part calls.

    Raises:
        UserError: the first value of another type, or out of range.
    """
    model_last = dict(sorted(config.items(), key=lambda part: part[0] == "model"))  # it contains pe a second time
    for key, target, argument, value in _leaves(model_last):
        if key in annotations:
            _validate_value(key, value, annotations[key])
        elif target:
            annotation = _arguments_of(target).get(argument, Any)
            _validate_value(key, value, NARROWER.get((target.split(".")[-1], argument), annotation))


def _leaves(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, str, str, Any]]:
    """Key, target ("" where there is none), name and value of everything in a config except the targets themselves."""
    for name, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{path}{name}.")
        elif not str(name).startswith("_"):
            yield f"{path}{name}", str(node.get("_target_", "")), name, value


def _arguments_of(target: str) -> dict[str, Any]:
    try:
        called = find_allowed(target)
        return get_type_hints(called.__init__ if inspect.isclass(called) else called, include_extras=True)
    except (UserError, NameError):  # it is refused when it is called; a name that only type checkers import
        return {}


def _validate_value(key: str, value: Any, annotation: Any) -> None:
    try:
        # As JSON, where a list is accepted as a tuple and a string as a path.
        adapter = TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
        adapter.validate_json(json.dumps(value), strict=True)
    except PydanticUserError:  # a class of its own, which no plain value can be; the call itself will raise
        return
    except ValidationError as error:
        details = [detail for detail in error.errors() if detail["type"] not in ABOUT_CLASSES] or error.errors()
        allowed = dict.fromkeys(detail["msg"].removeprefix("Input should be ") for detail in details)
        raise UserError(f"{key}={value} should be {' or '.join(allowed)}") from error


def validate_trainer(config: Mapping[str, Any]) -> None:
    """Refuse arguments and callbacks of Lightning that contradict what a run or a test does. Raises `UserError`."""
    settings = config["trainer"]
    for key, advice in REFUSED_ARGUMENTS.items():
        if settings.get(key):
            raise UserError(f"trainer.{key}={settings[key]} is not supported: {advice}")
    if any(kind in str(settings.get("strategy")) for kind in ("spawn", "fork", "notebook")):
        raise UserError(f"trainer.strategy={settings['strategy']} trains in processes that return no results; use ddp")
    for name, callback in (config["callbacks"] or {}).items():
        if not callback:
            continue
        called = find_allowed(callback.get("_target_"))
        bases = {base.__name__ for base in inspect.getmro(called)} if inspect.isclass(called) else set()
        for kind in bases & REFUSED_CALLBACKS.keys():
            if "WeightAverage" not in bases:  # our own corrects what is wrong with Lightning's
                raise UserError(f"callbacks.{name}: {called.__name__} is not supported: {REFUSED_CALLBACKS[kind]}")
        # Lightning makes a Timer of max_time only where no callback is one.
        if "Timer" in bases and settings.get("max_time") is not None:
            raise UserError(f"callbacks.{name} would disable trainer.max_time: leave one of them out")


def _validate_limits(config: Settings) -> None:
    settings = config["trainer"]
    for key in ("max_epochs", "max_steps", "limit_train_batches"):
        if settings.get(key) == 0:
            raise UserError(f"trainer.{key}=0 trains nothing; to test a trained model use src/evaluate.py")
    if config["test"] and settings.get("limit_test_batches") == 0:
        raise UserError("trainer.limit_test_batches=0 leaves nothing to test; to train without a test use test=false")
    scaled = str(settings.get("precision")) in ("16", "16-mixed")
    if scaled and settings.get("gradient_clip_val") and config["optimizer"].get("fused"):
        raise UserError(
            f"trainer.precision={settings['precision']} scales gradients, which then can't be clipped for a fused "
            "optimizer; add optimizer.fused=false, or use trainer.precision=bf16-mixed"
        )


def _validate_monitor(config: Settings) -> None:
    """Whatever goes by a metric goes by one that is measured, and in its direction.

    `monitor`, and each callback that takes a `mode`, get the direction of their metric where none was given.
    """
    monitor = config["monitor"]
    with as_user_error(str(config["task"].get("_target_")), only=(TypeError,)):
        # A task is made without the real names of the classes, which only the data knows.
        task = instantiate(config["task"] | {"class_weights": None}, _partial_=True)(["", " "])
    measured = tuple(f"val/{name}" for name in task.METRICS)
    if monitor["metric"] not in measured:
        raise UserError(
            f"monitor.metric={monitor['metric']} is not measured by this task; choose one of {', '.join(measured)}"
        )
    if config["task"].get("class_weights") and monitor["metric"] == "val/loss":
        log.warning(
            "task.class_weights gives all classes the same weight in training, but monitor.metric=val/loss chooses the "
            "epoch by the frequent ones; monitor.metric=val/%s chooses it by all",
            task.BALANCED,
        )
    monitor["mode"] = _direction(task, monitor["metric"], monitor["mode"], "monitor.mode")
    for name, callback in config["callbacks"].items():
        if callback is None or (metric := callback.get("monitor")) is None:
            continue
        if metric not in (known := monitorable(task)):
            raise UserError(f"callbacks.{name}.monitor={metric} is not measured; choose one of {', '.join(known)}")
        if config["trainer"].get("limit_val_batches") == 0:
            raise UserError(
                f"trainer.limit_val_batches=0 leaves nothing to measure callbacks.{name}.monitor={metric} on; set "
                f"callbacks.{name}=null too"
            )
        if "mode" in callback or "mode" in inspect.signature(find_allowed(callback.get("_target_"))).parameters:
            default = monitor["mode"] if metric == monitor["metric"] else None
            callback["mode"] = _direction(task, metric, callback.get("mode") or default, f"callbacks.{name}.mode")


def monitorable(task: Any) -> tuple[str, ...]:
    """The metrics that a callback can go by, of a `Task`."""
    return (*(f"val/{name}" for name in task.METRICS), "train/loss")  # the mean since the previous validation


def _direction(task: Any, metric: str, given: Direction | None, key: str) -> Direction:
    """Of a metric of a user's own task, what its torchmetrics class says unless the user says it."""
    if known_direction(metric) is None and given is None:
        own = dict(task.metrics().items()).get(metric.removeprefix("val/"))
        if (higher := getattr(own, "higher_is_better", None)) is not None:
            given = "max" if higher else "min"
    return direction(metric, given, key)


def validate_embedding(config: Settings) -> None:
    """Validate that the model is as wide as the vectors. Not for a run that resumes: its checkpoint has the vectors.

    Raises:
        UserError: it is not, or there are no vectors.
    """
    settings = config["embedding"]
    if "_target_" not in settings:
        if settings.get("path"):
            log.warning(
                "embedding=random reads no vectors: embedding.path=%s is for embedding=static", settings["path"]
            )
        return
    if "path" in config["model"]:
        raise UserError("embedding=static is for models without pretraining: an encoder has its own vectors")
    width, given = instantiate(settings).width, config["model"].get("embed_dim")
    if width != given:
        raise UserError(
            f"model.embed_dim={given}, but the vectors of {settings['path']} have {width} values: leave it out, or "
            f"where a file sets it, set model.embed_dim={width}"
        )
