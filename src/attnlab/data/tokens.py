"""The token cache: each split as one flat array on disk, so that only the first run on some data tokenises it."""

import hashlib
import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tokenizers
from tokenizers import Encoding, Tokenizer

from attnlab.data.cache import cached
from attnlab.data.tokenization import UNK, Pretrained, TokenizerRecipe, token_id
from attnlab.process import give_memory_back

log = logging.getLogger(__name__)

# Texts, or pairs of them.
Documents = list[str] | list[tuple[str, str]]
Recipe = TokenizerRecipe | Pretrained

FORMAT = 4  # of the files in the cache; raise it with any change, and older ones are not used
AT_ONCE = 1024  # documents: a tokenizer's encodings take a hundred times the memory of the ids in them


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

    def losses(self, tokenizer: Tokenizer) -> dict[str, float]:
        """Shares of documents and of tokens that were cut and of those left that are unknown, and documents left empty.

        [CLS] and [SEP] count nowhere.
        """
        added = tokenizer.num_special_tokens_to_add(self.pairs)
        kept, full = self.lengths - added, self.full_lengths - added
        return {
            "documents_cut": float((full > kept).mean()),
            "tokens_cut": float((full - kept).sum() / max(1, full.sum())),
            "unknown_tokens": float(self.unknown / max(1, kept.sum())),
            "empty_documents": int((full == 0).sum()),
        }


def tokenize(
    texts: Mapping[str, Documents], tokenizer: Recipe | Tokenizer, cache_dir: Path
) -> tuple[Tokenizer, dict[str, Tokens]]:
    """Tokens of each split, out of the cache where these texts were tokenised so before.

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
    return Tokenizer.from_file(str(folder / "tokenizer.json")), splits


def _mapped(file: Path) -> npt.NDArray[np.int32]:
    """What the file holds, read where it is used."""
    return np.memmap(file, dtype=np.int32, mode="r") if file.stat().st_size else np.empty(0, dtype=np.int32)


def _key(texts: Mapping[str, Documents], tokenizer: TokenizerRecipe | Tokenizer) -> str:
    recipe = tokenizer.to_str() if isinstance(tokenizer, Tokenizer) else f"{tokenizer!r}\n{_code(tokenizer)}"
    settings = f"{FORMAT}\n{tokenizers.__version__}\n{recipe}\n{fingerprint(texts)}"
    return hashlib.blake2b(settings.encode(), digest_size=16).hexdigest()


def _code(recipe: TokenizerRecipe) -> str:
    """Of its class, which may be a user's own and change; nothing where Python can't find it, as in some shells."""
    with suppress(OSError, TypeError):
        return inspect.getsource(type(recipe))
    return ""


def fingerprint(texts: Mapping[str, Documents]) -> str:
    """The same for the same texts in the same splits, and for no others."""
    digest = hashlib.blake2b(digest_size=16)
    for split, documents in texts.items():
        digest.update(f"\n{split} {len(documents)}\n".encode())
        for start in range(0, len(documents), AT_ONCE):  # not a second copy of all texts at once
            digest.update(("\0".join(_flat(documents[start : start + AT_ONCE])) + "\0").encode(errors="surrogatepass"))
    return digest.hexdigest()


def _flat(documents: Documents) -> Iterator[str]:
    """Each text, those of a pair one after the other."""
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
            for start in range(0, len(documents), AT_ONCE):
                encodings = tokenizer.encode_batch_fast(documents[start : start + AT_ONCE])
                lengths += map(len, encodings)
                full_lengths += _full_lengths(tokenizer, documents[start : start + AT_ONCE], encodings)
                block = ids_of(encodings)
                ids.write(block.tobytes())
                unknown += 0 if unknown_id is None else int(np.count_nonzero(block == unknown_id))
        np.save(folder / f"{split}.offsets.npy", np.cumsum(lengths))
        np.save(folder / f"{split}.full_lengths.npy", np.array(full_lengths))
        np.save(folder / f"{split}.unknown.npy", unknown)  # counting it later would bring the whole file into memory
    (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")


def ids_of(encodings: Sequence[Encoding]) -> npt.NDArray[np.int32]:
    """The ids of all, one after another: [total]."""
    ids = list[int]()
    for encoding in encodings:  # one array of all is made in two thirds of the time that an array each takes
        ids += encoding.ids
    return np.array(ids, dtype=np.int32)


def _full_lengths(tokenizer: Tokenizer, documents: Documents, encodings: list[Encoding]) -> list[int]:
    """How long documents are before they are cut."""
    if documents and not isinstance(documents[0], str):  # what is cut off of pairs comes in overlapping pieces
        whole = Tokenizer.from_str(tokenizer.to_str())
        whole.no_truncation()
        return [len(encoding) for encoding in whole.encode_batch_fast(documents)]
    added = tokenizer.num_special_tokens_to_add(False)
    return [len(encoding) + sum(len(piece) - added for piece in encoding.overflowing) for encoding in encodings]
