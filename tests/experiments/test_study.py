from pathlib import Path

import optuna
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import TrialState

from attnlab.config import resolve
from attnlab.errors import UserError
from attnlab.experiments.space import Branch, Space
from attnlab.experiments.study import REASON, counted, find_same, open_study, prepare
from tests.conftest import ROOT

SPACE = {"optimizer.lr": "tag(log, interval(1e-4, 1e-2))", "pe": "choice(none, learned)"}


def compose_search(folder: Path, *overrides: str, search: str = "optuna") -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf")):
        every = [f"hparams_search={search}", f"paths.log_dir={folder}", *overrides]
        config = compose("train", overrides=every, return_hydra_config=True)
    return prepare(config)


def config_loader() -> ConfigLoader:
    """What composes the configs of jobs, as Hydra hands it to a sweeper."""
    with initialize_config_dir(str(ROOT / "conf")):
        return GlobalHydra.instance().config_loader()


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
    complete = TrialState.COMPLETE
    assert find_same(study, trials[1], complete) is None and find_same(study, trials[2], complete) is None
    same = find_same(study, trials[3], complete)
    assert same is not None and same.number == 2


def test_a_storage_that_is_none_is_one_line_without_the_password(tmp_path: Path) -> None:
    settings = resolve(compose_search(tmp_path).hparams_search)
    space = Space({(): Branch([], {"optimizer.lr": FloatDistribution(1e-4, 1e-2)})})
    for storage, message in [("foo://me:secret@x", r"foo://me:\*\*\*@x can't"), ("sqlite:////no/where.db", "sqlite:/")]:
        with pytest.raises(UserError, match=rf"hparams_search\.storage={message}"):
            open_study(settings | {"storage": storage}, "min", space)


def test_a_study_of_the_other_direction_is_another_study(tmp_path: Path) -> None:
    settings = resolve(compose_search(tmp_path, "hparams_search.study_name=mine").hparams_search)
    space = Space({(): Branch([], {"optimizer.lr": FloatDistribution(1e-4, 1e-2)})})
    open_study(settings, "min", space)
    with pytest.raises(UserError, match="the study mine exists and is to minimize, but this search is to maximize"):
        open_study(settings, "max", space)
