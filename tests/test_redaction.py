"""No secret in any file, dashboard or message."""

import os
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from attnlab.errors import UserError
from attnlab.redaction import redact, redact_message
from tests.conftest import ROOT, TINY


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Is as it was, at the end."""
    monkeypatch.setattr(os, "environ", os.environ.copy())


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    ("argument", "secret"),
    [
        ("x.storage=postgresql://me:pl/an:ted@host:5432/data", "pl/an:ted"),
        ("x.storage='postgresql://host/data?user=me&password=planted&sslmode=require'", "planted"),
        ("+x={storage: 'postgresql://me:planted@host/data', n: 1}", "planted"),
        ("data.path=https://planted@host/data.csv", "planted"),
        ("+logger.comet.api_key='planted'", "planted"),
        ("+x.password=planted", "planted"),
        ("+x={name: me, api_key: planted}", "planted"),
    ],
)
def test_a_command_line_means_the_same_without_its_secrets(argument: str, secret: str) -> None:
    from attnlab.composing import read_arguments

    (hidden,) = read_arguments("train", [argument])
    assert secret not in hidden
    meant, said = (OverridesParser.create().parse_override(text).value() for text in (argument, hidden))
    assert OmegaConf.to_container(OmegaConf.create({"x": said}), resolve=True) == {"x": meant}
    assert secret not in str(redact({argument.partition("=")[0]: meant}))
    assert secret not in redact(f"x=1 {argument}") or "{" in argument
    assert read_arguments("train", [argument]) == [hidden]  # a sweep that goes on is found by its command line


@pytest.mark.parametrize(
    "text", ["https://host:80/a", "mail me@x.org: a", "postgresql://me@host/data", "hf://datasets/a/b@main", "a=b"]
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact({"max_tokens": 5, "path": text}) == {"max_tokens": 5, "path": text}


def test_no_error_quotes_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD", "planted-password")
    assert str(UserError("no user of password planted-password at sqlite://me:other@x")) == (
        "no user of password *** at sqlite://me:***@x"
    )
    assert "planted" not in redact_message("planted-password")


@pytest.mark.slow
def test_nothing_that_a_search_leaves_holds_its_password(tmp_path: Path) -> None:
    """Of the command line and of the environment; and the same command goes on with it."""
    database = tmp_path / "elsewhere.db"
    command = [sys.executable, str(ROOT / "src" / "train.py"), *TINY, "trainer.max_epochs=1", "model=bag", "-m"]
    command += ["hparams_search=random", f"paths.log_dir={tmp_path}/logs", "logger=[wandb,tensorboard]"]
    command += [f"hparams_search.storage='sqlite:///file:{database}?uri=true&password=planted-there'"]
    command += ["hparams_search.n_jobs=2", "+notes.api_key=planted-too"]  # trials have processes of their own
    environment = os.environ | {"WANDB_API_KEY": "planted" * 6, "WANDB_MODE": "offline", "TMPDIR": str(tmp_path)}
    said = ""
    for n_trials in (1, 2):
        result = subprocess.run(
            [*command, f"hparams_search.n_trials={n_trials}"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        said += result.stdout + result.stderr
        assert result.returncode == 0, said
    (study,) = optuna.get_all_study_names(f"sqlite:///{database}")
    assert len(optuna.load_study(study_name=study, storage=f"sqlite:///{database}").trials) == 2
    assert list(tmp_path.glob("logs/train/searches/*/multirun.yaml")) or list(tmp_path.rglob(".hydra/overrides.yaml"))
    assert list(tmp_path.rglob("wandb-metadata.json")) or list(tmp_path.rglob("*.wandb"))
    bad = [*command[:-3], "hparams_search.storage=nosuch://me:planted-there@host/x"]
    result = subprocess.run(bad, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 1 and "nosuch://me:***@host/x" in result.stderr
    said += result.stdout + result.stderr
    found = [str(file) for file in tmp_path.rglob("*") if file.is_file() and b"planted" in file.read_bytes()]
    assert found == [] and "planted" not in said
