import json
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from attnlab.analysis.comparison import make_study
from attnlab.errors import UserError
from attnlab.reports.comparison import display_rows
from tests.analysis.fake import write_run, write_sweep

POOLINGS = {"cls": 0.8, "max": 0.85, "mean": 0.802}


def write_grid(folder: Path) -> Path:
    """Two factors and three seeds; max pooling is better whatever the heads, the heads change nothing."""
    rng = np.random.default_rng(1)
    for job, (heads, pooling, seed) in enumerate(product((1, 2), POOLINGS, range(3))):
        accuracy = POOLINGS[pooling] + 0.004 * rng.standard_normal()
        changes = {"model.pooling": pooling, "model.num_heads": heads}
        write_run(folder / str(job), changes, seed=seed, accuracy=accuracy, num_documents=4000)
    return folder


def test_one_factor_is_found_and_its_first_value_is_the_reference(tmp_path: Path) -> None:
    study = make_study([write_sweep(tmp_path, "model.pooling", POOLINGS)])
    (comparison,) = study.comparisons
    assert comparison.by == ["model.pooling"] and comparison.reference == {"model.pooling": "cls"}
    rows = comparison.rows
    assert list(rows.index) == ["cls", "max", "mean"] and rows["runs"].tolist() == [5, 5, 5]
    assert rows.loc["max", "difference"] == pytest.approx(0.05, abs=0.01)
    assert rows.loc["cls", "verdict"] == "reference"
    assert rows.loc["mean", "verdict"].startswith("no difference that 5 seeds can show (smallest that they could: ")
    assert rows.loc["max", "model/parameters"] == 1234 and rows.loc["max", "train/seconds"] == 12
    assert study.warnings == []


def test_a_clear_difference_is_better_and_from_the_other_side_worse(tmp_path: Path) -> None:
    folder = write_grid(tmp_path)
    better = make_study([folder], ["pooling"]).comparisons[0].rows["verdict"]
    assert better.to_dict()["max"] == "better"
    worse = make_study([folder], ["model.pooling"], "max").comparisons[0].rows
    assert worse.index[0] == "max" and set(worse["verdict"][1:]) == {"worse"}
    by_loss = make_study([folder], ["pooling"], metric="test/loss").comparisons[0].rows
    assert by_loss.loc["max", "verdict"] == "better" and by_loss.loc["max", "difference"] < 0


def test_a_factor_is_compared_with_all_else_equal(tmp_path: Path) -> None:
    study = make_study([write_grid(tmp_path)], ["model.pooling"])
    rows = study.comparisons[0].rows
    assert rows["runs"].tolist() == [6, 6, 6] and rows.loc["max", "pairs"] == 6
    write_run(tmp_path / "alone", {"model.pooling": "max", "model.num_heads": 10}, accuracy=0.1)
    again = make_study([tmp_path], ["model.pooling"])
    assert again.comparisons[0].rows.loc["max", "difference"] == pytest.approx(rows.loc["max", "difference"])
    assert "1 runs have no counterpart that differs in model.pooling alone" in again.warnings


def test_several_factors_are_compared_together_and_one_by_one(tmp_path: Path) -> None:
    study = make_study([write_grid(tmp_path)])
    assert [comparison.title for comparison in study.comparisons] == [
        "All settings",
        "Only model.pooling differs",
        "Only model.num_heads differs",
    ]
    together, _, heads = (comparison.rows for comparison in study.comparisons)
    assert len(together) == 6 and "pooling=max, num_heads=2" in together.index
    assert heads["verdict"].tolist()[1].startswith("no difference that 9 pairs can show")


