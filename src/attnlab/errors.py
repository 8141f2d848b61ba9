"""A user's mistake is one clear line, not a traceback."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import extract_tb
from types import TracebackType

from attnlab.redaction import redact_message

CONF = Path(__file__).parents[2] / "conf"


class UserError(ValueError):
    """A mistake that the user can mend; the message says what was wrong, what is allowed and what to do.

    It is one line, also where it quotes a name out of a file that has several, and without secrets.
    """

    def __init__(self, message: str) -> None:
        super().__init__(redact_message(" ".join(message.splitlines())))


def relative_to_cwd(path: Path) -> Path:
    """The path as a user in the working directory would type it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def first_line(error: BaseException) -> str:
    """The gist of somebody else's error message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def own_place(error: BaseException) -> str | None:
    """File and line of a bug in a part that the user wrote; None where a package or Python itself raised it."""
    frames = extract_tb(error.__traceback__)
    place = frames[-1] if frames else None
    if place is None or any(
        f"/{name}/" in Path(place.filename).as_posix() for name in ("site-packages", "lib/python3")
    ):
        return None
    return f"{place.filename}:{place.lineno}"


@contextmanager
def as_user_error(before: str, after: str = "", only: tuple[type[Exception], ...] = (Exception,)) -> Iterator[None]:
    """Make what somebody else's code raises a `UserError`: what failed, the gist of the error, what to do.

    What comes from outside (a file, a server, a package) can fail in any way. A `UserError` passes as it is.
    """
    try:
        yield
    except UserError:
        raise
    except only as error:
        raise UserError(f"{before}: {first_line(error)}{after}") from error


@contextmanager
def needs_extra(name: str, what: str) -> Iterator[None]:
    """Say how to install the extra `name` of pyproject.toml where `what` imports a package that is not there."""
    try:
        yield
    except ImportError as error:
        install = f'.venv/bin/pip install -c constraints.txt -e ".[{name}]"'
        raise UserError(f"{what} requires an optional extra: {install}") from error


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, UserError):
        print(f"error: {error}", file=sys.stderr)
    elif issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def report_in_one_line() -> None:
    """Print a `UserError` that ends the program as one line; `HYDRA_FULL_ERROR=1` brings the traceback back.

    Hydra hands the exception of a failed job to `sys.excepthook` and exits with status 1.
    """
    os.environ["MPLBACKEND"] = "Agg"  # figures are files; a notebook's own backend can't be imported here
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that has no such character shows another
    if os.environ.get("HYDRA_FULL_ERROR") != "1":
        sys.excepthook = _report
