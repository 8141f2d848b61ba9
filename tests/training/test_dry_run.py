"""What does not fit together is one line before anything is read; a bug in a part of one's own keeps its traceback."""

from collections.abc import Callable
from pathlib import Path
from traceback import extract_tb

import pytest
from omegaconf import DictConfig

from attnlab.errors import UserError
from attnlab.training.train import train

Compose = Callable[..., DictConfig]
pytestmark = pytest.mark.usefixtures("own_parts")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "model._target_=tests.parts.Unpooled",
            r"Unpooled has the shape \[2, 5, 3\], and \[2, 3\] is required",
        ),
        ("model._target_=tests.parts.OneLogit", r"output of OneLogit has the shape \[2, 1\], and \[2, 3\] is required"),
        ("model._target_=tests.parts.OneTooMany", r"output of OneTooMany has the shape \[2, 4\], and \[2, 3\]"),
        ("task._target_=tests.parts.Unaveraged", r"loss of Unaveraged has the shape \[2\], and \[\] is required"),
        ("callbacks.progress._target_=lightning.pytorch.callbacks.RichProgresBar", "RichProgresBar"),
        ("callbacks.best_checkpoint._target_=attnlab.training.checkpoints.BestCheckpiont", "BestCheckpiont"),
    ],
)
def test_a_part_that_does_not_fit_is_one_line(
    override: str, message: str, tiny_config: Compose, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        train(tiny_config("model=bag", override, f"paths.run_dir={tmp_path}/run"))
    assert not (tmp_path / "run" / "metrics.csv").exists()


@pytest.mark.parametrize("name", ["Buggy", "BuggyForward"])
def test_a_bug_in_a_model_of_ones_own_keeps_its_place(name: str, tiny_config: Compose) -> None:
    with pytest.raises(TypeError) as caught:
        train(tiny_config("model=bag", f"model._target_=tests.parts.{name}"))
    assert any(Path(frame.filename).name == "parts.py" for frame in extract_tb(caught.value.__traceback__))


def test_an_argument_that_a_model_does_not_take_is_one_line(tiny_config: Compose) -> None:
    with pytest.raises(UserError, match="unexpected keyword argument 'wdth'"):
        train(tiny_config("model=bag", "+model.wdth=3"))


def test_an_optimizer_whose_step_takes_no_closure_trains(tiny_config: Compose, tmp_path: Path) -> None:
    """As the same one that takes one."""
    settings = ["model=bag", "optimizer=sgd", "optimizer.lr=0.1"]
    usual = train(tiny_config(*settings, f"paths.run_dir={tmp_path}/a"))
    plain = train(tiny_config(*settings, "optimizer._target_=tests.parts.Plain", f"paths.run_dir={tmp_path}/b"))
    assert plain["val/loss"] == usual["val/loss"] and plain["test/loss"] == usual["test/loss"]