def test_the_reference_is_the_setting_that_the_others_are_nearest_to(tmp_path: Path) -> None:
    settings: list[dict[str, object]] = [{"model.num_heads": 1}, {"model.pooling": "max"}, {}, {"optimizer.lr": 0.1}]
    for job, changes in enumerate(settings):
        for seed in range(2):
            write_run(tmp_path / f"{job}-{seed}", changes, seed=seed)
    comparison = make_study([tmp_path]).comparisons[0]
    assert comparison.reference == {"model.pooling": "cls", "model.num_heads": "2", "optimizer.lr": "0.001"}
    assert list(comparison.rows.index) == ["reference", "num_heads=1", "pooling=max", "lr=0.1"]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ({"pooling": "mean"}, "reference: pooling=mean fits 2 settings; .*: pooling=mean, num_heads=1; pooling=mean,"),
        ({"pooling": "foo"}, "fits no setting; give values that single one out, .* of: pooling=cls, num_heads=1"),
        ("max", "reference: max=. fits no setting"),
    ],
)
def test_a_reference_that_is_none_lists_what_there_is(
    reference: dict[str, str] | str, message: str, tmp_path: Path
) -> None:
    folder = write_grid(tmp_path)
    with pytest.raises(UserError, match=message):
        make_study([folder], None, reference)
    chosen = make_study([folder], None, {"pooling": "max", "model.num_heads": 2}).comparisons[0]
    assert chosen.reference == {"model.pooling": "max", "model.num_heads": "2"}


def test_one_seed_is_asked_over_documents_alone_and_says_so(tmp_path: Path) -> None:
    write_run(tmp_path / "0", num_documents=4000)
    write_run(tmp_path / "1", {"model.pooling": "max"}, accuracy=0.9, num_documents=4000)
    row = make_study([tmp_path]).comparisons[0].rows.loc["max"]
    assert row["verdict"] == "better on these documents; 1 seed only"
    assert row["pairs"] == 1 and row["p"] < 1e-6


def test_runs_of_one_setting_are_summed_up(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path / str(seed), seed=seed, accuracy=0.8 + seed / 100)
    (comparison,) = make_study([tmp_path]).comparisons
    assert list(comparison.rows.index) == ["reference"] and comparison.rows["test/acc mean"].item() == 0.81


def test_unfinished_runs_are_left_out_and_named(tmp_path: Path) -> None:
    write_sweep(tmp_path, "model.pooling", POOLINGS, seeds=range(2))
    (tmp_path / "0" / "metrics.json").unlink()
    (tmp_path / "3" / "metrics.json").write_text('{"test/acc": 0.')  # killed while it wrote
    (tmp_path / "9" / ".hydra").mkdir(parents=True)  # failed before it began
    shutil.copy(tmp_path / "0" / "config.yaml", tmp_path / "9" / ".hydra" / "config.yaml")
    study = make_study([tmp_path])
    assert "unfinished or failed, left out: 0, 3, 9" in study.warnings and len(study.runs) == 4


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({"data.validation": "test"}, "2 runs were selected on the test set"),
        ({"data.val": "x.csv", "data.test": "x.csv"}, "2 runs were selected on the test set"),
        ({"data.validation": 0.2}, "the runs differ in their data or its splits: data.validation"),
        ({"data.limit": 100}, "the runs differ in their training budget: data.limit"),
        ({"trainer.max_epochs": 99}, "the runs differ in their training budget: trainer.max_epochs"),
        ({"callbacks.early_stopping.patience": 3}, "training budget: callbacks.early_stopping"),
        ({"optimizer.lr": 0.1}, "model.pooling always changes together with optimizer.lr"),
    ],
)
def test_an_unfair_comparison_is_called_one(changes: dict[str, object], warning: str, tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path / f"a{seed}", seed=seed)
        write_run(tmp_path / f"b{seed}", {"model.pooling": "max", **changes}, seed=seed)
    assert warning in "\n".join(make_study([tmp_path]).warnings)


def test_seeds_that_differ_and_runs_that_repeat_are_called_so(tmp_path: Path) -> None:
    for name, pooling, seed in (("a", "cls", 0), ("b", "cls", 1), ("c", "cls", 1), ("d", "max", 0), ("e", "max", 2)):
        write_run(tmp_path / name, {"model.pooling": pooling}, seed=seed, accuracy=0.9 if name == "c" else 0.8)
    study = make_study([tmp_path])
    assert any(warning.startswith("1 runs repeat another's settings") for warning in study.warnings)
    assert any(warning.startswith("not every setting was run with the same seeds") for warning in study.warnings)
    assert study.comparisons[0].rows.loc["cls", "test/acc mean"] == pytest.approx(0.85)  # the last one counts


