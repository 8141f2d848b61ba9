import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from torch.nn import functional as F

from attnlab.composing import compose
from attnlab.config import read_config
from attnlab.errors import UserError
from attnlab.inference import Predictor, explain
from attnlab.inference.explaining import show_explanation
from attnlab.inference.export import export
from attnlab.tasks import MultiLabel, SingleLabel, make_task
from attnlab.tasks.multi_label import best_thresholds
from attnlab.training.train import train
from tests.conftest import ROOT

NAMES = ["a", "b", "c"]
SINGLE_LABEL = read_config(ROOT / "conf/task/single_label.yaml")
LOGITS = torch.tensor([[2.0, 1.0, -1.0], [0.5, 0.0, 0.1], [-1.0, 0.3, 3.0], [0.0, 0.0, 0.0]])
LABELS = torch.tensor([0, 1, 2, 0])


def test_the_default_loss_is_cross_entropy() -> None:
    task = SingleLabel(NAMES)
    task.fit(LABELS.numpy())
    assert torch.equal(task.loss(LOGITS, LABELS), F.cross_entropy(LOGITS, LABELS))
    assert task.state_dict() == {}


def test_balanced_weights_give_each_class_the_same_weight_in_all() -> None:
    task = SingleLabel(NAMES, class_weights="balanced")
    task.fit(np.repeat([0, 1, 2], [60, 30, 10]))
    assert isinstance(task.weights, torch.Tensor)
    shares = task.weights * torch.tensor([60, 30, 10])
    torch.testing.assert_close(shares, torch.full((3,), 100 / 3))  # in all 100: a mean of 1
    losses = F.cross_entropy(LOGITS, LABELS, reduction="none")
    torch.testing.assert_close(task.loss(LOGITS, LABELS), (losses * task.weights[LABELS]).mean())
    assert torch.equal(task.losses(LOGITS, LABELS), losses)  # what is reported is not weighed


def test_named_weights_count_against_one() -> None:
    task = SingleLabel(NAMES, class_weights={"b": 3})
    task.fit(np.repeat([0, 1, 2], 10))
    assert isinstance(task.weights, torch.Tensor)
    torch.testing.assert_close(task.weights, torch.tensor([0.6, 1.8, 0.6]))


def test_smoothing_and_focusing_are_of_training_alone() -> None:
    smooth = SingleLabel(NAMES, label_smoothing=0.1)
    torch.testing.assert_close(smooth.loss(LOGITS, LABELS), F.cross_entropy(LOGITS, LABELS, label_smoothing=0.1))
    focal, plain = (SingleLabel(NAMES, loss="focal", gamma=gamma) for gamma in (2.0, 0.0))
    right = LOGITS.softmax(dim=1)[range(4), LABELS]
    torch.testing.assert_close(focal.loss(LOGITS, LABELS), (-((1 - right) ** 2) * right.log()).mean())
    assert torch.equal(plain.loss(LOGITS, LABELS), F.cross_entropy(LOGITS, LABELS))
    for task in (smooth, focal):
        assert torch.equal(task.losses(LOGITS, LABELS), F.cross_entropy(LOGITS, LABELS, reduction="none"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"class_weights": {"d": 1.0}}, "names the class 'd', which does not exist; the classes are a, b, c"),
        ({"class_weights": {"a": 0}}, r"task.class_weights=\{a: 0\} should be a number above 0"),
        ({"class_weights": {"a": "much"}}, "should be a number above 0"),
        ({"loss": "focal", "label_smoothing": 0.1}, "leave one of the two out"),
    ],
)
def test_a_setting_that_cannot_be_is_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SingleLabel(NAMES, **settings)


def test_a_class_may_have_any_name_and_a_task_no_other_setting() -> None:
    names = ["???", "${seed}", "a: b"]
    assert make_task(SINGLE_LABEL, names).label_names == names
    with pytest.raises(UserError, match="unexpected keyword argument 'threshold'"):
        make_task(SINGLE_LABEL | {"threshold": 0.5}, names)


