"""Vectors out of files in each form, for the words of a small vocabulary."""

import gzip
import logging
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from attnlab.data import vectors as vectors_module
from attnlab.data.tokenization import WordLevel
from attnlab.data.vectors import StaticVectors, Vectors, vector_width
from attnlab.errors import UserError
from tests.conftest import ROOT

WORDS = ["oil", "Oil", "NASA", "prices", "unheard"]
GLOVE = "oil 1 2 3\n. . . 0 0 1\nOil 4 5 6\nnasa 7 8 9\nPrices -1 .5 1e-2\n"
HEADED = "4 3\n" + GLOVE.replace(". . . 0 0 1\n", "").replace("\n", " \n")  # as fastText writes it
EXPECTED = {"oil": [1, 2, 3], "Oil": [4, 5, 6], "NASA": [7, 8, 9], "prices": [-1, 0.5, 0.01]}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return WordLevel(vocab_size=30).train([" ".join(WORDS)])


@pytest.fixture
def load(tokenizer: Tokenizer, tmp_path: Path) -> Callable[[Path], Vectors]:
    return lambda path: StaticVectors(path=str(path)).load(tokenizer, tmp_path / "cache")


def found(vectors: Vectors, tokenizer: Tokenizer) -> dict[str, list[float]]:
    rows = {str(tokenizer.id_to_token(int(row))): vectors.table[row] for row in vectors.covered.nonzero()[0]}
    return {word: np.round(row.astype(float), 4).tolist() for word, row in rows.items()}