@pytest.mark.parametrize("fault", ["missing", "other documents", "cut off"])
def test_without_common_predictions_the_seeds_alone_are_asked(fault: str, tmp_path: Path) -> None:
    write_sweep(tmp_path, "model.pooling", POOLINGS, seeds=range(3))
    file = tmp_path / "1" / "predictions.parquet"
    table = pd.read_parquet(file)
    file.unlink()
    if fault == "cut off":
        file.write_bytes(b"PAR1")
    if fault == "other documents":
        table.assign(index=table["index"] + 1).to_parquet(file)
    study = make_study([tmp_path])
    assert "2 of 2 settings have no predictions on the test documents of the reference" in "\n".join(study.warnings)
    rows = study.comparisons[0].rows.iloc[1:]
    assert rows["p"].notna().all() and (rows["from_runs"] == 1).all()


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "sweep", "model.pooling", POOLINGS, seeds=[0])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="runs=nowhere is not a directory"):
        make_study([Path("nowhere")])
    with pytest.raises(UserError, match=r"no finished run below .*empty: one has config.yaml and metrics.json"):
        make_study([tmp_path / "empty"])
    with pytest.raises(UserError, match=r"metric=test/foo is not in .*; choose one of test/acc, test/f1, test/loss"):
        make_study([sweep], metric="test/foo")
    with pytest.raises(UserError, match="alpha=5 is a probability"):
        make_study([sweep], alpha=5)
    with pytest.raises(UserError, match=r"by=foo does not differ between these runs; what differs: model.pooling"):
        make_study([sweep], ["foo"])
    (sweep / "0" / "config.yaml").write_text("model: [")
    with pytest.raises(UserError, match=r"0.config.yaml can't be read"):
        make_study([sweep])


def test_no_two_runs_may_differ_in_a_factor_alone(tmp_path: Path) -> None:
    write_run(tmp_path / "0")
    write_run(tmp_path / "1", {"model.pooling": "max"})
    write_run(tmp_path / "2", {"model.pooling": "max", "optimizer.lr": 0.1, "trainer.max_epochs": 1})
    write_run(tmp_path / "3", {"model.num_heads": 1, "optimizer.lr": 0.2})
    with pytest.raises(UserError, match=r"by=model.num_heads: no two runs differ in this alone; what differs: model"):
        make_study([tmp_path], ["num_heads"])


def test_what_the_data_lost_is_a_caveat(tmp_path: Path) -> None:
    """Where it is much; runs of older versions have no such metrics, and a little is not worth a line."""
    losses: dict[int, dict[str, Any]] = {
        1000: {"data/train_tokens_cut": 0.3, "data/test_tokens_cut": 0.25, "data/test_unknown_tokens": 0.01},
        4000: {"data/train_tokens_cut": 0.12, "data/test_tokens_cut": 0.05, "data/test_unknown_tokens": 0.0},
        30000: {},
    }
    for job, ((size, metrics), seed) in enumerate(product(losses.items(), range(2))):
        write_run(tmp_path / str(job), {"tokenizer.vocab_size": size}, seed=seed, **metrics)
    (caveat,) = (line for line in make_study([tmp_path]).warnings if "tokens" in line)
    assert (
        caveat
        == "in 4 of 6 runs, at worst: tokens truncated at tokenizer.max_length: 30 % of train, 25 % of test; raise it"
    )


@pytest.mark.parametrize("metric", ["train/seconds", "test/ece"])
def test_less_time_or_error_is_better_and_no_points(metric: str, tmp_path: Path) -> None:
    for seed in range(4):
        for pooling, value in (("cls", 20.0), ("max", 10.0)):
            measured: dict[str, Any] = {metric: value + seed / 10}
            write_run(tmp_path / f"{pooling}{seed}", {"model.pooling": pooling}, seed=seed, **measured)
    study = make_study([tmp_path], reference="cls", metric=metric)
    rows = study.comparisons[0].rows
    assert rows.loc["max", "difference"] == pytest.approx(-10) and rows.loc["max", "verdict"] == "better"
    assert "points" not in display_rows(study.comparisons[0])[1]["verdict"]


