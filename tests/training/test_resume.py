"""A run that was killed ends, when it is resumed, as one that never was: weights, curves, metrics and predictions."""

import contextlib
import csv
import json
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.callbacks import EarlyStopping
from omegaconf import DictConfig, OmegaConf

from attnlab.config import resolve
from attnlab.errors import UserError
from attnlab.runs import RunFolder
from attnlab.training.checkpoints import LastCheckpoint
from attnlab.training.results import write_config
from attnlab.training.resume import resumed_config
from attnlab.training.train import train
from tests.conftest import ROOT, TINY, train_in

Compose = Callable[..., DictConfig]
TIMING = {"train/seconds", "train/samples_per_second"}
LONG = [
    "data.train_size=1500",
    "data.batch_size=16",
    "model.dropout=0.3",
    "model.pooling=mean",
    "trainer.max_epochs=3",
    "trainer.log_every_n_steps=1",
    "callbacks.last_checkpoint.every_n_steps=5",
]


def start(config: DictConfig) -> Any:
    """Train in a process of its own, which begins with everything imported."""
    process = multiprocessing.get_context("fork").Process(target=_quietly_train, args=(config,))
    process.start()
    return process


def _quietly_train(config: DictConfig) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    train(config)


def assert_same_run(one: Path, other: Path) -> None:
    """To the last bit, but for the time that it took."""
    for name in ("last", "best"):
        ours, theirs = (torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True) for run in (one, other))
        for key in (
            "state_dict",
            "optimizer_states",
            "lr_schedulers",
            "random_states",
            "ranks",
            "metrics",
            "temperature",
            "epoch",
            "global_step",
        ):
            _assert_equal(ours.get(key), theirs.get(key), key)
    for file in ("metrics.csv", "predictions.parquet", "per_class.csv", "tokenizer.json"):
        assert (one / file).read_bytes() == (other / file).read_bytes(), file
    ours, theirs = (json.loads((run / "metrics.json").read_text()) for run in (one, other))
    assert {key: ours[key] for key in ours.keys() - TIMING} == {key: theirs[key] for key in theirs.keys() - TIMING}
    assert {path.name for path in (other / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}


def _assert_equal(ours: Any, theirs: Any, where: str) -> None:
    if isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs), where
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for key in ours:
            _assert_equal(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs), where
        for number, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            _assert_equal(a, b, f"{where}.{number}")
    else:
        assert ours == theirs, where


