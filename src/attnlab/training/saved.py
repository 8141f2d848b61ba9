"""A trained model from its checkpoint, read without Lightning and without running any code that the file contains."""

import weakref
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from attnlab.config import instantiate
from attnlab.data.text_format import TextFormat
from attnlab.data.tokenization import SEP, max_length, pad_id, read_tokenizer, token_id
from attnlab.errors import UserError, first_line
from attnlab.tasks import Task, make_task

Module = TypeVar("Module", bound=nn.Module)

SPARE = 1 << 24  # numbers that a model may use temporarily while it is built: 64 MB
FACTORIES = {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.arange, torch.eye}
FORMAT = 5  # of checkpoints: raise it with any change of their content


class Trained(nn.Module):
    """A classifier built from the settings in a checkpoint: `tokenizer`, `model` (from `settings`) and `task`.

    Args: those of `attnlab.training.module.TextClassification`; what only training needs is ignored.
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
        """The token that ends a text, by which a model distinguishes the two texts of a pair.

        A pretrained encoder does so only if its own tokenizer does: BERT's does, RoBERTa's does not.
        """
        distinguished = any(self.tokenizer.encode("", "").type_ids)
        return token_id(self.tokenizer, SEP) if distinguished or not pretrained else None


def check_format(checkpoint: dict[str, Any]) -> None:
    """Raises `UserError` for a checkpoint of another version, in which the same names may have another meaning."""
    number = checkpoint.get("format", 1)
    if number != FORMAT:
        advice = "update attnlab" if number > FORMAT else "train it again, or use the version that wrote it"
        raise UserError(f"the checkpoint has format {number}, and this version of attnlab reads {FORMAT}: {advice}")


class _WithoutInit(TorchFunctionMode):
    """Within it, a model is built without random first weights, which take seconds to draw, and in limited memory.

    A file of a few bytes can describe a model of any size, and building it must not exhaust the memory. A model that is
    loaded has `size` numbers in the end; while it is built, what it replaces may take as many again, and `SPARE`.

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
        # torch.arange imports sympy, which takes half a second, to do this on the device "meta".
        if func is torch.arange and args and all(isinstance(arg, int) for arg in args):
            numbers = len(range(*args))
        else:
            numbers = func(*args, **kwargs | {"device": "meta"}).numel()  # before any memory is allocated
        if numbers > self.left:
            raise self.refusal
        made = func(*args, **kwargs)
        self._take(numbers)
        weakref.finalize(made.untyped_storage(), self._take, -numbers)
        return made

    def _take(self, numbers: int) -> None:
        self.left -= numbers


def temperature_of(checkpoint: dict[str, Any]) -> float:
    """The number by which logits are divided. Raises `UserError` where it is not above 0."""
    temperature = float(checkpoint["temperature"])
    if not 0 < temperature < float("inf"):
        raise UserError(f"the checkpoint's temperature is {temperature}, it must be above 0")
    return temperature


def load_weights(path: Path, make: Callable[..., Module]) -> Module:
    """The module that `make` builds from the settings in a checkpoint, with the weights of the checkpoint.

    Raises:
        UserError: the file is not a checkpoint of this program.
    """
    other = UserError(f"{path} has other weights than its model")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        weights, settings, _ = (checkpoint[key] for key in ("state_dict", "hyper_parameters", "format"))
        check_format(checkpoint)
        # A tensor of any shape can be stored in a few bytes, with strides of 0.
        if sum(value.numel() * value.element_size() for value in weights.values()) > path.stat().st_size:
            raise other
        with _WithoutInit(sum(value.numel() for value in weights.values()), other):
            module = make(**settings)
        own = module.state_dict()
        if {name: value.shape for name, value in own.items()} != {name: value.shape for name, value in weights.items()}:
            raise other
        # Not copied: of a large embedding, only the rows that are used are read from the file.
        module.load_state_dict({name: value.to(own[name].dtype) for name, value in weights.items()}, assign=True)
        assert isinstance(module.task, Task)
        module.task.temperature = temperature_of(checkpoint)
        return module
    except UserError:
        raise
    except UnpicklingError as error:  # torch's message advises to load it unsafely
        raise UserError(f"{path} is not a checkpoint, or has more than plain data in it") from error
    except Exception as error:  # a file from outside can fail in any way
        raise UserError(f"{path} is not a checkpoint of attnlab: {first_line(error)}") from error
