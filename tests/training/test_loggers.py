"""Curves, TensorBoard and W&B; what W&B got is read back from the file that an offline run writes."""

import gzip
import json
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import wandb
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig
from wandb.proto.wandb_internal_pb2 import Record

from attnlab.errors import UserError
from attnlab.training import loggers
from attnlab.training import train as spine
from attnlab.training.callbacks import Stopwatch
from attnlab.training.train import train
from tests.conftest import ROOT


def records(file: Path) -> Iterator[Record]:
    """The records of a .wandb file, a LevelDB log: blocks of 32 KiB, each of chunks with a header of 7 bytes."""
    content, position, parts = file.read_bytes(), 7, b""
    while position + 7 <= len(content):
        if (left := -position % 32768) and left < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", content[position : position + 7])
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def history(all_records: list[Record]) -> dict[str, list[Any]]:
    values: dict[str, list[Any]] = {}
    for record in all_records:
        if record.WhichOneof("record_type") == "history":
            for item in record.history.item:
                values.setdefault("/".join(item.nested_key) or item.key, []).append(json.loads(item.value_json))
    return values


@pytest.fixture
def without_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "wandb-data"))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("prompted"))


@pytest.mark.usefixtures("without_account")
def test_an_offline_run_holds_everything(tiny_config: Callable[..., DictConfig], tmp_path: Path) -> None:
    folder = tmp_path / "my-run"
    (folder / "figures").mkdir(parents=True)
    shutil.copy(ROOT / "docs" / "study.png", folder / "figures" / "curves.png")  # tests draw none
    secrets = ["+notes.api_key=planted", "+notes.store=postgresql://me:planted@host/x"]
    train(tiny_config("logger=[wandb,tensorboard]", "tags=[first,try]", f"paths.run_dir={folder}", *secrets))
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    deadline = time.monotonic() + 20
    while True:  # W&B's own process may write the last of it a moment after it has said that the run is finished
        found = list(records(file))
        kinds = {record.WhichOneof("record_type") for record in found}
        if "exit" in kinds or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    assert "exit" in kinds  # finished, not left open

    run = next(record.run for record in found if record.WhichOneof("record_type") == "run")
    assert (run.project, run.display_name, list(run.tags)) == ("attnlab", "my-run", ["first", "try"])
    config = {
        item.key or "/".join(item.nested_key): json.loads(item.value_json)
        for record in found
        for update in (record.run.config, record.config)
        for item in update.update
    }
    assert config["model"]["pooling"] == "cls" and config["seed"] == 0 and config["data"]["noise"] == 0.05

    values = history(found)
    assert config[loggers.SETTING] == "default"  # composed in Python, which has no command line
    for curve in ("epoch", "train/loss", "val/loss", "val/acc", "test/acc", "lr"):
        assert values[curve], curve
    assert any(key.startswith(f"{loggers.CONFUSION}_table") for key in values)
    summary = {item.key or "/".join(item.nested_key) for record in found for item in record.summary.update}
    assert {"ceiling/order_blind", "train/samples_per_second"} <= summary
    (table_file,) = folder.glob("wandb/offline-run-*/files/media/table/test/confident_mistakes_*.table.json")
    table = json.loads(table_file.read_text())
    assert table["columns"] == ["text", "label", "predicted", "confidence"] and table["data"]
    assert all(label != predicted for _, label, predicted, _ in table["data"])
    confidences = [row[-1] for row in table["data"]]
    assert confidences == sorted(confidences, reverse=True)

    requests = [record.request.log_artifact.artifact for record in found if record.request.HasField("log_artifact")]
    artifacts = [record.artifact for record in found if record.WhichOneof("record_type") == "artifact"] + requests
    (artifact,) = (artifact for artifact in artifacts if artifact.type == "model")
    assert {entry.path for entry in artifact.manifest.contents} == {"tokenizer.json", "best.ckpt"}
    shown_by_tensorboard(folder)
    assert config["notes"] == {"api_key": "***", "store": "postgresql://me:***@host/x"}
    assert not [file for file in folder.rglob("*") if file.is_file() and b"planted" in file.read_bytes()]


