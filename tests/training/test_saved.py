"""Checkpoints that another version wrote, or that hold what no version writes."""

from pathlib import Path

import pytest
import torch

from attnlab.errors import UserError
from attnlab.training.module import TextClassification
from attnlab.training.saved import FORMAT, load_weights
from tests.conftest import train_in


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The best checkpoint of a small run."""
    return train_in(tmp_path_factory.mktemp("logs")) / "checkpoints" / "best.ckpt"


def changed(checkpoint: Path, target: Path, **values: object) -> Path:
    torch.save(torch.load(checkpoint, weights_only=True) | values, target)
    return target


@pytest.mark.parametrize(
    ("number", "advice"), [(FORMAT + 1, "update attnlab"), (FORMAT - 1, "train it again, or use the version")]
)
def test_a_checkpoint_of_another_version_is_one_line(
    number: int, advice: str, checkpoint: Path, tmp_path: Path
) -> None:
    message = f"has format {number}, and this version of attnlab reads {FORMAT}: {advice}"
    other = changed(checkpoint, tmp_path / "other.ckpt", format=number)
    with pytest.raises(UserError, match=message):
        load_weights(other, TextClassification)


def test_a_checkpoint_without_a_number_is_none_of_this_program(checkpoint: Path, tmp_path: Path) -> None:
    values = torch.load(checkpoint, weights_only=True)
    del values["format"]
    torch.save(values, tmp_path / "first.ckpt")
    with pytest.raises(UserError, match=r"first\.ckpt is not a checkpoint of attnlab"):
        load_weights(tmp_path / "first.ckpt", TextClassification)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), "much", [1.0]])
def test_another_kind_of_temperature_is_one_line(value: object, checkpoint: Path, tmp_path: Path) -> None:
    file = changed(checkpoint, tmp_path / "other.ckpt", temperature=value)
    with pytest.raises(UserError, match=r"temperature is .* must be above 0|is not a checkpoint of attnlab"):
        load_weights(file, TextClassification)
