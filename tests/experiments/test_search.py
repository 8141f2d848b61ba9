import html
import os
import re
import shlex
import shutil
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import optuna
import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import BaseTrial, FrozenTrial, Trial, TrialState

from attnlab.config import resolve
from attnlab.errors import UserError
from attnlab.experiments.feasibility import infeasibility_reason
from attnlab.experiments.report import report
from attnlab.experiments.search import search
from attnlab.experiments.space import Space
from attnlab.experiments.study import REASON, SAME_AS, counted, open_study
from attnlab.training.pruning import PRUNED_AFTER
from tests.conftest import ROOT
from tests.experiments.test_study import compose_search, config_loader

Settings = dict[str, str]


class FakeLauncher:
    """Runs a function of the settings instead of a training."""

    def __init__(self, config: DictConfig, objective: Callable[[Settings], Any]) -> None:
        self.config, self.objective = config, objective
        self.jobs: list[Settings] = []

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        assert initial_job_idx >= 0
        returns = []
        for overrides in job_overrides:
            settings = dict(override.split("=", 1) for override in overrides)
            self.jobs.append(settings)
            result = JobReturn(status=JobStatus.COMPLETED)
            try:
                result.return_value = self.objective(settings)
            except Exception as error:
                result.status = JobStatus.FAILED
                result.return_value = error
            returns.append(result)
        return returns

    def run(self, *ranges: str) -> "FakeLauncher":
        """`ranges` are what only a multirun takes on its command line."""
        arguments = [*self.config.hydra.overrides.task, *ranges]
        search(self.config, self, config_loader(), arguments)  # type: ignore[arg-type]
        return self

    @property
    def study(self) -> optuna.Study:
        settings = self.config.hparams_search
        return optuna.load_study(study_name=settings.study_name, storage=settings.storage)

    def states(self) -> list[str]:
        return [trial.state.name for trial in self.study.trials]


@pytest.fixture(autouse=True)
def no_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """They take seconds; the test of the report draws them."""
    if "the_best_is" not in request.node.name:
        monkeypatch.setattr("attnlab.experiments.report.draw_figures", lambda *_: None)


def lr_is_the_loss(settings: Settings) -> float:
    return float(settings["optimizer.lr"])


def make(folder: Path, objective: Callable[[Settings], Any], *overrides: str, search: str = "random") -> FakeLauncher:
    one_by_one = ["hparams_search.n_jobs=1", *overrides]  # of a random search: not one a core
    return FakeLauncher(compose_search(folder, *one_by_one, search=search), objective)


def test_every_job_gets_the_command_line_and_its_trial(tmp_path: Path) -> None:
    fake = make(tmp_path, lr_is_the_loss, "hparams_search.n_trials=3", "optimizer.weight_decay=0.1").run()
    assert [job["hparams_search.trial"] for job in fake.jobs] == ["0", "1", "2"]
    assert {job["optimizer.weight_decay"] for job in fake.jobs} == {"0.1"}
    assert {job["hparams_search.study_name"] for job in fake.jobs} == {fake.study.study_name}
    assert {"pe", "model.pooling", "model.embed_dim", "model.num_heads"} < fake.jobs[0].keys()


def test_the_same_command_goes_on_to_the_same_total(tmp_path: Path) -> None:
    first = make(tmp_path, lr_is_the_loss, "hparams_search.n_trials=3").run()
    assert len(make(tmp_path, lr_is_the_loss, "hparams_search.n_trials=3").run().jobs) == 0
    more = make(tmp_path, lr_is_the_loss, "hparams_search.n_trials=5").run()
    assert [job["hparams_search.trial"] for job in more.jobs] == ["3", "4"]
    assert len(first.study.trials) == 5


