import pickle
import sys

import pytest

from attnlab.errors import FOLDERS, UserError, first_line, report_in_one_line


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


@pytest.mark.usefixtures("hook")
@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("data.train=path (1).csv", "quote the value, once more for the shell: \"data.train='path (1).csv'\""),
        ("data.train=it's.csv", r"data.train='it\'s.csv'"),
        ("callbacks=null", "callbacks=null: a group takes a name; ~callbacks is for none of it"),
        *((f"{key}={__file__}/below", "no folder can be made there (Not a directory)") for key in FOLDERS),
        (f"++hydra.run.dir={__file__}", "no folder can be made there (File exists)"),
    ],
)
def test_an_argument_that_hydra_cannot_read_is_one_line(
    argument: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "-m", "seed=0,1", argument])
    with pytest.raises(SystemExit) as caught:
        report_in_one_line()
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.usefixtures("hook")
@pytest.mark.parametrize(
    "argument", ["data.train='path (1).csv'", "~callbacks", "--cfg=job", "-m", "model.num_heads=1,2", "data.limit=null"]
)
def test_an_argument_that_hydra_can_read_is_left_to_it(argument: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", argument])
    report_in_one_line()
    assert sys.excepthook is not sys.__excepthook__


def test_a_name_of_several_lines_is_told_in_one() -> None:
    assert str(UserError("no column label; it has text, \nabel")) == "no column label; it has text,  abel"
    assert str(pickle.loads(pickle.dumps(UserError("as it\nis")))) == "as it is"
