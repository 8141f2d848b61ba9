"""The token cache: each split is one flat array on disk, so that only the first run on a data set tokenises it."""

import hashlib
import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import numpy as np
import numpy.typing as npt
import tokenizers
from tokenizers import Encoding, Tokenizer

from attnlab.data.file_access import cached
from attnlab.data.tokenization import UNK, Pretrained, TokenizerRecipe, max_length, read_tokenizer, token_id
from attnlab.process import give_memory_back

log = logging.getLogger(__name__)

# Texts, or pairs of them.
Documents = list[str] | list[tuple[str, str]]
Recipe = TokenizerRecipe | Pretrained

FORMAT = 5  # of the files in the cache; raise it with any change, and older ones are not used
# A tokenizer's encodings take a hundred times the memory of the ids in them, so at most so many are made together.
AT_ONCE = 1024  # documents
CHARACTERS_AT_ONCE = 1 << 18
# For each token of the longest document: characters of a pair that are too few for many pieces, and of a text that are
# likely to be enough to fill it.
SURELY_FEW, LIKELY_ENOUGH = 4, 32


@dataclass(frozen=True)
class Tokens:
    """The tokens of N documents, one after another.

    Document i is `ids[offsets[i]:offsets[i + 1]]`; ids: [total] int32, offsets: [N + 1] int64. It was `full_lengths[i]`
    tokens long before it was cut; full_lengths: [N] int64. `pairs`: whether documents are pairs of texts. `unknown`:
    how many of the ids are that of [UNK].
    """

    ids: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    full_lengths: npt.NDArray[np.int64]
    pairs: bool = False
    unknown: int = 0

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        return np.diff(self.offsets)


def tokenize(
    texts: Mapping[str, Documents], tokenizer: Recipe | Tokenizer, cache_dir: Path
) -> tuple[Tokenizer, dict[str, Tokens]]:
    """Tokens of each split, from the cache if the same tokenizer has tokenised the same texts before.

    Args:
        texts: documents of each split; a recipe is trained on the one named "train".
        tokenizer: a recipe, or a tokenizer that is trained already.
        cache_dir: parent of the cache's folders, one for each pair of texts and tokenizer.

    Raises:
        UserError: the cache can't be written, for want of space or of permission.
    """
    if isinstance(tokenizer, Pretrained):
        tokenizer = tokenizer.load()
    folder = cached(cache_dir / _key(texts, tokenizer), lambda partial: _fill(partial, texts, tokenizer))
    give_memory_back()  # of the tokenizer's training and of encodings: a hundred megabytes that training can have
    splits = {
        split: Tokens(
            _mapped(folder / f"{split}.ids"),
            np.load(folder / f"{split}.offsets.npy"),
            np.load(folder / f"{split}.full_lengths.npy"),
            pairs=not all(isinstance(document, str) for document in documents[:1]),
            unknown=int(np.load(folder / f"{split}.unknown.npy")),
        )
        for split, documents in texts.items()
    }
    return read_tokenizer((folder / "tokenizer.json").read_text(encoding="utf-8")), splits


def _mapped(file: Path) -> npt.NDArray[np.int32]:
    """The array in the file, read from disk as it is used; an empty file can't be mapped."""
    return np.memmap(file, dtype=np.int32, mode="r") if file.stat().st_size else np.empty(0, dtype=np.int32)


def _key(texts: Mapping[str, Documents], tokenizer: TokenizerRecipe | Tokenizer) -> str:
    # With the version of tokenizers: the same recipe may train another vocabulary in the next one.
    recipe = tokenizer.to_str() if isinstance(tokenizer, Tokenizer) else f"{tokenizer!r}\n{_code(tokenizer)}"
    settings = f"{FORMAT}\n{tokenizers.__version__}\n{recipe}\n{fingerprint(texts)}"
    return hashlib.blake2b(settings.encode(), digest_size=16).hexdigest()


def _code(recipe: TokenizerRecipe) -> str:
    """The source of the recipe's class, which a user may change; "" if Python can't find it, as in a shell."""
    with suppress(OSError, TypeError):
        return inspect.getsource(type(recipe))
    return ""


def fingerprint(texts: Mapping[str, Documents]) -> str:
    """A hash of all texts by split."""
    digest = hashlib.blake2b(digest_size=16)
    for split, documents in texts.items():
        digest.update(f"\n{split} {len(documents)}\n".encode())
        for start in range(0, len(documents), AT_ONCE):  # not a second copy of all texts at once
            digest.update(("\0".join(_flat(documents[start : start + AT_ONCE])) + "\0").encode(errors="surrogatepass"))
    return digest.hexdigest()


def _flat(documents: Documents) -> Iterator[str]:
    """All texts; those of a pair follow each other."""
    for document in documents:
        yield from (document,) if isinstance(document, str) else document


