import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from omegaconf import DictConfig
from rich.console import Console

from attnlab import progress
from attnlab.experiments.live_table import Job, LiveTable
from tests.experiments.test_study import config_loader


@pytest.fixture
def table(compose_sweep: Callable[..., DictConfig]) -> LiveTable:
    return LiveTable(compose_sweep("pe=none,learned", "optimizer.lr=1e-3,0.123456789", "seed=7"), config_loader())


@pytest.fixture
def compose_sweep(tmp_path: Path) -> Callable[..., DictConfig]:
    from hydra.types import RunMode

    def make(*overrides: str) -> DictConfig:
        given = [f"hydra.sweep.dir={tmp_path}/sweep", *overrides]
        return config_loader().load_configuration("train", given, run_mode=RunMode.MULTIRUN)

    return make


JOBS = [[f"pe={pe}", f"optimizer.lr={lr}", "seed=7"] for pe in ("none", "learned") for lr in ("1e-3", "0.123456789")]


def jobs(overrides: Sequence[Sequence[str]], first: int = 0) -> list[Job]:
    return [Job(job, number) for number, job in enumerate(overrides, first)]


def tell(folder: Path, number: int, **values: object) -> None:
    (folder / "sweep" / str(number)).mkdir(parents=True, exist_ok=True)
    with progress.reporting(folder / "sweep" / str(number)):
        progress.report(**values)


