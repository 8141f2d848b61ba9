"""Averaged weights: what is validated is chosen, what is chosen is saved, what is saved is tested."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from attnlab.errors import UserError
from attnlab.training.train import train
from tests.training.test_checkpoints import evaluate_with

Compose = Callable[..., DictConfig]
SETTINGS = ["optimizer.lr=0.02", "trainer.max_epochs=4", "callbacks.early_stopping=null", "model.dropout=0.2"]
AVERAGES = {
    "ema": ["callbacks=ema", "callbacks.weight_average.decay=0.8"],
    "ema_late": ["callbacks=ema", "callbacks.weight_average.update_starting_at_step=15"],
    "swa": ["callbacks=swa"],
}


@pytest.mark.parametrize("average", AVERAGES)
def test_the_saved_weights_are_those_that_were_validated_and_tested(
    average: str, tiny_config: Compose, tmp_path: Path
) -> None:
    """evaluate.py reads the checkpoint alone; on the validation documents as a test set it finds the run's val/loss."""
    metrics = train(tiny_config(*AVERAGES[average], *SETTINGS, f"paths.run_dir={tmp_path}/run"))
    again = evaluate_with(tmp_path, f"ckpt_path={tmp_path}/run")
    for key in ("test/loss", "test/acc"):
        assert again[key] == pytest.approx(metrics[key], rel=1e-5)
    for name in ("best", "last"):
        saved = torch.load(tmp_path / "run" / "checkpoints" / f"{name}.ckpt", weights_only=True)
        head = "model.head.weight"
        differ = not torch.equal(saved["state_dict"][head], saved["current_model_state"][head])
        assert differ == bool(saved["averaging_state"]["n_averaged"])
    assert differ


def test_an_average_of_every_step_is_its_formula(tiny_config: Compose, tmp_path: Path) -> None:
    """decay=0: the average is the weights themselves, and every number as without one."""
    plain = train(tiny_config(*SETTINGS, f"paths.run_dir={tmp_path}/plain"))
    same = train(tiny_config("callbacks=ema", "callbacks.weight_average.decay=0.0", *SETTINGS))
    for key in ("val/loss", "test/loss"):
        assert same[key] == pytest.approx(plain[key], rel=1e-5)


def test_swa_is_the_mean_of_the_last_epochs(tiny_config: Compose, tmp_path: Path) -> None:
    settings = [*SETTINGS, "scheduler=none", "model.dropout=0.0"]
    ends = ["callbacks.best_checkpoint.save_top_k=-1", f"paths.run_dir={tmp_path}/plain"]
    train(tiny_config(*settings, *ends))
    files = sorted((tmp_path / "plain" / "checkpoints").glob("epoch_*"))
    weights = [torch.load(file, weights_only=True)["state_dict"]["model.head.weight"] for file in files]
    train(tiny_config("callbacks=swa", *settings, f"paths.run_dir={tmp_path}/swa"))
    last = torch.load(tmp_path / "swa" / "checkpoints" / "last.ckpt", weights_only=True)
    torch.testing.assert_close(last["state_dict"]["model.head.weight"], (weights[2] + weights[3]) / 2)


def test_before_an_average_begins_the_weights_are_used_as_they_are(tiny_config: Compose, tmp_path: Path) -> None:
    """Lightning's would validate the first weights of all."""
    plain = train(tiny_config(*SETTINGS, f"paths.run_dir={tmp_path}/plain"))
    late = ["callbacks=ema", "callbacks.weight_average.update_starting_at_step=1000"]
    assert train(tiny_config(*late, *SETTINGS))["test/loss"] == pytest.approx(plain["test/loss"], rel=1e-5)


@pytest.mark.parametrize(
    "average", ["ema", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ema_late", "swa"))]
)
def test_a_resumed_average_is_that_of_a_whole_run(
    average: str, tiny_config: Compose, resume: Compose, tmp_path: Path
) -> None:
    settings = [*AVERAGES[average], *SETTINGS, "callbacks.last_checkpoint.every_n_steps=1"]
    whole = train(tiny_config(*settings, f"paths.run_dir={tmp_path}/whole"))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        end_after(patch, step=16)  # in the middle of the third epoch
        train(tiny_config(*settings, f"paths.run_dir={tmp_path}/cut"))
    resumed = train(resume(tmp_path / "cut"))
    timing = {"train/seconds", "train/samples_per_second"}
    assert {k: v for k, v in resumed.items() if k not in timing} == {k: v for k, v in whole.items() if k not in timing}
    one, other = (
        torch.load(tmp_path / run / "checkpoints" / "last.ckpt", weights_only=True) for run in ("whole", "cut")
    )
    for state in ("state_dict", "current_model_state", "averaging_state"):
        assert all(torch.equal(one[state][name], other[state][name]) for name in one[state])


def end_after(patch: pytest.MonkeyPatch, step: int) -> None:
    """As if a signal had come."""
    from attnlab.training.checkpoints import LastCheckpoint

    save = LastCheckpoint._save

    def save_and_end(self: LastCheckpoint, trainer: object) -> None:
        save(self, trainer)  # type: ignore[arg-type]
        if trainer.global_step == step:  # type: ignore[attr-defined]
            raise SystemExit(75)

    patch.setattr(LastCheckpoint, "_save", save_and_end)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["+callbacks.ema._target_=lightning.pytorch.callbacks.EMAWeightAveraging"],
            "callbacks.ema: EMAWeightAveraging .* tests other weights .*use callbacks=ema or callbacks=swa",
        ),
        (
            [
                "+callbacks.x._target_=lightning.pytorch.callbacks.StochasticWeightAveraging",
                "+callbacks.x.swa_lrs=0.01",
            ],
            "callbacks.x: StochasticWeightAveraging .* tests other weights",
        ),
        (["callbacks=swa", "callbacks.weight_average.swa_epoch_start=2"], "is never reached: trainer.max_epochs=2"),
        (["callbacks=swa", "callbacks.weight_average.swa_epoch_start=1.5"], "swa_epoch_start=1.5 should be"),
        (["callbacks=ema", "callbacks.weight_average.decay=1.0"], "decay=1.0 should be less than 1"),
        (
            ["callbacks=swa", "trainer.max_epochs=-1", "trainer.max_time=00:00:00:01"],
            "is a share of trainer.max_epochs=-1",
        ),
    ],
)
def test_an_average_that_could_not_be_is_one_line(overrides: list[str], message: str, tiny_config: Compose) -> None:
    with pytest.raises(UserError, match=message):
        train(tiny_config(*overrides))


def test_swa_brings_a_learning_rate_that_stays_up(tiny_config: Compose) -> None:
    assert tiny_config("callbacks=swa").scheduler._target_.endswith("constant")
    assert tiny_config("callbacks=swa", "scheduler=linear").scheduler._target_.endswith("linear")
