"""The token cache: only the first run on a data set tokenises it; each split is one flat array on disk."""

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

FORMAT = 5  # of the files in the cache; increase it with any change of theirs, so that older files are not used
# Limits on the documents that are encoded together: encodings take a hundred times the memory of the ids in them.
AT_ONCE = 1024  # documents
CHARACTERS_AT_ONCE = 1 << 18
# Characters for each token of `max_length`: a pair of at most so many has few pieces, and a text of so many very
# likely has enough tokens.
SURELY_FEW, LIKELY_ENOUGH = 4, 32


@dataclass(frozen=True)
class Tokens:
    """The tokens of N documents, one after another.

    Attributes:
        ids: [total] int32; those of document i are `ids[offsets[i]:offsets[i + 1]]`.
        offsets: [N + 1] int64.
        full_lengths: [N] int64, in tokens before truncation.
        pairs: whether documents are pairs of texts.
        unknown: the number of [UNK] among the ids.
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
    """The tokenizer and the tokens of each split, from the cache if it has tokenised the same texts before.

    Args:
        texts: documents of each split; a recipe is trained on the one named "train".
        tokenizer: a recipe, or a trained tokenizer.
        cache_dir: parent of the cache's folders, one for each combination of texts and tokenizer.
    """
    if isinstance(tokenizer, Pretrained):
        tokenizer = tokenizer.load()
    folder = cached(cache_dir / _key(texts, tokenizer), lambda partial: _fill(partial, texts, tokenizer))
    give_memory_back()  # of encodings and of the tokenizer's training: a hundred megabytes
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
    """The array in the file, which is read from disk as it is used."""
    # An empty file can't be mapped.
    return np.memmap(file, dtype=np.int32, mode="r") if file.stat().st_size else np.empty(0, dtype=np.int32)


def _key(texts: Mapping[str, Documents], tokenizer: TokenizerRecipe | Tokenizer) -> str:
    # The version of tokenizers is part of the key, as another one may train another vocabulary by the same recipe.
    recipe = tokenizer.to_str() if isinstance(tokenizer, Tokenizer) else f"{tokenizer!r}\n{_code(tokenizer)}"
    settings = f"{FORMAT}\n{tokenizers.__version__}\n{recipe}\n{fingerprint(texts)}"
    return hashlib.blake2b(settings.encode(), digest_size=16).hexdigest()


def _code(recipe: TokenizerRecipe) -> str:
    """The source code of the recipe's class, which a user may edit; "" if Python can't find it, as in a shell."""
    with suppress(OSError, TypeError):
        return inspect.getsource(type(recipe))
    return ""


def fingerprint(texts: Mapping[str, Documents]) -> str:
    """A hash of all texts by split."""
    digest = hashlib.blake2b(digest_size=16)
    for split, documents in texts.items():
        digest.update(f"\n{split} {len(documents)}\n".encode())
        for start in range(0, len(documents), AT_ONCE):  # in parts, as a second copy of all texts may not fit
            digest.update(("\0".join(_flat(documents[start : start + AT_ONCE])) + "\0").encode(errors="surrogatepass"))
    return digest.hexdigest()


def _flat(documents: Documents) -> Iterator[str]:
    """All texts, those of a pair one after the other."""
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
            for some in encoding_batches(documents):
                encodings = encode(tokenizer, some)
                lengths += map(len, encodings)
                full_lengths += _full_lengths(tokenizer, some, encodings)
                block = ids_of(tokenizer, encodings)
                ids.write(block.tobytes())
                unknown += 0 if unknown_id is None else int(np.count_nonzero(block == unknown_id))
        np.save(folder / f"{split}.offsets.npy", np.cumsum(lengths))
        np.save(folder / f"{split}.full_lengths.npy", np.array(full_lengths))
        np.save(folder / f"{split}.unknown.npy", unknown)  # counting later would read the whole file into memory
    (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")


def encoding_batches(documents: Documents) -> Iterator[Documents]:
    """The documents in parts that are small enough to encode at once."""
    start = characters = 0
    for stop, document in enumerate(documents, start=1):
        characters += _size(document)
        if characters > CHARACTERS_AT_ONCE or stop - start == AT_ONCE or stop == len(documents):
            yield documents[start:stop]
            start, characters = stop, 0


def _size(document: Sequence[str]) -> int:
    """The length in characters, in a pair of both texts."""
    return len(document) if isinstance(document, str) else sum(map(len, document))


def encode(tokenizer: Tokenizer, documents: Documents, fast: bool = True) -> list[Encoding]:
    """The encodings of documents; `fast` ones have no offsets."""
    # The long texts of a pair are shortened first: a tokenizer also returns what it truncates, in pieces, and for two
    # texts every combination of their pieces, which for two books takes gigabytes.
    make = tokenizer.encode_batch_fast if fast else tokenizer.encode_batch
    if not _are_pairs(documents):
        return make(documents)
    pairs, few = list(documents), SURELY_FEW * max_length(tokenizer)
    long = [number for number, pair in enumerate(pairs) if _size(pair) > few]
    for number, pair in zip(long, _cut(tokenizer, [pairs[number] for number in long]), strict=True):
        pairs[number] = pair
    return make(pairs)


def _cut(tokenizer: Tokenizer, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The pairs with long texts shortened to a little more than the tokenizer will keep.

    The longer text must stay the longer one, because it is the one that the tokenizer truncates.
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
    """The ends of the third and the fourth piece of each text; None for a text with fewer pieces.

    Its first `size` characters are searched, and more if those have too few tokens.
    """
    ends: list[tuple[int, int] | None] = []
    for text, encoding in zip(texts, tokenizer.encode_batch([text[:size] for text in texts]), strict=True):
        whole = len(text) <= size
        if len(encoding.overflowing) < 3 + (not whole):  # the last piece may end within a word
            ends += [None] if whole else _ends(tokenizer, [text], 8 * size)
        else:
            third, fourth = (max(stop for _, stop in piece.offsets) for piece in encoding.overflowing[1:3])
            ends.append((third, fourth))
    return ends


def _full_lengths(tokenizer: Tokenizer, documents: Documents, encodings: list[Encoding]) -> list[int]:
    """The lengths of documents before truncation, in tokens."""
    added = tokenizer.num_special_tokens_to_add(False)
    if _are_pairs(documents):  # each text by itself, as the pieces of a pair are combinations, see `encode`
        texts = tokenizer.encode_batch_fast(list(_flat(documents)))
        alone = np.reshape(_full_lengths(tokenizer, list(_flat(documents)), texts), (-1, 2)) - added
        return (alone.sum(axis=1) + tokenizer.num_special_tokens_to_add(True)).tolist()
    return [len(encoding) + sum(len(piece) - added for piece in encoding.overflowing) for encoding in encodings]


def _are_pairs(documents: Documents) -> TypeGuard[list[tuple[str, str]]]:
    return bool(documents) and not isinstance(documents[0], str)


def ids_of(tokenizer: Tokenizer, encodings: Sequence[Encoding]) -> npt.NDArray[np.int32]:
    """The ids of all encodings, one after another: [total].

    A text never gives special tokens: a tokenizer that does not split words finds a word "[SEP]" in its vocabulary, and
    it becomes [UNK] here.
    """
    joined = list[int]()
    for encoding in encodings:  # one array for all takes two thirds of the time of one for each
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
