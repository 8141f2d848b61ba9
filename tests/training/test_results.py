"""What a run writes: bounded whatever the number of classes, results before figures, one folder for one run."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from omegaconf import DictConfig
from statsmodels.stats.proportion import proportion_confint

from attnlab.errors import UserError
from attnlab.reports.run_figures import MATRIX_CLASSES, confused_pairs, draw_figures
from attnlab.tasks import SingleLabel
from attnlab.training.evaluate import evaluate
from attnlab.training.predictions import SplitPredictions
from attnlab.training.results import print_summary, write_results
from attnlab.training.train import train

pytestmark = pytest.mark.figures
Compose = Callable[..., DictConfig]


def predictions(num_classes: int, documents: int = 10) -> SplitPredictions:
    """Each class with some documents, a third of which are taken for the next class."""
    labels = torch.arange(num_classes).repeat_interleave(documents)
    answers = torch.where(torch.arange(len(labels)) % 3 == 0, (labels + 1) % num_classes, labels)
    probabilities = torch.nn.functional.one_hot(answers, num_classes).float()
    return SplitPredictions(torch.arange(len(labels)), labels, probabilities, answers, probabilities.log())


@pytest.mark.parametrize("num_classes", [2, 20, MATRIX_CLASSES, MATRIX_CLASSES + 1, 400])
def test_figures_have_a_largest_size(num_classes: int, tmp_path: Path) -> None:
    write_results(
        tmp_path, {"test/acc": 0.5}, predictions(num_classes), SingleLabel([f"class {i}" for i in range(num_classes)])
    )
    matrix, pairs = (tmp_path / "figures" / f"{name}.png" for name in ("confusion_matrix", "confused_pairs"))
    drawn = matrix if num_classes <= MATRIX_CLASSES else pairs
    assert {file.name for file in (tmp_path / "figures").iterdir()} == {drawn.name, "reliability.png"}
    height, width, _ = imread(drawn).shape
    assert max(height, width) <= 3100
    with (tmp_path / "confused_pairs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == num_classes and {row["predicted"] == row["class"] for row in rows} == {False}
    assert [int(row["count"]) for row in rows] == sorted((int(row["count"]) for row in rows), reverse=True)


def test_the_most_confused_pairs_come_first() -> None:
    counts = np.array([[5, 1, 0], [4, 3, 2], [0, 2, 9]])
    assert confused_pairs(counts) == [(1, 0, 4), (1, 2, 2), (2, 1, 2), (0, 1, 1)]
    assert confused_pairs(np.diag([3, 4])) == []


@pytest.mark.parametrize("name", ["$$", "$x^$", "a" * 300, "[/b]", "_", 'comma, "quote"\nline', " a\rb"])
def test_any_class_name_can_be_drawn_and_written(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_results(tmp_path, {}, predictions(2), SingleLabel([name, "other"]))
    assert (tmp_path / "figures" / "confusion_matrix.png").is_file() and "No figures" not in caplog.text
    with (tmp_path / "per_class.csv").open(newline="") as file:
        assert [row["class"] for row in csv.DictReader(file)] == [name, "other"]
    with (tmp_path / "confused_pairs.csv").open(newline="") as file:
        found = [(row["class"], row["predicted"]) for row in csv.DictReader(file)]
    assert sorted(found) == sorted([(name, "other"), ("other", name)])


def test_a_figure_that_fails_costs_a_run_nothing(
    tiny_config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even where memory runs out, which elsewhere is a reason to train again."""

    def fail(*_: object) -> None:
        assert (tmp_path / "metrics.json").is_file()
        raise MemoryError("no room for a picture")

    monkeypatch.setattr("attnlab.training.results.draw_figures", fail)
    metrics = train(tiny_config("halve_batch_on_oom=true", f"paths.run_dir={tmp_path}"))
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    assert "No figures: MemoryError: no room for a picture" in caplog.text and "starting again" not in caplog.text


def test_curves_without_validation_are_drawn(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,train/loss\n0,1.5\n1,\n")
    draw_figures(tmp_path, SingleLabel(["a", "b"]))
    assert (tmp_path / "figures" / "curves.png").is_file()


def test_a_path_is_printed_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_summary(tmp_path / "x [/b]", {"test/acc": 0.5})
    assert "x [/b]" in capsys.readouterr().out


def test_the_first_lines_tell_what_was_achieved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Zeros are left out where they say that nothing happened, and not where they are a score."""
    counted = {"train/epochs": 6, "train/best_epoch": 3, "data/train_tokens_cut": 0.0, "data/test_duplicates": 7}
    (tmp_path / "report.html").touch()
    print_summary(tmp_path, counted | {"val/loss": 0.25, "val/acc": 0.75, "test/loss": 0.5, "test/acc": 0.8}, 100)
    first, second, third, *rest = capsys.readouterr().out.splitlines()
    low, high = proportion_confint(80, 100, method="wilson")
    assert first == f"Accuracy 0.8000 (95 % interval {low:.4f} to {high:.4f}) on 100 test documents"
    assert "3 of 6" in second and "report.html" in third
    shown = "\n".join(rest)
    assert shown.index("acc") < shown.index("loss") and "tokens_cut" not in shown and "test_duplicates 7" in shown
    print_summary(tmp_path, {"test/acc": 0.0}, 100)
    assert "Accuracy 0.0000" in capsys.readouterr().out
    print_summary(tmp_path, {"val/acc": 0.75})
    assert "0.7500" in (shown := capsys.readouterr().out) and "Accuracy" not in shown


def test_a_folder_belongs_to_one_run(tiny_config: Compose, compose_config: Compose, tmp_path: Path) -> None:
    """Finished, killed or just begun; whether the newcomer trains or evaluates."""
    run = tmp_path / "run"
    train(tiny_config(f"paths.run_dir={run}"))
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    with pytest.raises(UserError, match=r"run holds another run.*hydra\.run\.dir=<folder>.*resume="):
        train(tiny_config(f"paths.run_dir={run}", "seed=1"))
    with pytest.raises(UserError, match="holds another run"):
        evaluate(compose_config("trainer=cpu", f"ckpt_path={run}", f"paths.run_dir={run}", name="evaluate"))
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before
    (run / "metrics.json").unlink()
    with pytest.raises(UserError, match="holds another run"):
        train(tiny_config(f"paths.run_dir={run}", "seed=1"))


def test_a_mistake_does_not_take_a_folder(tiny_config: Compose, tmp_path: Path) -> None:
    for mistake in ("model.num_heads=3", "+trainer.strategy=foo", "callbacks.early_stopping.monitor=foo"):
        with pytest.raises(UserError):
            train(tiny_config(f"paths.run_dir={tmp_path}/run", mistake))
    assert train(tiny_config(f"paths.run_dir={tmp_path}/run"))["test/acc"] >= 0


def test_a_finished_run_that_goes_on_has_no_old_results(
    tiny_config: Compose, resume: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed on the way to a higher limit, it is one that has not finished; before that nothing is lost."""
    train(tiny_config(f"paths.run_dir={tmp_path}/run"))
    before = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("attnlab.training.build.TextDataModule.setup", Mock(side_effect=KeyboardInterrupt))
        train(resume(tmp_path / "run", "trainer.max_epochs=4"))
    assert {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()} == before
    monkeypatch.setattr("attnlab.training.trainer.Trainer.fit", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train(resume(tmp_path / "run", "trainer.max_epochs=4"))
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert not left & {"metrics.json", "predictions.parquet", "per_class.csv", "confused_pairs.csv", "figures"}
    assert "max_epochs: 4" in (tmp_path / "run" / "config.yaml").read_text()
