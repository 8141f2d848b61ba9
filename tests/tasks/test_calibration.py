"""How far probabilities can be trusted: what is measured of it, and the temperature that mends it."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import DictConfig
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional as F

from attnlab.config import instantiate, resolve
from attnlab.inference import Predictor
from attnlab.tasks import MultiLabel, SingleLabel, Task
from attnlab.tasks.calibration import calibration, reliability
from attnlab.tasks.temperature import TEMPERATURES
from attnlab.training.evaluate import evaluate
from attnlab.training.module import TextClassification
from attnlab.training.results import print_summary
from attnlab.training.saved import load_weights
from attnlab.training.train import train

Compose = Callable[..., DictConfig]
NAMES = ["a", "b", "c"]


def calibrated_documents(several: bool, number: int = 20_000) -> tuple[Task, Tensor, Tensor]:
    """A task, and logits of which the labels were drawn."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(number, 3, generator=generator)
    if several:
        return MultiLabel(NAMES), logits, torch.bernoulli(logits.sigmoid(), generator=generator)
    return SingleLabel(NAMES), logits, torch.multinomial(logits.softmax(dim=1), 1, generator=generator).squeeze(1)


@pytest.mark.parametrize(("several", "temperature"), itertools.product((False, True), (0.4, 1.0, 2.5)))
def test_a_known_temperature_is_found_and_mends_what_is_measured(several: bool, temperature: float) -> None:
    task, logits, labels = calibrated_documents(several)
    task.calibrate(temperature * logits, labels)
    assert task.temperature == pytest.approx(temperature, rel=0.03)
    scores = calibration(task, temperature * logits, labels)
    assert scores["ece"] < 0.01 and scores["temperature"].item() == pytest.approx(task.temperature)
    if temperature != 1:
        for name in ("ece", "brier", "log_loss"):
            assert scores[name] < scores[f"{name}_uncalibrated"] - 0.005


def test_no_label_smoothing_or_weight_of_a_class_moves_it() -> None:
    plain, logits, labels = calibrated_documents(several=False)
    other = SingleLabel(NAMES, class_weights={"a": 9.0}, label_smoothing=0.3)
    for task in (plain, other):
        task.calibrate(logits, labels)
    assert other.temperature == plain.temperature


@pytest.mark.parametrize("threshold", [None, 0.5])
def test_several_labels_are_answered_as_without_it(threshold: float | None) -> None:
    _, logits, labels = calibrated_documents(several=True, number=3000)
    with_temperature, without = MultiLabel(NAMES, threshold), MultiLabel(NAMES, threshold)
    with_temperature.calibrate(3 * logits, labels)
    without.calibrate(logits, labels)
    assert with_temperature.temperature > 2.5
    answers = with_temperature.decide(with_temperature.probabilities(3 * logits))
    assert torch.equal(answers, without.decide(without.probabilities(logits))) and 0 < answers.float().mean() < 1


def test_a_fixed_threshold_is_of_the_probabilities_that_are_given() -> None:
    _, logits, labels = calibrated_documents(several=True)
    task = MultiLabel(NAMES, threshold=0.9)
    task.calibrate(3 * logits, labels)
    probabilities = task.probabilities(3 * logits)
    assert torch.equal(task.decide(probabilities), probabilities >= 0.9)


@pytest.mark.parametrize("task", [SingleLabel(["a", "b"]), MultiLabel(["a", "b"])])
def test_where_nothing_is_wrong_there_is_no_temperature(task: Task) -> None:
    right = torch.tensor([[1.0, -1.0], [-0.5, 0.1]])
    labels = torch.tensor([0, 1]) if isinstance(task, SingleLabel) else torch.eye(2)
    task.calibrate(right, labels)
    assert task.temperature == 1
    task.calibrate(-right, labels)  # all wrong: the less is said the better
    assert task.temperature == pytest.approx(TEMPERATURES[1], rel=1e-3)


@pytest.mark.parametrize(("several", "sureness"), itertools.product((False, True), (0.3, 7.0)))
def test_no_other_temperature_has_a_smaller_loss(several: bool, sureness: float) -> None:
    task, logits, labels = calibrated_documents(several, number=500)
    logits = sureness * logits.double()
    task.calibrate(logits, labels)
    expected = minimize_scalar(lambda inverse: float(task.losses(inverse * logits, labels).mean()), (0.1, 1.0))
    assert task.temperature == pytest.approx(1 / expected.x, rel=1e-4)


