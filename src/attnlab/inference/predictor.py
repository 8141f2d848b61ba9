"""A trained model's answers for new texts, in a few lines of Python.

from attnlab.inference import Predictor

predictor = Predictor.load("logs/train/runs/<run>")
predictions = predictor(["Oil prices fall as supply grows"])
predictions.labels         # ["Business"]
predictions.probabilities  # [1, C], columns as in predictor.label_names
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from attnlab.data.batching import TokenDataset
from attnlab.data.tokenization import pad_id
from attnlab.data.tokens import Documents, Tokens, ids_of
from attnlab.process import use_threads
from attnlab.task import MultiLabel
from attnlab.training.saved import Trained, find_checkpoint, load_weights

BLOCK = 1024  # documents that are tokenised while those before them are answered
TOKENS_AT_ONCE = 1 << 14  # of a batch, padding included: enough to keep the processor busy


@dataclass(frozen=True)
class Predictions:
    """Of N documents.

    Attributes:
        labels: a name each, or a list of names where a document may be of several classes; None of an empty text.
        probabilities: [N, C] float32, NaN of an empty text.
    """

    labels: list[Any]
    probabilities: npt.NDArray[np.float32]


class Predictor:
    """Answers for texts, out of a checkpoint alone."""

    def __init__(self, trained: Trained) -> None:
        self.trained = trained.eval()
        self.label_names, self.pairs = trained.task.label_names, trained.pairs
        self.several = isinstance(trained.task, MultiLabel)  # classes a document

    @classmethod
    def load(cls, path: str | Path, threads: int | None = None) -> "Predictor":
        """Of a run's folder its best checkpoint, or a .ckpt. It runs no code that the file brings.

        Args:
            threads: to compute with; None: one a core (see `attnlab.process`).

        Raises:
            UserError: there is none, or it is no checkpoint of this program.
        """
        trained = load_weights(find_checkpoint(Path(path)), Trained)
        use_threads(threads, trained.model)
        return cls(trained)

    def __call__(self, documents: Documents) -> Predictions:
        """Texts, or for a model of pairs tuples of two, in any number; memory grows with the answers alone."""
        parts = (documents[start : start + BLOCK] for start in range(0, len(documents), BLOCK))
        answers = list(self.stream(parts))
        nothing = np.empty((0, len(self.label_names)), dtype=np.float32)
        labels = [label for part in answers for label in part.labels]
        return Predictions(labels, np.concatenate([nothing, *(part.probabilities for part in answers)]))

    def stream(self, parts: Iterable[Documents]) -> Iterator[Predictions]:
        """Of each part in turn, while the next one is tokenised: neither tokenizer nor model holds Python's lock."""
        with ThreadPoolExecutor(1) as beside:
            ahead: deque[Future[tuple[int, list[int], Tokens]]] = deque()
            for documents in parts:
                ahead.append(beside.submit(self._tokenize, documents))
                if len(ahead) > 1:
                    yield self._predictions(*ahead.popleft().result())
            while ahead:
                yield self._predictions(*ahead.popleft().result())

    def _tokenize(self, documents: Documents) -> tuple[int, list[int], Tokens]:
        """How many documents these are, which of them have a text, and their tokens."""
        present = [row for row, document in enumerate(documents) if is_text(document)]
        texts: Any = documents if len(present) == len(documents) else [documents[row] for row in present]
        encodings = self.trained.tokenizer.encode_batch_fast(texts)
        lengths = np.array([len(encoding) for encoding in encodings], dtype=np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return len(documents), present, Tokens(ids_of(encodings), offsets, lengths, self.pairs)

    def _predictions(self, size: int, present: list[int], tokens: Tokens) -> Predictions:
        probabilities = np.full((size, len(self.label_names)), np.nan, dtype=np.float32)
        labels: list[Any] = [None] * size
        answers = self._answer(tokens)
        probabilities[present] = answers.numpy()
        for row, name in zip(present, self.trained.task.names(self.trained.task.decide(answers)), strict=True):
            labels[row] = name
        return Predictions(labels, probabilities)

    @torch.inference_mode()
    def _answer(self, tokens: Tokens) -> torch.Tensor:
        """[N, C] probabilities, computed in batches of like length."""
        lengths = tokens.full_lengths
        data = TokenDataset(tokens, np.zeros(len(lengths), dtype=np.int64), pad_id(self.trained.tokenizer))
        probabilities = torch.empty(len(lengths), len(self.label_names))
        for rows in batches(lengths):
            batch = data[rows]
            logits = self.trained.model(batch.input_ids, batch.attention_mask).float()
            probabilities[batch.indices] = self.trained.task.probabilities(logits)
        return probabilities


def is_text(document: Sequence[str]) -> bool:
    """Whether there is anything to read; a pair of texts needs both."""
    if isinstance(document, str):
        return bool(document) and not document.isspace()
    return all(map(is_text, document))


def batches(lengths: npt.NDArray[np.int64]) -> Sequence[list[int]]:
    """The numbers of documents of like length, so many together that a batch has about `TOKENS_AT_ONCE` tokens."""
    order = np.argsort(lengths, kind="stable")[::-1]
    found, start = [], 0
    while start < len(order):
        size = max(1, TOKENS_AT_ONCE // max(1, int(lengths[order[start]])))
        found.append(order[start : start + size].tolist())
        start += size
    return found
