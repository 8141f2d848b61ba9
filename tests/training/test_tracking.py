"""What a W&B run holds, read back from the file that an offline run writes."""

import json
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig
from wandb.proto.wandb_internal_pb2 import Record

from attnlab.training import tracking
from attnlab.training.run import train


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
    train(tiny_config("logger=[wandb,tensorboard]", "tags=[first,try]", f"paths.run_dir={folder}"))
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
    for curve in ("train/loss", "val/loss", "val/acc", "test/acc", "lr"):
        assert values[curve], curve
    assert any(key.startswith("test/confusion_matrix") for key in values)
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
    assert list(folder.glob("tensorboard/events.out.tfevents.*"))


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
    environment: dict[str, str], mode: str | None, expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    logger = tracking.wandb_logger(mode=mode, group=None, name=None, save_dir=str(tmp_path), project="p")
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
    monkeypatch.setattr(tracking, "_hydra_context", lambda: context)
    folder = str(tmp_path / "my-sweep" / "3")
    chosen = tracking.wandb_logger(mode=None, group=None, name=None, save_dir=folder, project="p")._wandb_init
    assert (chosen["group"], chosen["name"]) == (group, name)
    given = tracking.wandb_logger(mode=None, group="g", name="n", save_dir=folder, project="p")._wandb_init
    assert (given["group"], given["name"]) == ("g", "n")


@pytest.mark.usefixtures("without_account")
def test_a_disabled_logger_does_no_harm(tiny_config: Callable[..., DictConfig], tmp_path: Path) -> None:
    train(tiny_config("logger=wandb", "logger.wandb.mode=disabled", f"paths.run_dir={tmp_path}/run"))
    assert not list((tmp_path / "run").glob("wandb/*/*.wandb"))
