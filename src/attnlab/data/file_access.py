"""Files on disk: what a path or a name on the Hub refers to, packed files, and cache folders."""

import bz2
import glob
import gzip
import lzma
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock

from attnlab.errors import UserError, as_user_error, first_line

# A file or a pattern, a list of them, or a file of lines for each column.
Paths = str | list[str] | dict[str, str]

PEEK_BYTES = 1 << 16  # at the start of a file, from which its form is detected

CONFIG, TOKENIZER, PICKLE = "config.json", "tokenizer.json", "pytorch_model.bin"
ENCODER_FILES = (CONFIG, TOKENIZER, "*.safetensors", "*.safetensors.index.json")  # that are downloaded


def expand_pattern(path: str) -> list[Path]:
    """The file of this name, which may contain a *, or the files that match a pattern, sorted."""
    return [Path(path)] if Path(path).exists() else sorted(map(Path, glob.glob(path, recursive=True)))  # noqa: PTH207


def find_files(key: str, paths: Paths) -> list[Path]:
    """The files that the setting `data.<key>` names. Raises `UserError` if there are none."""
    given = list(paths.values()) if isinstance(paths, Mapping) else [paths] if isinstance(paths, str) else list(paths)
    found: list[Path] = []
    for path in given:
        if not path:
            raise UserError(f"data.{key} is empty; if it came from a variable of the shell, that is not set")
        if Path(path).is_dir():
            raise UserError(
                f"data.{key}={path} is a folder; give a file, or read a folder with a folder a class by data=folders "
                "data.path=, one with a file a split by data=hub data.path="
            )
        files = [file for file in expand_pattern(path) if file.is_file()]
        if not files:
            raise UserError(f"data.{key}={path} does not exist")
        found += files
    if not found:
        raise UserError(f"data.{key} does not name a file")
    return found


def files_below(folder: Path) -> list[Path]:
    """All files at any depth but hidden ones, sorted by name."""
    return sorted(path for path in folder.rglob("[!.]*") if path.is_file())


@contextmanager
def open_file(path: Path) -> Iterator[BufferedReader]:
    """The content of a file, unpacked if its suffix is in `OPENERS`."""
    with path.open("rb") as file, unpacked(file, path) as content:
        yield content


def unpacked(file: BinaryIO, path: Path) -> BufferedReader:
    """The content of an open file, of which `peek` returns the first `PEEK_BYTES` bytes."""
    # `peek` returns no more than the buffer holds. Callers peek and do not seek, because standard input can't.
    opener = OPENERS.get(path.suffix.lower())
    return BufferedReader(opener(file) if opener else file, PEEK_BYTES)  # type: ignore[arg-type]  # all have readinto


def plain_suffix(path: Path) -> str:
    """The suffix without that of the compression."""
    return (path.with_suffix("") if path.suffix.lower() in OPENERS else path).suffix.lower()


def _open_zip(file: BinaryIO) -> Any:
    archive = zipfile.ZipFile(file)
    names = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX/")]
    if len(names) != 1:
        raise UserError(
            f"{file.name} holds {len(names)} files ({', '.join(names[:5])}); unpack it and name one of them"
        )
    return archive.open(names[0])


def _open_zstd(file: BinaryIO) -> Any:
    import pyarrow

    return pyarrow.input_stream(file, compression="zstd")


OPENERS: dict[str, Callable[[BinaryIO], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zip": _open_zip,
    ".zst": _open_zstd,
}


@cache
def pretrained_folder(path: str) -> Path:
    """A pretrained encoder's folder: a local one, or the cached copy of a model on the Hub."""
    if Path(path).is_dir():
        return Path(path)
    if path.startswith(("/", ".", "~")) or path.count("/") > 1:
        raise UserError(f"model.path={path}: the folder does not exist")
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        # No pickles: loading one can execute code.
        return Path(snapshot_download(path, allow_patterns=list(ENCODER_FILES)))
    except GatedRepoError as error:
        raise UserError(
            f"model.path={path} requires a login: accept its terms on the Hub, then hf auth login"
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(f"model.path={path} is neither a folder here nor a model of the Hub") from error
    except LocalEntryNotFoundError as error:
        why = "HF_HUB_OFFLINE=1 forbids a download" if constants.HF_HUB_OFFLINE else "the Hub can't be reached"
        raise UserError(
            f"model.path={path} is neither a local folder nor in the Hub's cache, and {why}: give the folder of a copy"
        ) from error
    except Exception as error:  # a network and a disk can fail in any way
        raise UserError(f"can't download model.path={path}: {first_line(error)}") from error


def cached(folder: Path, fill: Callable[[Path], None]) -> Path:
    """`folder`, filled by `fill` if it does not exist yet.

    When several runs start at once, one fills it and the others wait. An existing folder is only read, so that a cache
    can be shared without permission to write.
    """
    if folder.is_dir():
        return folder
    advice = "; free some space, or give another place with paths.cache_dir=<folder>"
    with as_user_error(f"can't write the cache in {folder.parent}", advice, only=(OSError,)):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if folder.is_dir():  # another run filled it while this one waited for the lock
                return folder
            # Only a complete folder gets the final name, as a run may be killed while it fills one. The partial folder
            # is in the same parent, because a rename is atomic only within one file system.
            partial = folder.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            try:
                partial.mkdir()
                fill(partial)
                partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        return folder
