import pickle
import sys

import pytest

from attnlab.errors import UserError, first_line, report_in_one_line


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hook is set, and taken back after the test."""
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)


def shown(error: Exception, capsys: pytest.CaptureFixture[str]) -> str:
    sys.excepthook(type(error), error, None)
    return capsys.readouterr().err


@pytest.mark.usefixtures("hook")
def test_a_users_mistake_is_one_line_and_a_bug_is_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    report_in_one_line()
    assert shown(UserError("no such thing"), capsys) == "error: no such thing\n"
    assert "ValueError: a bug" in shown(ValueError("a bug"), capsys)
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.usefixtures("hook")
def test_the_traceback_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    report_in_one_line()
    assert sys.excepthook is sys.__excepthook__


@pytest.mark.parametrize(("message", "gist"), [("one\ntwo", "one"), ("", "KeyError"), ("\n x", "x")])
def test_first_line(message: str, gist: str) -> None:
    assert first_line(KeyError() if not message else ValueError(message)) == gist


def test_a_name_of_several_lines_is_told_in_one() -> None:
    assert str(UserError("no column label; it has text, \nabel")) == "no column label; it has text,  abel"
    assert str(pickle.loads(pickle.dumps(UserError("as it\nis")))) == "as it is"
