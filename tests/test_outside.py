"""Runs and checkpoints that others made: no command imports or calls what they name, or reads the environment by them.

`marker` is a module that can be imported and leaves a file where it is.
"""

import logging
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import DictConfig

from attnlab.analysis.comparison import compare
from attnlab.config import EXECUTION_WHITELIST
from attnlab.errors import UserError
from attnlab.inference.demo import serve
from attnlab.inference.export import export
from attnlab.inference.prediction import predict
from attnlab.training.evaluate import evaluate
from attnlab.training.train import train
from tests.conftest import ROOT, TINY

Compose = Callable[..., DictConfig]
ASKED: dict[str, tuple[Callable[[DictConfig], Any], str]] = {
    "predict": (predict, "text=oil"),
    "evaluate": (evaluate, "trainer=cpu"),
    "export": (export, "format=safetensors"),
    "demo": (serve, "port=7860"),
}


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What the module `marker` leaves where it is imported or called; it does not stand there at the end."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "marker.py").write_text("open(__file__ + '.ran', 'w')\nclass Marker: PATHS = ('path',)\n")
    monkeypatch.syspath_prepend(folder)
    yield folder / "marker.py.ran"
    assert "marker" not in sys.modules and not (folder / "marker.py.ran").exists()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from attnlab.composing import compose

    folder = tmp_path_factory.mktemp("run")
    paths = [f"paths.log_dir={folder}/logs", f"paths.run_dir={folder}/run"]
    train(compose(*TINY, "model=bag", "trainer.max_epochs=1", *paths))
    return folder / "run"


def changed(run: Path, folder: Path, key: str, value: Any) -> Path:
    """A copy of the run whose config.yaml has another value under a dotted key."""
    shutil.copytree(run, folder)
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    *groups, last = key.split(".")
    place = settings
    for group in groups:
        place = place.setdefault(group, {})
    place[last] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return folder


@pytest.mark.usefixtures("marker")
def test_a_runs_data_cannot_name_code(run: Path, compose_config: Compose, tmp_path: Path) -> None:
    folder = changed(run, tmp_path / "theirs", "data._target_", "marker.Marker")
    with pytest.raises(UserError, match=r"marker\.Marker: Target"):
        evaluate(compose_config(f"ckpt_path={folder}", "trainer=cpu", name="evaluate"))
    # These need no more than the checkpoint.
    predict(compose_config(f"ckpt_path={folder}", "text=oil", name="predict"))
    export(compose_config(f"ckpt_path={folder}", "format=safetensors", f"output={tmp_path}/out", name="export"))
    compare(compose_config(f"runs={folder}", name="compare"))


@pytest.mark.usefixtures("marker")
@pytest.mark.parametrize(
    "key",
    [f"{part}._target_" for part in ("data", "tokenizer", "model", "model.pe", "task", "optimizer", "scheduler")]
    + ["trainer._target_", "trainer.profiler._target_", "callbacks.early_stopping._target_", "logger.csv._target_"],
)
def test_a_run_that_is_resumed_cannot_name_code(key: str, run: Path, resume: Compose, tmp_path: Path) -> None:
    folder = changed(run, tmp_path / "theirs", key, "marker.Marker")
    with pytest.raises(UserError, match=r"marker\.Marker"):
        train(resume(folder, "trainer.max_epochs=2"))


@pytest.mark.usefixtures("marker")
@pytest.mark.parametrize("part", ["model", "task"])
@pytest.mark.parametrize("program", [*ASKED, "train"])
def test_a_checkpoint_cannot_name_code(
    program: str, part: str, run: Path, compose_config: Compose, tiny_config: Compose, tmp_path: Path
) -> None:
    checkpoint = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    checkpoint["hyper_parameters"][part] = {"_target_": "marker.Marker"}
    shutil.copytree(run, tmp_path / "theirs")
    torch.save(checkpoint, tmp_path / "theirs" / "checkpoints" / "best.ckpt")
    with pytest.raises(UserError, match=r"marker\.Marker: Target"):
        if program == "train":
            train(tiny_config("model=bag", f"model.init_from={tmp_path}/theirs"))
        else:
            call, override = ASKED[program]
            call(compose_config(f"ckpt_path={tmp_path}/theirs", override, name=program))


