"""Encoders by name, without the Hub."""

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

from attnlab.data.file_access import pretrained_folder
from attnlab.errors import UserError


def test_of_a_name_no_pickle_and_no_code_is_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []

    def download(name: str, allow_patterns: list[str]) -> str:
        asked.extend([name, *allow_patterns])
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert pretrained_folder("someone/fetched") == tmp_path
    assert asked[0] == "someone/fetched" and not [name for name in asked if name.endswith((".bin", ".py", "*"))]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (RepositoryNotFoundError, "is neither a folder here nor a model of the Hub$"),
        (GatedRepoError, "requires a login: accept its terms on the Hub, then hf auth login$"),
        (LocalEntryNotFoundError, "is neither a local folder nor in the Hub's cache, and "),
        (OSError, "^can't download model.path=someone/oserror: no such thing$"),
    ],
)
def test_what_the_hub_refuses_is_one_line(kind: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: Any, **__: Any) -> str:
        raise kind.__new__(kind, "no such thing")  # some want a response of the network

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(UserError, match=message):
        pretrained_folder(f"someone/{kind.__name__.lower()}")