@pytest.mark.parametrize("name", ["glove.txt", "words.vec", "glove.txt.gz", "words.vec.gz"])
def test_each_form_of_text_is_read_and_words_are_found_in_other_cases(
    name: str, load: Callable[[Path], Vectors], tokenizer: Tokenizer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = (HEADED if ".vec" in name else GLOVE).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with caplog.at_level(logging.WARNING):
        assert found(load(tmp_path / name), tokenizer) == EXPECTED
    assert vector_width(str(tmp_path / name)) == 3 and caplog.text == ""


def make_folder(folder: Path, **tensors: torch.Tensor) -> Path:
    """Vectors of the pieces of words: `o`, `##il`, ..."""
    folder.mkdir()
    pieces = ["[UNK]", "oil", "price", "##s", "Na", "NA", "##SA"]
    pretrained = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    pretrained.pre_tokenizer = pre_tokenizers.Whitespace()
    pretrained.enable_padding(length=8)
    pretrained.enable_truncation(1)
    pretrained.save(str(folder / "tokenizer.json"))
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_word_has_the_mean_of_its_pieces(
    dtype: torch.dtype, load: Callable[[Path], Vectors], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    table = torch.arange(14, dtype=dtype).view(7, 2)
    folder = make_folder(tmp_path / "folder", **{"embedding.weight": table})
    assert found(load(folder), tokenizer) == {"oil": [2, 3], "prices": [5, 6], "NASA": [11, 12]}
    assert vector_width(str(folder)) == 2


def test_model2vecs_weights_and_shared_rows_count(
    load: Callable[[Path], Vectors], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    rows, weights = torch.tensor([0, 1, 1, 0, 2, 2, 2]), torch.tensor([1.0, 0.5, 2.0, 1.0, 1.0, 1.0, 1.0])
    table = torch.tensor([[0.0, 2.0], [4.0, 8.0], [1.0, 1.0]])
    folder = make_folder(tmp_path / "folder", embeddings=table, mapping=rows, weights=weights)
    assert found(load(folder), tokenizer) == {"oil": [2, 4], "prices": [4, 9], "NASA": [1, 1]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1 is not a vector"),
        (b"text,label\nso it goes,1\n", "line 1 is not a vector: a word and its values, with single spaces between"),
        (b"oil\t1\t2\nOil\t3\t4\n", "line 1 is not a vector"),
        (b"2 3\noil 1 2\nOil 1 2\n", "line 2 is not a vector: a word and 3 values, as line 1 says"),
        (b"oil 1 2 3\nOil 1 2\n", "line 2 has 2 values, and those before have 3"),
        (b"oil 1 2 3\nOil 1 2 3 4\n", "line 2 has 4 values, and those before have 3"),
        (b"oil 1 2 3\nOil 1 two 3\n", "line 2 holds something other than numbers"),
        (b"oil 1 2 3\nOil 1 nan 3\n", "the vector of 'Oil' holds NaN or infinite values"),
        (b"oil 1 2 3\nOil 1 inf 3\n", "the vector of 'Oil' holds NaN or infinite values"),
        (b"Oel 1 2 3\n", "none of the 10 tokens has a vector"),
        (b"2 2\noil \0\0\x80?\0\0\0@", "it is binary; vectors are read as text; convert those of word2vec with gensim"),
    ],
)
def test_what_is_no_file_of_vectors_is_one_line(
    content: bytes, message: str, load: Callable[[Path], Vectors], tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(UserError, match=f"^embedding.path={tmp_path}/file: {message}") as raised:
        load(tmp_path / "file")
    assert "\n" not in str(raised.value) and not list((tmp_path / "cache").glob("*.partial"))


def test_what_is_missing_or_damaged_is_one_line(load: Callable[[Path], Vectors], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is neither a file nor a folder"):
        load(tmp_path / "nowhere")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(GLOVE.encode() * 50)[:-9])
    with pytest.raises(UserError, match=r"can't read embedding.path=.*cut.gz: .* download it again"):
        load(tmp_path / "cut.gz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"should hold one .safetensors and a tokenizer.json; there are no files"):
        load(tmp_path / "empty")
    several = make_folder(tmp_path / "several", a=torch.ones(7, 2), b=torch.ones(2, 2))
    with pytest.raises(UserError, match=r"model.safetensors should hold one table of vectors and holds 2 \(a, b\)"):
        load(several)
    with pytest.raises(UserError, match=r"can't read embedding.path=.*index .* is out of bounds"):
        load(make_folder(tmp_path / "short", a=torch.ones(2, 2)))
    (several / "model.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(UserError, match=r"can't read embedding.path="):
        load(several)


def test_fewer_vectors_than_promised_are_said(
    load: Callable[[Path], Vectors], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "head.vec").write_text(HEADED.replace("4 3", "2000000 3"))
    load(tmp_path / "head.vec")
    assert "holds 4 vectors where its first line says 2000000" in caplog.text


def test_a_file_is_read_once_and_again_when_it_has_changed(
    load: Callable[[Path], Vectors], tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, read_text = tmp_path / "glove.txt", vectors_module._read_text
    read: list[Path] = []

    def counted(path: Path, words: list[str]) -> vectors_module.Floats:
        read.append(path)
        return read_text(path, words)

    monkeypatch.setattr(vectors_module, "_read_text", counted)
    for content in (GLOVE, GLOVE, GLOVE + "unheard 1 1 1\n"):
        if not file.exists() or file.read_text() != content:
            file.write_text(content)
        last = found(load(file), tokenizer)
    assert len(read) == 2 and "unheard" in last


@pytest.mark.slow
def test_real_vectors_know_what_is_alike(load: Callable[[Path], Vectors], tokenizer: Tokenizer) -> None:
    folder = ROOT / "logs/cache/real-weights/wordllama"
    if not folder.is_dir():
        pytest.skip("`make real-weights` brings them")
    vectors = load(folder)
    assert vectors.table.shape[1] == 256 and {"oil", "Oil", "prices"} <= found(vectors, tokenizer).keys()
    oil, upper, unheard = (vectors.table[tokenizer.token_to_id(word)] for word in ("oil", "Oil", "unheard"))
    alike, other = (word @ oil / np.linalg.norm(word) / np.linalg.norm(oil) for word in (upper, unheard))
    assert alike > 0.5 > other


@pytest.mark.slow
def test_of_a_large_file_only_the_vectors_that_are_asked_for_are_in_memory(
    load: Callable[[Path], Vectors], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    file = tmp_path / "large.txt"
    with file.open("w") as lines:
        for number in range(20_000):
            lines.write(f"word{number} " + " ".join(["0.12345"] * 300) + "\n")
        lines.write("oil" + " 1" * 300 + "\n")
    tracemalloc.start()
    assert found(load(file), tokenizer).keys() == {"oil", "Oil"}
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6 < 40e6 < file.stat().st_size
