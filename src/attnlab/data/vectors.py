"""Pretrained vectors for the tokens of a vocabulary: GloVe, word2vec and fastText as text, model2vec and WordLlama."""

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO, ClassVar

import numpy as np
import numpy.typing as npt
import tokenizers
from annotated_types import Gt
from tokenizers import Tokenizer

from attnlab.data.file_access import cached, open_file
from attnlab.data.tokenization import SPECIAL_TOKENS
from attnlab.errors import UserError, first_line

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]

FORMAT = 1  # of the files in the cache; increase it with any change of theirs, so that older files are not used
HEAD = 1 << 20  # bytes in which the first two lines are expected
AS_TEXT = (
    "vectors are read as text; convert those of word2vec with gensim: "
    "KeyedVectors.load_word2vec_format(file, binary=True).save_word2vec_format(new_file), and use the .vec of fastText"
)


@dataclass(frozen=True)
class Vectors:
    """The vectors of a file for a vocabulary of V tokens: `table` [V, D] float32, 0 where `covered` [V] is False."""

    table: Floats
    covered: npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class StaticVectors:
    """Vectors that were trained elsewhere, to initialise the embedding with.

    Args:
        path: a text file of GloVe (Pennington et al., 2014), word2vec or fastText (.vec), plain, .gz or .bz2; or a
            folder with one .safetensors and its tokenizer.json, as of model2vec or WordLlama.
        scale: all vectors are multiplied by the number that gives their values this root mean square; None: by 1.
        freeze: do not train them; the rest of the model learns.
    """

    PATHS: ClassVar[tuple[str, ...]] = ("path",)

    path: str
    scale: Annotated[float, Gt(0)] | None = None
    freeze: bool = False

    @property
    def width(self) -> int:
        return vector_width(self.path)

    def load(self, tokenizer: Tokenizer, cache_dir: Path) -> Vectors:
        """The vector of each token, from the cache if this file was read for this vocabulary before."""
        tokens = [tokenizer.id_to_token(i) or "" for i in range(tokenizer.get_vocab_size())]
        parts = [str(FORMAT), tokenizers.__version__, *_state(self.path), *tokens]
        key = hashlib.blake2b("\0".join(parts).encode(), digest_size=16)
        folder = cached(cache_dir / key.hexdigest(), lambda folder: _fill(folder, Path(self.path), tokens))
        return Vectors(np.load(folder / "table.npy"), np.load(folder / "covered.npy"))


def vector_width(path: str) -> int:
    """The number of values of a vector, from the first lines of the file."""
    _state(path)
    with _in_one_line(path):
        if Path(path).is_dir():
            with _open_table(Path(path)) as (file, name):
                return int(file.get_slice(name).get_shape()[1])
        with open_file(Path(path)) as lines:
            return _read_head(lines)[0]


