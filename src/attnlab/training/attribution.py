"""Attribution: which tokens of a document are evidence for a class."""

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
    """The evidence of each of T tokens for a class, by integrated gradients (`attnlab.models.gradients`).

    Attributes:
        label: the class.
        text: the document; the texts of a pair on two lines.
        tokens: as in the text, and [CLS] and [SEP].
        spans: start and end of each token in `text`; (0, 0) of [CLS] and [SEP].
        words: the index of the word that each token is part of; None of [CLS] and [SEP].
        scores: [T] float32; positive for evidence for the class, 0 of [CLS] and [SEP]. Their sum is the evidence for
            the class (`Task.evidence`, its logit) minus that of the same document with embeddings of zero.
        lacking: that difference minus the sum: the error of the approximation.
        unread: the number of truncated characters.
        attention: [layers, H, T, T]; None where the model has no attention or it was not requested.
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
        """The whole text in pieces: words with their scores, and what is between or after them with None."""
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
        """The `pieces`, with scores scaled so that the strongest is 1 or -1."""
        pieces = self.pieces()
        strongest = max((abs(score) for _, score in pieces if score), default=1.0)
        return [(text, score and score / strongest) for text, score in pieces]

    def strongest(self, number: int) -> list[tuple[str, float]]:
        """The words with the largest scores, for or against the class, each summed over its occurrences."""
        sums: dict[str, float] = {}
        for word, score in self.pieces():
            if score is not None:
                sums[word] = sums.get(word, 0.0) + score
        return sorted(sums.items(), key=lambda item: -abs(item[1]))[:number]

    def in_words(self, number: int = 5) -> str:
        """The strongest words with their scores: "stadium +3.87; the -1.61"."""
        return "; ".join(f"{word} {score:+.2f}" for word, score in self.strongest(number))


class Classifier(Protocol):
    """A model in training, or one that was loaded from a checkpoint."""

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
        UserError: the model is not `Attributable`.
    """
    model, tokenizer = classifier.model.eval(), classifier.tokenizer
    if not isinstance(model, Attributable):
        raise UserError(
            f"{type(model).__name__} has no look_up, classify and shares, which explaining a model requires"
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
    """Ids, a mask of those that are not padding, and a mask of those that are part of a text: [B, T] each."""
    lengths = list(map(len, encodings))
    each = torch.from_numpy(ids_of(tokenizer, encodings)).long().split(lengths)
    ids = pad_sequence(each, batch_first=True, padding_value=pad_id(tokenizer))
    special = [torch.tensor(encoding.special_tokens_mask) for encoding in encodings]
    mask = torch.arange(ids.size(1)) < torch.tensor(lengths)[:, None]
    return ids, mask, pad_sequence(special, batch_first=True, padding_value=1) == 0


def _placed(document: Sequence[str], encoding: Encoding) -> dict[str, Any]:
    """Text, tokens, spans, words and number of unread characters, for an `Explanation`.

    Characters that a tokenizer drops, such as a combining accent, belong to the token before them.
    """
    texts = (document,) if isinstance(document, str) else document
    text, begin, unread = "\n".join(texts), 0, 0
    spans = [(0, 0)] * len(encoding)
    for part, length in enumerate(map(len, texts)):
        numbers = [number for number, of in enumerate(encoding.sequence_ids) if of == part]
        following = end = begin + length
        for number in reversed(numbers):
            start, stop = (begin + place for place in encoding.offsets[number])
            # After the last token of a truncated text, only its own combining accents were read.
            cut = encoding.overflowing and number == numbers[-1]
            while stop < following and (category(text[stop])[0] == "M" if cut else not text[stop].isspace()):
                stop += 1
            spans[number], following = (start, stop), start
        unread += len(text[spans[numbers[-1]][1] : end].strip()) if encoding.overflowing and numbers else 0
        begin = end + 1
    tokens = [text[slice(*span)] or token for span, token in zip(spans, encoding.tokens, strict=True)]
    return {"text": text, "tokens": tokens, "spans": spans, "words": encoding.word_ids, "unread": unread}


def attends(model: nn.Module) -> bool:
    """Whether it has attention weights to display."""
    return callable(getattr(model, "attention_weights", None)) and len(getattr(model, "blocks", ())) > 0


def _attention(model: nn.Module, ids: Tensor) -> npt.NDArray[np.float32]:
    """ids: [1, T] -> [layers, H, T, T]."""
    weights = cast(Any, model).attention_weights(ids, torch.ones_like(ids, dtype=torch.bool))
    return weights[:, 0].float().cpu().numpy()
