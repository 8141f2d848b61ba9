"""A user's mistake is one clear line, not a traceback."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

CONF = Path(__file__).parents[2] / "conf"
FOLDERS = ("hydra.run.dir", "hydra.sweep.dir", "paths.log_dir")  # which Hydra makes, before any code of ours


class UserError(ValueError):
    """A mistake that the user can mend; the message says what was wrong, what is allowed and what to do.

    It is one line, also where it quotes a name out of a file that has several.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))


def first_line(error: BaseException) -> str:
    """The gist of somebody else's error message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


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
        raise UserError(f'{what} wants an extra: .venv/bin/pip install -e ".[{name}]"') from error


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, UserError):
        print(f"error: {error}", file=sys.stderr)
    elif issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def report_in_one_line() -> None:
    """Print a `UserError` that ends the program as one line; `HYDRA_FULL_ERROR=1` brings the traceback back.

    Hydra hands the exception of a failed job to `sys.excepthook` and exits with status 1; of an argument that it can't
    read it says little, so that is looked at here.
    """
    os.environ["MPLBACKEND"] = "Agg"  # figures are files; a notebook's own backend can't be imported here
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that has no such character shows another
    if os.environ.get("HYDRA_FULL_ERROR") != "1":
        sys.excepthook = _report
        if mistake := next(filter(None, map(_mistake, sys.argv[1:])), None):
            sys.exit(f"error: {mistake}")


def _mistake(argument: str) -> str | None:
    """What is wrong with an argument that Hydra would refuse in a way that helps nobody."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    key, equals, value = argument.partition("=")
    if argument.startswith("-") or not equals:
        return None
    try:
        override = OverridesParser.create().parse_override(argument)
    except HydraException:
        quoted = value.replace("'", "\\'")
        return f"{argument} can't be read as it stands; quote the value, once more for the shell: \"{key}='{quoted}'\""
    if override.value() is None and (CONF / key).is_dir():
        return f"{argument}: a group takes a name; ~{key} is for none of it"
    sweeps = {"-m", "--multirun"} & set(sys.argv)
    if key == "resume" and sweeps and value not in ("latest", "null") and not Path(value, "multirun.yaml").is_file():
        return f"{argument}: there is no such sweep; give the folder of one, as in logs/train/multiruns, or latest"
    folder = str(override.value())
    if key.lstrip("+") in FOLDERS and "${" not in folder:
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            return f"{argument}: no folder can be made there ({error.strerror}); give another"
    return None
