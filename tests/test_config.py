"""Every choice in `conf/` composes and runs."""

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from unittest.mock import Mock

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from attnlab.config import instantiate, resolve
from attnlab.errors import UserError
from attnlab.training.encoder import model_settings
from attnlab.training.train import train
from hydra_plugins.attnlab_sweeper import GRID, Sweeper
from tests.conftest import ROOT

Compose = Callable[..., DictConfig]

OPTIONS = {
    group.name: sorted(file.stem for file in group.glob("*.yaml"))
    for group in (ROOT / "conf").iterdir()
    if group.is_dir() and group.name not in ("hydra", "paths", "callbacks", "experiment", "hparams_search")
}
# What an option needs before it can run here; None leaves it to the test that is named.
SPECIAL: dict[str, list[str] | None] = {
    "data=base": None,  # not a choice but what the others share
    "data=ag_news": None,  # tests/data/test_sources.py, and with real data test_train.py
    "data=hub": None,  # tests/data/test_sources.py
    "data=files": None,  # test_local_files_from_the_command_line
    "data=folders": None,  # tests/data/test_folders.py
    "model=pretrained": None,  # tests/training/test_pretrained.py
    "tokenizer=pretrained": None,
    "embedding=static": None,  # tests/training/test_build.py
    "debug=data": None,  # tests/data/test_preview.py
    "trainer=gpu": None,  # test_train.py: refused without one
    "trainer=mps": None,
    "trainer=ddp": None,  # test_commands.py, in processes of its own
    "logger=wandb": None,  # tests/training/test_loggers.py
    "task=multi_label": ["data.topics=all"],
    "debug=overfit": ["trainer.max_epochs=1"],
}


@pytest.mark.parametrize("choice", [f"{group}={option}" for group, options in OPTIONS.items() for option in options])
def test_every_option_trains(choice: str, tiny_config: Compose, tmp_path: Path) -> None:
    more = SPECIAL.get(choice, [])
    if more is None:
        pytest.skip("has a test of its own")
    overrides = [choice, "trainer.max_epochs=1", f"paths.run_dir={tmp_path}/run", *more]
    if choice == "model=transformer":
        overrides.append("model.feed_forward=16")
    metrics = train(tiny_config(*overrides))
    assert 0 <= metrics["test/acc"] <= 1 and (tmp_path / "run" / "metrics.json").exists()


@pytest.mark.parametrize(
    "experiment",
    [
        str(file.relative_to(ROOT / "conf/experiment").with_suffix(""))
        for file in (ROOT / "conf/experiment").rglob("*.yaml")
    ],
)
def test_every_experiment_composes(experiment: str, compose_config: Compose, encoder: Path) -> None:
    # Vectors and encoders that an experiment begins with are not here yet.
    config = resolve(compose_config(f"experiment={experiment}", "embedding=random", f"paths.run_dir={ROOT}"))
    recipe = instantiate(config["tokenizer"] | {"max_length": 64})
    if "path" in config["model"]:
        config["model"]["path"] = str(encoder)
    model = instantiate(
        model_settings(config["model"]), vocab_size=9, num_classes=4, pad_id=3, max_length=recipe.max_length
    )
    assert sum(parameter.numel() for parameter in model.parameters()) > 0


@pytest.mark.parametrize("file", sorted((ROOT / "conf/experiment").rglob("*.yaml")), ids=lambda file: file.stem)
def test_every_sweep_of_an_experiment_composes(file: Path, compose_config: Compose) -> None:
    """Every value of every parameter; and an experiment that sweeps does so with `-m` alone."""
    own = OmegaConf.load(file)
    params = OmegaConf.select(own, "hydra.sweeper.params") or OmegaConf.select(own, "hparams_search.space") or {}
    name = file.relative_to(ROOT / "conf/experiment").with_suffix("")
    for key, values in params.items():
        options = str(values).removeprefix("choice(").removesuffix(")").split(",")
        assert len(options) > 1
        for option in options:
            config = compose_config(f"experiment={name}", f"{key}={option.strip()}")
            assert config.task_name == "train"
    one = file.parent.name == "pretrained" and file.stem != "bag"
    assert bool(params) == (not one and file.stem not in ("ag_news", "baseline", "attention"))


def test_the_notebooks_own_protocol(tiny_config: Compose, tmp_path: Path) -> None:
    """Validation is the test set, and its best epoch by accuracy is the score; padding counts."""
    config = tiny_config("experiment=notebook/baseline", "protocol=notebook", f"paths.run_dir={tmp_path}")
    assert config.tokenizer.max_length == 128 and config.model.count_padding
    metrics = train(config)
    assert (
        metrics["val/acc"]
        == metrics["test/acc"]
        == pytest.approx(
            max(float(row["val/acc"]) for row in csv.DictReader((tmp_path / "metrics.csv").open()) if row["val/acc"])
        )
    )


