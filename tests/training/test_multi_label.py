"""Several labels a document, from training to what compare.py makes of it."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from omegaconf import DictConfig

from attnlab.analysis.comparison import make_study
from attnlab.errors import UserError
from attnlab.training.evaluate import evaluate
from attnlab.training.module import TextClassification
from attnlab.training.saved import load_weights
from attnlab.training.train import train

Compose = Callable[..., DictConfig]
SEVERAL = "task=multi_label", "data.topics=all", "model=bag", "optimizer.lr=0.02"


@pytest.mark.figures
def test_a_run_leaves_what_a_run_leaves(tiny_config: Compose, compose_config: Compose, tmp_path: Path) -> None:
    run = tmp_path / "run"
    metrics = train(tiny_config(*SEVERAL, f"paths.run_dir={run}"))
    assert {f"test/{name}" for name in ("loss", "acc", "f1_micro", "f1_macro", "map")} <= metrics.keys()
    table = pd.read_parquet(run / "predictions.parquet")
    assert set(table["label"].map(len)) == {1, 2} and table["correct"].mean() == pytest.approx(metrics["test/acc"])
    right = [set(row.label) == set(row.predicted) for row in table.itertuples()]
    assert right == table["correct"].tolist()
    module = load_weights(run / "checkpoints" / "best.ckpt", TextClassification)
    thresholds = dict(module.task.named_buffers())["thresholds"]
    predicted = table[[f"p({name})" for name in ("World", "Sports", "Business", "Sci/Tech")]].to_numpy()
    assert ((predicted >= thresholds.numpy()).sum(axis=1) == table["predicted"].map(len)).all()
    with (run / "per_class.csv").open() as file:
        assert [row["class"] for row in csv.DictReader(file)][:2] == ["World", "Sports"]
    assert {path.name for path in (run / "figures").iterdir()} == {"curves.png", "per_class.png", "reliability.png"}
    again = evaluate(compose_config("trainer=cpu", f"ckpt_path={run}", name="evaluate"))
    for key in ("test/acc", "test/f1_macro", "test/map", "test/loss"):
        assert again[key] == pytest.approx(metrics[key], rel=1e-5)


def test_a_resumed_run_ends_with_the_same_bits(tiny_config: Compose, resume: Compose, tmp_path: Path) -> None:
    states = []
    train(tiny_config(*SEVERAL, "trainer.max_epochs=3", "scheduler=none", f"paths.run_dir={tmp_path}/whole"))
    train(tiny_config(*SEVERAL, "trainer.max_epochs=2", "scheduler=none", f"paths.run_dir={tmp_path}/parts"))
    train(resume(tmp_path / "parts", "trainer.max_epochs=3"))
    for name in ("whole", "parts"):
        states.append(torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"])
    assert "task.thresholds" in states[0] and (states[0]["task.thresholds"] != 0.5).any()
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key])


@pytest.mark.parametrize("extra", [("callbacks=ema",), ("trainer.precision=bf16-true",)])
def test_the_best_checkpoint_decides_as_it_did_on_validation(
    tiny_config: Compose, extra: tuple[str, ...], tmp_path: Path
) -> None:
    train(tiny_config(*SEVERAL, *extra, "data.validation=test", f"paths.run_dir={tmp_path}/run"))
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    for name in ("acc", "f1_micro", "f1_macro", "map"):  # validation is the test set here
        assert metrics[f"test/{name}"] == pytest.approx(metrics[f"val/{name}"], abs=1e-6)


@pytest.mark.slow
def test_settings_are_compared(tiny_config: Compose, tmp_path: Path) -> None:
    for job, (threshold, seed) in enumerate((t, s) for t in ("null", "0.9") for s in (0, 1)):
        folder = f"paths.run_dir={tmp_path}/runs/{job}"
        train(tiny_config(*SEVERAL, "optimizer.lr=0.3", f"task.threshold={threshold}", f"seed={seed}", folder))
    (comparison,) = make_study([tmp_path / "runs"], metric="test/acc").comparisons
    assert comparison.by == ["task.threshold"] and 0 < comparison.rows["p"].iloc[1] <= 1
    assert make_study([tmp_path / "runs"], metric="test/f1_macro").comparisons[0].rows["difference"].iloc[1] < 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task=multi_label"], "the documents have one label each, and task=multi_label takes several"),
        (["data.topics=all"], "the documents have several labels each, and task=single_label takes one"),
        (["task=multi_label", "monitor.metric=val/f1"], "monitor.metric=val/f1 is not measured by this task; choose"),
    ],
)
def test_labels_and_task_have_to_fit(tiny_config: Compose, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(tiny_config(*overrides))
