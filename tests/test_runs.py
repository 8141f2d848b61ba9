import json
import multiprocessing
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from attnlab.errors import UserError
from attnlab.folder_lock import LOCK, Lock, Owner
from attnlab.run_dirs import choose_run_dir, hydra_subdir, make_run_dir, remove_if_unused, run_id
from attnlab.runs import CONFIG, RunFolder, whole_file, write_whole


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


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/New_York"])
def test_a_run_is_named_by_universal_time(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the newest of several, which were begun on machines of several zones, would be another one."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", zone)
        time.tzset()
        named = datetime.strptime(run_id()[:19], "%Y-%m-%d_%H-%M-%S").replace(tzinfo=UTC)
    time.tzset()
    assert abs((datetime.now(UTC) - named).total_seconds()) < 10


def test_a_folder_of_another_name_is_the_newest_if_its_run_is(tmp_path: Path) -> None:
    for name in ("2026-01-01_00-00-00_ffff", "mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / CONFIG).touch()
    assert choose_run_dir("latest", str(tmp_path)) == str(tmp_path / "mine")
    os.utime(tmp_path / "mine" / CONFIG, (0, 0))
    assert choose_run_dir("latest", str(tmp_path)).endswith("ffff")


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
    monkeypatch.setattr("attnlab.run_dirs.PATIENCE", 0.2)
    with pytest.raises(UserError, match="a file system that all nodes share"):
        choose_run_dir(None, str(tmp_path / "elsewhere"))


def hold(folder: Path) -> Any:
    """A process that has locked the folder."""

    def run(ready: Any) -> None:
        Lock(folder).acquire()
        ready.set()
        time.sleep(60)

    context = multiprocessing.get_context("fork")
    process = context.Process(target=run, args=(ready := context.Event(),), daemon=True)
    process.start()
    assert ready.wait(30)
    return process


def lock_of_another(folder: Path, **changes: object) -> Path:
    """The lock file that another process has left."""
    file = folder / f"{LOCK}1"
    file.write_text(json.dumps(asdict(replace(Owner(), **changes))))  # type: ignore[arg-type]
    return file


def test_a_run_that_trains_is_left_alone_and_one_that_was_killed_is_free_at_once(tmp_path: Path) -> None:
    process = hold(tmp_path)
    for _ in range(2):
        with (
            pytest.raises(UserError, match=rf"in use: process {process.pid} on .* is training this run"),
            RunFolder.open(tmp_path, new=False),
        ):
            pass
    process.kill()
    process.join()
    before = time.monotonic()
    with RunFolder.open(tmp_path, new=False):
        assert len(list(tmp_path.iterdir())) == 1
    assert time.monotonic() - before < 1
    assert not list(tmp_path.iterdir())


def test_a_process_number_that_came_round_again_is_another_process(tmp_path: Path) -> None:
    lock_of_another(tmp_path, started="long ago")
    with RunFolder.open(tmp_path, new=False):
        pass


def test_a_job_waits_for_the_process_before_it_to_end(tmp_path: Path) -> None:
    process = hold(tmp_path)
    killer = threading.Timer(0.3, process.kill)
    killer.start()
    with RunFolder.open(tmp_path, new=False, patience=30):
        killer.join()


@pytest.mark.parametrize("beats", [True, False])
def test_on_another_machine_the_heartbeat_decides(beats: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attnlab.folder_lock.STALE", 0.5)
    file = lock_of_another(tmp_path, machine="another one", host="node7")
    os.utime(file, (2e9, 2e9))  # its clock is ahead by years
    stop = threading.Event()

    def beat() -> None:
        while beats and not stop.wait(0.05):
            os.utime(file)

    heart = threading.Thread(target=beat)
    heart.start()
    try:
        lock = Lock(tmp_path)
        if beats:
            with pytest.raises(UserError, match="on node7 is training this run"):
                lock.acquire()
        else:
            lock.acquire()
            lock.release()
    finally:
        stop.set()
        heart.join()


def test_the_heart_of_a_lock_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attnlab.folder_lock.HEARTBEAT", 0.01)
    with RunFolder.open(tmp_path, new=True):
        (file,) = tmp_path.iterdir()
        os.utime(file, (0, 0))
        deadline = time.monotonic() + 10
        while file.stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert file.stat().st_mtime > 0


@pytest.mark.parametrize("left", [None, {"started": "long ago"}])
def test_of_many_processes_one_gets_a_folder(left: dict[str, str] | None, tmp_path: Path) -> None:
    """Threads stand for them: free, or with a lock that a killed process has left."""
    for _ in range(20):
        if left is not None:
            lock_of_another(tmp_path, **left)
        locks = [Lock(tmp_path) for _ in range(8)]

        def has(lock: Lock) -> bool:
            try:
                lock.acquire()
            except UserError:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            winners = [lock for lock, won in zip(locks, pool.map(has, locks), strict=True) if won]
        assert len(winners) == 1
        winners[0].release()
        assert not list(tmp_path.iterdir())


def test_the_processes_of_a_distributed_run_share_the_lock_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RunFolder.open(tmp_path, new=True):
        monkeypatch.setenv("LOCAL_RANK", "1")
        with RunFolder.open(tmp_path, new=True):
            pass
        assert list(tmp_path.iterdir())


def test_a_file_is_whole_or_the_one_that_was_there(tmp_path: Path) -> None:
    file = tmp_path / "metrics.json"
    write_whole(file, "old")
    with pytest.raises(KeyboardInterrupt), whole_file(file) as partial:
        partial.write_text("ne")
        raise KeyboardInterrupt
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]


def test_what_is_written_is_on_disk_before_it_takes_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss of power leaves the old file or the new one: the content comes first, then the name."""
    calls: list[str] = []

    def synced(descriptor: int) -> None:
        calls.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)

    def replaced(self: Path, target: Path) -> Path:
        calls.append("rename")
        os.rename(self, target)  # noqa: PTH104
        return target

    monkeypatch.setattr("os.fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    write_whole(tmp_path / "metrics.json", "{}")
    assert calls == ["metrics.json.partial", "rename", tmp_path.name]


def test_a_command_that_has_written_nothing_leaves_nothing(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    other, unused, outside, noted = logs / "train/runs/a", logs / "predict/runs/b", tmp_path / "mine", logs / "noted"
    for folder in (other, unused, outside, noted):
        (folder / ".hydra").mkdir(parents=True)
        (folder / ".hydra" / "config.yaml").touch()
        (folder / "program.log").touch()
    (other / "config.yaml").touch()
    (noted / "notes.log").touch()  # a user's own
    for folder in (other, unused, outside, noted):
        remove_if_unused(folder, "program.log", logs)
    left = {str(path.relative_to(logs)) for path in tmp_path.rglob("*") if path.is_file()}
    traces = [".hydra/config.yaml", "program.log"]
    expected = {f"train/runs/a/{name}" for name in (*traces, "config.yaml")}
    assert left == expected | {f"noted/{name}" for name in (*traces, "notes.log")}
    assert outside.is_dir() and not (logs / "predict").exists()
