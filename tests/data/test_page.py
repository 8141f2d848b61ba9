"""docs/data.md: every command of the page, on files of the form that it names."""

import gzip
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from attnlab.config import instantiate, resolve
from attnlab.data.sources import Corpus, with_absolute_paths
from attnlab.validation import validate_values
from tests.conftest import ROOT
from tests.data.test_readers import FRAME, LABELS, PARTS, RECORDS, ROWS, TEXTS, separated

COMMANDS = re.findall(r"\| `(data=[^`]*)` \|$", (ROOT / "docs" / "data.md").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture
def documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all files that docs/data.md names, where they are looked for."""
    titled = [(text[:4], text[5:], label) for text, label in ROWS]
    files: dict[str, str | bytes] = {
        name: separated() for name in ("train.csv", "val.csv", "test.csv", "all.csv", "jan.csv", "feb.csv")
    }
    files |= {f"{split}.tsv": separated(delimiter="\t", header="review,stars\n") for split in ("train", "test")}
    files |= {f"part-{i}.csv.gz": gzip.compress(part.encode()) for i, part in enumerate(PARTS)}
    files |= {
        "nohead.csv": "".join(f'"{label}","{text[:4]}","{text[5:]}"\n' for text, label in ROWS),
        "titled.csv": separated(titled, header="title,description,label\n"),
        "semicolons.csv": separated(delimiter=";"),
        "tilde.csv": separated(delimiter="~"),
        "latin1.csv": separated().encode("latin-1"),
        "unquoted.csv": separated().replace("late", '"late'),
        "SMSSpamCollection": separated([(label, text) for text, label in ROWS], "\t", header=""),
        "fasttext.txt": "".join(f"__label__{label} {text}\n" for text, label in ROWS),
        "texts.txt": "\n".join(TEXTS),
        "labels.txt": "\n".join(LABELS),
        "train.jsonl": "\n".join(map(json.dumps, RECORDS)),
        "test.json": json.dumps(RECORDS),
        "frame.json": FRAME.to_json(),
        "wrapped.json": json.dumps({"data": RECORDS}),
        "splits.json": json.dumps({"train": ROWS, "test": ROWS}),
        "blank.csv": separated([*ROWS, (" ", "sport")]),
        "rare.csv": separated([*ROWS, ("one", "lone")]),
        "authors.csv": separated([(*row, f"{i // 2}") for i, row in enumerate(ROWS)], header="text,label,author\n"),
        "numbered.csv": separated([(*row, str(i)) for i, row in enumerate(ROWS)], header="text,label,id\n"),
        "unlabelled.csv": "text\nx\n",
        "pairs.csv": separated(titled, header="premise,hypothesis,label\n"),
        "hubfolder/train.csv": separated(titled, header="title,description,label\n"),
        "hubfolder/test.csv": separated(titled, header="title,description,label\n"),
    }
    for i, (text, label) in enumerate(ROWS):
        files |= {f"newsgroups/{split}/{label}/{i}": text for split in ("train", "test")}
        files[f"mails/{label}/{i}"] = text.encode("latin-1")
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("documented")
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_page_reads_its_data(command: str, compose_config: Callable[..., DictConfig]) -> None:
    config = resolve(compose_config(*shlex.split(command)))
    validate_values(config, {})
    if "stanfordnlp" in command:
        pytest.skip("there is no network in tests")
    corpus: Corpus = instantiate(with_absolute_paths(config["data"])).load()
    assert corpus.label_names == ["sport", "weather"]
    texts = corpus.train.texts + (corpus.test.texts if "data.test=0.2" in command else [])
    assert len(texts) in (12, 24)
    for text in texts:
        assert any(whole.startswith(re.sub('[":]', "", text)) for whole in TEXTS)


def test_the_page_has_a_command_for_every_form() -> None:
    assert len(COMMANDS) >= 30