@pytest.mark.slow
@pytest.mark.parametrize("kills", [3, 25])
def test_kills_at_random_moments_change_nothing(
    kills: int, whole: Path, tiny_config: Compose, resume: Compose, tmp_path: Path
) -> None:
    begin = time.monotonic()
    start(tiny_config(*LONG, f"paths.run_dir={tmp_path}/again")).join()
    seconds, moments = time.monotonic() - begin, random.Random(kills)
    survived = finished = 0
    while survived < kills or not finished:
        run = tmp_path / f"killed-{finished}"
        goes_on = (run / "config.yaml").exists()
        process = start(resume(run) if goes_on else tiny_config(*LONG, f"paths.run_dir={run}"))
        process.join(moments.uniform(0, seconds) if survived < kills else None)
        if process.is_alive():
            process.kill()
            process.join()
            survived += 1
            if not (run / "metrics.json").exists():
                continue
        else:
            assert process.exitcode == 0
        assert_same_run(whole, run)
        finished += 1


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was never interrupted."""
    return train_in(tmp_path_factory.mktemp("whole"), *LONG)


def wait_for_a_checkpoint(run: Path, newer_than: int = 0) -> int:
    """When it was written."""
    file, deadline = run / "checkpoints" / "last.ckpt", time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError):
            if (written := file.stat().st_mtime_ns) > newer_than:
                return written
        time.sleep(0.005)
    raise AssertionError("no checkpoint")


def test_a_signal_ends_a_run_with_a_checkpoint(
    whole: Path, tiny_config: Compose, resume: Compose, tmp_path: Path
) -> None:
    """SIGTERM says "try again later" by its status, Ctrl-C as any shell does; the run goes on from that very step."""
    run, written = tmp_path / "run", 0
    process = start(tiny_config(*LONG, f"paths.run_dir={run}"))
    for number, status in ((signal.SIGTERM, 75), (signal.SIGINT, 130)):
        written = wait_for_a_checkpoint(run, newer_than=written)
        os.kill(process.pid, number)
        process.join(60)
        assert process.exitcode == status
        written = wait_for_a_checkpoint(run)  # the one from before, where the signal came while that was written
        process = start(resume(run))
    process.join(60)
    assert process.exitcode == 0
    assert_same_run(whole, run)


@pytest.mark.slow
def test_a_second_ctrl_c_ends_at_once_and_harms_nothing(
    whole: Path, tiny_config: Compose, resume: Compose, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = start(tiny_config(*LONG, f"paths.run_dir={run}"))
    wait_for_a_checkpoint(run)
    for _ in range(2):
        os.kill(process.pid, signal.SIGINT)
        time.sleep(0.002)
    process.join(60)
    assert process.exitcode in (1, 130)
    train(resume(run))
    assert_same_run(whole, run)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    whole: Path, tiny_config: Compose, resume: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    process = start(tiny_config(*LONG, f"paths.run_dir={run}"))
    wait_for_a_checkpoint(run, newer_than=wait_for_a_checkpoint(run))
    process.kill()
    process.join()
    last = run / "checkpoints" / "last.ckpt"
    content = last.read_bytes()
    last.unlink()  # it may be another name of best.ckpt
    last.write_bytes(content[:-1000])
    train(resume(run))
    assert f"{last} is damaged" in caplog.text
    assert_same_run(whole, run)
    for file in (run / "checkpoints").iterdir():
        file.write_bytes(b"")
    (run / "metrics.json").unlink()
    with pytest.raises(UserError, match=r"every checkpoint in .* is damaged"):
        train(resume(run))


@pytest.mark.slow
def test_a_full_disk_leaves_the_checkpoint_that_was_there(
    whole: Path, tiny_config: Compose, resume: Compose, tmp_path: Path
) -> None:
    """A limit on the size of files stands for the full disk: writing fails half-way."""
    run = tmp_path / "run"
    process = start(tiny_config(*LONG, f"paths.run_dir={run}"))
    wait_for_a_checkpoint(run)
    process.kill()
    process.join()

    size = (run / "checkpoints" / "last.ckpt").stat().st_size

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))
        with pytest.raises(UserError, match=r"can't write .*last\.ckpt: .*free some space, then go on with resume="):
            train(resume(run))

    process = multiprocessing.get_context("fork").Process(target=limited)
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert not list(run.rglob("*.partial"))
    train(resume(run))
    assert_same_run(whole, run)


@pytest.mark.slow
def test_two_runs_of_one_seed_are_equal_on_any_number_of_workers(
    whole: Path, tiny_config: Compose, tmp_path: Path
) -> None:
    train(tiny_config(*LONG, "data.num_workers=2", f"paths.run_dir={tmp_path}/workers"))
    assert_same_run(whole, tmp_path / "workers")


def test_early_stopping_stays_stopped(
    tiny_config: Compose, resume: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Killed after its last epoch and before its results, a run does not train another epoch, and says why."""
    caplog.set_level("INFO")
    settings = ["trainer.max_epochs=50", "callbacks.early_stopping.patience=1", "optimizer.lr=0.5"]
    train(tiny_config(*settings, "data.train_size=600", f"paths.run_dir={tmp_path}"))
    before = json.loads((tmp_path / "metrics.json").read_text())
    assert before["train/epochs"] < 50
    (tmp_path / "metrics.json").unlink()
    after = train(resume(tmp_path))
    assert {key: after[key] for key in after.keys() - TIMING} == {key: before[key] for key in before.keys() - TIMING}
    assert caplog.text.count("Stopped early: Monitored metric val/loss did not improve in the last 1 records") == 2


@pytest.fixture
def command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """As if this were a job of Hydra's with these overrides."""

    def given(*overrides: str, mode: str = "RUN") -> None:
        with initialize_config_dir(str(ROOT / "conf")):
            config = compose("train", overrides=[*overrides, f"hydra.mode={mode}"], return_hydra_config=True)
        config.hydra.runtime.output_dir = str(tmp_path)
        monkeypatch.setattr(HydraConfig.instance(), "cfg", OmegaConf.masked_copy(config, "hydra"))

    return given


