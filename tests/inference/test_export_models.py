"""Every model that `conf` can make, as a graph: for documents of any number and length it answers as the model does."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attnlab.errors import UserError
from attnlab.inference.formats import FORMATS, Answers, traced
from attnlab.models.positional import Learned
from attnlab.tasks import MultiLabel, SingleLabel, Task
from tests.models import test_classifier, test_ngrams
from tests.models.test_classifier import EVERY, MAX_LENGTH, PAD, VOCAB, batch

NAMES = ["a", "b", "c"]
SIZES: dict[str, Any] = {"vocab_size": VOCAB, "num_classes": 3, "pad_id": PAD, "max_length": MAX_LENGTH, "embed_dim": 8}


@torch.inference_mode()
def assert_same(model: nn.Module, folder: Path, form: str = "onnx", task: Task | None = None) -> None:
    answers = Answers(model, task or SingleLabel(NAMES), MAX_LENGTH)
    file = folder / FORMATS[form].file
    FORMATS[form].write(answers, file)
    exported = FORMATS[form].open(file, answers)
    for lengths in ([2], [MAX_LENGTH, 3, 7], [3] * 5, [MAX_LENGTH]):
        inputs = batch(lengths, max(lengths))
        torch.testing.assert_close(exported(*inputs), answers(*inputs), atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "pe", "pooling"), EVERY)
def test_every_model_position_and_pooling(model: str, pe: str, pooling: str, tmp_path: Path) -> None:
    assert_same(test_classifier.build(model, pe, pooling), tmp_path)


OTHERS: dict[str, Callable[[], nn.Module]] = {
    "n-grams": test_ngrams.build,
    "weighted n-grams": lambda: test_ngrams.give_scores(test_ngrams.build(pooling="attention")),
    "n-grams and leads": partial(test_ngrams.build, ngrams=3, leads=[2, 20]),
    "tokens alone": partial(test_ngrams.build, ngrams=1),
    "more than the longest": partial(test_ngrams.build, ngrams=MAX_LENGTH + 3),
    "norm of a bag": partial(test_classifier.build, "bag", "none", layer_norm=True),
    "counted padding": partial(test_classifier.build, "attention", "sinusoidal", "max", count_padding=True),
    "a counted mean": partial(test_classifier.build, "bag", "none", count_padding=True),
    "pairs": partial(test_classifier.build, "transformer", "rotary", sep_id=9),
    "half a table": partial(
        test_classifier.MODELS["attention"], **SIZES, pooling="mean", pe=partial(Learned, max_len=5, beyond="zero")
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "torch"])
@pytest.mark.parametrize("model", OTHERS)
def test_what_else_a_model_can_have(model: str, form: str, tmp_path: Path) -> None:
    assert_same(OTHERS[model](), tmp_path, form)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "torch"])
def test_several_labels(form: str, tmp_path: Path) -> None:
    assert_same(test_classifier.build(), tmp_path, form, MultiLabel(NAMES))


@pytest.mark.slow
def test_ngrams_fall_into_the_same_buckets(tmp_path: Path) -> None:
    """Where products overflow too."""

    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag = test_ngrams.build(vocab_size=60_000, ngrams=4, leads=[3], buckets=499_979)

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            rows, present = self.bag._rows(input_ids, attention_mask)
            return rows * present

    class AsTheyAre(SingleLabel):
        def probabilities(self, logits: Tensor) -> Tensor:
            return logits

    answers = Answers(Rows(), AsTheyAre(NAMES), MAX_LENGTH)
    FORMATS["onnx"].write(answers, tmp_path / "model.onnx")
    ids = torch.randint(60_000, (500, MAX_LENGTH), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids, dtype=torch.bool)
    found = FORMATS["onnx"].open(tmp_path / "model.onnx", answers)(ids, mask)
    expected = answers(ids, mask)  # without the columns of zeros that the graph pads with
    assert torch.equal(found[found > 0], expected[expected > 0]) and len(expected.unique()) > 10_000


def test_a_model_that_is_no_graph_is_one_line() -> None:
    class Counting(nn.Module):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return input_ids[attention_mask][: int(input_ids.sum())].float().mean().expand(1, 3) / len(input_ids)

    with pytest.raises(UserError, match=r"^Counting can't be exported as a graph: .*; format=safetensors can$"):
        traced(Answers(Counting(), SingleLabel(NAMES), MAX_LENGTH))


def test_an_operation_that_onnx_lacks_is_one_line(tmp_path: Path) -> None:
    class Bessel(nn.Module):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return torch.special.bessel_j0(input_ids * attention_mask / VOCAB)[:, :1].expand(-1, 3)

    answers = Answers(Bessel(), SingleLabel(NAMES), MAX_LENGTH)
    traced(answers)  # torch has a graph of it
    with pytest.raises(UserError, match=r"^Bessel can't be written as ONNX: .*; format=torch and .*safetensors can$"):
        FORMATS["onnx"].write(answers, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()