def rendered(table: LiveTable, rows: int) -> list[str]:
    console = Console(width=80, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(table._table(rows))
    return console.export_text().splitlines()


def test_the_table_shows_what_the_jobs_tell(table: LiveTable, tmp_path: Path) -> None:
    tell(tmp_path, 0, state="done")  # of an attempt before
    with table.running(jobs(JOBS)):
        assert [line.split()[-1] for line in rendered(table, 10)[1:5]] == ["waiting"] * 4
        tell(tmp_path, 0, state="running", epoch=3, epochs=10, best=0.51234, left=65.0)
        tell(tmp_path, 1, state="done", epoch=10, epochs=10, metrics={"val/loss": 0.4}, seconds=9.0)
        tell(tmp_path, 2, state="failed", reason="no memory")
        lines = rendered(table, 10)
        assert lines[0].split() == ["#", "settings", "epoch", "val/loss", "state", "left"]
        assert lines[1].split() == ["0", "pe=none", "lr=1e-3", "3/10", "0.5123", "running", "1:05"]
        assert lines[2].split()[2:] == ["lr=0.123", "10/10", "0.4000", "done"]
        assert "4 jobs: 1 running, 1 done, 1 failed, 1 waiting" in lines and "best so far: #1 val/loss 0.4000" in lines
        few = rendered(table, 2)  # of a low terminal: what runs, and what comes next
        assert [line.split()[0] for line in few[1:3]] == ["0", "3"] and "2 of them not shown here" in few[3]
    assert [job.state for job in table.jobs] == ["died", "done", "failed", "not begun"]


def test_the_ranking_goes_by_the_metric_and_names_what_failed(
    table: LiveTable, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with table.running(jobs(JOBS)):
        for number, (loss, acc) in enumerate([(0.5, 0.8), (0.4, 0.7), (float("nan"), 0.9)]):
            tell(tmp_path, number, state="done", metrics={"val/loss": loss, "test/acc": acc}, seconds=3700.0)
        tell(tmp_path, 3, state="failed", reason="no memory", metrics={})
    table.print_ranked()
    lines = capsys.readouterr().out.splitlines()
    ranked = [line.split() for line in lines if line[:1] in "123" and "pe=" in line]
    assert [row[1] for row in ranked] == ["1", "0", "2"] and ranked[0][2:] == [
        *("pe=none", "lr=0.123", "0.4000", "0.7000", "1:01:40")
    ]
    assert f"#3 pe=learned lr=0.123: failed: no memory ({tmp_path}/sweep/3/output.log)" in lines


def test_of_an_ablation_it_shows_how_the_verdicts_stand(table: LiveTable, tmp_path: Path) -> None:
    with table.running(jobs(JOBS)):
        tell(tmp_path, 0, state="running", epoch=3, epochs=10)
        tell(tmp_path, 1, state="done", metrics={"val/loss": 0.4})
        change = "vocab_size=2500 x scheduler.warmup=0.1"
        rows: list[tuple[str, ...]] = [
            (change, "3", "-12.34", "[-20.11, +10.54]", "open"),
            *[("pe=none", "16", "+1.00", "", "better")] * 20,
        ]
        table.verdicts = rows
        lines = rendered(table, 18)
        assert lines[0].split() == ["change", "seeds", "difference", "interval", "verdict"]
        assert "-12.34" in lines[1] and lines[1].rstrip().endswith("open") and max(map(len, lines)) <= 80
        assert any(line.strip().endswith(" more") for line in lines) and any(
            "pe=none" in line and "running" in line for line in lines
        )
        assert len(lines) <= 18 + 6


def test_a_verdict_is_a_line_where_there_is_no_terminal(table: LiveTable, capfd: pytest.CaptureFixture[str]) -> None:
    table.lines.append("pe=none: -1.00 [-1.50, -0.50] on validation after 3 seeds: worse")
    with table.on_terminal():
        pass
    assert capfd.readouterr().out.count("after 3 seeds: worse") == 1


def test_an_interrupted_sweep_says_so(table: LiveTable, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), table.running(jobs(JOBS)):
        tell(tmp_path, 0, state="running", epoch=1)
        raise KeyboardInterrupt
    assert [job.state for job in table.jobs] == ["interrupted", *["not begun"] * 3]


def test_folders_are_found_by_whatever_name_they_have(compose_sweep: Callable[..., DictConfig], tmp_path: Path) -> None:
    config = compose_sweep("pe=none,learned", "hydra.sweep.subdir=${pe_name}-${hydra.job.num}", "+pe_name=x,y")
    table = LiveTable(config, config_loader())
    with table.running(jobs([["pe=none", "+pe_name=x"], ["pe=learned", "+pe_name=y"]], 5)):
        assert [job.folder for job in table.jobs] == [tmp_path / "sweep" / "x-5", tmp_path / "sweep" / "y-6"]
        assert table.label(table.jobs[0]) == "pe=none pe_name=x"


def test_the_summary_and_the_time_left_have_room_below_many_jobs(table: LiveTable, tmp_path: Path) -> None:
    ninety = [
        ["pe=learned", f"model.embed_dim={8 * i}", "optimizer.lr=0.123456789", "model.pooling=attention" * 3]
        for i in range(90)
    ]
    with table.running(jobs(ninety)):
        for number in range(3):
            tell(tmp_path, number, state="done", metrics={"val/loss": 0.4}, seconds=10.0)
        for number in (3, 4):
            tell(tmp_path, number, state="running", epoch=1, epochs=10, left=4.0)
        lines = rendered(table, 24 - 6)
        assert len(lines) <= 24 and max(map(len, lines)) <= 80
        assert any(line.startswith("90 jobs: 3 done, 2 running, 85 waiting") for line in lines)
        assert "all done in about 7:09" in lines  # 85 * 10 s and 2 * 4 s, two at a time


def test_jobs_that_begin_side_by_side_are_all_shown(table: LiveTable) -> None:
    """While the table is drawn, and each with its settings."""
    over = threading.Event()
    faults: list[BaseException] = []

    def draw() -> None:
        while not over.is_set():
            try:
                table._table(10)
            except BaseException as error:
                faults.append(error)

    def begin(number: int) -> None:
        with table.running(jobs([[f"seed={number}", "pe=none" if number % 2 else "pe=learned"]], number)):
            pass

    drawing = threading.Thread(target=draw)
    drawing.start()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(begin, range(60)))
    over.set()
    drawing.join()
    assert not faults and sorted(job.number or 0 for job in table.jobs) == list(range(60))