def test_what_a_resumed_run_takes_from_the_command_line(
    command_line: Callable[..., None], tiny_config: Compose, tmp_path: Path
) -> None:
    write_config(tmp_path, resolve(tiny_config("model.pooling=max")))
    command_line("resume=latest", "trainer.max_epochs=7", "trainer.max_time=00:00:10:00", "data.num_workers=1")
    config, _ = resumed_config(tmp_path, OmegaConf.create())
    model, trainer = config["model"], config["trainer"]
    assert (model["pooling"], trainer["max_epochs"], config["data"]["num_workers"]) == ("max", 7, 1)
    assert trainer["max_time"] == "00:00:10:00" and model["embed_dim"] == 8
    for override in ("model.pooling=cls", "pe=none", "trainer=gpu", "seed=1", "data.batch_size=1", "~trainer.devices"):
        command_line("resume=latest", override)
        with pytest.raises(UserError, match=rf"{override} can't be given with resume="):
            resumed_config(tmp_path, OmegaConf.create())
    command_line("resume=latest")
    (tmp_path / "metrics.json").touch()
    with pytest.raises(UserError, match="has finished; to train it further raise the limit"):
        resumed_config(tmp_path, OmegaConf.create())


def test_a_run_that_is_not_there_is_one_line(resume: Compose) -> None:
    for name in ("nowhere", "latest"):
        with pytest.raises(UserError, match=rf"^resume={name}: there is no such run; give the folder of one"):
            train(resume(name))


@pytest.mark.slow
def test_a_finished_run_goes_on_to_a_higher_limit_and_keeps_all_else(tmp_path: Path) -> None:
    def command(*overrides: str) -> subprocess.CompletedProcess[str]:
        script = [sys.executable, str(ROOT / "src" / "train.py"), *overrides]
        return subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)

    assert command(*TINY).returncode == 0
    (run,) = (tmp_path / "logs/train/runs").iterdir()
    first = [row for row in csv.DictReader((run / "metrics.csv").open()) if not row["test/acc"]]
    finished = command("resume=latest")
    assert finished.returncode == 1 and "has finished; to train it further raise the limit" in finished.stderr
    refused = command(f"resume={run}", "model.pooling=max")
    assert refused.returncode == 1 and "model.pooling=max can't be given with resume=" in refused.stderr
    more = command("resume=latest", "trainer.max_epochs=3", "trainer.max_time=00:01:00:00")
    assert more.returncode == 0, more.stderr
    assert list(csv.DictReader((run / "metrics.csv").open()))[: len(first)] == first and "epoch 3/3" in more.stdout
    assert json.loads((run / "metrics.json").read_text())["train/epochs"] == 3
    assert list((tmp_path / "logs/train/runs").iterdir()) == [run]
    assert "Traceback" not in finished.stderr + refused.stderr


