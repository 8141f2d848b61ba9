"""The commands of the README and of docs, as a user types them."""

import contextlib
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from attnlab.composing import read_arguments
from tests.conftest import ROOT, TINY

PAGES = [path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))]
COMMANDS = [
    command for page in PAGES for command in re.findall(r"^python src/(\w+)\.py(.*?)(?:\s+#.*)?$", page, re.MULTILINE)
]


def run(*command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run from another folder, so that `logs/` is made there."""
    script, *arguments = command
    return subprocess.run(
        [sys.executable, str(ROOT / "src" / script), *arguments],
        cwd=folder,
        env=os.environ | {"COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize(("script", "arguments"), COMMANDS, ids=[f"{s}{a}" for s, a in COMMANDS])
def test_every_documented_command_composes(
    script: str, arguments: str, compose_config: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AG_NEWS_PATH", "folder")
    if "--config-dir" in arguments:
        pytest.skip("test_a_runs_own_config_runs_again does it")
    words = shlex.split(os.path.expandvars(arguments.replace("<", "").replace(">", "")))
    overrides = [word for word in words if word not in ("-m", "--help")]
    # Of a sweep's values the first one stands for all.
    single = [word.split(",")[0] if "-m" in words and "{" not in word else word for word in overrides]
    assert compose_config(*read_arguments(script, single), name=script).task_name == script


def test_the_readme_has_commands() -> None:
    assert len(COMMANDS) >= 6


@pytest.mark.parametrize(
    ("script", "choices"),
    [
        ("train.py", "pe: alibi, learned, none, rotary, sinusoidal"),
        ("evaluate.py", "pe: alibi, learned, none, rotary, sinusoidal"),
        ("compare.py", "Settings: runs, by, reference, metric, alpha, margin, plan, across"),
        ("predict.py", "Settings: ckpt_path, text, text_pair, input, output, format"),
        ("export.py", "Settings: ckpt_path, data, format (onnx, torch, safetensors), quantize (int8),"),
        ("demo.py", "Settings: ckpt_path, port, share, threads"),
        ("dashboard.py", "Settings: project, entity"),
    ],
)
def test_help_names_choices_and_examples(script: str, choices: str, tmp_path: Path) -> None:
    result = run(script, "--help", folder=tmp_path)
    assert result.returncode == 0 and result.stderr == ""
    assert choices in result.stdout
    assert result.stdout.count(f"python src/{script}") >= 3
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert list(tmp_path.iterdir()) == []


def test_train_then_evaluate(tmp_path: Path) -> None:
    trained = run("train.py", "model.pooling=max", "pe=learned", *TINY, folder=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert "Warning" not in trained.stderr and "epoch 2/2" in trained.stdout and "order_blind 0." in trained.stdout
    (folder,) = (tmp_path / "logs" / "train" / "runs").iterdir()
    assert f"Everything is in {folder.relative_to(tmp_path)}" in trained.stdout
    assert max(map(len, trained.stdout.splitlines())) <= 100
    assert trained.stdout.index("Accuracy 0.") < trained.stdout.index("report.html") < trained.stdout.index("f1_macro")
    assert "empty_documents" not in trained.stdout and "FLOPs" not in trained.stdout
    evaluated = run("evaluate.py", f"ckpt_path={folder}", "trainer=cpu", folder=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    (results,) = (tmp_path / "logs" / "evaluate" / "runs").iterdir()
    scores = [json.loads((path / "metrics.json").read_text())["test/acc"] for path in (folder, results)]
    assert scores[0] == pytest.approx(scores[1])
    (tmp_path / "new.jsonl").write_text('{"text": "oil prices fall"}\n')
    predicted = run("predict.py", f"ckpt_path={folder}", "input=new.jsonl", "output=-", "format=jsonl", folder=tmp_path)
    assert predicted.returncode == 0 and json.loads(predicted.stdout).keys() == {"text", "predicted", "probability"}


def on_a_terminal(*command: str, folder: Path, stop_at: bytes | None = None) -> str:
    """What a terminal of 80 columns gets to see, with its control sequences; Ctrl-C once it has seen `stop_at`."""
    terminal, child = pty.openpty()
    termios.tcsetwinsize(child, (30, 80))
    environment = {key: value for key, value in os.environ.items() if key != "COLUMNS"} | {"TERM": "xterm"}
    whole = [sys.executable, str(ROOT / "src" / "train.py"), *command]
    process = subprocess.Popen(whole, cwd=folder, env=environment, stdout=child, stderr=child)
    os.close(child)
    shown, status = b"", 0
    with contextlib.suppress(OSError):  # the terminal's end when the child has closed it
        while part := os.read(terminal, 65536):
            shown += part
            if stop_at is not None and stop_at in shown:
                process.send_signal(signal.SIGINT)
                stop_at, status = None, 130
    assert process.wait(timeout=60) == status, shown.decode()
    return shown.decode()


def test_on_a_terminal_there_is_a_progress_bar(tmp_path: Path) -> None:
    shown = on_a_terminal(*TINY, folder=tmp_path)
    assert "Epoch 2/2" in shown and "Everything is in" in shown
    bars = [frame for frame in re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)) if "━" in frame]
    bars = [frame.rstrip() for frame in bars if frame.startswith("Epoch")]
    assert max(map(len, bars)) <= 80 and re.search(r"\d/\d.* loss \d.*val/loss \d.*val/acc \d", bars[-1])


@pytest.mark.slow
def test_after_ctrl_c_the_last_line_says_how_to_resume(tmp_path: Path) -> None:
    shown = on_a_terminal(*TINY, "trainer.max_epochs=1000", folder=tmp_path, stop_at=b"Epoch 2/1000")
    (folder,) = (tmp_path / "logs" / "train" / "runs").iterdir()
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown).replace("\r\n", "\n").split("\n")
    last = [line.rstrip() for line in lines if line.strip()][-1]
    assert last == f"resume={folder.relative_to(tmp_path)}"


@pytest.mark.slow
def test_on_a_terminal_a_sweep_is_one_table(tmp_path: Path) -> None:
    """Of jobs in this process too, whose output would run through it."""
    shown = on_a_terminal("-m", "pe=none,learned", *TINY, "hydra.launcher.jobs=1", folder=tmp_path)
    frames = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", shown).replace("\r", "\n")  # where a line is drawn over
    assert re.search(r"^#  settings +epoch +val/loss +state", frames, re.MULTILINE)
    assert re.search(r"^1  pe=learned +(2/2 +\d\.\d{4} +)?(waiting|starting|running|testing)", frames, re.MULTILINE)
    assert "2 jobs: 2 done; the best by val/loss first" in frames
    assert "train/loss" not in frames and "Temperature" not in frames
    assert max(map(len, frames.splitlines())) <= 80


def test_a_multirun_trains_every_combination_and_survives_a_mistake_in_one(tmp_path: Path) -> None:
    result = run("train.py", "-m", "pe=none,learned", "model.num_heads=3,2", *TINY, folder=tmp_path)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr and "model.num_heads=3 does not divide" in result.stderr
    (sweep,) = (tmp_path / "logs" / "train" / "multiruns").iterdir()
    finished = sorted(int(path.parent.name) for path in sweep.glob("*/metrics.json"))
    assert finished == [1, 3]
    # The terminal has a line of each and a ranking, the folder what a job printed.
    lines = result.stdout.splitlines()
    assert set(re.findall(r"^#\d(?=  )", result.stdout, re.MULTILINE)) == {f"#{job}" for job in range(4)}
    assert any(line.startswith("#0  pe=none num_heads=3  failed: model.num_heads=3 does not divide") for line in lines)
    assert any(line.startswith("#1  pe=none num_heads=2  val/loss ") for line in lines)
    assert "4 jobs: 2 failed, 2 done; the best by val/loss first" in lines
    assert "HYDRA" not in result.stdout and "Error executing job" not in result.stderr
    assert f"Everything is in {sweep.relative_to(tmp_path)}" in lines
    log = (sweep / "1" / "output.log").read_text()
    assert log.startswith("#1 pe=none model.num_heads=2 ") and "epoch 2/2" in log and "Everything is in" in log
    assert "error: model.num_heads=3" in (sweep / "0" / "output.log").read_text()


@pytest.mark.slow
def test_jobs_side_by_side_find_what_they_find_one_after_another(tmp_path: Path) -> None:
    found = []
    for jobs in (1, 2):
        side_by_side = [f"hydra.launcher.jobs={jobs}", "trainer.threads=1", f"hydra.sweep.dir={jobs}"]
        result = run("train.py", "-m", "model=bag,attention", "seed=0,1", *TINY[:-1], *side_by_side, folder=tmp_path)
        assert result.returncode == 0, result.stderr
        metrics = [json.loads((tmp_path / str(jobs) / str(job) / "metrics.json").read_text()) for job in range(4)]
        for job in metrics:
            del job["train/seconds"], job["train/samples_per_second"]
        found.append(metrics)
    assert found[0] == found[1]
    assert len(list(tmp_path.glob("[12]/*/output.log"))) == 8


@pytest.mark.slow
def test_a_sweep_is_compared(tmp_path: Path) -> None:
    sweep = ["-m", "experiment=notebook/pooling", "model.pooling=cls,max", "seed=0,1", *TINY, "trainer.max_epochs=1"]
    trained = run("train.py", *sweep, folder=tmp_path)
    assert trained.returncode == 0, trained.stderr
    (folder,) = (tmp_path / "logs" / "train" / "multiruns").iterdir()
    compared = run("compare.py", f"runs={folder}", folder=tmp_path)
    assert compared.returncode == 0 and compared.stderr == ""
    assert "Only model.pooling differs: 4 runs, test/acc (higher is better)" in compared.stdout
    assert max(map(len, compared.stdout.splitlines())) <= 100
    (report,) = (tmp_path / "logs" / "compare" / "runs").iterdir()
    names = {"comparison.csv", "comparison.md", "comparison.html", "figures"}
    assert names < {path.name for path in report.iterdir()}
    mistake = run("compare.py", f"runs={folder}", "by=pe", folder=tmp_path)
    assert mistake.returncode == 1
    assert "error: by=pe does not differ between these runs; what differs: model.pooling" in mistake.stderr


@pytest.mark.slow
def test_a_search_that_is_killed_goes_on(tmp_path: Path) -> None:
    command = ["-m", "hparams_search=optuna", "hparams_search.n_trials=3", "model.embed_dim=8,12", *TINY[:-1]]
    command += ["model.num_heads=2", "trainer.max_epochs=1"]
    process = subprocess.Popen([sys.executable, str(ROOT / "src" / "train.py"), *command], cwd=tmp_path)
    deadline = time.monotonic() + 100
    while not list(tmp_path.glob("logs/train/searches/*/1/metrics.csv")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.kill()
    process.wait()
    (folder,) = (tmp_path / "logs" / "train" / "searches").iterdir()
    first = (folder / "0" / "metrics.json").stat().st_mtime_ns
    result = run("train.py", *command, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr and "Warning" not in result.stderr
    assert "3 trials: " in result.stdout and "The best five" in result.stdout
    assert (folder / "0" / "metrics.json").stat().st_mtime_ns == first
    tested = list(folder.glob("*/predictions.parquet"))
    assert tested == [folder / "best" / "predictions.parquet"]
    found = re.search(r"python src/train\.py (--config-dir=\S+ experiment=best)", result.stdout)
    assert found is not None
    again = run("train.py", *found[1].split(), folder=tmp_path)
    assert again.returncode == 0, again.stderr
    (rerun,) = (tmp_path / "logs" / "train" / "runs").iterdir()
    best = json.loads((folder / "best" / "metrics.json").read_text())
    assert json.loads((rerun / "metrics.json").read_text())["test/loss"] == pytest.approx(best["test/loss"], abs=1e-6)


@pytest.mark.slow
def test_two_jobs_of_a_search_run_at_once(tmp_path: Path) -> None:
    """And are pruned: what falls behind its neighbours ends before its last epoch."""
    at_once = ["hparams_search.n_trials=8", "hparams_search.n_jobs=2", "trainer.max_epochs=6"]
    fixed = ["model.embed_dim=8", "model.num_heads=2"]
    result = run("train.py", "-m", "hparams_search=optuna", *TINY, *at_once, *fixed, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert len(list(tmp_path.glob("logs/train/searches/*/[0-7]/metrics.json"))) == 8
    found = re.search(r"8 trials: (.*)", result.stdout)
    assert found is not None and "pruned" in found[1]


@pytest.mark.slow
def test_a_search_runs_through_submitit(tmp_path: Path) -> None:
    jobs = ["hydra/launcher=submitit_local", "hparams_search.n_jobs=2", "hparams_search.n_trials=3"]
    result = run("train.py", "-m", "hparams_search=optuna", *TINY, *jobs, "model.num_heads=1", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "3 trials: " in result.stdout
    assert len(list(tmp_path.glob("logs/train/searches/*/[012]/metrics.json"))) == 3


def test_ray_composes_and_names_its_extra_where_that_is_missing(tmp_path: Path) -> None:
    ray = ["hydra/launcher=ray", "hydra.launcher.ray.init.address=auto"]
    result = run("train.py", *ray, "--cfg=hydra", folder=tmp_path)
    assert result.returncode == 0 and "RayLauncher" in result.stdout, result.stderr
    if find_spec("ray") is None:
        result = run("train.py", "-m", "seed=0,1", *ray, folder=tmp_path)
        assert result.returncode == 1 and 'pip install -c constraints.txt -e ".[ray]"' in result.stderr, result.stderr
        assert "Traceback" not in result.stderr


def test_slurm_composes(tmp_path: Path) -> None:
    result = run("train.py", "hydra/launcher=slurm", "hydra.launcher.partition=gpu", "--cfg=hydra", folder=tmp_path)
    assert result.returncode == 0 and "ResilientSlurmLauncher" in result.stdout, result.stderr


def test_a_mistake_in_a_search_is_one_line(tmp_path: Path) -> None:
    result = run("train.py", "-m", "hparams_search=optuna", "hparams_search.storage=foo://x", folder=tmp_path)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "error: hparams_search.storage=foo://x can't be opened: " in result.stderr
    result = run("train.py", "-m", "hparams_search=optuna", "trainer=ddp", folder=tmp_path)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "error: a search can't train on several devices (trainer.strategy=ddp)" in result.stderr


@pytest.mark.slow
def test_the_whole_study_is_one_command(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    for name in ("src", "conf", "Makefile", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    tiny = ["data.train_size=150", "data.test_size=60", "trainer.max_epochs=1", "trainer=cpu"]
    command = ["make", "study", f"ARGS={' '.join(tiny)}", f"BIN={Path(sys.executable).parent}", "-o", ".venv/.run"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    (study,) = (tmp_path / "logs" / "study").iterdir()
    table = (study / "comparison" / "comparison.csv").read_text()
    assert len(list(study.glob("*/metrics.json"))) == 90 and table.count("All settings") == 18
    for factor in ("model.pooling", "model.num_heads", "model.layer_norm", "pe", "tokenizer.vocab_size"):
        assert f"Only {factor} differs" in table


def test_a_sweep_of_settings_takes_no_value_for_what_it_varies(tmp_path: Path) -> None:
    result = run("train.py", "-m", "study=notebook", "pe=none,learned", folder=tmp_path)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "error: pe: this sweep varies that already" in result.stderr


@pytest.mark.slow
def test_a_second_run_in_a_folder_leaves_the_first_as_it_was(tmp_path: Path) -> None:
    """Hydra's record of it too, by which compare.py names the parts."""
    first = run("train.py", "model=bag", *TINY, "hydra.run.dir='mine [/b]'", folder=tmp_path)
    assert first.returncode == 0 and "Everything is in mine [/b]" in first.stdout, first.stderr
    ours = [file for file in (tmp_path / "mine [/b]").rglob("*") if file.is_file() and file.suffix != ".log"]
    files = {file: file.read_bytes() for file in ours}
    second = run("train.py", *TINY, "hydra.run.dir='mine [/b]'", folder=tmp_path)
    assert second.returncode == 1 and "holds another run" in second.stderr and "Traceback" not in second.stderr
    assert {file: file.read_bytes() for file in files} == files
    jobs = run("train.py", "-m", "seed=0,1", *TINY, "paths.run_dir=shared", folder=tmp_path)
    assert jobs.returncode == 1 and jobs.stderr.count("holds another run") == 1


@pytest.mark.parametrize("logging", ["disabled", "none", "stdout"])
def test_other_ways_of_logging_work(logging: str) -> None:
    """Nothing of ours is added to what Hydra ships."""
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(ROOT / "conf")):
        composed = compose("train", overrides=[f"hydra/job_logging={logging}"], return_hydra_config=True)
    assert "plain" not in composed.hydra.job_logging.get("formatters", {})
    with initialize_config_dir(str(ROOT / "conf")):
        ours = compose("train", return_hydra_config=True).hydra.job_logging
    assert ours.handlers.console.formatter == "plain" and ours.formatters.plain.format == "%(message)s"


