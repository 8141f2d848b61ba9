import re
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from attnlab.training.train import train
from tests.test_commands import run

Compose = Callable[..., DictConfig]


def write(file: Path, num_classes: int = 3) -> list[str]:
    """Documents of a semicolon-separated file, and the overrides that read it."""
    rows = [f"{'word ' * (row % 9)}[b]text {row};class {row % num_classes}" for row in range(40 * num_classes)]
    file.write_text("\n".join(["body;topic", *rows]))
    return ["data=files", f"data.train={file}", "data.test=0.2", "data.text=body", "data.label=topic", "debug=data"]


def test_what_was_understood_is_shown_and_nothing_trained(
    compose_config: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(compose_config(*write(tmp_path / "a.csv"), "tokenizer.max_length=10")) == {}
    shown = capsys.readouterr().out
    assert re.search(r"class 2 +│ +\d+ │ +\d │ +8 │ +3\d\.\d │", shown)
    assert shown.count("[CLS] | ") == 5 and "[b]text 0" in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["cache"]


def test_of_many_classes_the_largest_are_shown(
    compose_config: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(compose_config(*write(tmp_path / "a.csv", num_classes=50)))
    assert "20 others" in capsys.readouterr().out


@pytest.mark.slow
def test_debug_data_leaves_nothing_but_tokens(tmp_path: Path) -> None:
    result = run("train.py", *write(tmp_path / "a.csv"), folder=tmp_path)
    assert result.returncode == 0 and result.stderr == ""
    assert "Read train from a.csv: 120 rows; text from body, label from topic; separated by" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert sorted(path.name for path in tmp_path.rglob("*") if path.parent.name in (tmp_path.name, "logs")) == [
        "a.csv",
        "cache",
        "logs",
    ]
