from pathlib import Path

import pytest

from attnlab.paths import make_run_dir, run_id


def test_runs_that_start_in_the_same_second_have_folders_of_their_own(tmp_path: Path) -> None:
    config = {"paths": {"run_dir": None, "log_dir": str(tmp_path)}, "task_name": "train"}
    folders = {make_run_dir(config) for _ in range(5)}
    assert len(folders) == 5
    assert all(folder.parent == tmp_path / "train" / "runs" and folder.is_dir() for folder in folders)


def test_a_folder_that_is_asked_for_is_used(tmp_path: Path) -> None:
    assert make_run_dir({"paths": {"run_dir": str(tmp_path / "mine")}}) == tmp_path / "mine"


def test_a_run_id_sorts_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secrets.token_hex", lambda _: "ab12")
    date, time, short = run_id().split("_")
    assert (len(date), len(time), short) == (10, 8, "ab12")
