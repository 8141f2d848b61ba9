"""Every sampler and pruner of Optuna, as a user names it in a config: it works, or one line says what to do."""

import json
import re
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from attnlab.config import resolve
from attnlab.errors import UserError
from attnlab.experiments.space import Branch, Space
from attnlab.experiments.study import exhausted_is_fine, make_sampler, open_study
from tests.experiments.test_study import compose_search

Config = dict[str, Any]
WIDTHS: dict[str, BaseDistribution] = {"model.embed_dim": CategoricalDistribution([8, 12])}
STEPS: dict[str, BaseDistribution] = {"data.batch_size": IntDistribution(8, 24, step=8)}
RANGES: dict[str, BaseDistribution] = {"optimizer.lr": FloatDistribution(1e-4, 1e-2, log=True)}
FINITE = Space({("bag",): Branch([], WIDTHS), ("attention",): Branch([], WIDTHS | STEPS, embed_dim=8)}, parts=["model"])
CONDITIONAL = Space(
    {("bag",): Branch([], RANGES), ("attention",): Branch([], RANGES | WIDTHS | STEPS, embed_dim=8)}, parts=["model"]
)
RANDOM = {"_target_": "optuna.samplers.RandomSampler", "seed": 1}
MEDIAN = {"_target_": "optuna.pruners.MedianPruner"}

SAMPLERS: list[tuple[str, Config, str | None]] = [
    ("RandomSampler", {}, None),
    ("TPESampler", {}, None),
    ("TPESampler", {"multivariate": True, "group": True, "n_startup_trials": 2}, None),
    ("TPESampler", {"multivariate": True, "constant_liar": True, "n_startup_trials": 2}, None),
    ("NSGAIISampler", {"population_size": 4}, None),
    ("NSGAIIISampler", {"population_size": 4}, None),
    ("QMCSampler", {}, None),
    ("QMCSampler", {"qmc_type": "halton", "scramble": True}, None),
    ("GPSampler", {"n_startup_trials": 3, "deterministic_objective": True}, None),
    ("BruteForceSampler", {}, None),
    ("PartialFixedSampler", {"fixed_params": {"model": "bag"}, "base_sampler": RANDOM}, None),
    ("CmaEsSampler", {}, "pip install -c constraints.txt cmaes"),
    ("GridSampler", {"search_space": {"x": [1]}}, "GridSampler knows no settings that only some parts have; use hpar"),
    ("GridSampler", {}, "missing 1 required positional argument: 'search_space'"),
    ("PartialFixedSampler", {}, "missing 2 required positional arguments: 'fixed_params' and 'base_sampler'"),
    ("PartialFixedSampler", {"fixed_params": {"model": "foo"}, "base_sampler": RANDOM}, "can't be used: .*foo"),
    ("TPESampler", {"n_startup_trials": "many"}, "optuna.samplers.TPESampler can't be used: "),
    ("TPESampler", {"multivariate": False, "group": True}, "option can only be enabled when ``multivariate`` is"),
    ("NSGAIISampler", {"population_size": 1}, "`population_size` must be greater than or equal to 2"),
    ("QMCSampler", {"qmc_type": "foo"}, "`qmc_type='foo'` is invalid"),
    ("RandomSampler", {"foo": 1}, r"unexpected keyword argument 'foo'; ~hparams_search.sampler.<argument> removes one"),
    ("BaseSampler", {}, "Can't instantiate abstract class BaseSampler"),
    ("BaseGASampler", {}, "BaseGASampler"),
    ("nsgaii", {}, "Expected a callable"),
    ("nsgaii.UniformCrossover", {}, "UniformCrossover is no sampler; choose one of optuna.samplers"),
    ("BoTorchSampler", {}, "Error locating target 'optuna.samplers.BoTorchSampler'"),
]
PRUNERS: list[tuple[str, Config, str | None]] = [
    ("NopPruner", {}, None),
    ("MedianPruner", {"n_startup_trials": 1}, None),
    ("PercentilePruner", {"percentile": 25.0, "n_startup_trials": 1}, None),
    ("PatientPruner", {"wrapped_pruner": MEDIAN, "patience": 1}, None),
    ("PatientPruner", {"wrapped_pruner": None, "patience": 1}, None),
    ("SuccessiveHalvingPruner", {}, None),
    ("HyperbandPruner", {"max_resource": 9}, None),
    ("HyperbandPruner", {}, None),
    ("ThresholdPruner", {"upper": 100.0}, None),
    ("WilcoxonPruner", {"n_startup_steps": 1}, None),
    ("BasePruner", {}, "Can't instantiate abstract class BasePruner"),
    ("MedianPruner", {"n_startup_trials": -1}, "cannot be negative, but got n_startup_trials=-1"),
    ("PercentilePruner", {"percentile": 200.0}, "Percentile must be between 0 and 100"),
    ("PercentilePruner", {}, "missing 1 required positional argument: 'percentile'"),
    ("PatientPruner", {"patience": -1, "wrapped_pruner": None}, "patience cannot be negative but got -1"),
    ("PatientPruner", {}, "missing 2 required positional arguments"),
    ("ThresholdPruner", {}, "Either lower or upper must be specified"),
    ("HyperbandPruner", {"max_resource": 0}, "hparams_search.pruner.max_resource=0 should be .*greater than or equal"),
    ("HyperbandPruner", {"max_resource": -1}, "hparams_search.pruner.max_resource=-1 should be .*greater than or"),
    ("HyperbandPruner", {"reduction_factor": 1}, "HyperbandPruner can't be used: "),
    ("SuccessiveHalvingPruner", {"min_resource": 0}, "min_resource"),
    ("WilcoxonPruner", {"p_threshold": 2.0}, "p_threshold must be between 0 and 1"),
    ("Foo", {}, "Error locating target 'optuna.pruners.Foo'"),
]


