"""What can change a result besides config and seed: this program, its libraries, device and threads."""

import hashlib
import os
import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from attnlab.process import available, waiting

LIBRARIES = ("torch", "lightning", "tokenizers", "datasets", "numpy")
WAITING, LOAD = "threads wait with", "load"  # the load is per core
WITHOUT_EFFECT = {WAITING, LOAD}  # on results


@cache
def libraries() -> dict[str, str]:
    """The installed versions."""
    return {package: version(package) for package in LIBRARIES}


def origin(environment: Mapping[str, Any]) -> dict[str, str]:
    """The code and the libraries in an environment.json: what runs must share to be repeats of each other."""
    code = {"code": environment.get("code") or environment.get("commit")}
    known = code | {library: environment.get(library) for library in LIBRARIES}
    return {key: str(value) for key, value in known.items() if value is not None}


@cache
def code() -> str:
    """A digest of this program's files: while they are edited, the commit does not tell them apart."""
    digest, package = hashlib.blake2b(digest_size=8), Path(__file__).parent
    for file in sorted(package.rglob("*.py")):
        digest.update(f"{file.relative_to(package)}\n".encode() + file.read_bytes())
    return digest.hexdigest()


@cache  # for the jobs of a sweep: the code that runs is the code that was imported
def commit() -> str | None:
    """The git commit of this program, with "+" where files differ from it; None outside of a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=12", "--dirty=+"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def environment(precision: str, device: Any) -> dict[str, Any]:
    """The environment of this process, which computes on `device` (of torch), as plain data."""
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} {platform.machine()}"
    return {
        "commit": commit(),
        "python": platform.python_version(),
        **libraries(),
        "device": name,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        WAITING: waiting(),
        LOAD: round(os.getloadavg()[0] / available(), 2) if hasattr(os, "getloadavg") else None,
        "precision": precision,
    }


def differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two environments and can change results: "torch 2.13.0, now 2.14.0"."""
    compared = then.keys() & now.keys() - WITHOUT_EFFECT
    return [f"{key} {then[key]}, now {now[key]}" for key in then if key in compared and then[key] != now[key]]
