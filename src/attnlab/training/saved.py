"""A trained model as its checkpoint keeps it, read without Lightning and without running code that the file brings."""

import weakref
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from attnlab.config import instantiate, read_config
from attnlab.data.text_format import TextFormat
from attnlab.data.tokenization import SEP, max_length, pad_id, read_tokenizer, token_id
from attnlab.errors import UserError, first_line
from attnlab.runs import BEST, CONFIG, LAST
from attnlab.tasks import Task, make_task

Module = TypeVar("Module", bound=nn.Module)

SPARE = 1 << 24  # numbers that a model may take while it is made: 64 MB
FACTORIES = {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.arange, torch.eye}
FORMAT = 5  # of checkpoints; raise it with any change of what they hold


class Trained(nn.Module):
    """The parts of a classifier that a checkpoint's settings describe: `tokenizer`, `model` (of `settings`) and `task`.

    Args: as of `attnlab.training.module.TextClassification`; what only training needs is left aside.
    """

    def __init__(
        self,
        model: dict[str, Any],
        label_names: list[str],
        tokenizer: str,
        pairs: bool,
        task: dict[str, Any],
        text_format: dict[str, Any],
        **_: Any,
    ) -> None:
        super().__init__()
        self.pairs = pairs
        self.task_settings = dict(task)
        self.task: Task = make_task(task, label_names)
        self.text_format = TextFormat(**text_format)
        self.tokenizer = read_tokenizer(tokenizer)
        self.settings = {
            **model,
            **({"sep_id": self._sep_id("encoder" in model)} if pairs else {}),
            "vocab_size": self.tokenizer.get_vocab_size(),
            "num_classes": self.task.num_outputs,
            "pad_id": pad_id(self.tokenizer),
            "max_length": max_length(self.tokenizer),
        }
        self.model: nn.Module = instantiate(self.settings)

    def _sep_id(self, pretrained: bool) -> int | None:
        """What ends a text, by which a model tells the texts of a pair apart.

        A pretrained encoder does so only if its own tokenizer does, as BERT's and not RoBERTa's.
        """
        told_apart = any(self.tokenizer.encode("", "").type_ids)
        return token_id(self.tokenizer, SEP) if told_apart or not pretrained else None


def check_format(checkpoint: dict[str, Any]) -> None:
    """Raises `UserError` for a checkpoint of another version, which may mean something else by the same names."""
    number = checkpoint.get("format", 1)
    if number != FORMAT:
        advice = "update attnlab" if number > FORMAT else "train it again, or use the version that wrote it"
        raise UserError(f"the checkpoint has format {number}, and this version of attnlab reads {FORMAT}: {advice}")


class _Unfilled(TorchFunctionMode):
    """Within it a model is made without first weights, which take seconds to draw, and in limited memory.

    A file of a few bytes can describe a model of any size. One that is loaded holds `size` numbers in the end; while it
    is made, what it replaces and drops again may take as many once more, and `SPARE`.

    Raises:
        UserError: `refusal`, where the model takes more.
    """

    def __init__(self, size: int, refusal: UserError) -> None:
        super().__init__()
        self.left, self.refusal = 2 * size + SPARE, refusal

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init" or func.__name__ in ("normal_", "uniform_"):
            return args[0] if args else kwargs["tensor"]
        if func not in FACTORIES:
            return func(*args, **kwargs)
        if (
            func is torch.arange and args and all(isinstance(arg, int) for arg in args)
        ):  # which imports sympy to do it on "meta"
            numbers = len(range(*args))
        else:
            numbers = func(*args, **kwargs | {"device": "meta"}).numel()  # before there is any memory for them
        if numbers > self.left:
            raise self.refusal
        made = func(*args, **kwargs)
        self._take(numbers)
        weakref.finalize(made.untyped_storage(), self._take, -numbers)
        return made

    def _take(self, numbers: int) -> None:
        self.left -= numbers


def temperature_of(checkpoint: dict[str, Any]) -> float:
    """By which the logits are divided.

    Raises:
        UserError: by which they can't be.
    """
    temperature = float(checkpoint["temperature"])
    if not 0 < temperature < float("inf"):
        raise UserError(f"the checkpoint's temperature is {temperature}, which should be a number above 0")
    return temperature


def load_weights(path: Path, make: Callable[..., Module]) -> Module:
    """What `make` makes of a checkpoint's settings, with the checkpoint's weights.

    Raises:
        UserError: the file is no checkpoint of this program.
    """
    other = UserError(f"{path} holds other weights than its model has")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        weights, settings, _ = (checkpoint[key] for key in ("state_dict", "hyper_parameters", "format"))
        check_format(checkpoint)
        # A few bytes can be stored as a tensor of any shape.
        if sum(value.numel() * value.element_size() for value in weights.values()) > path.stat().st_size:
            raise other
        with _Unfilled(sum(value.numel() for value in weights.values()), other):
            module = make(**settings)
        own = module.state_dict()
        if {name: value.shape for name, value in own.items()} != {name: value.shape for name, value in weights.items()}:
            raise other
        # Not copied: what is used of a large table is read from the file when it is.
        module.load_state_dict({name: value.to(own[name].dtype) for name, value in weights.items()}, assign=True)
        assert isinstance(module.task, Task)
        module.task.temperature = temperature_of(checkpoint)
        return module
    except UserError:
        raise
    except UnpicklingError as error:  # torch's message advises to load it unsafely
        raise UserError(f"{path} is no checkpoint, or holds more than plain data") from error
    except Exception as error:  # a file from outside can fail in any way
        raise UserError(f"{path} is no checkpoint of attnlab: {first_line(error)}") from error


def find_checkpoint(path: Path, setting: str = "ckpt_path") -> Path:
    """The file itself, or of a run's folder what it has tested: its best checkpoint, where none was kept the last.

    Raises:
        UserError: there is none.
    """
    files = [path / "checkpoints" / name for name in (BEST, LAST)] if path.is_dir() else [path]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise UserError(f"{setting}={path} is neither a checkpoint nor a run's folder with checkpoints/best.ckpt")
    return found


def data_of_run(checkpoint: Path) -> dict[str, Any] | None:
    """The data settings of the run that a checkpoint lies in; None where it lies in none."""
    file = checkpoint.parent.parent / CONFIG
    return read_config(file).get("data") if file.is_file() else None