def test_unequal_classes_are_said_where_nothing_is_set(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        SingleLabel(NAMES).fit(np.repeat([0, 1, 2], [100, 90, 10]))
        SingleLabel(NAMES, class_weights="balanced").fit(np.repeat([0, 1, 2], [200, 90, 10]))
        assert caplog.text == ""
        SingleLabel(NAMES).fit(np.repeat([0, 1, 2], [101, 90, 10]))
    assert "101 documents of a and 10 of c; task.class_weights=balanced" in caplog.text


def test_balanced_accuracy_is_the_mean_over_classes() -> None:
    task = SingleLabel(NAMES)
    metrics = task.metrics()
    labels = torch.tensor([0, 0, 0, 1, 2])
    logits = F.one_hot(torch.tensor([0, 0, 0, 1, 0]), 3).float()
    task.update(metrics, logits, labels)
    scores = task.scores(metrics, logits, labels)
    assert scores["acc"].item() == pytest.approx(4 / 5) and scores["acc_balanced"].item() == pytest.approx(2 / 3)
    assert set(scores) == set(task.METRICS)


@pytest.mark.parametrize("name", ["1_0", "10", "1.50", "true", "null", "1e3", "on", "R&D tech"])
def test_a_class_is_the_one_that_was_typed(name: str) -> None:
    typed = compose(f"task.class_weights={{{name.replace('&', '@')}: 5}}").task.class_weights
    assert typed == {name.replace("&", "@"): 5}
    saved = yaml.safe_load(OmegaConf.to_yaml(typed))
    assert saved == typed


def test_a_class_that_yaml_makes_something_else_of_is_found() -> None:
    task = SingleLabel(["no", "1_0", "2"], class_weights=yaml.safe_load("{no: 3, 1_0: 5, 2: 4}"))
    assert task.class_weights == {"no": 3, "1_0": 5, "2": 4}
    with pytest.raises(UserError, match="10 may be 10 or 1_0; put the class's name in quotation marks"):
        SingleLabel(["10", "1_0"], class_weights=yaml.safe_load("{1_0: 5}"))
    assert SingleLabel(["10", "1_0"], class_weights=yaml.safe_load("{'1_0': 5}")).class_weights == {"1_0": 5}


@pytest.mark.usefixtures("own_parts")
def test_a_task_with_other_logits_is_asked_itself_everywhere(
    tiny_config: Callable[..., DictConfig],
    compose_config: Callable[..., DictConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Three logits for four classes, of which the answer is the median: in a run, explained, predicted, exported."""
    run = tmp_path / "run"
    train(tiny_config("task._target_=tests.parts.Ordinal", "model=bag", "optimizer.lr=0.05", f"paths.run_dir={run}"))
    table = pd.read_parquet(run / "predictions.parquet")
    predictor = Predictor.load(run)
    names = predictor.label_names
    probabilities = table[[f"p({name})" for name in names]].to_numpy()
    median = (probabilities.cumsum(axis=1)[:, :-1] < 0.5).sum(axis=1)
    answers = [names[number] for number in median]
    assert table["predicted"].to_list() == answers and (median != probabilities.argmax(axis=1)).any()
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test/acc"] == pytest.approx(table["correct"].mean())
    mistakes = pd.read_csv(run / "mistakes.csv")
    for row in mistakes.itertuples():
        assert row.predicted == answers[row.index]
        assert row.probability == pytest.approx(probabilities[row.index, names.index(row.predicted)], abs=1e-4)
    assert (mistakes["explained"].dropna() == mistakes["predicted"][: mistakes["explained"].count()]).all()
    texts = ["Oil prices fall as supply grows", "Two late goals win the cup"]
    explanations, predictions = explain(predictor, texts), predictor(texts)
    assert [one.label for one in explanations] == predictions.labels
    for one, row in zip(explanations, predictions.probabilities, strict=True):
        assert np.isfinite(one.scores).all() and abs(one.lacking) < 0.05 and len(row) == 4
    capsys.readouterr()
    show_explanation(predictor, texts[0], tmp_path)
    told = capsys.readouterr().out
    assert "All words together: " in told and "logit" not in told  # the classes have none
    export(compose_config(f"ckpt_path={run}", "format=torch", f"output={tmp_path}/model", name="export"))
    code = re.search(r"```python\n(.*?)```", (tmp_path / "model" / "README.md").read_text(), re.DOTALL)
    assert code is not None
    monkeypatch.chdir(tmp_path / "model")
    exec(code[1], {})
    assert str(predictor(["Oil prices fall as supply grows"]).labels) in capsys.readouterr().out


def test_a_run_with_weights_trains_and_goes_on_with_them(
    tiny_config: Callable[..., DictConfig],
    resume: Callable[..., DictConfig],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    weights = "task.class_weights={Sports: 4}", "monitor.metric=val/acc_balanced"
    metrics = train(tiny_config(*weights, f"paths.run_dir={tmp_path}/run"))
    assert 0 <= metrics["test/acc_balanced"] <= 1
    kept = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["state_dict"]["task.weights"]
    assert kept.argmax() == 1 and kept.sum() > 4 * kept[0]
    train(resume(tmp_path / "run", "trainer.max_epochs=3"))
    again = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["state_dict"]["task.weights"]
    assert torch.equal(kept, again)
    assert "chooses the epoch by the frequent ones" not in caplog.text
    with pytest.raises(UserError, match="'Sport', which does not exist; the classes are World, Sports"):
        train(tiny_config("task.class_weights={Sport: 4}"))
    assert "monitor.metric=val/acc_balanced chooses it by all" in caplog.text


def test_a_threshold_is_the_probability_with_the_best_f1() -> None:
    probabilities = torch.tensor([[0.9, 0.2], [0.4, 0.3], [0.3, 0.1], [0.1, 0.9]])
    labels = torch.tensor([[1, 0], [1, 0], [0, 0], [0, 0]])
    assert best_thresholds(probabilities, labels).tolist() == pytest.approx([0.4, 0.5])  # no document has the second
    probabilities[0, 0] = 1 + 1e-6  # by rounding, of a task of one's own
    assert best_thresholds(probabilities, labels).tolist() == pytest.approx([0.4, 0.5])


def test_scores_of_several_labels() -> None:
    task = MultiLabel(["a", "b"])
    metrics = task.metrics()
    probabilities = torch.tensor([[0.9, 0.3], [0.2, 0.1], [0.4, 0.8]])
    labels = torch.tensor([[1.0, 1.0], [0.0, 0.0], [0.0, 1.0]])
    logits = probabilities.logit()
    task.update(metrics, logits, labels)
    before = task.scores(metrics, logits, labels)
    assert before["acc"].item() == pytest.approx(2 / 3) and before["f1_micro"].item() == pytest.approx(0.8)
    assert before["map"].item() == 1 and task.thresholds.tolist() == [0.5, 0.5]
    task.calibrate(logits, labels)
    assert task.thresholds.tolist() == task.probabilities(logits)[0].tolist()
    after = task.scores(metrics, logits, labels)
    assert after["acc"].item() == 1 and after["map"].item() == 1
    fixed = MultiLabel(["a", "b"], threshold=0.25)
    fixed.calibrate(logits, labels)
    assert fixed.thresholds.tolist() == [0.25, 0.25]
    assert set(after) == set(task.METRICS)


def test_losses_of_several_labels() -> None:
    logits, labels = LOGITS[:, :2], torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0]])
    plain = F.binary_cross_entropy_with_logits(logits, labels)
    assert torch.equal(MultiLabel(["a", "b"]).loss(logits, labels), plain)
    weighted = MultiLabel(["a", "b"], class_weights="balanced")
    weighted.fit(labels.numpy())
    assert isinstance(weighted.weights, torch.Tensor)
    torch.testing.assert_close(weighted.weights, torch.tensor([1 / 3, 3.0]))
    torch.testing.assert_close(weighted.losses(logits, labels).mean(), plain)
    focal = MultiLabel(["a", "b"], loss="focal", gamma=1.0).loss(logits, labels)
    right = torch.where(labels > 0, logits.sigmoid(), 1 - logits.sigmoid())
    torch.testing.assert_close(focal, (-(1 - right) * right.log()).mean())
