import pytest
from lightning.pytorch.callbacks import RichProgressBar

from attnlab.training.callbacks import PlainProgress, progress


@pytest.mark.parametrize(("terminal", "kind"), [(True, RichProgressBar), (False, PlainProgress)])
def test_a_bar_on_a_terminal_and_lines_elsewhere(terminal: bool, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    assert isinstance(progress(), kind)
