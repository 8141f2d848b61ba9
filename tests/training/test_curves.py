from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from attnlab.training.curves import CurvesLogger
from attnlab.training.run import train


def test_curves_go_back_to_where_a_checkpoint_was_made(tmp_path: Path) -> None:
    """Also where a column has come since, and in another process."""
    logger = CurvesLogger(str(tmp_path))
    for step in range(250):  # written in parts of a hundred
        logger.log_metrics({"loss": step / 10}, step=step)
    mark, before = logger.mark(), (tmp_path / "metrics.csv").read_bytes()
    assert mark == {"columns": ["loss", "step"], "rows": 250}
    logger.log_metrics({"accuracy": 0.5}, step=250)
    assert logger.mark() == {"columns": ["accuracy", "loss", "step"], "rows": 251}
    again = CurvesLogger(str(tmp_path))
    again.go_back(mark)
    assert (tmp_path / "metrics.csv").read_bytes() == before
    again.log_metrics({"loss": 99.0}, step=250)
    assert again.mark()["rows"] == 251


def test_rows_that_a_crash_has_lost_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger = CurvesLogger(str(tmp_path))
    logger.log_metrics({"loss": 1.0}, step=0)
    logger.mark()
    logger.go_back({"columns": ["loss", "step"], "rows": 3})
    assert "has lost 2 rows" in caplog.text


def test_what_a_checkpoint_holds_does_not_grow_with_the_curves(
    tiny_config: Callable[..., DictConfig], tmp_path: Path
) -> None:
    sizes = []
    for epochs in (1, 20):
        run = tmp_path / str(epochs)
        settings = ["trainer.log_every_n_steps=1", "callbacks.early_stopping=null", f"trainer.max_epochs={epochs}"]
        train(tiny_config(*settings, f"paths.run_dir={run}"))
        checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
        assert checkpoint["metrics.csv"]["rows"] == 7 * epochs
        sizes.append((run / "checkpoints" / "last.ckpt").stat().st_size)
    assert sizes[1] == pytest.approx(sizes[0], abs=512)
