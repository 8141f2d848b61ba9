"""Which program this is: its files, their commit and the libraries below it."""

import hashlib
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

ENVIRONMENT = "environment.json"  # of a run: what of this it was trained with, and on which device
LIBRARIES = ("torch", "lightning", "tokenizers", "datasets", "numpy")


@cache
def libraries() -> dict[str, str]:
    """The installed versions."""
    return {package: version(package) for package in LIBRARIES}


@cache
def code() -> str:
    """A digest of this program's files, which a commit says nothing of while they are being edited."""
    digest, package = hashlib.blake2b(digest_size=8), Path(__file__).parent
    for file in sorted(package.rglob("*.py")):
        digest.update(f"{file.relative_to(package)}\n".encode() + file.read_bytes())
    return digest.hexdigest()


@cache  # for the jobs of a sweep: what runs is what was imported
def commit() -> str | None:
    """The git commit of this program, with "+" where files differ from it; None outside of a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=12", "--dirty=+"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
