"""A user's mistake is one clear line, not a traceback."""

import os
import sys
from types import TracebackType


class UserError(ValueError):
    """A mistake that the user can mend; the message says what was wrong, what is allowed and what to do."""


def first_line(error: BaseException) -> str:
    """The gist of somebody else's error message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, UserError):
        print(f"error: {error}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def report_in_one_line() -> None:
    """Print a `UserError` that ends the program as one line; `HYDRA_FULL_ERROR=1` brings the traceback back.

    Hydra hands the exception of a failed job to `sys.excepthook` and exits with status 1.
    """
    if os.environ.get("HYDRA_FULL_ERROR") != "1":
        sys.excepthook = _report