def _state(path: str) -> list[str]:
    """Names, sizes and times of the files, for the cache key: hashing 2 GB would take seconds in each run."""
    place = Path(path)
    if place.is_dir():
        files = [*sorted(place.glob("*.safetensors")), place / "tokenizer.json"]
        if len(files) != 2 or not files[1].is_file():
            raise UserError(
                f"embedding.path={path} is a folder and should hold one .safetensors and a tokenizer.json; there are "
                + (", ".join(sorted(file.name for file in place.iterdir())[:5]) or "no files")
            )
    elif not place.is_file():
        raise UserError(f"embedding.path={path} is neither a file nor a folder")
    else:
        files = [place]
    return [f"{file.resolve()} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files]


@contextmanager
def _in_one_line(path: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"embedding.path={path}: {error}") from error
    except Exception as error:  # a file from outside can fail in any way
        raise UserError(
            f"can't read embedding.path={path}: {first_line(error).rstrip('.')}; fix it or download it again"
        ) from error


def _fill(folder: Path, path: Path, tokens: list[str]) -> None:
    log.info("Reading the vectors of %s ...", path)
    words = ["" if token in SPECIAL_TOKENS else token for token in tokens]
    with _in_one_line(str(path)):
        table = _read_folder(path, words) if path.is_dir() else _read_text(path, words)
        finite, covered = np.isfinite(table).all(axis=1), table.any(axis=1)
        if not finite.all():
            raise UserError(f"the vector of {tokens[int(np.argmin(finite))]!r} holds NaN or infinite values")
        if not covered.any():
            raise UserError(
                f"none of the {len(tokens):,} tokens has a vector: use vectors of the language of the documents"
            )
    np.save(folder / "table.npy", table)
    np.save(folder / "covered.npy", covered)


def _read_text(path: Path, words: list[str]) -> Floats:
    """The vectors of `words`; the file is read line by line, as it may be larger than the memory.

    A word is looked up as it is, then in lower case, capitalised, and in capitals.
    """
    # The rank of each form and the row of its word; of several forms in a file the one of the lowest rank counts. Keys
    # are bytes, which saves decoding the lines of other words.
    wanted: dict[bytes, list[tuple[int, int]]] = {}
    for row, word in enumerate(words):
        forms = dict.fromkeys((word, word.lower(), word.capitalize(), word.upper())) if word else ()
        for rank, form in enumerate(forms):
            wanted.setdefault(form.encode(), []).append((rank, row))
    with open_file(path) as file:
        width, promised = _read_head(file)
    table, ranks = np.zeros((len(words), width), dtype=np.float32), np.full(len(words), 9)
    found = 0
    with open_file(path) as file:
        for number, line in enumerate(map(bytes.rstrip, file), start=1):
            if not line or (number == 1 and promised is not None):
                continue
            found += 1
            # Values are counted in every line, but parsed only for words of the vocabulary.
            extra = line.count(b" ") - width
            if extra > 0 and any(_floats(part) is None for part in line.split(b" ")[1 : extra + 1]):
                continue  # a few words of GloVe contain spaces
            if extra:
                raise UserError(f"line {number} has {width + extra} values, and those before have {width}")
            word_of_line, _, values = line.partition(b" ")
            for rank, row in wanted.get(word_of_line, ()):
                if rank < ranks[row]:
                    vector = _floats(values)
                    if vector is None:
                        raise UserError(f"line {number} holds something other than numbers")
                    table[row], ranks[row] = vector, rank
    if promised is not None and found != promised:
        log.warning("embedding.path=%s holds %d vectors where its first line says %d", path, found, promised)
    return table


def _read_head(file: BinaryIO) -> tuple[int, int | None]:
    """The width of the vectors, and their number in the first line; None if that line is a vector."""
    head = file.read(HEAD)
    if b"\0" in head:
        raise UserError(f"it is binary; {AS_TEXT}")
    first, second, *_ = [*map(bytes.rstrip, head.split(b"\n", 2)), b""]
    sizes = first.split()
    promised = int(sizes[0]) if len(sizes) == 2 and all(map(bytes.isdigit, sizes)) else None
    line = first if promised is None else second
    word, _, values = line.partition(b" ")
    vector = _floats(values)
    if not word or vector is None or (promised is not None and len(vector) != int(sizes[1])):
        wanted = "a word and its values" if promised is None else f"a word and {int(sizes[1])} values, as line 1 says"
        raise UserError(f"line {1 if promised is None else 2} is not a vector: {wanted}, with single spaces between")
    return len(vector), promised


def _floats(text: bytes) -> Floats | None:
    """The numbers in a text; None if it holds anything else."""
    try:
        return np.array(text.split(b" "), dtype=np.float32)
    except ValueError:
        return None


@contextmanager
def _open_table(folder: Path) -> Iterator[tuple[Any, str]]:
    """The only .safetensors of a folder, open, and the name of the only table in it."""
    from safetensors import safe_open

    (path,) = folder.glob("*.safetensors")
    with safe_open(path, framework="pt") as file:
        names = [name for name in file.keys() if len(file.get_slice(name).get_shape()) == 2]  # noqa: SIM118
        if len(names) != 1:
            raise UserError(
                f"{path.name} should hold one table of vectors and holds {len(names)} ({', '.join(names[:3])})"
            )
        yield file, names[0]


def _read_folder(folder: Path, words: list[str]) -> Floats:
    """For each word the mean of the vectors of its tokens, which model2vec weights."""
    import torch

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    # All tokens of each word, without special ones.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    settings = json.loads(tokenizer.to_str())["model"]
    unknown = settings.get("unk_id", tokenizer.token_to_id(settings.get("unk_token") or ""))
    encodings = tokenizer.encode_batch_fast(words, add_special_tokens=False)
    pieces = [[piece for piece in encoding.ids if piece != unknown] for encoding in encodings]
    lengths = torch.tensor(list(map(len, pieces)))
    ids = torch.tensor([piece for word in pieces for piece in word], dtype=torch.int64)
    with _open_table(folder) as (file, name):
        rows = file.get_tensor("mapping")[ids].long() if "mapping" in file.keys() else ids  # noqa: SIM118
        vectors = file.get_tensor(name)[rows].float()
        if "weights" in file.keys():  # noqa: SIM118
            vectors *= file.get_tensor("weights")[ids, None].float()
    sums = torch.zeros(len(words), vectors.size(1)).index_add_(
        0, torch.arange(len(words)).repeat_interleave(lengths), vectors
    )
    return (sums / lengths.clamp(min=1)[:, None]).numpy()
