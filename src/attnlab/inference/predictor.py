"""The answers of a trained model for new texts, in a few lines of Python.

from attnlab.inference import Predictor

predictor = Predictor.load("logs/train/runs/<run>")
predictions = predictor(["Oil prices fall as supply grows"])
predictions.labels         # ["Business"]
predictions.probabilities  # [1, C], columns as in predictor.label_names
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Semaphore
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from attnlab.data.batching import TokenDataset
from attnlab.data.tokenization import pad_id
from attnlab.data.tokens import Documents, Tokens, encode, encoding_batches, ids_of
from attnlab.errors import UserError
from attnlab.process import use_threads
from attnlab.runs import find_checkpoint
from attnlab.tasks import MultiLabel
from attnlab.training.saved import Trained, load_weights

BLOCK = 1024  # documents that a thread tokenises and answers at a time
TOKENS_AT_ONCE = 1 << 14  # in a batch, including padding: enough to use the processor well


@dataclass(frozen=True)
class Predictions:
    """The answers for N documents.

    Attributes:
        labels: for each a name, or a list of names where a document may have several; None for an empty text.
        probabilities: [N, C] float32, NaN for an empty text.
    """

    labels: list[Any]
    probabilities: npt.NDArray[np.float32]


class Predictor:
    """Answers for texts, from nothing but a checkpoint."""

    def __init__(self, trained: Trained, at_once: int = 1) -> None:
        """`at_once` blocks of documents are computed at the same time."""
        self.trained, self.at_once = trained.eval(), at_once
        self.computing = Semaphore(at_once)  # further threads may tokenise
        self.answered_in: int | None = None  # the process in which it has started threads
        self.label_names, self.pairs = trained.task.label_names, trained.pairs
        self.text_format = trained.text_format
        self.multi_label = isinstance(trained.task, MultiLabel)  # whether a document may have several classes

    @classmethod
    def load(cls, path: str | Path, threads: int | None = None) -> "Predictor":
        """The predictor of a .ckpt or of the best checkpoint in a run's folder. No code in the file is executed.

        Args:
            threads: to compute with; None for one on each core (see `attnlab.process`).

        Raises:
            UserError: there is no checkpoint of this program.
        """
        trained = load_weights(find_checkpoint(Path(path)), Trained)
        return cls(trained, use_threads(threads, trained.model))

    def __call__(self, documents: Documents | str) -> Predictions:
        """Answer any number of texts, or of tuples of two texts; a single string is one document."""
        documents = [documents] if isinstance(documents, str) else documents
        parts = (documents[start : start + BLOCK] for start in range(0, len(documents), BLOCK))
        answers = list(self.stream(parts))
        nothing = np.empty((0, len(self.label_names)), dtype=np.float32)
        labels = [label for part in answers for label in part.labels]
        return Predictions(labels, np.concatenate([nothing, *(part.probabilities for part in answers)]))

    def stream(self, parts: Iterable[Documents]) -> Iterator[Predictions]:
        """Answer each part in turn, while threads work on the next ones."""
        # Threads suffice, because neither the tokenizer nor the model holds Python's lock. A forked child does not have
        # the threads of torch and would wait for them forever.
        if self.answered_in not in (None, os.getpid()):
            raise UserError(
                "this predictor has answered before the process forked, and the child does not have its threads: start "
                "processes by multiprocessing.get_context('spawn')"
            )
        self.answered_in = os.getpid()
        threads = self.at_once + 1  # one more, which tokenises or waits for Python's lock while the others compute
        with ThreadPoolExecutor(threads) as pool:
            ahead: deque[Future[Predictions]] = deque()
            for documents in parts:
                ahead.append(pool.submit(self._predictions, documents))
                if len(ahead) > threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

    def _predictions(self, documents: Documents) -> Predictions:
        probabilities = np.full((len(documents), len(self.label_names)), np.nan, dtype=np.float32)
        labels: list[Any] = [None] * len(documents)
        present = [row for row, document in enumerate(documents) if is_text(document)]
        answers = self._answer([documents[row] for row in present])
        probabilities[present] = answers.numpy()
        for row, name in zip(present, self.trained.task.names(self.trained.task.decide(answers)), strict=True):
            labels[row] = name
        return Predictions(labels, probabilities)

    @torch.inference_mode()
    def _answer(self, texts: Any) -> torch.Tensor:
        """The probabilities, [N, C], computed in batches of similar length."""
        tokenizer, ids, sizes = self.trained.tokenizer, [np.empty(0, dtype=np.int32)], list[int]()
        # Only ids are kept, because encodings take a hundred times their memory.
        for some in encoding_batches(texts):
            encodings = encode(tokenizer, some)
            ids.append(ids_of(tokenizer, encodings))
            sizes += map(len, encodings)
        lengths = np.array(sizes, dtype=np.int64)
        tokens = Tokens(np.concatenate(ids), np.cumsum([0, *lengths]), lengths, self.pairs)
        data = TokenDataset(tokens, np.zeros(len(lengths), dtype=np.int64), pad_id(tokenizer))
        probabilities = torch.empty(len(lengths), len(self.label_names))
        # The additional thread that tokenises must not compete with the others for cores.
        with self.computing:
            for rows in batches(lengths):
                batch = data[rows]
                logits = self.trained.model(batch.input_ids, batch.attention_mask).float()
                probabilities[batch.indices] = self.trained.task.probabilities(logits)
        return probabilities


def is_text(document: Sequence[str]) -> bool:
    """Whether a text is not empty; in a pair, whether both are not."""
    if isinstance(document, str):
        return bool(document) and not document.isspace()
    return all(map(is_text, document))


def batches(lengths: npt.NDArray[np.int64]) -> Sequence[list[int]]:
    """Indices of documents of similar length, in batches of about `TOKENS_AT_ONCE` tokens."""
    # From long to short, so that the largest batch comes first and memory does not grow later.
    order = np.argsort(lengths, kind="stable")[::-1]
    found, start = [], 0
    while start < len(order):
        size = max(1, TOKENS_AT_ONCE // max(1, int(lengths[order[start]])))
        found.append(order[start : start + size].tolist())
        start += size
    return found