def public(package: Any) -> set[str]:
    return {name for name in package.__all__ if isinstance(getattr(package, name), type)}


def test_the_tables_name_all_of_them() -> None:
    assert public(optuna.samplers) <= {name for name, _, _ in SAMPLERS}
    assert public(optuna.pruners) <= {name for name, _, _ in PRUNERS}


def search(folder: Path, kind: str, target: str, arguments: Config, space: Space) -> optuna.Study:
    """Six trials, each of two epochs, with the rest as `hparams_search=random` has it."""
    given = re.sub(r'"(\w+)":', r"\1:", json.dumps({"_target_": target, **arguments}))  # Hydra's keys have no quotes
    overrides = [f"++hparams_search.{kind}={given}", "trainer.max_epochs=2", "hparams_search.study_name=tried"]
    config = compose_search(folder, *overrides, search="random")
    study = open_study(resolve(config.hparams_search), "min", space)
    for number in range(6):
        trial = study.ask()
        study.sampler = make_sampler(resolve(config.hparams_search), trial.number)
        space.suggest(trial)
        for epoch in (1, 2):
            trial.report(float(number), step=epoch)
            trial.should_prune()
        with exhausted_is_fine():
            study.tell(trial, float(number))
    return study


@pytest.mark.slow  # a second each
@pytest.mark.parametrize(
    ("part", "name", "arguments", "message"),
    [*(("sampler", *case) for case in SAMPLERS), *(("pruner", *case) for case in PRUNERS)],
)
def test_a_sampler_or_pruner_searches_or_is_one_line(
    part: str, name: str, arguments: Config, message: str | None, tmp_path: Path
) -> None:
    target, space = f"optuna.{part}s.{name}", FINITE if name == "BruteForceSampler" else CONDITIONAL
    if message is None:
        assert search(tmp_path, part, target, arguments, space).best_trial.number == 0
    else:
        with pytest.raises(UserError, match=message) as raised:
            search(tmp_path, part, target, arguments, space)
        assert str(raised.value).startswith(f"hparams_search.{part}") and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("kind", "target", "message"),
    [
        ("sampler", "os.system", "hparams_search.sampler: os.system: .*authorized"),
        ("sampler", "optuna.pruners.NopPruner", "optuna.pruners.NopPruner is no sampler"),
        ("pruner", "optuna.samplers.RandomSampler", "optuna.samplers.RandomSampler is no pruner"),
        ("pruner", "optuna.integration.Foo", "is not in the Hydra execution whitelist"),
    ],
)
def test_what_is_none_is_one_line(kind: str, target: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        search(tmp_path, kind, target, {}, CONDITIONAL)


def test_brute_force_goes_through_a_conditional_space_once(tmp_path: Path) -> None:
    study = search(tmp_path, "sampler", "optuna.samplers.BruteForceSampler", {}, FINITE)
    while len(study.trials) < FINITE.size():
        FINITE.suggest(trial := study.ask())
        with exhausted_is_fine():
            study.tell(trial, 1.0)
    assert FINITE.size() == 2 + 2 * 3
    assert len({tuple(sorted(trial.params.items())) for trial in study.trials}) == 8


def test_hyperband_wants_a_number_of_epochs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"hparams_search.pruner.max_resource=-1 should be .*greater than or"):
        compose_search(tmp_path, "hparams_search/pruner=hyperband", "trainer.max_epochs=-1")


def test_a_continued_search_draws_no_trial_again_also_inside_of_another_sampler(tmp_path: Path) -> None:
    arguments = {"fixed_params": {"model": "attention"}, "base_sampler": RANDOM}
    search(tmp_path, "sampler", "optuna.samplers.PartialFixedSampler", arguments, CONDITIONAL)
    again = search(tmp_path, "sampler", "optuna.samplers.PartialFixedSampler", arguments, CONDITIONAL)
    assert len({trial.params["optimizer.lr"] for trial in again.trials}) == 12


@pytest.mark.parametrize(
    "sampler",
    [
        {"_target_": "optuna.samplers.RandomSampler"},
        {"_target_": "optuna.samplers.TPESampler", "multivariate": True, "group": True, "n_startup_trials": 2},
        {"_target_": "optuna.samplers.QMCSampler", "scramble": True, "warn_independent_sampling": False},
    ],
)
def test_searches_that_ask_together_draw_different_trials_and_the_same_ones_each_time(
    sampler: Config, tmp_path: Path
) -> None:
    def ask_in_pairs(file: Path, seed: int) -> list[float]:
        """Both ask before either draws."""
        settings = {"sampler": sampler | {"seed": seed}}
        study = optuna.create_study(study_name="one", storage=f"sqlite:///{file}")
        searches = [study, optuna.load_study(study_name="one", storage=study._storage)]
        for _ in range(4):
            for one, trial in [(one, one.ask()) for one in searches]:
                one.sampler = make_sampler(settings, trial.number)
                one.tell(trial, trial.suggest_float("lr", 1e-4, 1e-2, log=True))
        return [trial.params["lr"] for trial in study.trials]

    first = ask_in_pairs(tmp_path / "first.db", seed=0)
    assert first == ask_in_pairs(tmp_path / "again.db", seed=0) and len(set(first)) == 8
    assert not set(first) & set(ask_in_pairs(tmp_path / "other.db", seed=1))
