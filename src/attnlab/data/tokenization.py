"""Tokenizers, trained on the training split. Each file in `conf/tokenizer` configures one recipe."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from attnlab.errors import UserError

UNK, CLS, SEP, PAD, MASK = SPECIAL_TOKENS = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]


@dataclass(frozen=True, kw_only=True)
class TokenizerRecipe(ABC):
    """How to train a tokenizer.

    Args:
        vocab_size: at most so many tokens, the five special ones included.
        lowercase: fold case before splitting.
        max_length: documents are cut to so many tokens, [CLS] and [SEP] included.
    """

    vocab_size: int
    lowercase: bool = False
    max_length: int = 128

    def __post_init__(self) -> None:
        if self.vocab_size <= len(SPECIAL_TOKENS):
            raise UserError(f"tokenizer.vocab_size={self.vocab_size} must be above {len(SPECIAL_TOKENS)}")
        if self.max_length < 3:
            raise UserError(
                f"tokenizer.max_length={self.max_length} leaves no room between [CLS] and [SEP]; give 3 or more"
            )

    @abstractmethod
    def _untrained(self) -> tuple[Tokenizer, trainers.Trainer]: ...

    def train(self, texts: Iterable[str]) -> Tokenizer:
        """A tokenizer that splits on white space and punctuation, writes `[CLS] text [SEP]` and truncates."""
        tokenizer, trainer = self._untrained()
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        # A letter with its accent is one character or two, depending on where a text comes from.
        steps = [normalizers.NFC(), *([normalizers.Lowercase()] if self.lowercase else [])]
        tokenizer.normalizer = normalizers.Sequence(steps)
        tokenizer.train_from_iterator(texts, trainer)
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{CLS} $A {SEP}",
            pair=f"{CLS} $A {SEP} $B:1 {SEP}:1",
            special_tokens=[(token, tokenizer.token_to_id(token)) for token in (CLS, SEP)],
        )
        tokenizer.enable_truncation(self.max_length)
        return tokenizer


@dataclass(frozen=True, kw_only=True)
class BPE(TokenizerRecipe):
    """Byte-pair encoding (Sennrich, Haddow and Birch, 2016)."""

    def _untrained(self) -> tuple[Tokenizer, trainers.Trainer]:
        trainer = trainers.BpeTrainer(vocab_size=self.vocab_size, special_tokens=SPECIAL_TOKENS, show_progress=False)
        return Tokenizer(models.BPE(unk_token=UNK)), trainer


@dataclass(frozen=True, kw_only=True)
class WordLevel(TokenizerRecipe):
    """One token a word; words outside the `vocab_size` most frequent ones become [UNK]."""

    def _untrained(self) -> tuple[Tokenizer, trainers.Trainer]:
        trainer = trainers.WordLevelTrainer(
            vocab_size=self.vocab_size, special_tokens=SPECIAL_TOKENS, show_progress=False
        )
        return Tokenizer(models.WordLevel(unk_token=UNK)), trainer


def pad_id(tokenizer: Tokenizer) -> int:
    """The id of [PAD]. Raises `UserError` where the tokenizer has none."""
    token_id = tokenizer.token_to_id(PAD)
    if token_id is None:
        raise UserError(f"the tokenizer has no token {PAD}")
    return token_id


def max_length(tokenizer: Tokenizer) -> int:
    """The longest document in tokens that it gives. Raises `UserError` where it does not truncate."""
    if tokenizer.truncation is None:
        raise UserError("the tokenizer does not truncate")
    return int(tokenizer.truncation["max_length"])