@pytest.mark.parametrize("several", [False, True])
def test_there_is_no_temperature_where_it_does_not_help_on_other_documents(several: bool) -> None:
    """A fit to 50 documents whose probabilities are right as they are is one to chance, mostly."""
    fitted = 0
    for start in range(0, 2000, 50):
        task, logits, labels = calibrated_documents(several)
        task.calibrate(logits[start : start + 50], labels[start : start + 50])
        fitted += task.temperature != 1
    assert fitted <= 0.1 * 40
    task.calibrate(4 * logits[:50], labels[:50])  # and where it does, 50 are enough
    assert task.temperature > 2
    task.calibrate(logits[:1], labels[:1])  # one document has no half
    assert task.temperature == 1


def test_an_order_of_documents_does_not_decide_it() -> None:
    """Every other one of the same class, as a file may have them, or one class behind the other."""
    task, logits, labels = calibrated_documents(several=False, number=3000)
    by_class = labels.argsort()
    for order in (by_class, by_class.reshape(2, -1).T.flatten()):
        task.calibrate(2 * logits[order], labels[order])
        assert task.temperature == pytest.approx(2, rel=0.1)


def test_what_was_done_of_temperature_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    scores = {f"test/{name}{end}": 0.25 for name in ("ece", "brier", "log_loss") for end in ("", "_uncalibrated")}
    for temperature, said in (
        (20.0, "20 (the limit)"),
        (0.05, "0.05 (the limit)"),
        (1.2, "1.2"),
    ):
        print_summary(tmp_path, scores | {"test/temperature": temperature})
        assert f"\nTemperature {said}: ECE 0.250 -> 0.250, Brier score 0.250" in capsys.readouterr().out
    for others, why in (
        ({"val/loss": 0.3}, "does not help on held-out validation documents"),
        ({}, "the model has none"),
    ):
        print_summary(tmp_path, scores | {"test/temperature": 1.0} | others)
        said = " ".join(capsys.readouterr().out.split())
        assert "No temperature" in said and f"{why}): ECE 0.250, Brier score 0.250" in said


def test_errors_of_one_class_by_hand() -> None:
    """Two documents in one bin, of which one is right; one in another, and wrong."""
    probabilities = torch.tensor([[0.74, 0.26], [0.22, 0.78], [0.9, 0.1]])
    scores = calibration(SingleLabel(["a", "b"]), probabilities.log(), torch.tensor([0, 0, 1]))
    assert scores["ece"].item() == pytest.approx(2 / 3 * abs(0.5 - 0.76) + 1 / 3 * 0.9)
    assert scores["brier"].item() == pytest.approx(2 * (0.26**2 + 0.78**2 + 0.9**2) / 3)
    assert scores["log_loss"].item() == pytest.approx(-np.log([0.74, 0.22, 0.1]).mean())
    assert scores["ece"] == scores["ece_uncalibrated"]


