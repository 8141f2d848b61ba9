"""The forms in which a trained model leaves the program: how each is written, and opened again to be checked."""

import copy
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from attnlab.errors import UserError, as_user_error
from attnlab.tasks import Task

Answer = Callable[[Tensor, Tensor], Tensor]  # input_ids [B, T] int64, attention_mask [B, T] bool -> [B, C]


class Answers(nn.Module):
    """What is exported: tokens in, calibrated probabilities out; for documents of up to `max_length` tokens."""

    def __init__(self, model: nn.Module, task: Task, max_length: int) -> None:
        super().__init__()
        self.model, self.task, self.max_length = model, task, max_length
        self.eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """input_ids: [B, T] int64, attention_mask: [B, T] bool, False on padding -> [B, C]."""
        return self.task.probabilities(self.model(input_ids, attention_mask).float())


@dataclass(frozen=True)
class Format:
    """One form.

    Attributes:
        file: its name in the folder.
        packages: that writing and opening it takes.
        write: the model into a file.
        open: the file again, as a function; what else it takes than the file comes from the model.
    """

    file: str
    packages: tuple[str, ...]
    write: Callable[[Answers, Path], None]
    open: Callable[[Path, Answers], Answer]

    def check(self) -> None:
        """Raises `UserError` where a package is not installed."""
        if missing := [package for package in self.packages if find_spec(package) is None]:
            raise UserError(
                f'{self.file} wants {", ".join(missing)}: .venv/bin/pip install -c constraints.txt -e ".[export]"'
            )


def traced(answers: Answers) -> ExportedProgram:
    """The model as one graph for any number of documents of any length up to the longest.

    Raises:
        UserError: it does what no graph can hold.
    """
    # Of no two sizes that are equal, or they would be taken for one.
    documents, length = 3, 2
    mask = torch.ones(documents, length, dtype=torch.bool)
    sizes = {0: Dim("documents"), 1: Dim("length", max=answers.max_length)}
    what = f"{type(answers.model).__name__} can't be exported as a graph"
    with as_user_error(what, "; format=safetensors can"), _quiet(), torch.no_grad():
        return torch.export.export(answers, (mask.long(), mask), dynamic_shapes=(sizes, sizes))


def _write_onnx(answers: Answers, path: Path) -> None:
    program = traced(answers)
    what = f"{type(answers.model).__name__} can't be written as ONNX"
    with as_user_error(what, "; format=torch and format=safetensors can"), _quiet():
        exported = torch.onnx.export(program, input_names=list(INPUTS), output_names=["probabilities"], verbose=False)
        assert exported is not None
        exported.save(path)


def _open_onnx(path: Path, _: Answers) -> Answer:
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    return lambda *inputs: torch.from_numpy(
        session.run(None, {name: tensor.numpy() for name, tensor in zip(INPUTS, inputs, strict=True)})[0]
    )


def quantize(path: Path) -> None:
    """Dynamic quantisation of an ONNX file: weights of eight bits, and activations rounded to eight when they come."""
    from onnxruntime.quantization import quantize_dynamic

    whole = path.rename(path.with_suffix(".whole"))
    with _quiet():
        quantize_dynamic(whole, path)
    whole.unlink()


def _write_torch(answers: Answers, path: Path) -> None:
    torch.export.save(traced(answers), path)


def _open_torch(path: Path, _: Answers) -> Answer:
    return torch.export.load(path).module()


def _write_safetensors(answers: Answers, path: Path) -> None:
    from safetensors.torch import save_model

    save_model(answers.model, str(path))


def _open_safetensors(path: Path, answers: Answers) -> Answer:
    from safetensors.torch import load_model

    opened = copy.deepcopy(answers)
    load_model(opened.model, path)
    return opened


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporters tell of their progress, of what else could be installed and what they leave as it is."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


INPUTS = ("input_ids", "attention_mask")
FORMATS = {
    "onnx": Format("model.onnx", ("onnx", "onnxruntime", "onnxscript"), _write_onnx, _open_onnx),
    "torch": Format("model.pt2", (), _write_torch, _open_torch),
    "safetensors": Format("model.safetensors", (), _write_safetensors, _open_safetensors),
}
