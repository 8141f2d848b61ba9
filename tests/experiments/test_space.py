import logging
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra import compose, initialize_config_dir
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FixedTrial

from attnlab.errors import UserError
from attnlab.experiments.feasibility import infeasibility_reason
from attnlab.experiments.space import Branch, Space, build_space, grid, read_ranges
from tests.conftest import ROOT
from tests.experiments.test_study import SPACE, compose_search, config_loader


def make(folder: Path, *arguments: str, search: str = "random") -> Space:
    """`arguments` are the command line, whose ranges Hydra leaves out of the search's own config."""
    config = compose_search(folder, *(word for word in arguments if "," not in word), search=search)
    ranges = [word for word in arguments if "," in word]
    return build_space(config, [*config.hydra.overrides.task, *ranges], config_loader())


def drawn_from(space: Space, name: str, *chosen: Any) -> tuple[Any, ...] | None:
    """The choices for a setting under one choice of parts; None where it is not drawn."""
    distribution = space.branches[chosen].settings.get(name)
    return distribution.choices if isinstance(distribution, CategoricalDistribution) else None


def test_the_command_line_adds_to_the_space_and_takes_out_of_it() -> None:
    space, fixed = read_ranges(SPACE, ["pe=rotary", "model.pooling=cls,max", "seed=3", "~model.dropout"])
    assert space == {
        "optimizer.lr": FloatDistribution(1e-4, 1e-2, log=True),
        "model.pooling": CategoricalDistribution(["cls", "max"]),
    }
    assert fixed == ["pe=rotary", "seed=3", "~model.dropout"]
    assert read_ranges(SPACE | {"pe": None}, []) == ({"optimizer.lr": FloatDistribution(1e-4, 1e-2, log=True)}, [])


