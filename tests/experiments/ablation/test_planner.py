import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf

from attnlab.errors import UserError
from attnlab.experiments.ablation.ablate import ablate, prepare
from attnlab.experiments.ablation.changes import Changer
from attnlab.experiments.ablation.runs import Budget
from tests.analysis.fake import write_run
from tests.conftest import ROOT, TINY, output_of
from tests.experiments.test_pool import found, kill_job, start
from tests.experiments.test_study import config_loader
from tests.training.test_resume import assert_same_run

OWN: dict[str, list[object]] = {
    "pe": ["none"],
    "model.pooling": ["max", "mean"],
    "model.num_heads": [1],
    "model.no_such": [1],
}
CHANGE = "ablation.change={pe: [none], model.pooling: [max, mean], model.num_heads: [1], model.no_such: [1]}"
ONE_CHANGE = "ablation.change={pe: [none]}"
WORTH = {"pe=none": 0.05, "model.pooling=max": 0.0, "model.pooling=mean": 0.01, "model.num_heads=1": -0.03}


def configured(folder: Path, *overrides: str, change: str = CHANGE) -> DictConfig:
    task = ["ablation=parts", change, "ablation.max_seeds=6", f"paths.log_dir={folder}", *overrides]
    with initialize_config_dir(str(ROOT / "conf")):
        return prepare(compose("train", overrides=task, return_hydra_config=True))


class FakeLauncher:
    """Writes what a training would."""

    def __init__(
        self,
        config: DictConfig,
        dies_after: float = np.inf,
        lost_together: float = 0.0,
        noise: float = 0.0002,
        documents: int = 0,
    ) -> None:
        self.config, self.dies_after, self.lost_together = config, dies_after, lost_together
        self.noise, self.documents = noise, documents
        self.loader = config_loader()
        self.jobs: list[Sequence[str]] = []

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        for number, overrides in enumerate(job_overrides, start=initial_job_idx):
            if len(self.jobs) >= self.dies_after:
                raise KeyboardInterrupt
            self.jobs.append(overrides)
            job = self.loader.load_sweep_config(self.config, list(overrides))
            folder = Path(self.config.hydra.sweep.dir, str(number))
            folder.mkdir()
            kept = {key: value for key, value in OmegaConf.to_container(job, resolve=False).items() if key != "hydra"}  # type: ignore[union-attr]
            del kept["ablation"]
            OmegaConf.save(OmegaConf.create(kept), folder / "config.yaml", resolve=True)
            draw = np.random.default_rng([job.seed, *bytes(" ".join(overrides[5:]), "utf-8")])
            score = 0.9 - sum(WORTH.get(one, 0.0) for one in overrides) + self.noise * draw.standard_normal()
            score -= self.lost_together * ({"pe=none", "model.num_heads=1"} <= set(overrides))
            metrics = {"val/acc": score, "test/acc": score, "train/seconds": 1.0, "model/parameters": 10}
            metrics |= {"val/loss": 1 - score, "test/loss": 1 - score}
            (folder / "metrics.json").write_text(json.dumps(metrics))
            if self.documents:
                right = draw.random(self.documents) < score
                table = pd.DataFrame({"index": range(self.documents), "label": 0, "correct": right})
                table.to_parquet(folder / "predictions.parquet")
        return [JobReturn(status=JobStatus.COMPLETED) for _ in job_overrides]


def run(config: DictConfig, **options: Any) -> FakeLauncher:
    launcher = FakeLauncher(config, **options)
    ablate(config, launcher, config_loader(), list(config.hydra.overrides.task))  # type: ignore[arg-type]
    return launcher


