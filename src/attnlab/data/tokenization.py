"""Tokenizers, trained on the training split. Each file in `conf/tokenizer` configures one recipe."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from attnlab.data.file_access import TOKENIZER, pretrained_folder
from attnlab.errors import UserError, as_user_error

UNK, CLS, SEP, PAD, MASK = SPECIAL_TOKENS = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
# Their names in other tokenizers.
NAMES = {UNK: (UNK, "<unk>"), SEP: (SEP, "</s>"), PAD: (PAD, "<pad>")}


@dataclass(frozen=True, kw_only=True)
class TokenizerRecipe:
    """How to train a tokenizer; a subclass names its `MODEL` and `TRAINER`.

    Args:
        vocab_size: the largest number of tokens, including the five special ones.
        lowercase: convert to lower case before splitting.
        max_length: documents are truncated to so many tokens, including [CLS] and [SEP].
    """

    MODEL: ClassVar[type[models.BPE | models.WordLevel]]
    TRAINER: ClassVar[type[trainers.BpeTrainer | trainers.WordLevelTrainer]]

    vocab_size: int
    lowercase: bool = False
    max_length: int = 128

    def __post_init__(self) -> None:
        if self.vocab_size <= len(SPECIAL_TOKENS):
            raise UserError(f"tokenizer.vocab_size={self.vocab_size} must be above {len(SPECIAL_TOKENS)}")
        _check_length(self.max_length)

    def train(self, texts: Iterable[str]) -> Tokenizer:
        """A tokenizer that splits on white space and punctuation, gives `[CLS] text [SEP]`, and truncates."""
        tokenizer = Tokenizer(self.MODEL(unk_token=UNK))
        trainer = self.TRAINER(vocab_size=self.vocab_size, special_tokens=SPECIAL_TOKENS, show_progress=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        # NFC, because a letter with an accent is one character or two, depending on the origin of a text.
        steps = [normalizers.NFC(), *([normalizers.Lowercase()] if self.lowercase else [])]
        tokenizer.normalizer = normalizers.Sequence(steps)
        tokenizer.train_from_iterator(texts, trainer)
        # Only now, as the ids of the special tokens are known after training.
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{CLS} $A {SEP}",
            pair=f"{CLS} $A {SEP} $B:1 {SEP}:1",
            special_tokens=[(token, tokenizer.token_to_id(token)) for token in (CLS, SEP)],
        )
        tokenizer.enable_truncation(self.max_length)
        # A "[SEP]" in a document must be read as text, or a document could contain special tokens.
        tokenizer.encode_special_tokens = True
        return tokenizer


@dataclass(frozen=True, kw_only=True)
class BPE(TokenizerRecipe):
    """Byte-pair encoding (Sennrich, Haddow and Birch, 2016)."""

    MODEL = models.BPE
    TRAINER = trainers.BpeTrainer


@dataclass(frozen=True, kw_only=True)
class WordLevel(TokenizerRecipe):
    """One token for each word; words outside the `vocab_size` most frequent ones become [UNK]."""

    MODEL = models.WordLevel
    TRAINER = trainers.WordLevelTrainer


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A tokenizer that was trained elsewhere, such as that of a pretrained encoder, with its own special tokens.

    Args:
        path: a folder with a tokenizer.json, such as that of a run, or a name on the Hub.
        max_length: documents are truncated to so many tokens, including special ones.
    """

    PATHS: ClassVar[tuple[str, ...]] = ("path",)

    path: str
    max_length: int = 128

    def __post_init__(self) -> None:
        _check_length(self.max_length)

    def load(self) -> Tokenizer:
        """Read the tokenizer. Raises `UserError` if it does not exist or has no token for padding."""
        file = pretrained_folder(self.path) / TOKENIZER
        if not file.is_file():
            raise UserError(
                f"tokenizer.path={self.path} has no {TOKENIZER}, the file of a fast tokenizer; with transformers, "
                "AutoTokenizer.from_pretrained(<path>).save_pretrained(<folder>) writes one if the model has any"
            )
        with as_user_error(f"can't read {file}"):
            tokenizer = read_tokenizer(file.read_text(encoding="utf-8"))
        # Files often pad to a fixed length, but here a batch is padded to its longest document.
        tokenizer.no_padding()
        tokenizer.enable_truncation(self.max_length)
        pad_id(tokenizer)  # raises an error now and not in the first batch
        return tokenizer


def read_tokenizer(text: str) -> Tokenizer:
    """The tokenizer of a tokenizer.json, which reads a "[SEP]" within a text as text."""
    tokenizer = Tokenizer.from_str(text)
    tokenizer.encode_special_tokens = True  # the file does not keep this setting
    return tokenizer


def _check_length(max_length: int) -> None:
    if max_length < 3:
        raise UserError(f"tokenizer.max_length={max_length} leaves no room between [CLS] and [SEP]; give 3 or more")


def token_id(tokenizer: Tokenizer, token: str) -> int | None:
    """The id of one of `SPECIAL_TOKENS`, under any of its `NAMES`; None if the tokenizer does not have it."""
    ids = (tokenizer.token_to_id(name) for name in NAMES.get(token, (token,)))
    return next((number for number in ids if number is not None), None)


def pad_id(tokenizer: Tokenizer) -> int:
    """The id of padding. Raises `UserError` if the tokenizer has none."""
    number = token_id(tokenizer, PAD)
    if number is None:
        raise UserError(f"the tokenizer has no token for padding ({' or '.join(NAMES[PAD])})")
    return number


def max_length(tokenizer: Tokenizer) -> int:
    """The longest document in tokens. Raises `UserError` if the tokenizer does not truncate."""
    if tokenizer.truncation is None:
        raise UserError("the tokenizer does not truncate")
    return int(tokenizer.truncation["max_length"])