@pytest.mark.parametrize(
    ("space", "arguments", "message"),
    [
        (SPACE, ["pe=none", "optimizer.lr=1"], "there is nothing to search: every setting"),
        ({}, ["pe=none"], "there is nothing to search"),
        ({"a": "range(3, 3)"}, [], r"hparams_search\.space: .*at least one value"),
        ({"a": "interval(2, 1)"}, [], r"hparams_search\.space: .*low <= high"),
        ({"a": "tag(log, interval(0, 1.0))"}, [], r"hparams_search\.space: .*`low > 0` must hold"),
        ({"a": "choice("}, [], r"hparams_search\.space: "),
        ({"a": "choice()"}, [], r"hparams_search\.space: "),
        (SPACE, ["hparams_search.n_trials=3,4"], "hparams_search.n_trials is a setting of the search itself"),
    ],
)
def test_what_is_no_range_is_one_line(space: dict[str, str], arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        read_ranges(space, arguments)
    assert "\n" not in str(raised.value)


def test_a_grid_has_every_value() -> None:
    space = {
        "a": CategoricalDistribution(["x", "y"]),
        "b": IntDistribution(2, 8, step=3),
        "c": FloatDistribution(0.0, 0.5, step=0.25),
    }
    assert grid(space) == {"a": ["x", "y"], "b": [2, 5, 8], "c": [0.0, 0.25, 0.5]}
    with pytest.raises(UserError, match="hparams_search=grid can't list all of lr: give choice"):
        grid({"lr": FloatDistribution(0, 1)})


def two_widths(embed_dims: list[int] | None, heads: list[int]) -> Space:
    settings: dict[str, BaseDistribution] = {"model.num_heads": CategoricalDistribution(heads)}
    if embed_dims:
        settings["model.embed_dim"] = CategoricalDistribution(embed_dims)
    return Space({(): Branch([], settings, embed_dim=100)})


@pytest.mark.parametrize("embed_dims", [[64, 100, 12], None])
def test_heads_always_divide_the_width(embed_dims: list[int] | None) -> None:
    space = two_widths(embed_dims, [1, 2, 4, 8, 25])
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn: Counter[tuple[int, int]] = Counter()
    for _ in range(60):
        values = {key: int(value) for key, value in (item.split("=") for item in space.suggest(study.ask()))}
        width = values.get("model.embed_dim", 100)
        assert width % values["model.num_heads"] == 0
        drawn[width, values["model.num_heads"]] += 1
    assert drawn[100, 25] > 0 and (not embed_dims or drawn[64, 8] > 0)
    assert space.size() == (4 + 4 + 3 if embed_dims else 4)
    with pytest.raises(UserError, match=r"no model.num_heads of .* divides embed_dim=100"):
        two_widths(None, [3, 7]).suggest(study.ask())


def test_a_setting_that_the_model_does_not_have_leaves_the_space(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    space = make(tmp_path, "model=bag")
    assert space.parts == ["pe"] and set(space.branches) == {("none",), ("sinusoidal",), ("learned",)}
    assert "model.num_heads" not in space.branches["none",].settings
    assert drawn_from(space, "model.pooling", "none") == ("cls", "max", "mean")
    assert caplog.messages == ["Not searched: model.num_heads (model=bag has no such setting)"]


@pytest.mark.parametrize("arguments", [["model=ngram_bag"], ["experiment=ag_news", "data=headlines"]])
def test_a_value_that_the_model_refuses_leaves_the_space(
    arguments: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    space = make(tmp_path, *arguments)
    assert space.parts == [] and drawn_from(space, "model.embed_dim") == (64, 100, 128, 256)
    assert {"pe=none", "model.pooling=mean"} < set(space.branches[()].fixed)  # one value left is no longer drawn
    assert "pe=sinusoidal, pe=learned (model=ngram_bag sees order in its n-grams" in caplog.text
    assert "model.pooling=cls (model.pooling=cls is not for model=ngram_bag" in caplog.text


def test_each_model_of_a_sweep_has_the_settings_that_are_its_own(tmp_path: Path) -> None:
    space = make(tmp_path, "model=bag,ngram_bag,attention", "pe=none,rotary", "model.num_layers=1,2")
    assert space.parts == ["model", "pe"]
    assert set(space.branches) == {
        ("bag", "none"),  # rotary acts inside attention
        ("ngram_bag", "none"),
        ("attention", "none"),
        ("attention", "rotary"),
    }
    assert drawn_from(space, "model.num_layers", "bag", "none") is None
    assert drawn_from(space, "model.num_layers", "attention", "rotary") == (1, 2)
    assert drawn_from(space, "model.pooling", "ngram_bag", "none") == ("mean",)
    params = {"model": "ngram_bag", "pe of none": "none", "model.pooling of mean": "mean", "optimizer.lr": 0.001}
    params |= {"data.batch_size": 16, "tokenizer.max_length": 32, "model.embed_dim": 64}
    overrides = space.suggest(FixedTrial(params))
    assert {"model=ngram_bag", "pe=none", "model.pooling=mean"} < set(overrides) and "num_heads" not in str(overrides)


@pytest.mark.parametrize(
    ("arguments", "name", "has", "lacks"),
    [
        (["pe=learned,none", "pe.max_len=null,128"], "pe.max_len", "learned", "none"),
        (["optimizer=sgd,adamw", "optimizer.momentum=0.8,0.9", "pe=none"], "optimizer.momentum", "sgd", "adamw"),
        (["model=attention,bag", "model.num_heads=4", "pe=none"], "model.num_heads=4", "attention", "bag"),
    ],
)
def test_parts_of_any_group_have_settings_of_their_own(
    arguments: list[str], name: str, has: str, lacks: str, tmp_path: Path
) -> None:
    space = make(tmp_path, *arguments)
    with_it, without = space.branches[has,], space.branches[lacks,]
    assert name in {**with_it.settings, **dict.fromkeys(with_it.fixed)}
    assert name not in {**without.settings, **dict.fromkeys(without.fixed)}


def test_an_optimizer_that_takes_no_sparse_gradients_is_not_tried_on_them(tmp_path: Path) -> None:
    space = make(tmp_path, "model=ngram_bag,bag", "optimizer=adamw,adagrad", "pe=none")
    assert set(space.branches) == {("ngram_bag", "adagrad"), ("bag", "adamw"), ("bag", "adagrad")}


def test_a_value_stays_where_another_setting_makes_room_for_it(tmp_path: Path) -> None:
    """8 heads do not divide the default width of 100, nor 3 any width but 96."""
    space = make(tmp_path, "model.embed_dim=96,64", "model.num_heads=3,8,5", "pe=none")
    assert drawn_from(space, "model.num_heads") == (3, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["model.num_hedas=1,2"],
            r"model.num_hedas can't be searched: model=attention has no such setting; it has .*he",
        ),
        (["model=bag", "model.num_heads=1,2"], "model.num_heads can't be searched: model=bag has no such setting"),
        (["seeed=1,2"], "seeed can't be searched"),
        (["pe=none,foo"], "Could not find 'pe/foo' Available options in 'pe': alibi learned"),
        (["model=ngram_bag", "pe=rotary,alibi"], "no trial could build its model: model=ngram_bag sees order"),
    ],
)
def test_a_setting_that_exists_nowhere_is_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as raised:
        make(tmp_path, *arguments)
    assert "\n" not in str(raised.value)


def test_a_typo_in_a_space_of_ones_own_is_one_line(tmp_path: Path) -> None:
    config = compose_search(tmp_path, "model=bag")
    config.hparams_search.space = {"model.num_hedas": "choice(1, 2)"}
    with pytest.raises(UserError, match=r"model.num_hedas can't be searched: model=bag has no such setting; it has"):
        build_space(config, list(config.hydra.overrides.task), config_loader())


def test_where_everything_leaves_nothing_is_left_to_search(tmp_path: Path) -> None:
    fixed = ["optimizer.lr=0.1", "data.batch_size=8", "tokenizer.max_length=8", "model.embed_dim=8", "model=bag"]
    with pytest.raises(UserError, match=r"there is nothing to search; model.num_heads \(model=bag has no such setting"):
        make(tmp_path, *fixed, "pe=none", "model.pooling=max")


@pytest.mark.parametrize(
    ("arguments", "size"),
    [([], 16), (["model=bag"], 8), (["model=bag,attention"], 8 + 16), (["model=ngram_bag"], 0)],
)
def test_the_size_of_a_grid(arguments: list[str], size: int, tmp_path: Path) -> None:
    if not size:  # of the grid's pooling, cls or max, it takes neither
        with pytest.raises(UserError, match=r"no trial could build its model: model.*ngram_bag"):
            make(tmp_path, *arguments, search="grid")
    else:
        assert make(tmp_path, *arguments, search="grid").size() == size


@pytest.mark.parametrize("model", sorted(file.stem for file in (ROOT / "conf" / "model").glob("*.yaml")))
def test_every_model_can_be_built_for_a_look(model: str, encoder: Path) -> None:
    path = [f"model.path={encoder}", "tokenizer.max_length=64"] if model == "pretrained" else []
    with initialize_config_dir(str(ROOT / "conf")):
        config = compose("train", overrides=[f"model={model}", *path])
    assert infeasibility_reason(config, {}) is None
    assert infeasibility_reason(config, {"model.pooling": "foo"}) is not None


def test_vectors_decide_the_width_and_their_settings_are_searched(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "glove.txt").write_text("oil 1 2 3 4 5 6\n")
    vectors = [f"embedding.path={tmp_path}/glove.txt", "embedding.scale=0.1,0.3", "embedding.freeze=true,false"]
    with caplog.at_level(logging.INFO):
        space = make(tmp_path, "embedding=static", "pe=none", *vectors)
    assert drawn_from(space, "embedding.scale") == (0.1, 0.3) and drawn_from(space, "embedding.freeze")
    assert drawn_from(space, "model.embed_dim") is None and drawn_from(space, "model.num_heads") == (1, 2)
    assert "model.embed_dim (the vectors of embedding.path decide it)" in caplog.text
    with pytest.raises(UserError, match=r"embedding\.path=nowhere is neither"):
        make(tmp_path, "embedding=static", "embedding.path=nowhere")


def test_a_part_that_the_model_does_not_use_is_not_searched(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    space = make(
        tmp_path,
        "model.pe={_target_: attnlab.models.positional.PositionalEncoding, _partial_: true}",
        "optimizer.lr=0.1,0.01",
        "pe=none,learned",
    )
    assert "pe" not in space.parts and "optimizer.lr" in space.branches[()].settings
    assert "the model does not use it" in caplog.text
