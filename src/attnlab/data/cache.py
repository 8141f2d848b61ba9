"""Cache folders, which one run fills and every later run reads."""

import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from attnlab.errors import as_user_error


def cached(folder: Path, fill: Callable[[Path], None]) -> Path:
    """`folder`, filled by `fill` if it does not exist yet.

    Of several runs that start at once one fills it and the others wait. An existing folder is only read, so that a
    cache may be shared read-only.

    Raises:
        UserError: it can't be written, for want of space or of permission.
    """
    if folder.is_dir():
        return folder
    advice = "; free some space, or give another place with paths.cache_dir=<folder>"
    with as_user_error(f"can't write the cache in {folder.parent}", advice, only=(OSError,)):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not folder.is_dir():  # another run may have filled it while this one waited for the lock
                _fill(folder, fill)
        return folder


def _fill(folder: Path, fill: Callable[[Path], None]) -> None:
    """Rename only a complete folder to its final name: a run that is killed leaves a partial one behind."""
    partial = folder.with_suffix(".partial")  # beside it: a rename is atomic within one file system only
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        fill(partial)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