def test_of_a_metric_of_ones_own_the_user_says_what_is_better(tmp_path: Path) -> None:
    for seed in range(4):
        for pooling, value in (("cls", 0.5), ("max", 0.7)):
            measured: dict[str, Any] = {"test/mcc": value + seed / 1000}
            write_run(tmp_path / f"{pooling}{seed}", {"model.pooling": pooling}, seed=seed, **measured)
    with pytest.raises(UserError, match="test/mcc is better is not known: give mode=min"):
        make_study([tmp_path], reference="cls", metric="test/mcc")
    rows = make_study([tmp_path], reference="cls", metric="test/mcc", mode="max").comparisons[0].rows
    assert rows.loc["max", "verdict"] == "better"


def test_of_several_validations_in_an_epoch_the_last_counts(tmp_path: Path) -> None:
    for seed, pooling in enumerate(("cls", "max")):
        run = write_run(tmp_path / pooling, {"model.pooling": pooling}, seed=seed)
        table = pd.DataFrame({"epoch": [0, 0, 1, 1], "step": range(4), "val/acc": [0.1, 0.2, 0.3, 0.4]})
        table.to_csv(run / "metrics.csv")
    found = make_study([tmp_path]).comparisons[0]
    assert found.curve("max")["mean"].to_dict() == {1: 0.2, 2: 0.4}


def test_a_margin_and_a_plan_say_what_is_the_same_and_what_it_takes(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path, "model.pooling", {"cls": 0.80, "mean": 0.80, "max": 0.82})
    rows = make_study([folder], metric="test/loss", margin=0.03).comparisons[0].rows
    assert rows.loc["mean", "verdict"] == "the same within 0.03"
    planned = make_study([folder], planned=True).comparisons[0].rows
    columns = [f"runs for {size} points" for size in ("0.2", "0.5", "1.0", "2.0")]
    assert planned.loc["max", columns].is_monotonic_decreasing and (planned.loc["max", columns] >= 2).all()
    with pytest.raises(UserError, match=r"plan=true of test/loss .*give margin="):
        make_study([folder], metric="test/loss", planned=True)
    with pytest.raises(UserError, match=r"margin=-1 .*above 0"):
        make_study([folder], margin=-1)


def test_runs_timed_on_a_busy_machine_are_a_caveat(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path, "model.pooling", {"cls": 0.7, "max": 0.8})
    for file in sorted(folder.glob("*/config.yaml"))[:2]:
        (file.parent / "environment.json").write_text('{"load": 3.14}')
    (warning,) = (text for text in make_study([folder]).warnings if "busy" in text)
    assert "2 of 10 runs were timed on a busy machine (up to 3.1 processes a core)" in warning


def test_of_several_factors_the_best_setting_comes_first(tmp_path: Path) -> None:
    for i, (pooling, heads, accuracy) in enumerate(
        [("cls", 2, 0.7), ("cls", 4, 0.6), ("max", 2, 0.9), ("max", 4, 0.8)]
    ):
        for seed in (0, 1):
            changes = {"model.pooling": pooling, "model.num_heads": heads}
            write_run(tmp_path / f"{i}{seed}", changes, accuracy=accuracy, seed=seed)
    means = make_study([tmp_path]).comparisons[0].rows["test/acc mean"]
    assert means.iloc[1:].is_monotonic_decreasing