def shown_by_tensorboard(folder: Path) -> None:
    """As far as it can, the same."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    metrics = json.loads((folder / "metrics.json").read_text())
    for name in ("test/acc", "val/loss", "train/samples_per_second"):
        (point,) = events.Scalars(f"result/{name}")
        assert point.value == pytest.approx(metrics[name])
    assert len(events.Scalars("val/loss")) == 2  # the curve alone
    text = events.Tensors("test/confident_mistakes/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text.startswith("| text | label | predicted | confidence |\n| --- ") and text.count("\n") > 2
    assert "nPredictions" in events.Tensors("test/confusion_matrix/text_summary")[0].tensor_proto.string_val[0].decode()
    kept = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    hparams = HParamsPluginData.FromString(kept).session_start_info.hparams
    assert hparams["model/pooling"].string_value == "cls" and hparams["seed"].number_value == 0
    assert events.Tags()["images"] == ["figures/curves"]


def test_a_logger_that_takes_numbers_alone_gets_them_and_one_that_fails_ends_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    plain, broken = Mock(spec=Logger), Mock(spec=Logger)
    broken.log_metrics.side_effect = OSError("disk full")
    loggers.log_results([broken, plain], loggers.RunArtifacts({"test/acc": 0.5, "words": "many"}, {}, {}))
    plain.log_metrics.assert_called_once_with({"test/acc": 0.5})
    assert "disk full" in caplog.text
    loggers.log_summary([plain], {"search/state": "pruned"})


@pytest.mark.usefixtures("without_account")
@pytest.mark.parametrize(
    ("environment", "mode", "expected"),
    [
        ({}, None, "offline"),
        ({"WANDB_API_KEY": "x" * 40}, None, "online"),
        ({"WANDB_API_KEY": "x" * 40, "WANDB_MODE": "offline"}, None, "offline"),
        ({"WANDB_API_KEY": "x" * 40}, "disabled", "disabled"),
    ],
)
def test_online_exactly_where_there_is_a_key(
    environment: dict[str, str], mode: Any, expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    logger = loggers.wandb_logger(
        mode=mode, group=None, name=None, finish_timeout=1, save_dir=str(tmp_path), project="p"
    )
    assert logger._wandb_init["mode"] == expected


@pytest.mark.usefixtures("without_account")
@pytest.mark.parametrize(
    ("context", "group", "name"),
    [
        ((False, None), None, "3"),
        ((False, "notebook/baseline"), "notebook/baseline", "3"),
        ((True, "notebook/baseline"), "my-sweep", "my-sweep/3"),
    ],
)
def test_runs_are_grouped_by_sweep_or_experiment(
    context: tuple[bool, str | None], group: str | None, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    in_sweep, experiment = context
    command = Mock(mode="MULTIRUN" if in_sweep else "RUN")
    command.runtime.choices = {"experiment": experiment}
    monkeypatch.setattr(loggers, "hydra_settings_of", lambda _: command)
    folder = str(tmp_path / "my-sweep" / "3")
    chosen = loggers.wandb_logger(
        mode=None, group=None, name=None, finish_timeout=1, save_dir=folder, project="p"
    )._wandb_init
    assert (chosen["group"], chosen["name"]) == (group, name)
    given = loggers.wandb_logger(
        mode=None, group="g", name="n", finish_timeout=1, save_dir=folder, project="p"
    )._wandb_init
    assert (given["group"], given["name"]) == ("g", "n")


@pytest.mark.usefixtures("without_account")
def test_a_disabled_logger_does_no_harm(tiny_config: Callable[..., DictConfig], tmp_path: Path) -> None:
    train(tiny_config("logger=wandb", "logger.wandb.mode=disabled", f"paths.run_dir={tmp_path}/run"))
    assert not list((tmp_path / "run").glob("wandb/*/*.wandb"))


class StandIn(BaseHTTPRequestHandler):
    """As much of W&B's server as takes in a run. `server.received` has the path and the content of each request."""

    server: Any

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Content-Encoding") == "gzip":
            content = gzip.decompress(content)
        self.server.received.append((self.path, content))
        answer = self.answer(**json.loads(content)) if self.path == "/graphql" else {}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_PUT = do_GET = do_POST

    def answer(self, query: str, variables: dict[str, Any] | None = None, **_: Any) -> dict[str, Any]:
        variables, data = variables or {}, {}
        if "upsertBucket" in query:
            project = {"id": "p", "name": "attnlab", "entity": {"id": "e", "name": "me"}}
            bucket = {"id": "b", "name": variables.get("name"), "displayName": "d", "config": "{}", "project": project}
            data = {"upsertBucket": {"bucket": bucket | {"historyLineCount": 0}, "inserted": True}}
        elif "viewer" in query:
            data = {"viewer": {"id": "v", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}
        elif "CreateRunFiles" in query:
            address = f"http://127.0.0.1:{self.server.server_port}/file"
            files = [{"name": name, "uploadUrl": address} for name in variables["files"]]
            data = {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
        return {"data": data}

    def log_message(self, format: str, *args: Any) -> None:
        """Not in the output of the tests."""


class Server:
    """The stand-in on a port of this machine, which can go away and come back there."""

    def __init__(self) -> None:
        self.received: list[tuple[str, bytes]] = []
        self.port = 0
        self.start()

    def start(self) -> None:
        self.http = ThreadingHTTPServer(("127.0.0.1", self.port), StandIn)
        self.port = self.http.server_port
        vars(self.http)["received"] = self.received
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self.http.shutdown()
        self.http.server_close()

    def history(self) -> set[float]:
        """The validation losses that have arrived."""
        files = (json.loads(content).get("files") or {} for path, content in self.received if "file_stream" in path)
        lines = (json.loads(line) for f in files for line in f.get("wandb-history.jsonl", {}).get("content", []))
        return {line["val/loss"] for line in lines if "val/loss" in line}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server()
    wandb.teardown()  # it keeps the address and the process of the first test that used it
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.port}")
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    yield server
    server.stop()


def after_the_first_epoch(do: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    class Interruption(Stopwatch):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            super().on_train_epoch_end(trainer, pl_module)
            if trainer.current_epoch == 0:
                do()

    monkeypatch.setattr(spine, "Stopwatch", Interruption)


@pytest.mark.slow
def test_a_server_that_goes_away_costs_a_run_nothing_and_has_the_rest_later(
    tiny_config: Callable[..., DictConfig], server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_the_first_epoch(server.stop, monkeypatch)
    config = tiny_config("logger=wandb", "logger.wandb.finish_timeout=1", f"paths.run_dir={tmp_path}")
    start = time.monotonic()
    train(config)
    assert time.monotonic() - start < 60
    (file,) = tmp_path.glob("wandb/run-*/run-*.wandb")
    losses = set(history(list(records(file)))["val/loss"])
    assert json.loads((tmp_path / "metrics.json").read_text())["val/loss"] in losses
    assert losses - server.history()

    server.start()
    command = [sys.executable, "-m", "wandb", "sync", "--include-online", str(file.parent)]
    subprocess.run(command, check=True, cwd=tmp_path, env=os.environ | {"WANDB_SILENT": "true"}, timeout=120)
    assert losses == server.history()


@pytest.mark.slow
@pytest.mark.usefixtures("without_account")
def test_where_wandb_itself_dies_the_run_can_go_on(
    tiny_config: Callable[..., DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own process beside ours, as by the kernel where memory is short."""
    after_the_first_epoch(lambda: subprocess.run(["pkill", "-9", "wandb-core", "-P", str(os.getpid())]), monkeypatch)
    with pytest.raises(UserError, match=r"W&B's own process has died .*; resume=latest resumes"):
        train(tiny_config("logger=wandb", f"paths.run_dir={tmp_path}"))
    command = [sys.executable, str(ROOT / "src/train.py"), f"resume={tmp_path}"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    assert json.loads((tmp_path / "metrics.json").read_text())["train/epochs"] == 2
    runs = {file.stem for file in tmp_path.glob("wandb/*/run-*.wandb")}
    assert len(runs) == 1  # it is the same one of W&B
    monkeypatch.undo()
    monkeypatch.setenv("WANDB_MODE", "offline")
    train(tiny_config("logger=wandb", f"paths.run_dir={tmp_path}/next"))  # a next job of the same process has its own
    assert len({file.stem for file in tmp_path.glob("next/wandb/*/run-*.wandb")} - runs) == 1


def test_a_setting_is_the_command_line_without_the_seed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from hydra.core.hydra_config import HydraConfig

    given = ["pe=none", "seed=3", "model.pooling=max", "logger=wandb", "hparams_search.trial=4", "data.fold=1"]
    hydra = Mock(overrides=Mock(task=given))
    monkeypatch.setattr(HydraConfig, "initialized", lambda: True)
    monkeypatch.setattr(HydraConfig, "get", lambda: hydra)
    assert loggers.setting_of_run(tmp_path) == "pe=none model.pooling=max"


@pytest.mark.parametrize("hydra_record", [True, False])
def test_a_resumed_run_keeps_its_group_and_setting(hydra_record: bool, tmp_path: Path) -> None:
    """They are those of the command that began it, which Hydra has recorded in its folder."""
    if hydra_record:
        (tmp_path / ".hydra").mkdir()
        (tmp_path / ".hydra" / "hydra.yaml").write_text(
            "hydra: {mode: RUN, overrides: {task: [pe=none, seed=1]}, runtime: {choices: {experiment: mine}}}"
        )
    assert loggers.setting_of_run(tmp_path) == ("pe=none" if hydra_record else "default")
    logger = loggers.wandb_logger(
        mode="offline", group=None, name=None, finish_timeout=1, save_dir=str(tmp_path), project="p"
    )
    assert logger._wandb_init["group"] == ("mine" if hydra_record else None)


@pytest.mark.parametrize(("given", "kept"), [({}, "exp-7"), ({"id": "exp-7"}, "exp-7"), ({"id": 7}, "7")])
def test_a_resumed_run_is_the_same_one_of_wandb(given: dict[str, Any], kept: str, tmp_path: Path) -> None:
    (tmp_path / "wandb" / "offline-run-20261130_101112-exp-7").mkdir(parents=True)
    logger = loggers.wandb_logger(
        mode="offline", group=None, name=None, finish_timeout=1, save_dir=str(tmp_path), project="p", **given
    )
    assert (logger._wandb_init["id"], logger._wandb_init["resume"]) == (kept, "allow")


def test_tensorboard_shows_each_step_of_a_resumed_run_once(tmp_path: Path) -> None:
    """Killed after step 9, with a checkpoint of 6 steps."""
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for first in (0, 6):
        logger = loggers.TensorBoard(str(tmp_path), name="tensorboard", version="")
        if first:
            logger.resume_at(first)
        for step in range(first, 10):
            logger.log_metrics({"loss": float(first)}, step=step)
        logger.experiment.close()
    shown = events.EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("loss")
    assert [(event.step, event.value) for event in shown] == [(step, 0.0 if step < 6 else 6.0) for step in range(10)]


def test_curves_return_to_where_a_checkpoint_was_made(tmp_path: Path) -> None:
    """Also where a column has come since, and in another process."""
    logger = loggers.CurvesLogger(str(tmp_path))
    for step in range(250):  # written in parts of a hundred
        logger.log_metrics({"loss": step / 10}, step=step)
    mark, before = logger.position(), (tmp_path / "metrics.csv").read_bytes()
    assert mark == {"columns": ["loss", "step"], "rows": 250}
    logger.log_metrics({"accuracy": 0.5}, step=250)
    assert logger.position() == {"columns": ["accuracy", "loss", "step"], "rows": 251}
    again = loggers.CurvesLogger(str(tmp_path))
    again.truncate(mark)
    assert (tmp_path / "metrics.csv").read_bytes() == before
    again.log_metrics({"loss": 99.0}, step=250)
    assert again.position()["rows"] == 251


def test_rows_that_a_crash_has_lost_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger = loggers.CurvesLogger(str(tmp_path))
    logger.log_metrics({"loss": 1.0}, step=0)
    logger.position()
    logger.truncate({"columns": ["loss", "step"], "rows": 3})
    assert "has lost 2 rows" in caplog.text


def test_what_a_checkpoint_holds_does_not_grow_with_the_curves(
    tiny_config: Callable[..., DictConfig], tmp_path: Path
) -> None:
    sizes = []
    for epochs in (1, 20):
        run = tmp_path / str(epochs)
        settings = ["trainer.log_every_n_steps=1", "callbacks.early_stopping=null", f"trainer.max_epochs={epochs}"]
        train(tiny_config(*settings, f"paths.run_dir={run}"))
        checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
        assert checkpoint["metrics.csv"]["rows"] == 7 * epochs
        sizes.append((run / "checkpoints" / "last.ckpt").stat().st_size)
    assert sizes[1] == pytest.approx(sizes[0], abs=512)