def test_errors_of_several_classes_by_hand() -> None:
    """A claim is that a document is of a class: four of them, two in one bin."""
    probabilities, labels = torch.tensor([[0.1, 0.7], [0.9, 0.72]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    task = MultiLabel(["a", "b"])
    scores = calibration(task, probabilities.logit(), labels)
    assert scores["ece"].item() == pytest.approx((0.1 + 0.1 + 2 * abs(0.5 - 0.71)) / 4)
    assert scores["brier"].item() == pytest.approx((0.1**2 + 0.3**2 + 0.1**2 + 0.72**2) / 4)
    counts, means = reliability(task, probabilities, labels)
    assert counts.tolist() == [1, 2, 1]
    assert means == pytest.approx(np.array([[0.1, 0], [0.71, 0.5], [0.9, 1]]))
    assert task.confidence(probabilities).tolist() == pytest.approx([0.9 * 0.7, 0.9 * 0.72])


@pytest.mark.parametrize("beyond", [0.0, 1e-6])
def test_probabilities_of_0_and_1_and_those_that_rounding_leads_beyond_are_counted(beyond: float) -> None:
    task, labels = MultiLabel(["a", "b"]), torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    probabilities = torch.tensor([[1 + beyond, -beyond], [0.3, 0.0]])
    counts, means = reliability(task, probabilities, labels)
    assert counts.tolist() == [2, 1, 1] and means[:, 1].tolist() == [0.5, 0, 1]

    class AsTheyAre(MultiLabel):
        def uncalibrated(self, logits: Tensor) -> Tensor:
            return logits

    scores = calibration(AsTheyAre(["a", "b"]), probabilities, labels)
    assert scores["ece"].item() == pytest.approx((2 * 0.5 + 0.3 + 0) / 4, abs=1e-5)


def test_of_equally_sure_answers_each_counts_as_their_mean() -> None:
    """Of 20 documents one, two and four are left out, whatever the order in which they stand."""
    sure = torch.tensor([0.9] * 10 + [0.8] * 6 + [0.7] * 3 + [0.6])
    right = torch.tensor([1] * 10 + [1, 1, 1, 0, 0, 0] + [0, 0, 1] + [0])
    for order in (torch.arange(20), torch.arange(19, -1, -1)):
        logits = torch.stack([sure, 1 - sure], dim=1)[order].log()
        scores = calibration(SingleLabel(["a", "b"]), logits, 1 - right[order])
        kept = [scores[f"acc_kept_{percent}"].item() for percent in (95, 90, 80)]
        assert kept == pytest.approx([14 / 19, (13 + 2 / 3) / 18, 13 / 16])


@pytest.mark.parametrize(
    "parts",
    [
        [],
        ["callbacks=ema", "callbacks.weight_average.decay=0.9"],
        ["task=multi_label", "data.topics=all", "task.label_smoothing=0.4"],
    ],
)
@pytest.mark.figures
def test_a_run_keeps_the_temperature_of_the_weights_that_it_tests(
    parts: list[str], tiny_config: Compose, compose_config: Compose, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    fast = ["model=bag", "optimizer.lr=0.02", "data.train_size=600", "callbacks.progress=null"]
    config = tiny_config(*fast, *parts, "data.validation=test", f"paths.run_dir={run}")  # to have its labels here
    metrics = train(config)
    module = load_weights(run / "checkpoints" / "best.ckpt", TextClassification)
    kept = module.task.temperature
    assert kept != 1 and metrics["test/temperature"] == pytest.approx(kept)
    test = instantiate(resolve(config)["data"]).load().test
    predictor = Predictor.load(run)
    probabilities = torch.from_numpy(predictor(test.texts).probabilities)
    table = pd.read_parquet(run / "predictions.parquet")
    written = table[[f"p({name})" for name in predictor.label_names]].to_numpy()
    assert probabilities.numpy() == pytest.approx(written, abs=1e-6)
    assert table["correct"].mean() == pytest.approx(metrics["test/acc"]) == metrics["val/acc"]
    labels = torch.from_numpy(test.labels)
    loss = F.binary_cross_entropy if labels.ndim == 2 else lambda given, right: F.nll_loss(given.log(), right)
    assert metrics["test/log_loss"] == pytest.approx(loss(probabilities, labels).item(), rel=1e-4)
    assert metrics["test/log_loss"] < metrics["test/log_loss_uncalibrated"] == pytest.approx(metrics["test/loss"])
    again = evaluate(compose_config("trainer=cpu", f"ckpt_path={run}", name="evaluate"))
    for key in (key for key in again if key.startswith("test/")):
        assert again[key] == pytest.approx(metrics[key], rel=1e-4)
    assert (run / "figures" / "reliability.png").is_file()


def test_a_validation_after_the_last_checkpoint_counts_for_it(
    tiny_config: Compose, resume: Compose, tmp_path: Path
) -> None:
    run, several = tmp_path / "run", ["task=multi_label", "data.topics=all", "task.label_smoothing=0.4"]
    late = ["callbacks.best_checkpoint=null", "callbacks.early_stopping=null", "+trainer.check_val_every_n_epoch=9"]
    config = tiny_config(
        "model=bag", "optimizer.lr=0.02", "data.train_size=600", *several, *late, f"paths.run_dir={run}"
    )
    metrics = train(config)
    test = instantiate(resolve(config)["data"]).load().test
    table = pd.read_parquet(run / "predictions.parquet")
    assert metrics["test/temperature"] != 1 and Predictor.load(run)(test.texts).labels == list(
        map(list, table["predicted"])
    )
    (run / "metrics.json").unlink()
    assert train(resume(run))["test/temperature"] == metrics["test/temperature"]
