import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
from lightning.pytorch.callbacks import RichProgressBar
from omegaconf import DictConfig

from attnlab.errors import UserError
from attnlab.training.callbacks import PlainProgress, Stopwatch, progress
from attnlab.training.train import train

Compose = Callable[..., DictConfig]


@pytest.mark.parametrize(("terminal", "kind"), [(True, RichProgressBar), (False, PlainProgress)])
def test_a_bar_on_a_terminal_and_lines_elsewhere(terminal: bool, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    assert isinstance(progress(), kind)


LONG = ["trainer.max_epochs=100000", "callbacks.early_stopping=null", "trainer.max_time=00:00:00:02"]


def test_a_time_limit_ends_a_run_and_counts_over_all_its_parts(
    tiny_config: Compose, resume: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By a real clock. The limit is spent when the run goes on, and another one adds to it."""
    run, begin = tmp_path / "run", time.monotonic()
    metrics = train(tiny_config(*LONG, f"paths.run_dir={run}"))
    assert 2 <= time.monotonic() - begin < 20 and "trainer.max_time=00:00:00:02 was reached after step" in caplog.text
    assert metrics["train/seconds"] < 2.5 and 1 < metrics["train/epochs"] < 100000 and "val/loss" in metrics
    same = train(resume(run, "trainer.max_time=00:00:00:02"))
    assert same["train/epochs"] == metrics["train/epochs"] and same["val/loss"] == metrics["val/loss"]
    more = train(resume(run, "trainer.max_time=00:00:00:03"))
    assert more["train/epochs"] > metrics["train/epochs"] and more["train/seconds"] < 3.5


def test_a_time_limit_holds_without_one_of_epochs(tiny_config: Compose) -> None:
    endless = [*LONG, "trainer.max_epochs=-1", "scheduler=none", "trainer.max_time=00:00:00:01"]
    assert train(tiny_config(*endless))["train/epochs"] > 1
    with pytest.raises(UserError, match=r"would disable trainer\.max_time"):
        train(tiny_config("trainer.max_time=00:00:00:01", "+callbacks.mine._target_=lightning.pytorch.callbacks.Timer"))


def test_the_seconds_of_training_are_those_between_validations(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 13.0, 20.0, 24.0, 30.0, 31.0])  # train 3 s, validate 7, train 4, validate 6, train 1
    monkeypatch.setattr("attnlab.training.callbacks.time.monotonic", lambda: next(clock))
    watch, nothing = Stopwatch(), Mock()
    watch.on_train_start(nothing, nothing)
    for _ in range(2):
        watch.on_validation_start(nothing, nothing)
        watch.on_validation_end(nothing, nothing)
    watch.on_train_end(nothing, nothing)
    assert watch.elapsed == 8.0
    later = Stopwatch()
    later.load_state_dict(watch.state_dict())
    assert later.elapsed == 8.0