def test_a_pair_is_asked_with_all_that_it_has(tmp_path: Path) -> None:
    """A setting tested on other documents takes nothing from the others."""
    write_sweep(tmp_path, "model.pooling", POOLINGS, seeds=range(3))
    alone = make_study([tmp_path]).comparisons[0].rows.loc["max"]
    for seed in range(3):
        write_run(tmp_path / f"sum{seed}", {"model.pooling": "sum"}, seed=seed, num_documents=100)
    study = make_study([tmp_path], reference="cls")
    (warning,) = (line for line in study.warnings if "seeds alone" in line)
    rows = study.comparisons[0].rows
    assert warning.startswith("1 of 3 settings") and rows["documents"].tolist()[1:] == [200, 200, 0]
    for key in ("test/acc mean", "difference", "error"):  # one setting more moves no number of another
        assert rows.loc["max", key] == pytest.approx(alone[key])


def test_verdicts_and_intervals_of_a_table_agree(tmp_path: Path) -> None:
    """Whatever the sizes of the differences: a verdict is an interval without zero, corrected alike."""
    accuracies = {f"p{i}": 0.8 + 0.004 * i for i in range(12)}
    write_sweep(tmp_path, "model.pooling", accuracies, seeds=range(4))
    for margin in (None, 2.0):
        rows = make_study([tmp_path], margin=margin).comparisons[0].rows.iloc[1:]
        said = rows["verdict"].str.split().str[0]
        assert {"better", "no"} <= set(said) and (rows["comparisons"] == 11).all()
        assert ((rows["low"] > 0) | (rows["high"] < 0)).equals(rows["p_adjusted"] < 0.05)
        within = (rows[["low", "high"]].abs().max(axis=1) < 0.02) & (margin is not None)
        assert within.equals(said == "the") and ((said == "better") | within).equals((rows["low"] > 0) | within)


def test_the_interval_of_a_pair_does_not_depend_on_the_reference(tmp_path: Path) -> None:
    write_sweep(tmp_path, "model.pooling", POOLINGS, seeds=range(3))
    one = make_study([tmp_path], reference="cls").comparisons[0].rows.loc["max"]
    other = make_study([tmp_path], reference="max").comparisons[0].rows.loc["cls"]
    assert other[["low", "high"]].to_list() == pytest.approx([-one["high"], -one["low"]])


def test_runs_without_the_metric_are_left_out_with_a_line(tmp_path: Path) -> None:
    write_sweep(tmp_path, "model.pooling", POOLINGS, seeds=range(3))
    pruned = write_run(tmp_path / "pruned", {"model.pooling": "max"}, seed=9)
    metrics = json.loads((pruned / "metrics.json").read_text())
    (pruned / "metrics.json").write_text(json.dumps({k: v for k, v in metrics.items() if not k.startswith("test/")}))
    study = make_study([tmp_path])
    assert len(study.runs) == 9
    assert next(line for line in study.warnings if "pruned" in line).startswith("1 runs have no test/acc")


@pytest.mark.parametrize(
    ("one", "other", "warning"),
    [
        ({"commit": "a1"}, {"commit": "b2"}, "code of commit a1 (2 runs), of commit b2 (2 runs)"),
        ({"commit": "a1+", "code": "x"}, {"commit": "a1+", "code": "y"}, "code of commit a1+ (2 runs)"),
        ({"torch": "2.12.0"}, {"torch": "2.13.0"}, "torch 2.12.0 (2 runs), 2.13.0 (2 runs)"),
        ({"data": "x"}, {"data": "y"}, "documents, labels or splits of the same data settings (2, 2 runs)"),
    ],
)
def test_runs_of_another_origin_are_a_caveat(
    one: dict[str, str], other: dict[str, str], warning: str, tmp_path: Path
) -> None:
    for pooling, environment in (("cls", one), ("max", other)):
        for seed in range(2):
            run = write_run(tmp_path / f"{pooling}{seed}", {"model.pooling": pooling}, seed=seed)
            (run / "environment.json").write_text(json.dumps(environment))
    assert f"the runs differ in their {warning}" in "\n".join(make_study([tmp_path]).warnings)
    for file in tmp_path.glob("*/environment.json"):
        file.write_text(json.dumps(one | {"commit": "a1"}))
    assert not [line for line in make_study([tmp_path]).warnings if "runs differ in their" in line]