def test_a_limit_of_steps_raised_at_the_end_of_an_epoch_gives_the_same_run(
    tiny_config: Compose, resume: Compose, tmp_path: Path
) -> None:
    """Six steps are an epoch of it."""
    settings = ("scheduler=none", "trainer.max_epochs=10")
    train(tiny_config(*settings, "+trainer.max_steps=12", f"paths.run_dir={tmp_path}/whole"))
    train(tiny_config(*settings, "+trainer.max_steps=6", f"paths.run_dir={tmp_path}/parts"))
    train(resume(tmp_path / "parts", "++trainer.max_steps=12"))
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_run_that_was_moved_keeps_its_best_epoch(tiny_config: Compose, resume: Compose, tmp_path: Path) -> None:
    """With a learning rate of 0 no later epoch is better than the first."""
    train(tiny_config("optimizer.lr=0.0", f"paths.run_dir={tmp_path}/run"))
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    (moved / "metrics.json").unlink()
    (moved / "config.yaml").write_text((moved / "config.yaml").read_text().replace("max_epochs: 2", "max_epochs: 3"))
    train(resume(moved))
    assert torch.load(moved / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 2
    assert torch.load(moved / "checkpoints" / "best.ckpt", weights_only=True)["epoch"] == 0


@pytest.mark.parametrize(
    "kept", ["callbacks.best_checkpoint.save_top_k=2", "+callbacks.best_checkpoint.save_weights_only=true"]
)
def test_the_last_checkpoint_is_the_last_and_whole_whatever_is_kept_beside_it(
    kept: str, tiny_config: Compose, tmp_path: Path
) -> None:
    train(
        tiny_config(
            kept, "callbacks.best_checkpoint.filename='kept-{epoch}'", "optimizer.lr=0.0", f"paths.run_dir={tmp_path}"
        )
    )
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["epoch"] == 1 and last["optimizer_states"]


def test_a_checkpoint_names_no_files_but_those_beside_it(tiny_config: Compose, resume: Compose, tmp_path: Path) -> None:
    """Lightning removes the files that a checkpoint calls its older best ones."""
    run, victim = tmp_path / "run", tmp_path / "victim.ckpt"
    victim.write_text("keep me")
    train(tiny_config(f"paths.run_dir={run}"))
    file = run / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(file, weights_only=True)
    for state in checkpoint["callbacks"].values():
        if "best_model_path" in state:
            state |= {"best_model_path": str(victim), "best_k_models": {str(victim): torch.tensor(99.0)}}
            state |= {"kth_best_model_path": str(victim), "kth_value": torch.tensor(99.0), "dirpath": str(tmp_path)}
    torch.save(checkpoint, file)
    (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("max_epochs: 2", "max_epochs: 4"))
    (run / "metrics.json").unlink()
    assert train(resume(run))["train/epochs"] == 4
    assert victim.read_text() == "keep me"


def test_a_checkpoint_of_something_else_is_one_line(tiny_config: Compose, resume: Compose, tmp_path: Path) -> None:
    train(tiny_config(f"paths.run_dir={tmp_path}"))
    (tmp_path / "metrics.json").unlink()
    file = tmp_path / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(file, weights_only=True)
    weights = {name: tensor[:1] for name, tensor in checkpoint["state_dict"].items()}
    others = [{}, [1], checkpoint | {"state_dict": weights}, checkpoint | {"optimizer_states": [{}]}]
    others += [{k: v for k, v in checkpoint.items() if k != key} for key in ("loops", "random_states", "train_loss")]
    for other in others:
        torch.save(other, file)
        with pytest.raises(UserError, match=r"is not a checkpoint of this run \(|every checkpoint .* is damaged"):
            train(resume(tmp_path))


@pytest.mark.usefixtures("own_parts")
def test_the_curves_go_on_after_the_best_epoch(tiny_config: Compose, tmp_path: Path) -> None:
    """Testing loads the best checkpoint, which knows the curves up to there only."""
    settings = ["monitor.metric=val/acc", "trainer.max_epochs=4", "+callbacks.forgets._target_=tests.parts.Forgets"]
    train(tiny_config(*settings, "data.train_size=600", f"paths.run_dir={tmp_path}"))
    best = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["epoch"] < 3
    with (tmp_path / "metrics.csv").open() as file:
        epochs = [row["epoch"] for row in csv.DictReader(file) if row["val/loss"]]
    assert epochs == ["0", "1", "2", "3"]


@pytest.mark.parametrize("change", ["a label", "a text", "a row more"])
def test_a_run_does_not_go_on_with_other_data(
    change: str, compose_config: Compose, resume: Compose, tmp_path: Path
) -> None:
    """The old weights would be tested on classes or tokens of another numbering."""
    rows = [f"{word} number {i},{word}" for i in range(20) for word in ("red", "blue")]
    file = tmp_path / "data.csv"
    file.write_text("\n".join(["text,label", *rows]))
    settings = ["data=files", f"data.train={file}", f"data.test={file}", "model=bag", "trainer=cpu"]
    train(compose_config(*settings, "trainer.max_epochs=1", f"paths.run_dir={tmp_path}/run"))
    other = {
        "a label": [row.replace(",red", ",crimson") for row in rows],
        "a text": [rows[0].replace("number", "nomber"), *rows[1:]],
        "a row more": [*rows, "blue again,blue"],
    }
    file.write_text("\n".join(["text,label", *other[change]]))
    with pytest.raises(UserError, match=r"the data has changed since this run began"):
        train(resume(tmp_path / "run", "trainer.max_epochs=2"))
    file.write_text("\n".join(["text,label", *rows]))
    assert train(resume(tmp_path / "run", "trainer.max_epochs=2"))["train/epochs"] == 2


def test_what_is_given_anew_counts_in_python_as_on_the_command_line(
    tiny_config: Compose, resume: Compose, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(tiny_config(f"paths.run_dir={run}"))
    assert train(resume(run, "trainer.max_epochs=3"))["train/epochs"] == 3
    with pytest.raises(UserError, match=r"model\.pooling=max can't be given with resume="):
        train(resume(run, "model.pooling=max"))
    with pytest.raises(UserError, match=r"compose\(\.\.\., return_hydra_config=True\)"):
        train(tiny_config(f"resume={run}"))


@pytest.mark.parametrize("name", ["folder", "latest"])
def test_a_run_that_is_still_training_is_not_resumed(
    name: str, tiny_config: Compose, resume: Compose, tmp_path: Path
) -> None:
    """Two processes in one folder would write each step of the curves twice and take each other's checkpoints away."""
    run = tmp_path / "logs" / "train" / "runs" / "mine"
    train(tiny_config(f"paths.run_dir={run}"))
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    command = resume(run if name == "folder" else name, "trainer.max_epochs=3")
    with RunFolder.open(run, new=False), pytest.raises(UserError, match=r"is in use: process \d+ on .*is training"):
        train(command)
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before
    if name == "folder":
        assert train(command)["train/epochs"] == 3


def interrupt_after(config: DictConfig, epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train until so many epochs are over, and die there."""
    saved = LastCheckpoint.on_train_epoch_end

    def save_and_die(self: LastCheckpoint, trainer: Any, pl_module: Any) -> None:
        saved(self, trainer, pl_module)
        if trainer.current_epoch + 1 == epochs:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises((KeyboardInterrupt, SystemExit)):
        patch.setattr(LastCheckpoint, "on_train_epoch_end", save_and_die)
        train(config)


def test_a_changed_patience_counts_from_the_resume_on(tiny_config: Compose, resume: Compose, tmp_path: Path) -> None:
    """With a learning rate of 0 no epoch is better than the first."""
    settings = ["optimizer.lr=0.0", "callbacks.early_stopping.patience=1", "trainer.max_epochs=20"]
    assert train(tiny_config(*settings, f"paths.run_dir={tmp_path}/run"))["train/epochs"] == 2
    with pytest.raises(UserError, match=r"has stopped early.* give callbacks\.early_stopping\.patience=4 too"):
        train(resume(tmp_path / "run", "trainer.max_epochs=30"))
    assert train(resume(tmp_path / "run", "callbacks.early_stopping.patience=4"))["train/epochs"] == 5
    assert "patience: 4" in (tmp_path / "run" / "config.yaml").read_text()


@pytest.mark.parametrize(
    "given",
    [
        "callbacks.best_checkpoint.monitor=val/acc",
        "callbacks.best_checkpoint.save_top_k=3",
        "callbacks.early_stopping.monitor=val/acc",
        "+trainer.accumulate_grad_batches=2",
        "+trainer.limit_val_batches=1",
        "trainer.max_epochs=1",
        "tokenizer.vocab_size=20",
    ],
)
def test_what_could_not_take_effect_is_refused_and_nothing_is_touched(
    given: str, trained: Path, resume: Compose
) -> None:
    before = {file: file.read_bytes() for file in trained.rglob("*") if file.is_file()}
    with pytest.raises(UserError, match=rf"{given.lstrip('+').split('=')[0]}.*(can't be given|has trained 2)"):
        train(resume(trained, given))
    assert {file: file.read_bytes() for file in trained.rglob("*") if file.is_file()} == before


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that has finished; nothing in it may change."""
    return train_in(tmp_path_factory.mktemp("trained"))


def test_a_run_that_was_about_to_stop_is_so_after_a_resume(
    tiny_config: Compose, resume: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Early stopping asked for the end once; min_epochs lets it train on, however well that goes meanwhile."""
    scores = iter([1.0, 2.0, 0.9, 0.8, 0.7, 0.6, 0.5])  # it stops at the second one
    settings = ["trainer.max_epochs=6", "+trainer.min_epochs=4", "callbacks.early_stopping.patience=1"]

    def measure(self: Any, _: torch.Tensor) -> Any:
        return criteria(self, torch.tensor(next(scores)))

    criteria = EarlyStopping._evaluate_stopping_criteria
    monkeypatch.setattr(EarlyStopping, "_evaluate_stopping_criteria", measure)
    interrupt_after(tiny_config(*settings, f"paths.run_dir={tmp_path}/run"), 3, monkeypatch)
    assert train(resume(tmp_path / "run"))["train/epochs"] == 4


def test_all_random_numbers_go_on_where_they_were(
    tiny_config: Compose, resume: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A callback of one's own may draw from Python's and NumPy's global generators."""
    drawn: list[tuple[float, float, float]] = []

    def draw(*_: Any) -> None:
        drawn.append((random.random(), np.random.rand(), float(torch.rand(()))))

    monkeypatch.setattr("attnlab.training.callbacks.PlainProgress.on_train_epoch_end", draw)
    train(tiny_config("trainer.max_epochs=3", f"paths.run_dir={tmp_path}/whole"))
    undisturbed = list(drawn)
    drawn.clear()
    interrupt_after(tiny_config("trainer.max_epochs=3", f"paths.run_dir={tmp_path}/run"), 1, monkeypatch)
    train(resume(tmp_path / "run"))
    assert drawn == undisturbed and len(drawn) == 3


def test_a_hangup_ends_a_run_with_a_checkpoint_unless_it_is_ignored(
    tiny_config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a closed terminal, or a cluster that sends SIGUSR1; under nohup it trains on."""

    def send(number: int) -> Callable[..., None]:
        return lambda _, trainer, *__: signal.raise_signal(number) if trainer.global_step == 2 else None

    for number in (signal.SIGHUP, signal.SIGUSR1):
        run = tmp_path / str(number)
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
            patch.setattr("attnlab.training.callbacks.PlainProgress.on_train_batch_end", send(number))
            train(tiny_config(f"paths.run_dir={run}"))
        assert ended.value.code == 75
        assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        monkeypatch.setattr("attnlab.training.callbacks.PlainProgress.on_train_batch_end", send(signal.SIGHUP))
        assert train(tiny_config(f"paths.run_dir={tmp_path}/nohup"))["train/epochs"] == 2
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_batch_is_not_halved_on_resume(
    tiny_config: Compose, resume: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny_config("halve_batch_on_oom=true", f"paths.run_dir={tmp_path}"))
    monkeypatch.setattr("attnlab.training.trainer.Trainer.fit", Mock(side_effect=MemoryError))
    with pytest.raises(UserError, match=r"data\.batch_size=32, which a resumed run keeps"):
        train(resume(tmp_path, "trainer.max_epochs=3"))
    assert (tmp_path / "checkpoints" / "last.ckpt").exists()


def test_data_that_has_moved_is_given_on_resume_and_compared(
    compose_config: Compose, resume: Compose, tmp_path: Path
) -> None:
    rows = "\n".join(["text,label", *(f"{word} number {i},{word}" for i in range(20) for word in ("red", "blue"))])
    (tmp_path / "old.csv").write_text(rows)
    settings = ["data=files", f"data.train={tmp_path}/old.csv", "data.test=0.2", "model=bag", "trainer=cpu"]
    train(compose_config(*settings, "trainer.max_epochs=1", f"paths.run_dir={tmp_path}/run"))
    (tmp_path / "old.csv").rename(tmp_path / "new.csv")
    (tmp_path / "other.csv").write_text(rows.replace("number 3", "nomber 3"))
    with pytest.raises(UserError, match="the data has changed"):
        train(resume(tmp_path / "run", f"++data.train={tmp_path}/other.csv", "trainer.max_epochs=2"))
    assert (
        train(resume(tmp_path / "run", f"++data.train={tmp_path}/new.csv", "trainer.max_epochs=2"))["train/epochs"] == 2
    )
    assert f"{tmp_path}/new.csv" in (tmp_path / "run" / "config.yaml").read_text()