@pytest.mark.slow
def test_a_terminal_without_our_characters_and_a_backend_of_a_notebook(tmp_path: Path) -> None:
    strange = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "MPLBACKEND": "module://no_such_backend"}
    script = [sys.executable, str(ROOT / "src/train.py"), *TINY, "hydra.run.dir='größe'"]
    result = subprocess.run(
        script, cwd=tmp_path, env=os.environ | strange, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0 and "Everything is in gr??e" in result.stdout, result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model.pooling=foo"], "error: model.pooling=foo is unknown; choose one of cls, max, mean, attention"),
        (["pe=foo"], "Could not find 'pe/foo'"),
        (["data=files", "data.train=path (1).csv"], "quote the value, once more for the shell: \"data.train='path (1)"),
        (["model.foo=1"], "Key 'foo' is not in struct"),
    ],
)
def test_a_mistake_is_one_line_and_status_1(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = run("train.py", *arguments, folder=tmp_path)
    assert result.returncode == 1
    assert message in result.stderr and "Traceback" not in result.stderr


@pytest.mark.slow  # in one process: tests/training/test_train.py
def test_a_runs_own_config_runs_again(tmp_path: Path) -> None:
    tiny = [*TINY, "trainer.max_epochs=1"]
    assert run("train.py", "hydra.run.dir=first", *tiny, folder=tmp_path).returncode == 0
    again = run("train.py", "--config-dir=first", "--config-name=config", "hydra.run.dir=second", folder=tmp_path)
    assert again.returncode == 0, again.stderr
    first, second = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("first", "second"))
    assert [first[key] for key in ("test/acc", "test/loss")] == [second[key] for key in ("test/acc", "test/loss")]


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path: Path) -> None:
    two = "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"
    tiny = [override for override in TINY if override != "trainer=cpu"]
    result = run("train.py", *two, *tiny, "data.test_size=61", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    (folder,) = (tmp_path / "logs" / "train" / "runs").iterdir()
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["train/epochs"] == 2
    assert metrics["test/log_loss_uncalibrated"] == pytest.approx(metrics["test/loss"])  # of the documents of both
    import pyarrow.parquet

    assert pyarrow.parquet.read_table(folder / "predictions.parquet")["index"].to_pylist() == list(range(61))
    refused = run("train.py", "-m", *two, *tiny, "seed=0,1", folder=tmp_path)
    assert refused.returncode == 1 and "a multirun can't train on several devices" in refused.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_trains(tmp_path: Path) -> None:
    result = run("train.py", *TINY, "trainer=gpu", "trainer.precision=bf16-mixed", folder=tmp_path)
    assert result.returncode == 0, result.stderr


def test_make_help_lists_the_targets() -> None:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    result = subprocess.run(["make", "help"], cwd=ROOT, env=plain, capture_output=True, text=True, check=True)
    listed = [line.split()[1] for line in result.stdout.splitlines()]
    targets = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert listed == targets and {"train", "study", "test", "test-all", "lint", "bench", "clean"} <= set(listed)
