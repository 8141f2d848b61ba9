"""Which tokens of a document spoke for a class."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol, cast
from unicodedata import category

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Encoding, Tokenizer
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from attnlab.data.tokenization import pad_id
from attnlab.data.tokens import Documents, encode, ids_of
from attnlab.errors import UserError
from attnlab.models.gradients import STEPS, Attributable, integrated_gradients
from attnlab.tasks import Task

AT_ONCE = 32  # documents


@dataclass(frozen=True)
class Explanation:
    """How much each of T tokens spoke for a class, by integrated gradients (`attnlab.models.gradients`).

    Attributes:
        label: the class.
        text: the document; the texts of a pair on two lines.
        tokens: as the text has them, and [CLS] and [SEP].
        spans: the characters of `text` from and to which each token stands; (0, 0) of those that it has not.
        words: the number of the word that each token is part of; None likewise.
        scores: [T] float32; positive where a token spoke for the class, 0 of [CLS] and [SEP]. Their sum is the class's
            evidence (`Task.evidence`, its logit) less that of the same document with embeddings of zero.
        lacking: what the sum lacks of that.
        unread: how many characters were cut off.
        attention: [layers, H, T, T], who attends to whom; None where the model has no attention or none was asked for.
    """

    label: str
    text: str
    tokens: list[str]
    spans: list[tuple[int, int]]
    words: list[int | None]
    scores: npt.NDArray[np.float32]
    lacking: float
    unread: int
    attention: npt.NDArray[np.float32] | None = None

    def pieces(self) -> list[tuple[str, float | None]]:
        """The whole text, cut into words with their scores and what is between them or was not read, with None."""
        found: list[tuple[str, float | None]] = []
        end = 0
        for word, group in groupby(range(len(self.tokens)), self.words.__getitem__):
            numbers = list(group)
            if word is None:
                continue
            start, stop = self.spans[numbers[0]][0], self.spans[numbers[-1]][1]
            found += [(self.text[end:start], None)] * (start > end)
            found.append((self.text[start:stop], float(self.scores[numbers].sum())))
            end = stop
        return found + [(self.text[end:], None)] * (end < len(self.text))

    def marks(self) -> list[tuple[str, float | None]]:
        """The `pieces`, with scores from -1 to 1: the strongest is one of the two."""
        pieces = self.pieces()
        strongest = max((abs(score) for _, score in pieces if score), default=1.0)
        return [(text, score and score / strongest) for text, score in pieces]

    def strongest(self, number: int) -> list[tuple[str, float]]:
        """The words whose scores are the largest, for and against the class, each with what all its places sum to."""
        sums: dict[str, float] = {}
        for word, score in self.pieces():
            if score is not None:
                sums[word] = sums.get(word, 0.0) + score
        return sorted(sums.items(), key=lambda item: -abs(item[1]))[:number]

    def in_words(self, number: int = 5) -> str:
        """The strongest words with their scores: "stadium +3.87; the -1.61"."""
        return "; ".join(f"{word} {score:+.2f}" for word, score in self.strongest(number))


class Classifier(Protocol):
    """What a checkpoint is read into, and what is trained."""

    tokenizer: Tokenizer
    model: nn.Module
    task: Task
    pairs: bool


def attribute(
    classifier: Classifier,
    documents: Documents,
    targets: Sequence[int],
    attention: bool = False,
    steps: Sequence[int] = STEPS,
) -> list[Explanation]:
    """An explanation of each document for the class of that number; `steps`: see `integrated_gradients`.

    Raises:
        UserError: the model is one that can't be asked.
    """
    model, tokenizer = classifier.model.eval(), classifier.tokenizer
    if not isinstance(model, Attributable):
        raise UserError(
            f"{type(model).__name__} has no look_up, classify and shares, by which a model can be explained"
        )
    found, device = [], next(model.parameters()).device
    for start in range(0, len(documents), AT_ONCE):
        some = documents[start : start + AT_ONCE]
        encodings = encode(tokenizer, some, fast=False)
        ids, mask, counted = (tensor.to(device) for tensor in _tensors(tokenizer, encodings))
        numbers = torch.tensor(targets[start : start + AT_ONCE], device=device)
        gradients = integrated_gradients(model, ids, mask, counted, numbers, steps, classifier.task.evidence)
        scores, lacking = (tensor.float().cpu() for tensor in gradients)
        for row, (document, encoding) in enumerate(zip(some, encodings, strict=True)):
            size = len(encoding)
            found.append(
                Explanation(
                    label=classifier.task.label_names[int(numbers[row])],
                    **_placed(document, encoding),
                    scores=scores[row, :size].numpy(),
                    lacking=float(lacking[row]),
                    attention=_attention(model, ids[row : row + 1, :size]) if attention and attends(model) else None,
                )
            )
    return found


def _tensors(tokenizer: Tokenizer, encodings: list[Encoding]) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, which are no padding, and which are tokens of a text: [B, T] each."""
    lengths = list(map(len, encodings))
    each = torch.from_numpy(ids_of(tokenizer, encodings)).long().split(lengths)
    ids = pad_sequence(each, batch_first=True, padding_value=pad_id(tokenizer))
    special = [torch.tensor(encoding.special_tokens_mask) for encoding in encodings]
    mask = torch.arange(ids.size(1)) < torch.tensor(lengths)[:, None]
    return ids, mask, pad_sequence(special, batch_first=True, padding_value=1) == 0


def _placed(document: Sequence[str], encoding: Encoding) -> dict[str, Any]:
    """Text, tokens, spans, words and what was not read of an `Explanation`.

    What a tokenizer drops, such as an accent that is a character of its own, belongs to the token before it.
    """
    texts = (document,) if isinstance(document, str) else document
    text, begin, unread = "\n".join(texts), 0, 0
    spans = [(0, 0)] * len(encoding)
    for part, length in enumerate(map(len, texts)):
        numbers = [number for number, of in enumerate(encoding.sequence_ids) if of == part]
        following = end = begin + length
        for number in reversed(numbers):
            start, stop = (begin + place for place in encoding.offsets[number])
            cut = (
                encoding.overflowing and number == numbers[-1]
            )  # what stands behind it was not read, but for its own accents
            while stop < following and (category(text[stop])[0] == "M" if cut else not text[stop].isspace()):
                stop += 1
            spans[number], following = (start, stop), start
        unread += len(text[spans[numbers[-1]][1] : end].strip()) if encoding.overflowing and numbers else 0
        begin = end + 1
    tokens = [text[slice(*span)] or token for span, token in zip(spans, encoding.tokens, strict=True)]
    return {"text": text, "tokens": tokens, "spans": spans, "words": encoding.word_ids, "unread": unread}


def attends(model: nn.Module) -> bool:
    """Whether it has attention to show."""
    return callable(getattr(model, "attention_weights", None)) and len(getattr(model, "blocks", ())) > 0


def _attention(model: nn.Module, ids: Tensor) -> npt.NDArray[np.float32]:
    """ids: [1, T] -> [layers, H, T, T]."""
    weights = cast(Any, model).attention_weights(ids, torch.ones_like(ids, dtype=torch.bool))
    return weights[:, 0].float().cpu().numpy()
