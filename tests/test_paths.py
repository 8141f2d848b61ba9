from pathlib import Path

import pytest

from attnlab.errors import UserError
from attnlab.paths import CONFIG, choose_run_dir, hydra_subdir, make_run_dir, run_id


def test_runs_that_start_in_the_same_second_have_folders_of_their_own(tmp_path: Path) -> None:
    config = {"paths": {"run_dir": None, "log_dir": str(tmp_path)}, "task_name": "train"}
    folders = {make_run_dir(config) for _ in range(5)}
    assert len(folders) == 5
    assert all(folder.parent == tmp_path / "train" / "runs" and folder.is_dir() for folder in folders)


def test_a_folder_that_is_asked_for_is_used(tmp_path: Path) -> None:
    assert make_run_dir({"paths": {"run_dir": str(tmp_path / "mine")}}) == tmp_path / "mine"


def test_a_folder_that_cannot_be_made_is_one_line() -> None:
    with pytest.raises(UserError, match="no folder can be made there"):
        make_run_dir({"paths": {"run_dir": f"{__file__}/below"}})


def test_a_run_id_sorts_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secrets.token_hex", lambda _: "ab12")
    date, time, short = run_id().split("_")
    assert (len(date), len(time), short) == (10, 8, "ab12")


def test_the_run_to_go_on_with(tmp_path: Path) -> None:
    parent = str(tmp_path)
    for resume in ("latest", "nowhere", None):
        folder = Path(choose_run_dir(resume, parent))
        assert folder.parent == tmp_path and not folder.exists()
    for name in ("2026-01-01_00-00-00_ffff", "2026-01-02_00-00-00_0000"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").touch()
    (tmp_path / "2026-01-03_00-00-00_aaaa").mkdir()  # not begun
    assert choose_run_dir("latest", parent) == str(tmp_path / "2026-01-02_00-00-00_0000")
    assert choose_run_dir(str(tmp_path / "2026-01-01_00-00-00_ffff"), parent).endswith("ffff")


def test_hydra_leaves_its_record_of_a_run_as_it_is(tmp_path: Path) -> None:
    """It would write down the parts of the command that resumes, or is refused, in place of the run's own."""
    assert hydra_subdir(str(tmp_path / "new")) == ".hydra"
    (tmp_path / "config.yaml").touch()
    assert hydra_subdir(str(tmp_path)) is None


def test_the_tasks_of_one_srun_share_a_folder_which_the_job_finds_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"JOB_ID": 7, "STEP_ID": 0, "STEP_LAUNCHER_PORT": 4000, "PROCID": 0}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    first = choose_run_dir(None, str(tmp_path))
    Path(first, CONFIG).touch()
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert choose_run_dir(None, str(tmp_path)) == first and hydra_subdir(first) is None
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_STEP_LAUNCHER_PORT", "4001")
    assert choose_run_dir(None, str(tmp_path)) != first  # another job of that number
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert choose_run_dir(None, str(tmp_path)) == first
    monkeypatch.setenv("SLURM_PROCID", "1")
    monkeypatch.setattr("attnlab.paths.PATIENCE", 0.2)
    with pytest.raises(UserError, match="a file system that all nodes share"):
        choose_run_dir(None, str(tmp_path / "elsewhere"))
