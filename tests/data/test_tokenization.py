import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from attnlab.data.tokenization import BPE, SPECIAL_TOKENS, Pretrained, TokenizerRecipe, WordLevel, read_tokenizer
from attnlab.data.tokens import encode, ids_of
from attnlab.errors import UserError
from attnlab.models.classifier import of_second_text

TEXTS = ["The cat sat on the mat.", "A dog and a cat met on a mat, again and again."] * 5
RECIPES = [BPE(vocab_size=60, max_length=8), WordLevel(vocab_size=60, max_length=8)]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: type(recipe).__name__)
def test_saved_file_gives_the_same_tokens(recipe: TokenizerRecipe, tmp_path: Path) -> None:
    tokenizer = recipe.train(TEXTS)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    loaded = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in [*TEXTS, "something else"]:
        assert loaded.encode(text).ids == tokenizer.encode(text).ids


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: type(recipe).__name__)
def test_articles_are_framed_and_cut(recipe: TokenizerRecipe) -> None:
    encoding = recipe.train(TEXTS).encode(TEXTS[1])
    assert encoding.tokens[0] == "[CLS]" and encoding.tokens[-1] == "[SEP]"
    assert len(encoding.ids) == 8


def test_special_tokens_are_there() -> None:
    tokenizer = BPE(vocab_size=60).train(TEXTS)
    assert all(tokenizer.token_to_id(token) is not None for token in SPECIAL_TOKENS)


def test_lowercase_folds_case() -> None:
    folded, kept = (WordLevel(vocab_size=60, lowercase=lowercase).train(TEXTS) for lowercase in (True, False))
    assert folded.encode("THE CAT").ids == folded.encode("the cat").ids
    assert kept.encode("THE CAT").ids != kept.encode("the cat").ids


def test_transformers_reads_the_file(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = BPE(vocab_size=60).train(TEXTS)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    fast = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    assert fast(TEXTS[0])["input_ids"] == tokenizer.encode(TEXTS[0]).ids


@pytest.mark.parametrize("settings", [{"vocab_size": 5}, {"vocab_size": 100, "max_length": 2}])
def test_impossible_sizes_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"tokenizer\.(vocab_size=5|max_length=2)"):
        BPE(**settings)


@pytest.mark.parametrize("recipe", [BPE(vocab_size=100), WordLevel(vocab_size=100, lowercase=True)])
def test_an_accent_is_the_same_as_one_character_or_as_two(recipe: TokenizerRecipe) -> None:
    """A text's Unicode form depends on the system that it was written on."""
    tokenizer = recipe.train(["Über allen Gipfeln ist Ruh", "café crème"])
    composed, decomposed = (unicodedata.normalize(form, "café über") for form in ("NFC", "NFD"))
    assert len(composed) < len(decomposed)
    assert tokenizer.encode(composed).ids == tokenizer.encode(decomposed).ids


SPECIAL = "a cat [SEP] sat [CLS] on [PAD] the [MASK] mat <s> </s>"


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: type(recipe).__name__)
def test_special_tokens_in_a_text_are_text(recipe: TokenizerRecipe, tmp_path: Path) -> None:
    """Also by a tokenizer that was read from a file."""
    tokenizer = replace(recipe, max_length=128).train(TEXTS)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    for each in (tokenizer, Pretrained(path=str(tmp_path)).load(), read_tokenizer(tokenizer.to_str())):
        single, pair = encode(each, [SPECIAL]), encode(each, [(SPECIAL, SPECIAL)])
        special = [each.get_vocab()[token] for token in SPECIAL_TOKENS if token != "[UNK]"]
        assert np.isin(ids_of(each, single), special).sum() == 2 and np.isin(ids_of(each, pair), special).sum() == 3
        segments = of_second_text(torch.tensor([pair[0].ids]), each.get_vocab()["[SEP]"])
        assert segments[0].tolist() == pair[0].type_ids


@pytest.mark.parametrize("names", ["[UNK] [CLS] [SEP] [PAD] [MASK]", "<unk> <s> </s> <pad> <mask>"])
def test_where_words_are_not_split_special_tokens_in_a_text_are_unknown(names: str) -> None:
    """As in a SentencePiece vocabulary, which has them beside the words."""
    tokens = [*names.split(), "the", "room"]
    tokenizer = Tokenizer(models.WordLevel({token: row for row, token in enumerate(tokens)}, unk_token=tokens[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(names.split())
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A",
        pair=f"{tokens[1]} $A {tokens[2]} $B:1 {tokens[2]}:1",
        special_tokens=[(tokens[1], 1), (tokens[2], 2)],
    )
    tokenizer.enable_truncation(8)
    tokenizer = read_tokenizer(tokenizer.to_str())
    texts = [f"the {names} room", "the room"]
    assert ids_of(tokenizer, encode(tokenizer, texts)).tolist() == [5, 0, 0, 0, 0, 0, 6, 5, 6]
    pairs = [("the room", f"{tokens[3]} room"), ("the", "room")]
    assert ids_of(tokenizer, encode(tokenizer, pairs)).tolist() == [1, 5, 6, 2, 0, 6, 2, 1, 5, 2, 6, 2]


def long_text(words: int) -> str:
    return " ".join(["the cat sat", "a dog met again"][number % 2] for number in range(words))


@pytest.mark.parametrize(
    "pair",
    [
        ("the cat", "a dog"),
        (long_text(30), "a dog"),
        ("the cat", long_text(30)),
        (long_text(30), long_text(35)),
        (long_text(35), long_text(30)),
        (long_text(40), long_text(40)),
        (long_text(40), "again " * 90),
        (" " * 2000 + long_text(20), "cat" * 50 + long_text(9)),
        ("aa" * 100, "dog" * 60),
        ("", long_text(30)),
    ],
)
@pytest.mark.parametrize("max_length", [12, 13])
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: type(recipe).__name__)
def test_the_long_texts_of_a_pair_have_the_tokens_that_they_would_have_whole(
    recipe: TokenizerRecipe, max_length: int, pair: tuple[str, str]
) -> None:
    tokenizer = replace(recipe, max_length=max_length).train(TEXTS)
    for fast in (True, False):
        (found,), expected = encode(tokenizer, [pair], fast), tokenizer.encode(*pair)
        assert (found.ids, found.type_ids) == (expected.ids, expected.type_ids)
        assert fast or found.offsets == expected.offsets
        assert bool(found.overflowing) == bool(expected.overflowing)


@pytest.mark.parametrize("text", ["the cat sat on a mat " * 10_000, "cat" * 66_000])
def test_two_books_are_cut_before_they_are_joined(text: str) -> None:
    """What the tokenizer cuts off of them by itself is every combination of their pieces, gigabytes."""
    tokenizer = BPE(vocab_size=60).train(TEXTS)
    (encoding,) = encode(tokenizer, [(text, text)])
    assert len(encoding) == 128 and len(encoding.overflowing) < 100