def test_what_is_not_there_or_so_already_leaves_the_list(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = configured(tmp_path, "model.pooling=mean")
    changer = Changer(config, config_loader(), list(config.hydra.overrides.task))
    with caplog.at_level("INFO"):
        settings = changer.alternatives(OWN | {"model.no_such": [1]})
    assert [setting.name for setting in settings] == ["pe=none", "pooling=max", "num_heads=1"]
    assert "model.no_such (the model has no such setting)" in caplog.text and "pooling=mean (so already)" in caplog.text


@pytest.mark.slow
def test_the_shipped_list_fits_each_model(tmp_path: Path) -> None:
    loader = config_loader()
    with initialize_config_dir(str(ROOT / "conf")):
        for model in ("attention", "transformer", "bag", "ngram_bag"):
            task = ["ablation=parts", f"model={model}", f"paths.log_dir={tmp_path}"]
            config = prepare(compose("train", overrides=task, return_hydra_config=True))
            changer = Changer(config, loader, task)
            settings = changer.alternatives(OmegaConf.to_container(config.ablation.parts, resolve=True))  # type: ignore[arg-type]
            assert len(settings) >= 6
            changed = [len(setting.changes) for setting in settings]
            assert set(changed) == {1}


def test_seeds_go_where_they_decide_and_the_answer_is_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = configured(tmp_path)
    launcher = run(config)
    folder = Path(config.hydra.sweep.dir)
    files = {"ablation.csv", "ablation.md", "ablation.tex", "ablation.html", "ablation.png", "output.log"}
    assert files <= {path.name for path in folder.iterdir()}
    said = (folder / "ablation.md").read_text()
    assert "3 make a difference" in said and "is worth 5.0 points" in said and "costs 3.0 points" in said
    assert "group-sequential" in said
    assert "matters" in capsys.readouterr().out
    assert len(launcher.jobs) == len({tuple(job) for job in launcher.jobs}) < 5 * 6


@pytest.mark.slow
def test_an_earlier_run_of_a_source_that_is_not_allowed_is_left_aside(tmp_path: Path) -> None:
    write_run(tmp_path / "train" / "runs" / "theirs", {"data._target_": "this.s"})
    assert run(configured(tmp_path, "ablation.max_seeds=2", "ablation.change={pe: [none]}")).jobs
    assert "this" not in sys.modules


def test_it_goes_on_after_a_kill_and_trains_nothing_twice(tmp_path: Path) -> None:
    first = run(configured(tmp_path), dies_after=7)
    second = run(configured(tmp_path))
    both = [tuple(job) for job in (*first.jobs, *second.jobs)]
    assert len(both) == len(set(both)) and len(first.jobs) == 7
    assert run(configured(tmp_path)).jobs == []
    elsewhere = configured(tmp_path, "ablation.margin=0.4")
    assert elsewhere.ablation.name != configured(tmp_path).ablation.name
    assert len(run(elsewhere).jobs) < len(both) / 2  # what another ablation has trained counts


def test_a_launcher_that_raises_costs_one_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []
    launch = FakeLauncher.launch

    def die_once(self: FakeLauncher, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        tries.append(initial_job_idx)
        if len(tries) == 1:
            raise RuntimeError("a worker was killed")
        return launch(self, job_overrides, initial_job_idx)

    monkeypatch.setattr(FakeLauncher, "launch", die_once)
    jobs = run(configured(tmp_path)).jobs
    assert len({tuple(job) for job in jobs}) == len(jobs) and len(tries) > 1
    assert all("resume=latest" in job for job in jobs)


@pytest.mark.slow
def test_a_killed_run_goes_on_exactly(tmp_path: Path) -> None:
    short = ["trainer.max_epochs=6", "data.train_size=600"]
    ablation = ["ablation=parts", "ablation.change={pe: [none]}", "ablation.seeds=2", "ablation.max_seeds=2", *short]
    undisturbed = start(*ablation, "hydra.launcher.jobs=2", "paths.log_dir=undisturbed", folder=tmp_path)
    assert undisturbed.wait(300) == 0, undisturbed.stdout and undisturbed.stdout.read()
    ours = start(*ablation, "hydra.launcher.jobs=1", folder=tmp_path)
    folder = found(tmp_path / "logs" / "train" / "ablations")
    kill_job(folder / "1")  # in the process of the ablation itself
    ours.wait(60)
    again = start(*ablation, "hydra.launcher.jobs=2", folder=tmp_path)
    said = output_of(again, 300)[0]
    assert again.returncode == 0 and "pe=none: " in said, said
    whole = found(tmp_path / "undisturbed" / "train" / "ablations")
    assert len(list(folder.glob("*/metrics.json"))) == 4 == len(list(folder.glob("*/config.yaml")))
    for job in "01":  # of both settings the first seed
        assert_same_run(whole / job, folder / job)


@pytest.mark.slow
def test_an_ablation_runs_through_submitit(tmp_path: Path) -> None:
    ablation = ["ablation=parts", "ablation.change={pe: [none]}", "ablation.seeds=2", "ablation.max_seeds=2"]
    process = start(*ablation, *TINY, "hydra/launcher=submitit_local", "ablation.n_jobs=2", folder=tmp_path)
    said = output_of(process, 300)[0]
    assert process.returncode == 0, said
    assert len(list(tmp_path.glob("logs/train/ablations/*/[0-3]/metrics.json"))) == 4


def test_estimate_and_interval_are_of_the_same_runs(tmp_path: Path) -> None:
    """With more seeds on disk than max_seeds, a gap among them, and predictions of all."""
    config = configured(tmp_path, "ablation.seeds=2", "ablation.max_seeds=3", change=ONE_CHANGE)
    launcher = FakeLauncher(config, documents=400)
    arguments = list(config.hydra.overrides.task)
    jobs = [[*arguments, f"pe={pe}", f"seed={seed}"] for pe in ("sinusoidal", "none") for seed in (0, 1, 2, 3, 5, 6)]
    Path(config.hydra.sweep.dir).mkdir(exist_ok=True)
    launcher.launch(jobs, 0)
    ablate(config, launcher, config_loader(), arguments)  # type: ignore[arg-type]
    row = pd.read_csv(Path(config.hydra.sweep.dir, "ablation.csv")).iloc[0]
    assert row["seeds"] <= 3 and row["low"] < row["worth"] < row["high"] and row["documents"]
    assert row["worth"] == pytest.approx((row["low"] + row["high"]) / 2)
    said = Path(config.hydra.sweep.dir, "ablation.md").read_text()
    assert f"{2 * row['seeds']:.0f} runs)" in said and "crossed random effects" in said


def test_a_loss_has_its_own_direction_unit_and_methods(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        config = configured(tmp_path, "ablation.metric=test/loss")
        run(config)
    folder = Path(config.hydra.sweep.dir)
    rows = pd.read_csv(folder / "ablation.csv", index_col="change")
    assert rows.loc["pe=none", "worth"] == pytest.approx(0.05, abs=0.005)  # a part that helps is worth something
    assert "no difference, however small, counts as not worth it" in caplog.text
    said, picture = (folder / "ablation.md").read_text(), (folder / "ablation.svg").read_text()
    assert "of test/loss" in said and "points" not in said and "lower is better" in said
    assert "crossed random effects" not in said and "seeds alone" in said
    assert "test/loss of the change less that of the model" in picture


def test_a_margin_is_in_the_metrics_own_unit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for metric, said in (("test/acc", "less than 4.0 points of test/acc"), ("test/loss", "less than 4 of test/loss")):
        with caplog.at_level("INFO"):
            asked = [f"ablation.metric={metric}", "ablation.margin=4", "ablation.max_seeds=3"]
            config = configured(tmp_path / metric, *asked, change=ONE_CHANGE)
            run(config, noise=0.05)
        assert f"{said} counts as not worth it" in caplog.text
        (verdict,) = pd.read_csv(Path(config.hydra.sweep.dir, "ablation.csv"))["verdict"]
        assert verdict.startswith("not worth it") == (metric == "test/loss")


@pytest.mark.parametrize("differs", [{"code": "other"}, {"torch": "1.0"}, {"data": "other"}])
def test_runs_of_another_origin_are_not_mixed_in(
    differs: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    few = ["ablation.seeds=2", "ablation.max_seeds=2", *TINY]
    config = configured(tmp_path, *few, change=ONE_CHANGE)
    first = run(config)
    folder = Path(config.hydra.sweep.dir)
    for run_folder in folder.glob("[0-3]"):
        (run_folder / "environment.json").write_text(json.dumps(differs))
    with pytest.raises(UserError, match=r"bring that back, or give ablation.name=<another>"):
        run(configured(tmp_path, *few, change=ONE_CHANGE))
    with caplog.at_level("INFO"):
        again = run(configured(tmp_path, *few, "ablation.name=another", change=ONE_CHANGE))  # as the message advises
    assert len(again.jobs) == len(first.jobs) == 4
    assert "2 finished runs do not count, as they differ in" in caplog.text
    for run_folder in folder.glob("[0-3]"):
        (run_folder / "environment.json").unlink()
    assert run(configured(tmp_path, *few, change=ONE_CHANGE)).jobs == []


def test_where_nothing_is_decided_nothing_is_recommended(tmp_path: Path) -> None:
    config = configured(tmp_path, "ablation.seeds=2", "ablation.max_seeds=20", "ablation.budget=10runs")
    run(config, noise=0.05)
    said = (Path(config.hydra.sweep.dir) / "ablation.html").read_text()
    assert "Not decided: " in said and "python src/train.py" not in said
    assert "too few runs" in (Path(config.hydra.sweep.dir) / "ablation.svg").read_text()


@pytest.mark.slow
def test_a_budget_in_runs_is_kept_and_what_it_suffices_for_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert len(run(configured(tmp_path, "ablation.budget=17runs")).jobs) <= 17
    assert "The budget gives each setting 3 seeds" in caplog.text and "ablation.max_seeds=3" in caplog.text
    with pytest.raises(UserError, match="3 seeds of 5 settings take 15 runs"):
        run(configured(tmp_path / "other", "ablation.budget=9runs"))


@pytest.mark.slow
def test_an_interaction_is_what_two_changes_lose_together(tmp_path: Path) -> None:
    config = configured(tmp_path, "ablation.pairs=true")
    run(config, lost_together=0.02)
    assert "pe=none x num_heads=1" in (Path(config.hydra.sweep.dir) / "ablation.csv").read_text()
    said = (Path(config.hydra.sweep.dir) / "ablation.md").read_text()
    assert "Of 4 changes 3 make a difference" in said
    assert "pe=none x num_heads=1 make 2.0 points less together than one by one [" in said
    assert re.search(r"\| -(1\.9|2\.0)\d \[", said) and "| less together |" in said


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer=ddp"], "can't train on several devices"),
        (["test=false"], "leave it out"),
        (["ablation.alpha=2"], "ablation.alpha=2"),
    ],
)
def test_mistakes_are_said_before_anything_is_trained(overrides: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        configured(tmp_path, *overrides)


def test_a_budget_is_a_time_or_a_number_of_runs() -> None:
    assert Budget("2h").seconds == 7200 and Budget("90min").seconds == 5400 and Budget("60runs").runs == 60
    with pytest.raises(UserError, match="soon can't be read"):
        Budget("soon")
    with pytest.raises(UserError, match="give a time or a number of runs"):
        Budget("1.5.2h")


def test_the_command_line_of_a_list_of_ones_own_can_be_read() -> None:
    OverridesParser.create().parse_override("ablation.change={pe: [none, rotary], model.pooling: [mean]}")


def test_a_part_that_the_model_does_not_use_is_not_asked_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    config = configured(tmp_path, "model.pe={_target_: attnlab.models.positional.PositionalEncoding, _partial_: true}")
    changes = Changer(config, config_loader(), config.hydra.overrides.task).alternatives(OWN)
    assert changes and not any("pe" in change.name for change in changes)
    assert "the model does not use it" in caplog.text
