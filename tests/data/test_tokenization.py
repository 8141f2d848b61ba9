import unicodedata
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from attnlab.data.tokenization import BPE, SPECIAL_TOKENS, TokenizerRecipe, WordLevel
from attnlab.errors import UserError

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
