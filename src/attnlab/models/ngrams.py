"""A bag of n-grams: as fast as fastText and, with few documents, better than attention."""

from collections.abc import Callable, Sequence
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch.nn import functional as F

from attnlab.errors import UserError
from attnlab.models.pooling import mean_of_rows, mean_of_vectors
from attnlab.models.positional import PositionalEncoding

MULTIPLIER = 0x9E3779B97F4A7C15 - (1 << 64)  # 2^64 / golden ratio, odd: multiplying by it spreads neighbouring ids
# The steps of Adagrad are as large for a score as for a value of an embedding, and should be larger. Chosen among 1, 3,
# 6 and 10 on the validation documents of AG News.
SCORE_SCALE = 3.0


class NgramBag(nn.Module):
    """The mean of the embeddings of a document's tokens and n-grams, the n-grams hashed into a table of fixed size.

    The model of fastText (Joulin et al., 2017, "Bag of Tricks for Efficient Text Classification"), with the tokens of
    any tokenizer. Its gradients are sparse, as a batch uses few rows of the table, and require an optimizer that
    supports them (`optimizer=adagrad`).

    Args:
        vocab_size, num_classes, pad_id, max_length: set by the data, as for every model.
        sep_id: the id of the token between the texts of a pair, which is not used.
        embed_dim: width D of every embedding.
        ngrams: longest n-gram; 1 for tokens alone.
        buckets: rows of the table for n-grams of two tokens and more; several n-grams may share one.
        leads: for each number here, as many tokens at the start of a document also count as tokens of another kind,
            hashed into the same table, as a title may say more than the text (zone weighting; Manning et al., 2008,
            6.1).
        pooling: "mean", or "attention": each row also learns a score, and the mean is weighted with the softmax of a
            document's scores (Lin et al., 2017, with a score that is looked up instead of computed).
        ngram_dropout: share of a document's tokens and n-grams that a training step leaves out.
        dropout: share of values dropped before the head.
        pe: only "none", as n-grams contain the order.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        num_classes: int,
        pad_id: int,
        max_length: int,
        embed_dim: int,
        ngrams: int,
        buckets: int,
        pe: Callable[..., PositionalEncoding],
        leads: Sequence[Annotated[int, Ge(1)]] = (),
        pooling: str = "mean",
        ngram_dropout: float = 0.0,
        dropout: float = 0.0,
        sep_id: int | None = None,
    ) -> None:
        super().__init__()
        for name, number in (("embed_dim", embed_dim), ("ngrams", ngrams), ("buckets", buckets)):
            if number < 1:
                raise UserError(f"model.{name}={number} must be at least 1")
        for name, share in (("ngram_dropout", ngram_dropout), ("dropout", dropout)):
            if not 0 <= share < 1:
                raise UserError(f"model.{name}={share} is a share: give a number from 0 to below 1")
        if type(pe(embed_dim=embed_dim, num_heads=1, max_length=max_length)) is not PositionalEncoding:
            raise UserError("model=ngram_bag sees order in its n-grams and has no positions: use pe=none")
        self.vocab_size, self.ngrams, self.buckets, self.ngram_dropout = vocab_size, ngrams, buckets, ngram_dropout
        self.leads = tuple(leads)
        # One table for both: rows of tokens first, then those of hashed n-grams and leads.
        rows = vocab_size + (buckets if ngrams > 1 or leads else 0)
        self.embedding = nn.Embedding.from_pretrained(torch.empty(rows, embed_dim), freeze=False, sparse=True)
        nn.init.uniform_(self.embedding.weight, -1 / embed_dim, 1 / embed_dim)
        if pooling not in ("mean", "attention"):
            raise UserError(f"model.pooling={pooling} is not for model=ngram_bag; choose one of mean, attention")
        self.scores = nn.Embedding(rows, 1, sparse=True) if pooling == "attention" else None
        if self.scores is not None:
            nn.init.zeros_(self.scores.weight)  # training starts with the plain mean
        self.threads = 1  # more are not faster, as a lookup waits for memory
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(embed_dim, num_classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """input_ids: [B, T] int64, attention_mask: [B, T] bool, False on padding -> logits: [B, num_classes]."""
        rows, present = self._rows(input_ids, attention_mask)
        if self.training and self.ngram_dropout:
            present = present & (torch.rand(present.shape, device=present.device) >= self.ngram_dropout)
        mean = mean_of_rows(self.embedding.weight, rows, present, self._weights(rows, present), sparse=True)
        return self.head(self.dropout(mean))

    def look_up(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The embeddings of a document's N tokens and n-grams: [B, N, D]."""
        return self.embedding(self._rows(input_ids, attention_mask)[0])

    def classify(self, x: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The logits for embeddings x: [B, N, D] -> [B, num_classes], with the weights of the document's own ones."""
        rows, present = self._rows(input_ids, attention_mask)
        return self.head(self.dropout(mean_of_vectors(x, present, self._weights(rows, present))))

    def shares(self, counted: Tensor) -> Tensor:
        """The tokens of an n-gram have equal shares, a lead belongs to its token: [B, T] bool -> [B, N, T]."""
        tokens = torch.eye(counted.size(1), device=counted.device)
        ngrams = [tokens.unfold(0, n, 1).sum(dim=2) for n in range(1, min(self.ngrams, len(tokens)) + 1)]
        of = torch.cat([*ngrams, *(tokens[:length] for length in self.leads)]) * counted[:, None]
        return of / of.sum(dim=2, keepdim=True).clamp(min=1)

    def _weights(self, rows: Tensor, present: Tensor) -> Tensor | None:
        """[B, N], [B, N] bool -> [B, N], each row summing to 1 over the rows present; None for equal weights."""
        if self.scores is None:
            return None
        if torch.is_grad_enabled():
            scores = self.scores(rows).squeeze(-1)
        else:  # the same in a fraction of the time, which makes answering a sixth faster
            scores = self.scores.weight[:, 0].index_select(0, rows.flatten()).view_as(rows)
        scores = SCORE_SCALE * scores
        return scores.masked_fill(~present, torch.finfo(scores.dtype).min).softmax(dim=1)

    def _rows(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """The row of each token and n-gram, and whether it is not padding: [B, N], [B, N] bool."""
        # An export has one graph for every length, so no document may be shorter than an n-gram or a lead.
        if torch.compiler.is_exporting():
            longest = (0, max(self.ngrams, *self.leads, 1))
            input_ids, attention_mask = F.pad(input_ids, longest), F.pad(attention_mask, longest)
        rows, present = [input_ids], [attention_mask]
        # `hashed` is of the n-grams that start at each position, `whole` whether all of their tokens are there.
        hashed, whole = input_ids, attention_mask
        for length in range(2, min(self.ngrams, input_ids.size(1)) + 1):
            # A polynomial of the tokens' ids modulo 2^64, whose high bits are well mixed.
            hashed = (hashed[:, :-1] + 1) * MULTIPLIER + input_ids[:, length - 1 :]
            whole = whole[:, :-1] & attention_mask[:, length - 1 :]
            rows.append(self._hash(hashed))
            present.append(whole)
        for length in self.leads:
            rows.append(self._hash(input_ids[:, :length] * MULTIPLIER - length))
            present.append(attention_mask[:, :length])
        return torch.cat(rows, dim=1), torch.cat(present, dim=1)

    def _hash(self, numbers: Tensor) -> Tensor:
        return self.vocab_size + ((numbers * MULTIPLIER) >> 20) % self.buckets
