from pathlib import Path

import numpy as np
import pytest

from attnlab.data.sources import Folders, Hub
from attnlab.errors import UserError
from tests.data.test_readers import LABELS, ROWS, TEXTS


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for split, step in (("train", 1), ("test", 3)):
        for row, (text, label) in list(enumerate(ROWS))[::step]:
            folder = tmp_path / "set" / split / label / "deeper"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{row:02}").write_text(text)
            (folder / ".hidden").write_text("no document")
    (tmp_path / "set" / "train" / "README").write_text("no class")
    return tmp_path / "set"


def test_a_folder_a_class(folders: Path) -> None:
    corpus = Folders(batch_size=4, path=str(folders)).load()
    assert sorted(corpus.train.texts) == sorted(TEXTS) and len(corpus.test.texts) == 4
    assert corpus.label_names == ["sport", "weather"] and corpus.train.labels.tolist() == [0] * 6 + [1] * 6
    for path in (folders, folders / "train"):
        cut = Folders(batch_size=4, path=str(path), test=0.5).load()
        assert sorted(cut.train.texts + cut.test.texts) == sorted(TEXTS) and len(cut.test.texts) == 6
    assert len(Folders(batch_size=4, path=str(folders)).load(["test"]).test.texts) == 4


def test_what_is_no_folder_a_class_is_one_line(folders: Path) -> None:
    (folders / "train" / "sport" / "bad").write_bytes("größe".encode("latin-1"))
    for settings, message in (
        (
            {"path": str(folders / "train")},
            r"data\.train=train is not a folder in .*, which holds sport, weather; .*=0\.2",
        ),
        ({"path": str(folders / "x")}, r"data\.path=.*x is not a folder; give one with a folder for each class"),
        ({"path": str(folders / "test" / "sport" / "deeper"), "test": 0.5}, "has no folders with files in them"),
        ({"path": str(folders)}, r"can't read .*bad: 'utf-8' .* data\.encoding=, such as cp1252 or latin-1"),
    ):
        with pytest.raises(UserError, match=message):
            Folders(batch_size=4, **settings).load()
    assert "größe" in Folders(batch_size=4, path=str(folders), encoding="latin-1").load().train.texts


def test_a_set_of_the_hub_that_was_saved_to_disk_or_has_no_test_split(tmp_path: Path) -> None:
    import datasets

    train = datasets.Dataset.from_dict({"title": TEXTS, "body": TEXTS, "label": LABELS})
    datasets.DatasetDict({"train": train}).save_to_disk(str(tmp_path / "saved"))
    corpus = Hub(batch_size=4, path=str(tmp_path / "saved"), text=["title", "body"], join="|", test=0.5).load()
    assert sorted(corpus.train.texts + corpus.test.texts) == sorted(f"{text}|{text}" for text in TEXTS)
    assert np.bincount(corpus.test.labels).tolist() == [3, 3]
