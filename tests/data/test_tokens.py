import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from attnlab.data import tokens
from attnlab.data.audit import audit_tokens
from attnlab.data.tokenization import BPE, WordLevel
from attnlab.data.tokens import fingerprint, tokenize
from attnlab.errors import UserError

TEXTS = {"train": ["a cat on a mat", "dogs", "a very long story of a cat"], "test": ["a mat"]}
RECIPE = BPE(vocab_size=40)


def test_tokens_are_those_of_the_tokenizer(tmp_path: Path) -> None:
    tokenizer, splits = tokenize(TEXTS, RECIPE, tmp_path)
    for split, texts in TEXTS.items():
        for i, text in enumerate(texts):
            start, end = splits[split].offsets[i : i + 2]
            assert splits[split].ids[start:end].tolist() == tokenizer.encode(text).ids
        assert splits[split].lengths.tolist() == [len(tokenizer.encode(text)) for text in texts]


def test_the_length_before_cutting_is_kept(tmp_path: Path) -> None:
    """With overflow of one token, of none and of several pieces, and for a text of several thousand tokens."""
    texts = {"train": ["a b c d e", "a b c", "a b c d", "", " ".join(["a b"] * 3000)], "test": ["z z z z z z z z z z"]}
    for max_length in (3, 4, 5, 6, 7, 128):
        tokenizer, splits = tokenize(texts, BPE(vocab_size=40, max_length=max_length), tmp_path)
        tokenizer.no_truncation()
        for split, documents in texts.items():
            assert splits[split].full_lengths.tolist() == [len(tokenizer.encode(text)) for text in documents]


def test_the_second_run_does_not_tokenise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, first = tokenize(TEXTS, RECIPE, tmp_path)
    monkeypatch.setattr(tokens, "_fill", lambda *_: pytest.fail("tokenised again"))
    _, second = tokenize(TEXTS, RECIPE, tmp_path)
    assert np.array_equal(first["train"].ids, second["train"].ids)


@pytest.mark.parametrize(
    ("texts", "recipe"),
    [
        (TEXTS | {"test": ["another"]}, RECIPE),
        (TEXTS, BPE(vocab_size=41)),
        (TEXTS, BPE(vocab_size=40, lowercase=True)),
        (TEXTS, BPE(vocab_size=40, max_length=4)),
        ({"train": ["a", "b"], "test": ["c"]}, RECIPE),
        ({"train": ["a"], "test": ["b", "c"]}, RECIPE),
    ],
)
def test_other_data_or_settings_have_a_cache_of_their_own(
    texts: dict[str, list[str]], recipe: BPE, tmp_path: Path
) -> None:
    for each, by in ((TEXTS, RECIPE), ({"train": ["a", "b"], "test": ["c\0"]}, RECIPE), (texts, recipe)):
        tokenize(each, by, tmp_path)
    assert sum(path.is_dir() for path in tmp_path.iterdir()) == 3


def test_a_half_written_cache_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", die)
        with pytest.raises(KeyboardInterrupt):
            tokenize(TEXTS, RECIPE, tmp_path)
    _, splits = tokenize(TEXTS, RECIPE, tmp_path)
    assert len(splits["train"].lengths) == 3


def test_a_trained_tokenizer_is_used_as_it_is(tmp_path: Path) -> None:
    trained = RECIPE.train(["quite other words"])
    tokenizer, splits = tokenize({"test": TEXTS["test"]}, trained, tmp_path)
    assert tokenizer.to_str() == trained.to_str()
    assert splits["test"].ids.tolist() == trained.encode("a mat").ids


def test_of_a_pair_of_texts_the_longer_one_is_cut(tmp_path: Path) -> None:
    pairs = [("a b c d e f", "u v"), ("a", "u"), ("a b", "u v w x y z q")]
    texts = {"train": pairs}
    tokenizer, splits = tokenize(texts, WordLevel(vocab_size=60, max_length=8), tmp_path)
    train = splits["train"]
    first = [str(tokenizer.id_to_token(token)) for token in train.ids[: train.offsets[1]]]
    assert first == ["[CLS]", "a", "b", "c", "[SEP]", "u", "v", "[SEP]"]
    assert train.lengths.tolist() == [8, 5, 8] and train.full_lengths.tolist() == [11, 5, 12]
    assert audit_tokens(train, tokenizer)["tokens_cut"] == 7 / 19
    assert fingerprint(texts) != fingerprint({"train": [f"{a} {b}" for a, b in pairs]})
    assert fingerprint(texts) != fingerprint({"train": [(b, a) for a, b in pairs]})


def test_a_recipe_whose_code_has_changed_is_trained_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As while a user writes one: its name and its settings stay."""

    def vocabulary(version: int, function: str) -> dict[str, int]:
        file = tmp_path / str(version) / "own_recipe.py"
        file.parent.mkdir()
        file.write_text(
            "from attnlab.data.tokenization import BPE\n\nclass Own(BPE):\n"
            f"    def train(self, texts):\n        return super().train(map({function}, texts))\n"
        )
        with monkeypatch.context() as patch:
            patch.syspath_prepend(str(file.parent))
            patch.delitem(sys.modules, "own_recipe", raising=False)
            own = importlib.import_module("own_recipe")
            return tokenize(TEXTS, own.Own(vocab_size=40), tmp_path / "cache")[0].get_vocab()

    found = [vocabulary(0, "str"), vocabulary(1, "str.upper"), vocabulary(2, "str")]
    assert "A" in found[1] and "A" not in found[0] == found[2]


def test_a_cache_that_can_only_be_read_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that runs as root may write anywhere, so each way to write is closed."""
    _, first = tokenize(TEXTS, RECIPE, tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    for place in ("filelock.BaseFileLock.acquire", "pathlib.Path.mkdir"):
        monkeypatch.setattr(place, refuse)
    _, second = tokenize(TEXTS, RECIPE, tmp_path)
    assert np.array_equal(first["train"].ids, second["train"].ids)
    with pytest.raises(UserError, match=r"^can't write the cache in \S+: .*; .*paths\.cache_dir=<folder>$"):
        tokenize(TEXTS, BPE(vocab_size=41), tmp_path)


def test_special_tokens_in_a_text_are_text_in_the_cache_too(tmp_path: Path) -> None:
    texts = {"train": [*TEXTS["train"], "a [SEP] cat [PAD]"], "test": ["[CLS] mat"]}
    tokenizer, splits = tokenize(texts, RECIPE, tmp_path)
    special = [tokenizer.get_vocab()[token] for token in ("[CLS]", "[SEP]", "[PAD]")]
    assert [int(np.isin(splits[name].ids, special).sum()) for name in texts] == [2 * 4, 2 * 1]


def test_of_long_pairs_it_is_known_how_much_was_cut(tmp_path: Path) -> None:
    pairs = [("a b c " * number, "d e " * (40 - number)) for number in range(40)]
    tokenizer, splits = tokenize({"train": pairs}, WordLevel(vocab_size=60, max_length=8), tmp_path)
    tokenizer.no_truncation()
    assert splits["train"].full_lengths.tolist() == [len(tokenizer.encode(*pair)) for pair in pairs]
