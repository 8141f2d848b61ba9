"""Every setting in `conf/`: of the wrong type, and out of its range."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from attnlab.config import resolve
from attnlab.errors import UserError
from attnlab.training.train import train
from attnlab.validation import RUN_SETTINGS, validate_values
from tests.conftest import ROOT
from tests.experiments.test_study import compose_search

Compose = Callable[..., DictConfig]

# For each number, a value that is one but out of range; None where every number will do.
OUT_OF_RANGE: dict[str, Any] = {
    "seed": -1,
    "data.batch_size": 0,
    "data.validation": 0.9,
    "data.limit": 0,
    "data.split_seed": -1,
    "data.num_workers": -1,
    "data.folds": 1,
    "data.fold": -1,
    "data.train_size": 0,
    "data.test_size": 0,
    "data.noise": 1.5,
    "data.order_share": -0.1,
    "data.corpus_seed": -1,
    "task.label_smoothing": 1.0,
    "task.gamma": -1.0,
    "task.threshold": 1.0,
    "tokenizer.vocab_size": 5,
    "tokenizer.max_length": 2,
    "model.embed_dim": 0,
    "model.num_layers": -1,
    "model.num_heads": 0,
    "model.feed_forward": -1,
    "model.dropout": 1.0,
    "model.ngrams": 0,
    "model.buckets": 0,
    "model.ngram_dropout": 1.0,
    "embedding.scale": 0.0,
    "pe.max_len": 5,  # below tokenizer.max_length
    "optimizer.lr": -1.0,
    "optimizer.weight_decay": -1.0,
    "optimizer.momentum": -1.0,
    "scheduler.warmup": 1.0,
    "trainer.devices": 0,
    "trainer.max_epochs": -2,
    "trainer.gradient_clip_val": -1.0,
    "trainer.log_every_n_steps": 0,
    "trainer.num_sanity_val_steps": -2,
    "callbacks.early_stopping.patience": -1,
    "callbacks.best_checkpoint.save_top_k": -2,
    "callbacks.last_checkpoint.every_n_steps": 0,
    "callbacks.last_checkpoint.every_n_minutes": 0,
    "callbacks.model_summary.max_depth": -2,
    "logger.wandb.finish_timeout": -1,
}
# Settings that are null by default and numbers otherwise.
NUMBERS_OR_NULL = {"data.limit", "embedding.scale", "data.folds", "pe.max_len", "task.threshold"} | {
    f"callbacks.last_checkpoint.every_n_{u}" for u in ("steps", "minutes")
}
# Groups that hold one option at a time; the others are covered by the composed defaults.
VARIANTS = ["embedding=static"]
VARIANTS += ["data=headlines", "model=attention", "model=bag", "model=ngram_bag", "model=transformer", "pe=learned"]
VARIANTS += ["optimizer=sgd", "scheduler=cosine", "tokenizer=wordlevel", "logger=tensorboard", "logger=wandb"]
VARIANTS += ["task=multi_label"]


def leaves(config: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{path}{name}.")
        elif not name.startswith("_"):
            yield f"{path}{name}", value


def compose_once(*overrides: str) -> dict[str, Any]:
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(ROOT / "conf")):
        vectors = ["embedding.path=x", "model.embed_dim=8"] if "embedding=static" in overrides else []
        return resolve(compose("train", overrides=[*overrides, *vectors]))


COMPOSED = {variant: compose_once(variant) for variant in VARIANTS}
LEAVES = {
    key: (variant, value)
    for variant in VARIANTS
    for key, value in leaves(COMPOSED[variant])
    if not key.startswith("model.pe.")
}
NUMBERS = {
    key
    for key, (_, value) in LEAVES.items()
    if key in NUMBERS_OR_NULL or (isinstance(value, int | float) and not isinstance(value, bool))
}
FLAGS = {key for key, (_, value) in LEAVES.items() if isinstance(value, bool)}
TEXTS = {key for key, (_, value) in LEAVES.items() if isinstance(value, str)}


def changed(key: str, value: Any) -> DictConfig:
    config = OmegaConf.create(COMPOSED[LEAVES[key][0]])
    OmegaConf.update(config, key, value)
    if key.startswith("pe."):
        OmegaConf.update(config, f"model.{key}", value)  # which repeats it
    return config


@pytest.fixture(autouse=True)
def nothing_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr("attnlab.data.sources.Headlines.load", lambda _: pytest.fail("data was read"))
    monkeypatch.chdir(tmp_path)


def test_every_number_has_a_row() -> None:
    assert OUT_OF_RANGE.keys() == NUMBERS


@pytest.mark.parametrize("key", sorted(NUMBERS - {"trainer.devices"}))  # that one may be text, such as "auto"
def test_a_number_that_is_text(key: str) -> None:
    with pytest.raises(UserError, match=rf"^{key}=abc should be "):
        train(changed(key, "abc"))


@pytest.mark.parametrize("key", sorted(FLAGS))
def test_a_flag_that_is_text(key: str) -> None:
    with pytest.raises(UserError, match=rf"^{key}=perhaps should be "):
        train(changed(key, "perhaps"))


@pytest.mark.parametrize("key", sorted(TEXTS))
def test_text_that_is_a_list(key: str) -> None:
    with pytest.raises(UserError, match=rf"^{key}=\[1\.5\] should be "):
        validate_values(resolve(changed(key, [1.5])), RUN_SETTINGS)


@pytest.mark.parametrize("key", sorted(OUT_OF_RANGE))
def test_a_number_out_of_range(key: str) -> None:
    with pytest.raises(UserError):
        train(changed(key, OUT_OF_RANGE[key]))


def test_all_that_ships_is_allowed() -> None:
    for config in COMPOSED.values():
        validate_values(config, RUN_SETTINGS)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.text=1.5", r"^data\.text=1\.5 should be a valid string or a valid integer or a valid (list|array)$"),
        ("data.label=1.5", r"^data\.label=1\.5 should be a valid string or a valid integer or a valid"),
        ("data.quoting=loud", r"^data\.quoting=loud should be 'minimal' or 'none'"),
    ],
)
def test_settings_of_files(override: str, message: str) -> None:
    files = ("data=files", "data.train=a.csv", "data.test=b.csv")
    validate_values(compose_once(*files, "data.text=0", "data.label=1", "data.quoting=none"), RUN_SETTINGS)
    with pytest.raises(UserError, match=message):
        validate_values(compose_once(*files, override), RUN_SETTINGS)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("hparams_search.n_trials=many", r"hparams_search\.n_trials=many should be a valid integer"),
        ("hparams_search.n_trials=0", r"hparams_search\.n_trials=0 should be greater than or equal to 1"),
        (
            "hparams_search.max_failure_share=2",
            r"hparams_search\.max_failure_share=2 should be less than or equal to 1",
        ),
        ("hparams_search.storage=7", r"hparams_search\.storage=7 should be a valid string"),
        ("hparams_search.pruner.min_resource=0.5", r"hparams_search\.pruner\.min_resource=0\.5 should be"),
    ],
)
def test_settings_of_a_search(override: str, message: str, tmp_path: Any) -> None:
    with pytest.raises(UserError, match=message):
        compose_search(tmp_path, override)


ANYTHING = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.lists(st.integers(), max_size=2)
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.sampled_from(sorted(LEAVES)), value=ANYTHING)
def test_any_value_of_any_setting_is_allowed_or_refused_in_one_line(key: str, value: Any) -> None:
    config = dict(COMPOSED[LEAVES[key][0]])
    *parents, name = key.split(".")
    node = config
    for parent in parents:
        node[parent] = dict(node[parent])
        node = node[parent]
    node[name] = value
    try:
        validate_values(config, RUN_SETTINGS)
    except UserError as error:
        assert str(error).startswith(f"{key}=") and "should be" in str(error)
