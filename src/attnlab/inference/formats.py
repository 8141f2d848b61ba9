"""The file formats of an export: how each is written, opened again, and checked against the trained model."""

import copy
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from attnlab.config import instantiate
from attnlab.data.batching import Batch
from attnlab.data.sources import with_absolute_paths
from attnlab.data.tokenization import max_length
from attnlab.errors import UserError, as_user_error
from attnlab.metrics import interval
from attnlab.reports.run_page import data_name
from attnlab.runs import RunFolder
from attnlab.tasks import Task
from attnlab.training.saved import Trained

log = logging.getLogger(__name__)

NUM_RANDOM = 64  # random documents, if there are no test documents
Answer = Callable[[Tensor, Tensor], Tensor]  # input_ids [B, T] int64, attention_mask [B, T] bool -> [B, C]


class Answers(nn.Module):
    """The exported module: from tokens to calibrated probabilities, for documents of up to `max_length` tokens."""

    def __init__(self, model: nn.Module, task: Task, max_length: int) -> None:
        super().__init__()
        self.model, self.task, self.max_length = model, task, max_length
        self.eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """input_ids: [B, T] int64, attention_mask: [B, T] bool, False on padding -> [B, C]."""
        return self.task.probabilities(self.model(input_ids, attention_mask).float())


@dataclass(frozen=True)
class Format:
    """A file format.

    Attributes:
        file: the name of the file.
        packages: those that writing and opening it require.
        write: writes the model.
        open: opens the file as a function; whatever the file does not contain comes from the model.
    """

    file: str
    packages: tuple[str, ...]
    write: Callable[[Answers, Path], None]
    open: Callable[[Path, Answers], Answer]

    def check(self) -> None:
        """Raise `UserError` if a package is not installed."""
        if missing := [package for package in self.packages if find_spec(package) is None]:
            raise UserError(
                f'{self.file} requires {", ".join(missing)}: .venv/bin/pip install -c constraints.txt -e ".[export]"'
            )


def traced(answers: Answers) -> ExportedProgram:
    """The model as one graph, for any number of documents of any length up to the longest."""
    # Two different sizes, or torch.export would take them for one.
    documents, length = 3, 2
    mask = torch.ones(documents, length, dtype=torch.bool)
    sizes = {0: Dim("documents"), 1: Dim("length", max=answers.max_length)}
    what = f"{type(answers.model).__name__} can't be exported as a graph"
    # Any of a model's operations may be unknown to torch.export, which raises errors of many types.
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
    """Quantise an ONNX file dynamically: weights to eight bits now, and activations when they are computed."""
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

    # Into a copy of the model: the file contains nothing but weights, and the original is what it is compared with.
    opened = copy.deepcopy(answers)
    load_model(opened.model, path)
    return opened


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters, which report progress, optional packages, and operations that they don't convert."""
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


@dataclass(frozen=True)
class Documents:
    """The documents that an exported model is checked on, and if `labelled` also scored."""

    batches: Iterable[Batch]
    name: str
    labelled: bool = True


@dataclass(frozen=True)
class Comparison:
    """An exported model compared with the trained one, on the same documents.

    Attributes:
        difference: the largest difference of a probability.
        changed: documents with another answer.
        accuracy, interval: of the exported model, with Wilson's interval of 95 %; None if the documents have no labels.
    """

    difference: float
    changed: int
    accuracy: float | None = None
    interval: tuple[float, float] | None = None


@torch.inference_mode()
def compare(trained: Answer, exported: Answer, documents: Documents, task: Task) -> Comparison:
    """Compare the answers; a probability of NaN makes the difference NaN."""
    number = changed = right = 0
    difference = torch.zeros(())
    for batch in documents.batches:
        expected, found = (answer(batch.input_ids, batch.attention_mask) for answer in (trained, exported))
        difference = torch.maximum(difference, (found - expected).abs().max())
        answers = task.decide(found)
        changed += int((answers != task.decide(expected)).reshape(len(answers), -1).any(dim=1).sum())
        if documents.labelled:
            right += int(task.correct(answers, batch.labels).sum())
        number += len(answers)
    if not documents.labelled:
        return Comparison(float(difference), changed)
    return Comparison(float(difference), changed, right / number, interval(right, number))


def find_documents(config: dict[str, Any], checkpoint: Path, trained: Trained) -> Documents:
    """The test documents of `config["data"]`, or of the checkpoint's run.

    If those of the run are not available, a warning and documents of random tokens.
    """
    if config.get("data"):
        from attnlab.training.evaluate import as_trained  # imports Lightning

        return _test_documents(as_trained(config["data"], trained), trained, config)
    try:
        if (data := RunFolder.of_checkpoint(checkpoint).config.get("data")) is not None:
            return _test_documents(data, trained, config)
        reason = f"{checkpoint.name} is not in the folder of a run"
    except UserError as error:
        reason = f"the run's test documents can't be read ({error})"
    log.warning(
        "%s, so the exported model is checked on documents of random tokens and not scored; to score it give data=...",
        reason,
    )
    return Documents(_random_documents(trained), f"{NUM_RANDOM} documents of random tokens", labelled=False)


def _test_documents(data: dict[str, Any], trained: Trained, config: dict[str, Any]) -> Documents:
    from attnlab.training.evaluate import test_data  # imports Lightning

    data = with_absolute_paths(data)
    datamodule = test_data(instantiate(data), trained, Path(config["paths"]["cache_dir"]))
    loader = datamodule.test_dataloader()
    return Documents(loader, f"{len(loader.dataset):,} test documents of {data_name(data)}")  # type: ignore[arg-type]


def _random_documents(trained: Trained) -> Sequence[Batch]:
    """Documents of random tokens and of all lengths, in two batches."""
    generator = torch.Generator().manual_seed(0)
    longest = max_length(trained.tokenizer)
    ids = torch.randint(trained.tokenizer.get_vocab_size(), (NUM_RANDOM, longest), generator=generator)
    lengths = torch.linspace(min(2, longest), longest, NUM_RANDOM).long()
    return [
        Batch(
            ids[rows, : lengths[rows].max()],
            torch.arange(int(lengths[rows].max())) < lengths[rows, None],
            torch.zeros(len(rows), dtype=torch.long),
            rows,
        )
        for rows in torch.arange(NUM_RANDOM).chunk(2)
    ]