def _fill(folder: Path, texts: Mapping[str, Documents], tokenizer: TokenizerRecipe | Tokenizer) -> None:
    log.info("Tokenising %s documents ...", f"{sum(map(len, texts.values())):,}")
    if isinstance(tokenizer, TokenizerRecipe):
        tokenizer = tokenizer.train(_flat(texts["train"]))
    unknown_id = token_id(tokenizer, UNK)
    for split, documents in texts.items():
        lengths, full_lengths, unknown = [0], [], 0
        with (folder / f"{split}.ids").open("wb") as ids:
            for some in portions(documents):
                encodings = encode(tokenizer, some)
                lengths += map(len, encodings)
                full_lengths += _full_lengths(tokenizer, some, encodings)
                block = ids_of(tokenizer, encodings)
                ids.write(block.tobytes())
                unknown += 0 if unknown_id is None else int(np.count_nonzero(block == unknown_id))
        np.save(folder / f"{split}.offsets.npy", np.cumsum(lengths))
        np.save(folder / f"{split}.full_lengths.npy", np.array(full_lengths))
        np.save(folder / f"{split}.unknown.npy", unknown)  # counting it later would bring the whole file into memory
    (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")


def portions(documents: Documents) -> Iterator[Documents]:
    """The documents in portions whose encodings fit into memory."""
    start = characters = 0
    for stop, document in enumerate(documents, start=1):
        characters += _size(document)
        if characters > CHARACTERS_AT_ONCE or stop - start == AT_ONCE or stop == len(documents):
            yield documents[start:stop]
            start, characters = stop, 0


def _size(document: Sequence[str]) -> int:
    """The length in characters, of a pair that of both texts."""
    return len(document) if isinstance(document, str) else sum(map(len, document))


def encode(tokenizer: Tokenizer, documents: Documents, fast: bool = True) -> list[Encoding]:
    """Documents as a model reads them; `fast`: without offsets.

    The long texts of a pair are cut first: a tokenizer returns what it cuts off in pieces, and of two texts every
    combination of their pieces, gigabytes of two books.
    """
    make = tokenizer.encode_batch_fast if fast else tokenizer.encode_batch
    if not _are_pairs(documents):
        return make(documents)
    pairs, few = list(documents), SURELY_FEW * max_length(tokenizer)
    long = [number for number, pair in enumerate(pairs) if _size(pair) > few]
    for number, pair in zip(long, _cut(tokenizer, [pairs[number] for number in long]), strict=True):
        pairs[number] = pair
    return make(pairs)


def _cut(tokenizer: Tokenizer, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The pairs with long texts shortened to a little more than is used; the longer text stays the longer one.

    The tokenizer truncates the longer text of a pair, so it must find the same one longer.
    """
    texts = list(_flat(pairs))
    ends = _ends(tokenizer, texts, LIKELY_ENOUGH * max_length(tokenizer))
    for first, second in zip(range(0, len(texts), 2), range(1, len(texts), 2), strict=True):
        both, sizes = texts[first : second + 1], [0, 0]
        if ends[first] and ends[second]:
            sizes = _full_lengths(tokenizer, both, tokenizer.encode_batch_fast(both))
        for number, size in zip((first, second), sizes, strict=True):
            if found := ends[number]:
                texts[number] = texts[number][: found[size == max(sizes)]]
    return list(zip(texts[::2], texts[1::2], strict=True))


def _ends(tokenizer: Tokenizer, texts: list[str], size: int) -> list[tuple[int, int] | None]:
    """Where the third and the fourth piece of each text end; None for a text with fewer pieces.

    They are looked for in its first `size` characters, in more where those have not enough tokens.
    """
    ends: list[tuple[int, int] | None] = []
    for text, encoding in zip(texts, tokenizer.encode_batch([text[:size] for text in texts]), strict=True):
        whole = len(text) <= size
        if len(encoding.overflowing) < 3 + (not whole):  # the last piece may be cut within a word
            ends += [None] if whole else _ends(tokenizer, [text], 8 * size)
        else:
            third, fourth = (max(stop for _, stop in piece.offsets) for piece in encoding.overflowing[1:3])
            ends.append((third, fourth))
    return ends


def _full_lengths(tokenizer: Tokenizer, documents: Documents, encodings: list[Encoding]) -> list[int]:
    """The lengths of documents before truncation, in tokens."""
    added = tokenizer.num_special_tokens_to_add(False)
    if _are_pairs(documents):  # each text by itself, as of a pair there are combinations, see `encode`
        texts = tokenizer.encode_batch_fast(list(_flat(documents)))
        alone = np.reshape(_full_lengths(tokenizer, list(_flat(documents)), texts), (-1, 2)) - added
        return (alone.sum(axis=1) + tokenizer.num_special_tokens_to_add(True)).tolist()
    return [len(encoding) + sum(len(piece) - added for piece in encoding.overflowing) for encoding in encodings]


def _are_pairs(documents: Documents) -> TypeGuard[list[tuple[str, str]]]:
    return bool(documents) and not isinstance(documents[0], str)


def ids_of(tokenizer: Tokenizer, encodings: Sequence[Encoding]) -> npt.NDArray[np.int32]:
    """The ids of all, one after another: [total].

    A text makes no special tokens. Where its words are not split, a vocabulary knows "[SEP]" as it does any word: it is
    unknown there.
    """
    joined = list[int]()
    for encoding in encodings:  # one array of all is made in two thirds of the time that an array each takes
        joined += encoding.ids
    ids, unknown = np.array(joined, dtype=np.int32), token_id(tokenizer, UNK)
    if unknown is None or not encodings:
        return ids
    added = tokenizer.get_added_tokens_decoder()
    special = [number for number, token in added.items() if token.special and number != unknown]
    empty = tokenizer.encode("", "" if encodings[0].n_sequences == 2 else None)
    around = np.isin(empty.ids, special).sum()
    if (found := np.isin(ids, special)).sum() > around * len(encodings):
        ids[found & (np.concatenate([encoding.special_tokens_mask for encoding in encodings]) == 0)] = unknown
    return ids
