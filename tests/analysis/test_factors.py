from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from attnlab.analysis.factors import find_factors
from attnlab.analysis.runs import read_runs
from attnlab.composing import compose
from attnlab.errors import UserError
from tests.analysis.fake import write_run

LEARNED = "attnlab.models.positional.Learned"


def test_a_factor_is_named_and_valued_as_on_the_command_line(tmp_path: Path) -> None:
    for i, (pe, dropout) in enumerate([("sinusoidal", 0.0), ("learned", 0.0), ("learned", 0.5)]):
        target = {"pe._target_": LEARNED, "pe.max_len": None} if pe == "learned" else {}
        write_run(tmp_path / str(i), {"model.dropout": dropout, **target}, seed=i, choices={"pe": pe})
    factors = find_factors(read_runs([tmp_path])[0])
    assert factors.values.to_dict("list") == {
        "model.dropout": ["0.0", "0.0", "0.5"],
        "pe": ["sinusoidal", "learned", "learned"],
    }
    assert factors.companions == {"pe": [], "model.dropout": []}
    assert factors.named("dropout") == factors.named("model.dropout") == "model.dropout"
    with pytest.raises(UserError, match=r"by=seed does not differ .* what differs: model.dropout, pe"):
        factors.named("seed")


def test_without_hydras_record_a_part_is_named_by_its_class(tmp_path: Path) -> None:
    write_run(tmp_path / "0")
    write_run(tmp_path / "1", {"pe._target_": LEARNED})
    assert find_factors(read_runs([tmp_path])[0]).values.to_dict("list") == {"pe": ["Sinusoidal", "Learned"]}


def test_what_always_changes_together_is_one_factor(tmp_path: Path) -> None:
    bag = {"model.num_layers": 0, "optimizer.lr": 0.01, "trainer.max_epochs": 5}
    write_run(tmp_path / "0", bag, choices={"model": "bag"})
    write_run(tmp_path / "1", choices={"model": "attention"})
    write_run(tmp_path / "2", {"model.pooling": "max"}, choices={"model": "attention"})
    factors = find_factors(read_runs([tmp_path])[0])
    assert list(factors.values) == ["model", "model.pooling"]
    assert factors.companions["model"] == ["optimizer.lr", "trainer.max_epochs"]
    assert factors.named("optimizer.lr") == "model"
    assert factors.differing_budget() == ["trainer.max_epochs"] and factors.differing_data() == []


def test_an_absent_setting_keeps_the_others_as_they_were_written(tmp_path: Path) -> None:
    for i, limit in enumerate([None, 1000, 2000]):
        write_run(tmp_path / str(i), {"data.limit": limit, "data.text": ["title", "text"][: i + 1]})
    factors = find_factors(read_runs([tmp_path])[0])
    assert factors.values["data.limit"].tolist() == ["null", "1000", "2000"]
    assert factors.differing_data() == ["data.text"] and factors.differing_budget() == ["data.limit"]


def test_seeds_tags_and_workers_are_no_factors(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path / str(seed), seed=seed)
    assert find_factors(read_runs([tmp_path])[0]).values.shape == (3, 0)


def test_vectors_are_one_factor_with_the_width_that_they_bring(tmp_path: Path) -> None:
    static = {"embedding": {"_target_": "attnlab.data.vectors.StaticVectors", "path": "x", "freeze": False}}
    for i, seed in enumerate([0, 1]):
        write_run(tmp_path / f"random{i}", {"embedding": {"path": None}}, seed=seed, choices={"embedding": "random"})
        changes = {**static, "model.embed_dim": 256}
        write_run(tmp_path / f"static{i}", changes, seed=seed, choices={"embedding": "static"})
    factors = find_factors(read_runs([tmp_path])[0])
    assert factors.values.to_dict("list") == {"embedding": ["random", "random", "static", "static"]}
    assert factors.companions == {"embedding": ["model.embed_dim"]}


def test_other_numbers_of_devices_are_other_settings(tmp_path: Path) -> None:
    """Each takes a batch of its own, so more of them train with a larger one."""
    asked: list[dict[str, Any]] = [{"devices": 1}, {"devices": 2}, {"devices": 1, "num_nodes": 2}, {"devices": "auto"}]
    for place, trainer in enumerate(asked):
        run = write_run(tmp_path / str(place), {f"trainer.{key}": value for key, value in trainer.items()})
        if trainer["devices"] == "auto":
            (run / "environment.json").write_text('{"devices": 4}')
    factors = find_factors(read_runs([tmp_path])[0])
    assert factors.values.to_dict("list") == {"trainer.devices": ["1", "2", "2", "4"]}


def test_runs_of_a_notebook_are_compared_as_those_of_the_command_line(tmp_path: Path) -> None:
    """Where no `.hydra` folder tells of the files in conf/, as of `train(compose(...))`."""
    for place, pe in enumerate(("none", "learned")):
        config = OmegaConf.to_container(compose(f"pe={pe}", f"paths.log_dir={tmp_path}"), resolve=True)
        assert isinstance(config, dict)
        run = write_run(tmp_path / str(place))
        (run / "config.yaml").write_text(OmegaConf.to_yaml(config))
    factors = find_factors(read_runs([tmp_path])[0])
    assert factors.values.to_dict("list") == {"pe": ["none", "learned"]} and factors.companions == {"pe": []}