def test_the_notebooks_short_tables_of_positions_run(tiny_config: Compose, tmp_path: Path) -> None:
    short = ["experiment=notebook/positions", "pe=learned", "pe.max_len=5", f"paths.run_dir={tmp_path}"]
    with pytest.raises(UserError, match=r"pe.max_len=5 has no vector for every token of documents of up to 128"):
        train(tiny_config(*short))
    assert train(tiny_config(*short, "pe.beyond=zero"))["test/acc"] >= 0


def test_a_search_does_not_read_the_test_set(tiny_config: Compose, tmp_path: Path) -> None:
    no_study = ["hparams_search.study_name=s", "callbacks.report_to_study=null"]
    metrics = train(tiny_config("experiment=notebook/search", f"paths.run_dir={tmp_path}", *no_study))
    assert not any(key.startswith("test/") for key in metrics) and "val/acc" in metrics
    assert not (tmp_path / "predictions.parquet").exists() and (tmp_path / "metrics.json").exists()


def test_the_notebooks_baseline_is_what_the_notebook_ran(compose_config: Compose) -> None:
    config = compose_config("experiment=notebook/baseline")
    assert (config.tokenizer.vocab_size, config.tokenizer.max_length) == (1000, 128)
    assert (config.data.batch_size, config.optimizer.lr, config.trainer.max_epochs) == (32, 0.01, 5)
    assert config.model.embed_dim == 100 and config.pe._target_.endswith("PositionalEncoding")
    assert config.callbacks.early_stopping is None


def test_local_files_from_the_command_line(compose_config: Compose, tmp_path: Path) -> None:
    for split in ("train", "test"):
        rows = [f"{word} number {i},{word}" for i in range(20) for word in ("red", "blue")]
        (tmp_path / f"{split}.csv").write_text("\n".join(["title,colour", *rows]))
    metrics = train(
        compose_config(
            "data=files",
            f"data.train={tmp_path}/train.csv",
            f"data.test={tmp_path}/test.csv",
            "data.text=title",
            "data.label=colour",
            "model=bag",
            "trainer=cpu",
            "optimizer.lr=0.1",
            "tokenizer=wordlevel",
        )
    )
    assert metrics["test/acc"] == 1.0 and metrics["data/test_duplicates"] == 40


def test_a_bag_takes_no_positions_unless_told_to(compose_config: Compose) -> None:
    assert compose_config("model=bag").pe._target_.endswith("PositionalEncoding")
    assert compose_config("model=bag", "pe=learned").pe._target_.endswith("Learned")
    assert compose_config("model=transformer").pe._target_.endswith("Sinusoidal")


def test_an_install_without_the_checkout_is_refused_in_one_line(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "src" / "attnlab", tmp_path / "lib" / "attnlab")
    command = [sys.executable, "-c", "import attnlab.composing"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "lib")}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 1 and "pip install -e <checkout>" in result.stderr.splitlines()[-1]


def test_only_listed_targets_are_called() -> None:
    for target in ("os.system", "builtins.eval", "attnlab.data.tokens.shutil.rmtree", "torch.hub.load"):
        with pytest.raises(UserError, match=f"{target}: Target"):
            instantiate({"_target_": target})


def test_a_config_cannot_widen_the_list(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    target = {"_target_": "shutil.rmtree", "path": str(tmp_path / "kept"), "_execution_whitelist_": ["shutil.*"]}
    for config in (target, {"_target_": "attnlab.models.classifier.TextClassifier", "pe": target}):
        with pytest.raises(UserError):
            instantiate(config)
    assert (tmp_path / "kept").is_dir()


def test_before_a_sweep_one_of_the_jobs_that_differ_in_numbers_is_composed() -> None:
    context = Mock()
    sweeper = Sweeper(GRID, [["model=bag"], ["model=attention"]], max_batch_size=None, params=None)
    sweeper.config, sweeper.hydra_context = OmegaConf.create(), context
    swept = ["seed=1,2,3", "optimizer.lr=1e-3,-2.5E+1", "data.limit=null,5", "model.pooling=max,mean"]
    (jobs,) = sweeper.split_arguments(OverridesParser.create().parse_overrides(swept), None)
    sweeper.validate_batch_is_legal(jobs)
    assert len(jobs) == 2 * 3 * 2 * 2 * 2
    calls = context.config_loader.load_sweep_config.call_args_list
    assert [call.kwargs["sweep_overrides"] for call in calls] == [
        [f"model={model}", "seed=1", "optimizer.lr=0.001", f"data.limit={limit}", f"model.pooling={pooling}"]
        for model, limit, pooling in product(("bag", "attention"), ("null", "5"), ("max", "mean"))
    ]