@pytest.mark.parametrize("kind", ["random", "optuna"])
def test_a_search_draws_other_trials_than_one_that_began_with_it(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    range_only = ["hparams_search.space=null", "hparams_search/pruner=none"]
    lr = "optimizer.lr=tag(log,interval(1e-4,1e-2))"
    first, second = (
        make(tmp_path, lr_is_the_loss, *range_only, f"hparams_search.n_trials={n}", search=kind) for n in "12"
    )

    def open_with_the_other(*arguments: Any) -> optuna.Study:
        study = open_study(*arguments)
        monkeypatch.undo()
        first.run(lr)
        return study

    monkeypatch.setattr("attnlab.experiments.search.open_study", open_with_the_other)
    second.run(lr)
    assert len({job["optimizer.lr"] for job in [*first.jobs, *second.jobs]}) == 2
    whole = make(tmp_path / "whole", lr_is_the_loss, *range_only, "hparams_search.n_trials=2", search=kind).run(lr)
    assert [trial.params for trial in whole.study.trials] == [trial.params for trial in second.study.trials]


def test_what_another_search_is_training_is_not_trained_a_second_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = list[Trial]()

    def open_beside_another(settings: dict[str, Any], mode: Literal["min", "max"], space: Space) -> optuna.Study:
        study = open_study(settings, mode, space)
        others.append(study.ask())
        space.suggest(others[0])
        return study

    def end_the_other(settings: Settings) -> float:
        others[0].study.tell(others[0], 5.0)
        return lr_is_the_loss(settings)

    monkeypatch.setattr("attnlab.experiments.search.open_study", open_beside_another)
    fake = make(tmp_path, end_the_other, "hparams_search.n_trials=2", "hparams_search.space=null").run(
        "optimizer.lr=1,2"
    )
    assert [job["optimizer.lr"] for job in fake.jobs] == ["2" if others[0].params["optimizer.lr"] == 1 else "1"]


def test_a_trial_whose_process_died_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attnlab.experiments.study.GRACE_SECONDS", 2)
    monkeypatch.setattr("attnlab.experiments.study.HEARTBEAT_SECONDS", 1)

    class Killed(BaseException):
        pass

    def die_in_the_second(settings: Settings) -> float:
        if settings["hparams_search.trial"] == "1":
            raise Killed
        return lr_is_the_loss(settings)

    dying = make(tmp_path, die_in_the_second, "hparams_search.n_trials=3")
    with pytest.raises(Killed):
        dying.run()
    assert dying.states() == ["COMPLETE", "RUNNING"]
    again = make(tmp_path, lr_is_the_loss, "hparams_search.n_trials=3").run()
    assert sorted(again.states()) == ["COMPLETE", "COMPLETE", "COMPLETE", "FAIL"] and again.states()[1] == "FAIL"
    retried = [job for job in again.jobs if job["optimizer.lr"] == dying.jobs[1]["optimizer.lr"]]
    assert len(retried) == 1 and retried[0]["hparams_search.trial"] != "1"


@pytest.mark.slow  # each death takes some seconds to be found out
@pytest.mark.parametrize(("gets_further", "deaths"), [(True, 4), (False, 3)])
def test_a_trial_goes_on_where_it_was_as_often_as_its_search_dies_while_it_gets_further(
    gets_further: bool, deaths: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attnlab.experiments.study.GRACE_SECONDS", 2)
    monkeypatch.setattr("attnlab.experiments.study.HEARTBEAT_SECONDS", 1)
    found = list[str]()

    class Killed(BaseException):
        pass

    def die(settings: Settings) -> float:
        file = Path(dying.config.hydra.sweep.dir, settings["hparams_search.trial"], "checkpoints", "last.ckpt")
        found.append(file.read_text() if file.exists() else "nothing")
        file.parent.mkdir(parents=True, exist_ok=True)
        if gets_further or not file.exists():
            file.write_text(f"as it was after {len(found)}")
        raise Killed

    for _ in range(deaths):
        dying = make(tmp_path, die, "hparams_search.n_trials=1")
        with pytest.raises(Killed):
            dying.run()
    last = make(tmp_path, lr_is_the_loss, "hparams_search.n_trials=1").run()
    assert last.states() == ["FAIL"] * deaths + (["COMPLETE"] if gets_further else ["FAIL"])
    assert found == ["nothing", *(f"as it was after {n if gets_further else 1}" for n in range(1, deaths))]
    reason = last.study.trials[-1].user_attrs.get(REASON)
    assert reason == (None if gets_further else "its process died 3 times without getting any further")


def test_a_trial_that_died_before_its_first_heartbeat_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("attnlab.experiments.search.get_heartbeat_thread", die)
        dying = make(tmp_path, lr_is_the_loss, "hparams_search.n_trials=2")
        with pytest.raises(Killed):
            dying.run()
    monkeypatch.setattr("attnlab.experiments.search.GRACE_SECONDS", 0.5)
    assert make(tmp_path, lr_is_the_loss, "hparams_search.n_trials=2").run().states() == [
        "FAIL",
        "COMPLETE",
        "COMPLETE",
    ]


def test_a_grid_goes_on_over_a_trial_that_died_before_it_had_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    suggest = Space.suggest

    def die(space: Space, trial: BaseTrial) -> list[str]:
        if isinstance(trial, Trial) and trial.study.study_name.startswith("search"):
            raise Killed
        return suggest(space, trial)  # in the rehearsal

    four = ["hparams_search.n_trials=4", "hparams_search.space=null", "pe=choice(none,learned)", "optimizer.lr=1,2"]
    with monkeypatch.context() as patch:
        patch.setattr(Space, "suggest", die)
        with pytest.raises(Killed):
            make(tmp_path, lr_is_the_loss, *four[:2], search="grid").run(*four[2:])
    monkeypatch.setattr("attnlab.experiments.search.GRACE_SECONDS", 0.5)
    again = make(tmp_path, lr_is_the_loss, *four[:2], search="grid").run(*four[2:])
    assert sorted(again.states()) == ["COMPLETE"] * 4 + ["FAIL"]
    assert len({(job["pe"], job["optimizer.lr"]) for job in again.jobs}) == 4


def test_slots_do_not_ask_for_the_last_trial_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slowly(study: optuna.Study) -> list[FrozenTrial]:
        found = counted(study)
        time.sleep(0.1)
        return found

    monkeypatch.setattr("attnlab.experiments.search.counted", slowly)
    four = ["hparams_search.n_trials=4", "hparams_search.space=null", "hparams_search.n_jobs=3"]
    fake = make(tmp_path, lr_is_the_loss, *four, search="grid").run("pe=choice(none,learned)", "optimizer.lr=1,2")
    assert fake.states() == ["COMPLETE"] * 4 and len(fake.jobs) == 4


def test_what_two_have_found_dead_is_tried_again_once(tmp_path: Path) -> None:
    fake = make(tmp_path, lr_is_the_loss, "hparams_search.n_trials=2").run()
    dead = fake.study.trials[1]
    for _ in range(2):
        RetryHeartbeatStaleTrialCallback()(fake.study, dead)
    again = make(tmp_path, lr_is_the_loss, "hparams_search.n_trials=4").run()
    assert again.states() == ["COMPLETE", "COMPLETE", "COMPLETE", "FAIL", "COMPLETE"]


@pytest.mark.parametrize(("interrupt", "states"), [(KeyboardInterrupt, 2), (SystemExit, 2)])
def test_an_interrupt_ends_cleanly(
    interrupt: type[BaseException], states: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop_in_the_third(settings: Settings) -> float:
        if settings["hparams_search.trial"] == "2":
            raise interrupt
        return lr_is_the_loss(settings)

    stopped = make(tmp_path, stop_in_the_third, "hparams_search.n_trials=4").run()
    assert stopped.states() == ["COMPLETE"] * states + ["FAIL", "WAITING"]
    assert "The best five" in capsys.readouterr().out
    again = make(tmp_path, lr_is_the_loss, "hparams_search.n_trials=4").run()
    assert again.states() == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert again.jobs[0]["optimizer.lr"] == stopped.jobs[2]["optimizer.lr"]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (lambda: float("nan"), "nan is no score"),
        (lambda: float("inf"), "inf is no score"),
        (lambda: None, "TypeError"),
        (lambda: (_ for _ in ()).throw(MemoryError("no memory\nat all")), "MemoryError: no memory"),
    ],
)
def test_a_failed_trial_is_recorded_and_the_search_goes_on(
    fault: Callable[[], Any], reason: str, tmp_path: Path
) -> None:
    def fail_once(settings: Settings) -> Any:
        return fault() if settings["hparams_search.trial"] == "1" else lr_is_the_loss(settings)

    fake = make(tmp_path, fail_once, "hparams_search.n_trials=4").run()
    assert fake.states() == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert fake.study.trials[1].user_attrs[REASON].startswith(reason)
    results = yaml.safe_load((Path(fake.config.hydra.sweep.dir) / "optimization_results.yaml").read_text())
    assert results["failures"] == {1: fake.study.trials[1].user_attrs[REASON]}


@pytest.mark.parametrize(("deaths", "state"), [(2, "COMPLETE"), (3, "FAIL")])
def test_a_worker_that_dies_does_not_end_the_search(
    deaths: int, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of memory, a launcher's worker is killed, and the launcher raises."""
    fake = make(tmp_path, lr_is_the_loss, "hparams_search.n_trials=4", "hparams_search.n_jobs=2")
    launch, died = fake.launch, list[int]()

    def launch_or_die(jobs: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        if initial_job_idx == 0 and len(died) < deaths:
            died.append(initial_job_idx)
            raise RuntimeError("a worker process was terminated")
        return launch(jobs, initial_job_idx)

    monkeypatch.setattr(fake, "launch", launch_or_die)
    assert fake.run().states() == [state, "COMPLETE", "COMPLETE", "COMPLETE"]
    reason = fake.study.trials[0].user_attrs.get(REASON)
    assert reason == ("Died: a worker process was terminated" if state == "FAIL" else None)


def test_no_more_trials_are_drawn_than_run_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that waited for a device would have been drawn without what was found meanwhile."""
    fake = make(tmp_path, lr_is_the_loss, "hparams_search.n_trials=6", "hparams_search.n_jobs=-1")
    launch = fake.launch

    def launch_alone(jobs: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        assert sum(trial.state == TrialState.RUNNING for trial in fake.study.trials) == 1
        return launch(jobs, initial_job_idx)

    monkeypatch.setattr(fake, "launch", launch_alone)
    fake.slots = lambda n_jobs: abs(n_jobs)  # type: ignore[attr-defined]
    assert fake.run().states() == ["COMPLETE"] * 6


def test_ctrl_c_reaches_the_trials_and_no_other_one_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that run have processes of their own, which say that they were interrupted, or die of it."""
    fake = make(tmp_path, lr_is_the_loss, "hparams_search.n_trials=6", "hparams_search.n_jobs=2")
    both, told, launched = threading.Barrier(2), threading.Event(), list[int]()

    def launch_until_told(_: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        launched.append(initial_job_idx)
        if both.wait(20) == 0:
            os.kill(os.getpid(), signal.SIGINT)
        assert told.wait(20)
        if initial_job_idx == 0:
            raise SystemExit(130)
        raise RuntimeError("a worker process was terminated")

    monkeypatch.setattr(fake, "launch", launch_until_told)
    fake.interrupt = told.set  # type: ignore[attr-defined]
    fake.run()
    assert sorted(launched) == [0, 1] and fake.states() == ["FAIL", "FAIL", "WAITING", "WAITING"]
    assert not any(REASON in trial.user_attrs for trial in fake.study.trials)


def test_a_trial_begins_as_soon_as_another_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = make(tmp_path, lr_is_the_loss, "hparams_search.n_trials=6", "hparams_search.n_jobs=2")
    launch, last = fake.launch, threading.Event()

    def launch_slowly(jobs: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        if initial_job_idx == 0:
            assert last.wait(60)  # the first trial lasts until the other slot has come to the last
        elif initial_job_idx == 5:
            last.set()
        return launch(jobs, initial_job_idx)

    monkeypatch.setattr(fake, "launch", launch_slowly)
    assert fake.run().states() == ["COMPLETE"] * 6


def test_too_many_failures_end_the_search_and_say_why(tmp_path: Path) -> None:
    fake = make(tmp_path, lambda _: 1 / 0, "hparams_search.n_trials=10")
    message = (
        r"4 of 10 trials failed, more than hparams_search.max_failure_share=0.3; the last one of ZeroDivisionError"
    )
    with pytest.raises(UserError, match=message):
        fake.run()
    assert len(fake.jobs) == 4


def test_settings_that_have_a_value_are_not_trained_again(tmp_path: Path) -> None:
    fixed = ["pe=none", "model.pooling=max", "model.embed_dim=64", "model.num_heads=2"]
    fixed += ["data.batch_size=32", "tokenizer.max_length=32"]
    fake = make(tmp_path, lr_is_the_loss, "hparams_search.n_trials=8", *fixed).run("optimizer.lr=0.1,0.2")
    assert len(fake.jobs) == 2 and fake.states() == ["COMPLETE"] * 8
    copies = [trial for trial in fake.study.trials if SAME_AS in trial.user_attrs]
    assert len(copies) == 6
    assert all(trial.value == trial.params["optimizer.lr"] for trial in copies)


@pytest.mark.slow
def test_a_grid_is_gone_through_once(tmp_path: Path) -> None:
    fake = make(tmp_path, lr_is_the_loss, search="grid").run()
    assert len({tuple(sorted(trial.params.items())) for trial in fake.study.trials}) == len(fake.jobs) == 16


def test_a_trial_that_was_stopped_is_pruned(tmp_path: Path) -> None:
    def prune_the_second(settings: Settings) -> float:
        if settings["hparams_search.trial"] == "1":
            trial: FrozenTrial = fake.study.trials[1]
            fake.study._storage.set_trial_user_attr(trial._trial_id, PRUNED_AFTER, 1)
        return lr_is_the_loss(settings)

    fake = make(tmp_path, prune_the_second, "hparams_search.n_trials=3")
    fake.run()
    assert [trial.state for trial in fake.study.trials][1] == TrialState.PRUNED


def test_the_best_is_written_as_an_experiment(tmp_path: Path) -> None:
    fake = make(tmp_path, lr_is_the_loss, "hparams_search.n_trials=4", "optimizer=sgd", "experiment=ag_news").run()
    folder = Path(fake.config.hydra.sweep.dir)
    written = yaml.safe_load((folder / "experiment" / "best.yaml").read_text())
    best = fake.study.best_trial
    assert written["defaults"] == ["ag_news", {"override /optimizer": "sgd"}, {"override /pe": "none"}]
    assert float(written["optimizer"]["lr"]) == best.value and "hparams_search" not in written
    assert written["model"]["embed_dim"] == int(best.params["model.embed_dim"])
    results = yaml.safe_load((folder / "optimization_results.yaml").read_text())
    assert results["best_trial"] == best.number and set(results["best_params"]) == set(best.params)
    assert {"history.png", "slice.png"} <= {file.name for file in (folder / "figures").iterdir()}
    page = (folder / "search.html").read_text()
    searched = {name.split(" of ")[0] for trial in fake.study.trials for name in trial.params}
    assert page.count('class="plotly-graph-div"') == 3 + len(searched)  # none of intermediate values
    assert (folder / "plotly.min.js").exists()
    again = html.escape(shlex.join([f"--config-dir={folder}", "experiment=best"]))
    assert f"python src/train.py {again}" in page and "Optimization History Plot" not in page
    assert f"<td>#{best.number}</td><td>{best.value:.4f}</td>" in page and "http" not in re.sub(r"xmlns\S+", "", page)


@pytest.mark.slow
def test_a_trial_too_many_is_not_run(tmp_path: Path) -> None:
    """Two processes can ask for the last trial at the same moment."""
    first = make(tmp_path, lr_is_the_loss, "hparams_search.n_trials=2").run()

    def ask_elsewhere(settings: Settings) -> float:
        if settings["hparams_search.trial"] == "2":
            other = first.study.ask()  # number 3, told before this one
            first.study.tell(other, 1.0)
        return lr_is_the_loss(settings)

    more = make(tmp_path, ask_elsewhere, "hparams_search.n_trials=4").run()
    assert [job["hparams_search.trial"] for job in more.jobs] == ["2"] and more.states() == ["COMPLETE"] * 4


@pytest.mark.slow
def test_every_trial_and_the_search_are_wandb_runs_of_one_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    inits: list[dict[str, Any]] = []
    original = wandb.init

    def init(**settings: Any) -> Any:
        inits.append(settings)
        return original(**settings)

    monkeypatch.setattr(wandb, "init", init)
    fake = make(tmp_path, lr_is_the_loss, "hparams_search.n_trials=4", "logger=wandb").run()
    (settings,) = inits
    assert settings["group"] == fake.study.study_name and settings["job_type"] == "search"
    assert settings["mode"] == "offline" and wandb.run is None


@pytest.mark.parametrize(
    "overrides",
    [
        ["model=bag"],
        *(
            pytest.param(overrides, marks=pytest.mark.slow)
            for overrides in (["model=ngram_bag"], ["experiment=ag_news", "data=headlines"], ["model=bag,attention"])
        ),
    ],
)
def test_a_search_draws_what_its_model_has_and_its_best_trains(overrides: list[str], tmp_path: Path) -> None:
    ranges = [override for override in overrides if "," in override]
    fixed = [override for override in overrides if override not in ranges] + ["hparams_search.n_trials=4"]
    fake = make(tmp_path, lr_is_the_loss, *fixed, "hparams_search/pruner=median", search="optuna").run(*ranges)
    assert fake.states() == ["COMPLETE"] * 4
    best = fake.jobs[fake.study.best_trial.number]
    assert all(("model.num_heads" in job) == (job.get("model") == "attention") for job in fake.jobs)
    folder = fake.config.hydra.sweep.dir
    with initialize_config_dir(str(ROOT / "conf")):
        add = [f"hydra.searchpath=[file://{folder}]", "experiment=best"]
        config = compose("train", overrides=add)
        again = compose("train", overrides=[f"{k}={v}" for k, v in best.items() if not k.startswith("hparams_search")])
    for name in ("model", "pe", "optimizer", "tokenizer", "data"):
        assert resolve(config)[name] == resolve(again)[name]
    assert infeasibility_reason(config, {}) is None
    written = yaml.safe_load((Path(folder) / "optimization_results.yaml").read_text())["best_params"]
    assert all(str(best[name]) == str(value) for name, value in written.items())


@pytest.mark.parametrize(
    ("model", "size"), [("model=bag", 8), pytest.param("model=bag,attention", 24, marks=pytest.mark.slow)]
)
def test_a_grid_has_each_combination_of_a_conditional_space_once(model: str, size: int, tmp_path: Path) -> None:
    ranges, fixed = ([model], []) if "," in model else ([], [model])
    fake = make(tmp_path, lr_is_the_loss, *fixed, search="grid").run(*ranges)
    assert len(fake.jobs) == size and fake.states() == ["COMPLETE"] * size
    drawn = {tuple(sorted(item for item in job.items() if item[0] != "hparams_search.trial")) for job in fake.jobs}
    assert len(drawn) == size
    assert len(make(tmp_path, lr_is_the_loss, *fixed, search="grid").run(*ranges).jobs) == 0


def test_the_highest_is_first_where_more_is_better(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metric = ["monitor.metric=val/acc", "monitor.mode=max", "hparams_search.n_trials=4"]
    fake = make(tmp_path, lr_is_the_loss, *metric).run()
    values = [trial.value for trial in fake.study.trials]
    assert fake.study.best_value == max(value for value in values if value is not None)
    assert f"┃ #{fake.study.best_trial.number} " in capsys.readouterr().out.split("setting")[1].splitlines()[0]


def test_a_random_search_has_to_end_somewhere(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"hparams_search\.n_trials=null is for a grid, which has an end"):
        make(tmp_path, lr_is_the_loss, "hparams_search.n_trials=null").run()


def test_a_search_whose_trials_all_end_as_nan_has_no_best_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["hparams_search.n_trials=3", "hparams_search.max_failure_share=1"]
    fake = make(tmp_path, lambda _: float("nan"), *settings).run()
    assert fake.states() == ["FAIL"] * 3
    assert "3 trials: 3 fail\nno trial has finished, so there is no best one" in capsys.readouterr().out


def test_names_of_any_kind_reach_the_jobs_and_are_printed_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "it's [/b] / mine"
    fake = make(tmp_path, lr_is_the_loss, "hparams_search.n_trials=2")
    fake.config.hparams_search.study_name = name
    Path(fake.config.hydra.sweep.dir).mkdir(parents=True)
    fake.run()
    given = OverridesParser.create().parse_override(f"x={fake.jobs[0]['hparams_search.study_name']}").value()
    assert (
        given == name
        and f"Everything is in {fake.config.hydra.sweep.dir}; search.html shows it\n" in capsys.readouterr().out
    )


def test_the_trials_may_have_another_folder(tmp_path: Path) -> None:
    fake = make(tmp_path, lr_is_the_loss, "hparams_search.n_trials=2", f"hydra.sweep.dir={tmp_path}/mine").run()
    assert fake.states() == ["COMPLETE"] * 2 and (tmp_path / "mine" / "experiment" / "best.yaml").is_file()


def make_with_checkpoints(folder: Path, *overrides: str) -> FakeLauncher:
    """Each trial is better than those before it."""

    def train(settings: Settings) -> float:
        checkpoint = Path(fake.config.hydra.sweep.dir, settings["hparams_search.trial"], "checkpoints", "best.ckpt")
        checkpoint.parent.mkdir(parents=True)
        checkpoint.touch()
        return -float(settings["hparams_search.trial"])

    fake = make(folder, train, *overrides)
    return fake


class FakeEvaluation:
    """Writes what a test leaves, into a folder that must not be there, and notes which trial it was of."""

    def __init__(self) -> None:
        self.tested: list[str] = []

    def __call__(self, config: DictConfig) -> dict[str, float]:
        folder = Path(config.paths.run_dir)
        folder.mkdir()
        time.sleep(0.2)
        self.tested.append(Path(config.ckpt_path).name)
        (folder / "config.yaml").write_text(OmegaConf.to_yaml(config))
        (folder / "metrics.json").write_text('{"test/acc": 0.5, "train/seconds": 1}')
        return {"test/acc": 0.5}


@pytest.mark.slow
def test_the_test_of_an_earlier_best_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attnlab.training.evaluate.evaluate", evaluate := FakeEvaluation())
    for n_trials in (2, 4):
        fake = make_with_checkpoints(tmp_path, f"hparams_search.n_trials={n_trials}").run()
        tested = yaml.safe_load(Path(fake.config.hydra.sweep.dir, "best", "config.yaml").read_text())
        assert Path(tested["ckpt_path"]).name == str(n_trials - 1)
    assert evaluate.tested == ["1", "3"]


def test_of_two_processes_that_end_together_one_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attnlab.training.evaluate.evaluate", evaluate := FakeEvaluation())
    fake = make_with_checkpoints(tmp_path, "hparams_search.n_trials=2").run()
    folder = Path(fake.config.hydra.sweep.dir)
    shutil.rmtree(folder / "best")
    with ThreadPoolExecutor(2) as pool:
        for ended in [pool.submit(report, fake.study, fake.config, finished=True) for _ in range(2)]:
            ended.result()
    assert evaluate.tested == ["1", "1"]
    assert yaml.safe_load((folder / "optimization_results.yaml").read_text())["test"] == {"test/acc": 0.5}


def test_a_search_without_test_labels_writes_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def evaluate(_: DictConfig) -> dict[str, float]:
        raise UserError("data.label=label of test.csv holds no label")

    monkeypatch.setattr("attnlab.training.evaluate.evaluate", evaluate)
    fake = make_with_checkpoints(tmp_path, "hparams_search.n_trials=2").run()
    found = yaml.safe_load(Path(fake.config.hydra.sweep.dir, "optimization_results.yaml").read_text())
    assert found["best_trial"] == 1 and found["test"] == {}
    assert "The best trial is not tested: data.label=label of test.csv holds no label" in caplog.text
