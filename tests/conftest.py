"""What all tests share: no network, and a run small enough to take a second."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from attnlab import composing
from attnlab.config import EXECUTION_WHITELIST

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"
os.environ["PYTHONFAULTHANDLER"] = "1"  # a process that hangs is ended by SIGABRT and says where it hung: `output_of`
# Tests run in two processes; set before torch is imported, and for the processes that tests start.
os.environ["OMP_NUM_THREADS"] = "1"

ROOT = Path(__file__).parent.parent
TINY = [
    "trainer=cpu",
    "trainer.max_epochs=2",
    "trainer.log_every_n_steps=2",
    "data.train_size=200",
    "data.test_size=60",
    "tokenizer.vocab_size=300",
    "model.embed_dim=8",
]
Compose = Callable[..., DictConfig]


def output_of(process: subprocess.Popen[str], seconds: float) -> tuple[str, str]:
    """What a process has written until its end; one that has not ended by then fails the test with all its output."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)
        out, err = process.communicate()
        pytest.fail(f"still running after {seconds} s, where its threads were:\n{out}\n{err}")
    return out or "", err or ""


def train_in(folder: Path, *overrides: str, name: str = "run") -> Path:
    """Train a small run in `folder/name`, for a fixture of a whole module: no test may change it."""
    from attnlab.training.train import train  # imports torch

    train(composing.compose(f"paths.log_dir={folder}/logs", f"paths.run_dir={folder}/{name}", *TINY, *overrides))
    return folder / name


@pytest.fixture
def compose_config(tmp_path: Path) -> Compose:
    """`compose_config("pe=none", name="train")`: the config of that command line, writing below `tmp_path`."""

    def make(*overrides: str, name: str = "train") -> DictConfig:
        return composing.compose(f"paths.log_dir={tmp_path}/logs", *overrides, name=name)

    return make


@pytest.fixture(autouse=True)
def figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """None are drawn but in tests marked `figures`: they take a third of a tiny run."""
    if request.node.get_closest_marker("figures") is None:
        monkeypatch.setattr("attnlab.training.results.draw_figures", lambda *_: None)


@pytest.fixture
def own_parts() -> Iterator[None]:
    """The classes of `tests.parts` may be named in a config."""
    EXECUTION_WHITELIST.append("tests.parts.*")
    yield
    EXECUTION_WHITELIST.remove("tests.parts.*")


@pytest.fixture
def tiny_config(compose_config: Compose) -> Compose:
    """The same for a training run of a second."""
    return lambda *overrides: compose_config(*TINY, *overrides)


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a BERT of width 16 with random weights; nothing in it may change."""
    from tests.encoders import save_encoder

    return save_encoder(tmp_path_factory.mktemp("encoder") / "bert")


@pytest.fixture
def pretrained_config(compose_config: Compose) -> Compose:
    """`pretrained_config(folder, "model.train=head")`: a training run of a second on the encoder in that folder."""
    tiny = [setting for setting in TINY if not setting.startswith(("model.", "tokenizer."))]
    return lambda folder, *overrides: compose_config(
        "model=pretrained", f"model.path={folder}", "tokenizer.max_length=32", *tiny, *overrides
    )


@pytest.fixture
def resume(tmp_path: Path) -> Compose:
    """`resume(run, "trainer.max_epochs=3")`: the config of the command that goes on with a run."""

    def make(run: Path | str, *overrides: str) -> DictConfig:
        with initialize_config_dir(str(ROOT / "conf")):
            given = [f"paths.log_dir={tmp_path}/logs", f"resume={run}", *overrides]
            return compose("train", overrides=given, return_hydra_config=True)

    return make


@pytest.fixture
def ag_news_path() -> str:
    """The folder that `AG_NEWS_PATH` names; tests that want it are skipped without it."""
    path = os.environ.get("AG_NEWS_PATH")
    if not path:
        pytest.skip("AG_NEWS_PATH names no local copy of AG News")
    return path


@pytest.fixture
def browser() -> Iterator[Any]:
    """Chromium: playwright's own, or that of the machine."""
    playwright = pytest.importorskip("playwright.sync_api")
    names = ("chromium", "chromium-browser", "google-chrome")
    with playwright.sync_playwright() as started:
        try:
            chromium = started.chromium.launch(executable_path=next(filter(None, map(shutil.which, names)), None))
        except playwright.Error as error:
            pytest.skip(f"no Chromium: {str(error).splitlines()[0]}")
        yield chromium
        chromium.close()