class Pickled:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("import marker",)


@pytest.mark.usefixtures("marker")
@pytest.mark.parametrize("program", [*ASKED, "train"])
def test_a_checkpoint_cannot_bring_code(
    program: str, compose_config: Compose, tiny_config: Compose, tmp_path: Path
) -> None:
    torch.save({"state_dict": Pickled()}, tmp_path / "theirs.ckpt")
    with pytest.raises(UserError, match="more than plain data"):
        if program == "train":
            train(tiny_config("model=bag", f"model.init_from={tmp_path}/theirs.ckpt"))
        else:
            call, override = ASKED[program]
            given = ["data=headlines"] if program == "evaluate" else []
            call(compose_config(f"ckpt_path={tmp_path}/theirs.ckpt", override, *given, name=program))


@pytest.mark.usefixtures("marker")
def test_data_cannot_bring_code(run: Path, compose_config: Compose, tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    rows = [f"the {word} room,{word}" for word in ("red", "blue") for _ in range(20)]
    for split in ("train", "test"):
        (folder / f"{split}.csv").write_text("\n".join(["text,label", *rows]))
    (folder / "theirs.py").write_text("import marker\n")  # as a script of `datasets` was called
    (folder / "train.pkl").write_bytes(pickle.dumps(Pickled()))
    sizes = ("data.train_size=200", "data.test_size=60")
    preview = [word for word in TINY if word not in sizes] + ["debug=data"]
    with pytest.raises(UserError, match="no longer supported"):
        train(compose_config(*preview, "data=hub", f"data.path={folder}"))
    with pytest.raises(UserError):
        train(compose_config(*preview, "data=files", f"data.train={folder}/train.pkl", "data.test=0.2"))
    (folder / "new.jsonl").write_text('{"text": "the red room", "_target_": "marker.Marker"}\n')
    given = [f"input={folder}/new.jsonl", f"output={tmp_path}/out.jsonl"]
    predict(compose_config(f"ckpt_path={run}", *given, name="predict"))


def test_a_runs_config_cannot_read_the_environment(
    run: Path,
    compose_config: Compose,
    resume: Compose,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("THEIR_AIM", "xyzzy")
    folder = changed(run, tmp_path / "theirs", "data", {"_target_": "attnlab.data.sources.Hub", "batch_size": 8})
    folder = changed(folder, tmp_path / "reader", "data.path", "./${oc.env:THEIR_AIM}")
    with pytest.raises(UserError) as refused:
        evaluate(compose_config(f"ckpt_path={folder}", "trainer=cpu", name="evaluate"))
    with pytest.raises(UserError) as not_resumed:
        train(resume(folder, "trainer.max_epochs=2"))
    with caplog.at_level(logging.WARNING):
        export(compose_config(f"ckpt_path={folder}", "format=safetensors", f"output={tmp_path}/out", name="export"))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "xyzzy" not in f"{refused.value} {not_resumed.value} {caplog.text} {card}"


@pytest.mark.slow
def test_nothing_is_imported_from_the_working_directory(marker: Path, tmp_path: Path) -> None:
    """Of a folder of others in which a user stands: neither what the whitelist names nor what starts processes."""
    names = {pattern.split(".")[0] for pattern in EXECUTION_WHITELIST} | {"cmaes", "comet_ml", "joblib", "hydra"}
    for name in names:
        shutil.copy(marker.with_name("marker.py"), tmp_path / f"{name}.py")
    tiny = [*TINY, "model=bag", "trainer.max_epochs=1"]
    sweep = ["-m", "seed=0,1", "hydra.launcher.jobs=2"]
    for given in (sweep, ["logger.csv._target_=lightning.pytorch.loggers.CometLogger"]):
        command = [sys.executable, str(ROOT / "src" / "train.py"), *tiny, *given]
        subprocess.run(command, cwd=tmp_path, capture_output=True, check=given is sweep)
    search = ["-m", "hydra/sweeper=attnlab", "hparams_search=optuna", "hparams_search.n_trials=1"]
    sampler = "hparams_search.sampler._target_=optuna.samplers.CmaEsSampler"
    command = [sys.executable, str(ROOT / "src" / "train.py"), *tiny, *search, sampler]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert not list(tmp_path.glob("*.ran"))
