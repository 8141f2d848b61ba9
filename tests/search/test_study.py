from collections import Counter
from pathlib import Path

import optuna
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from attnlab.errors import UserError
from attnlab.search.study import REASON, counted, find_same, grid, make_space, open_study, prepare, suggest
from tests.conftest import ROOT

SPACE = {"optimizer.lr": "tag(log, interval(1e-4, 1e-2))", "pe": "choice(none, learned)"}


def compose_search(folder: Path, *overrides: str, search: str = "optuna") -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf")):
        every = [f"hparams_search={search}", f"paths.log_dir={folder}", *overrides]
        config = compose("train", overrides=every, return_hydra_config=True)
    return prepare(config)


def test_the_name_of_a_study_is_made_of_all_that_decides_what_it_finds(tmp_path: Path) -> None:
    name = compose_search(tmp_path).hparams_search.study_name
    same = ["hparams_search.n_trials=40", "hparams_search.storage=sqlite:///x.db", "hparams_search.max_failure_share=1"]
    for override in same:
        assert compose_search(tmp_path, override).hparams_search.study_name == name
    assert compose_search(tmp_path / "elsewhere", "logger=wandb").hparams_search.study_name == name
    others = ["optimizer.weight_decay=0.1", "data=ag_news", "hparams_search.space.pe='choice(none,rotary)'", "seed=1"]
    for override in others:
        assert compose_search(tmp_path, override).hparams_search.study_name != name
    assert compose_search(tmp_path, search="random").hparams_search.study_name != name
    assert compose_search(tmp_path, "hparams_search.study_name=mine").hparams_search.study_name == "mine"


def test_each_study_has_a_folder_and_a_storage_of_its_own(tmp_path: Path) -> None:
    config = compose_search(tmp_path)
    folder = tmp_path / "train" / "searches" / config.hparams_search.study_name
    assert config.hydra.sweep.dir == str(folder) and folder.is_dir()
    assert config.hparams_search.storage == f"sqlite:///{folder}/study.db"


def test_the_command_line_adds_to_the_space_and_takes_out_of_it() -> None:
    space, fixed = make_space({"space": SPACE}, ["pe=rotary", "model.pooling=cls,max", "seed=3", "~model.dropout"])
    assert space == {
        "optimizer.lr": FloatDistribution(1e-4, 1e-2, log=True),
        "model.pooling": CategoricalDistribution(["cls", "max"]),
    }
    assert fixed == ["pe=rotary", "seed=3", "~model.dropout"]
    with pytest.raises(UserError, match="there is nothing to search"):
        make_space({"space": SPACE}, ["pe=none", "optimizer.lr=1"])
    with pytest.raises(UserError, match=r"hparams_search\.space: .*at least one value"):
        make_space({"space": {"a": "range(3, 3)"}}, [])


def test_a_grid_has_every_value() -> None:
    space = {
        "a": CategoricalDistribution(["x", "y"]),
        "b": IntDistribution(2, 8, step=3),
        "c": FloatDistribution(0.0, 0.5, step=0.25),
    }
    assert grid(space) == {"a": ["x", "y"], "b": [2, 5, 8], "c": [0.0, 0.25, 0.5]}
    with pytest.raises(UserError, match="hparams_search=grid can't list all of lr: give choice"):
        grid({"lr": FloatDistribution(0, 1)})


@pytest.mark.parametrize("embed_dims", [[64, 100, 12], None])
def test_heads_always_divide_the_width(embed_dims: list[int] | None) -> None:
    space = {"model.num_heads": CategoricalDistribution([1, 2, 4, 8, 25])}
    if embed_dims:
        space["model.embed_dim"] = CategoricalDistribution(embed_dims)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn: Counter[tuple[int, int]] = Counter()
    for _ in range(60):
        values = suggest(study.ask(), space, embed_dim=100)
        width = values.get("model.embed_dim", 100)
        assert width % values["model.num_heads"] == 0
        drawn[width, values["model.num_heads"]] += 1
    assert drawn[100, 25] > 0 and (not embed_dims or drawn[64, 8] > 0)
    with pytest.raises(UserError, match=r"no model.num_heads of .* divides embed_dim=7"):
        suggest(study.ask(), {"model.num_heads": CategoricalDistribution([2, 4])}, embed_dim=7)


def test_what_died_with_its_process_does_not_count() -> None:
    study = optuna.create_study()
    failed, died, done, running = (study.ask() for _ in range(4))
    failed.set_user_attr(REASON, "out of memory")
    study.tell(failed, state=TrialState.FAIL)
    study.tell(died, state=TrialState.FAIL)
    study.tell(done, 1.0)
    assert [trial.number for trial in counted(study)] == [failed.number, done.number, running.number]


def test_an_equal_trial_that_has_a_value_is_found() -> None:
    study = optuna.create_study()
    trials = [study.ask() for _ in range(4)]
    for trial, x in zip(trials, (1, 2, 1, 1), strict=True):
        trial._suggest("x", IntDistribution(x, x))
    study.tell(trials[0], state=TrialState.PRUNED)
    study.tell(trials[2], 0.5)
    assert find_same(study, trials[1]) is None and find_same(study, trials[2]) is None
    same = find_same(study, trials[3])
    assert same is not None and same.number == 2


def test_a_continued_search_does_not_draw_its_first_settings_again(tmp_path: Path) -> None:
    settings = dict(compose_search(tmp_path, search="random").hparams_search)
    space, _ = make_space({"space": SPACE}, [])
    first = suggest(open_study(settings, "min", space).ask(), space, None)
    second = suggest(open_study(settings, "min", space).ask(), space, None)
    assert first["optimizer.lr"] != second["optimizer.lr"]


def test_a_storage_that_is_none_is_one_line_without_the_password() -> None:
    settings = {"storage": "foo://me:secret@x", "study_name": "s", "pruner": {"_target_": "optuna.pruners.NopPruner"}}
    with pytest.raises(UserError, match=r"hparams_search\.storage=foo://me:\*\*\*@x can't be opened: .*foo"):
        open_study(settings, "min", {})
