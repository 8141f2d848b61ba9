"""What besides the config and the seed can change a result: versions, device, threads."""

import json
import os
import platform
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer

from attnlab.process import available, waiting
from attnlab.runs import write_whole
from attnlab.versions import ENVIRONMENT, code, commit, libraries

WAITING, LOAD = "threads wait with", "load"  # of no weight for results; the load is for each core


def environment(trainer: Trainer) -> dict[str, Any]:
    """Of this process, as plain data."""
    device = trainer.strategy.root_device
    on_gpu = device.type == "cuda"
    return {
        "commit": commit(),
        "python": platform.python_version(),
        **libraries(),
        "device": torch.cuda.get_device_name(device) if on_gpu else f"{device.type} {platform.machine()}",
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        WAITING: waiting(),
        LOAD: round(os.getloadavg()[0] / available(), 2) if hasattr(os, "getloadavg") else None,
        "precision": trainer.precision,
    }


def write_environment(run_dir: Path, trainer: Trainer, fingerprint: str) -> None:
    """environment.json; besides, what runs have to share to be repeats of each other: code, data, devices."""
    shared = {"code": code(), "data": fingerprint, "devices": trainer.world_size}
    write_whole(run_dir / ENVIRONMENT, json.dumps(environment(trainer) | shared, indent=2) + "\n")


def differences(run_dir: Path, trainer: Trainer) -> list[str]:
    """What differs now from when the run in `run_dir` was trained: "torch 2.13.0, now 2.14.0"."""
    file = run_dir / ENVIRONMENT
    if not file.is_file():
        return []
    then, now = json.loads(file.read_text(encoding="utf-8")), environment(trainer)
    told = then.keys() & now.keys() - {WAITING, LOAD}
    return [f"{key} {then[key]}, now {now[key]}" for key in then if key in told and then[key] != now[key]]
