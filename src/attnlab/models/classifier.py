"""Text classifiers: embedding -> positions -> blocks -> pooling -> head. Each file in `conf/model` configures one."""

from collections.abc import Callable
from typing import Annotated

import torch
from annotated_types import Ge, Interval
from torch import Tensor, nn
from torch.nn import functional as F

from attnlab.errors import UserError
from attnlab.models.attention import Block, attention_score_mask
from attnlab.models.pooling import ClsPooling, MeanPooling, make_pooling, mean_of_rows
from attnlab.models.positional import PositionalEncoding


class TextClassifier(nn.Module):
    """A stack of attention blocks over token embeddings; with none of them, a bag of words.

    Args:
        vocab_size, num_classes, pad_id, max_length: set by the data: numbers of tokens and classes, the id of padding,
            and the longest document in tokens.
        embed_dim: width D of every vector between embedding and head.
        pe: the class of the positional encoding, called with `embed_dim`, `num_heads` and `max_length`.
        pooling: "cls", "max", "mean" or "attention".
        num_layers: number of blocks.
        num_heads: attention heads in each block; divides `embed_dim`.
        feed_forward: hidden width of each block's feed-forward layer; 0 for none.
        layer_norm: normalise the input of each layer and, with blocks, the output of the last.
        residual: each layer adds to its input instead of replacing it.
        dropout: share of values dropped after embedding, in attention, after each layer and before the head.
        sep_id: the id of the token that ends each text of a pair: an added embedding then says which of the two texts a
            token belongs to (Devlin et al., 2019). None for single texts.
        count_padding: pad to `max_length` and count the padding in pooling, as the notebook did.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        num_classes: int,
        pad_id: int,
        max_length: int,
        embed_dim: int,
        pe: Callable[..., PositionalEncoding],
        pooling: str,
        num_layers: Annotated[int, Interval(ge=0, le=1000)] = 0,
        num_heads: int = 1,
        feed_forward: Annotated[int, Ge(0)] = 0,
        layer_norm: bool = False,
        residual: bool = False,
        dropout: float = 0.0,
        count_padding: bool = False,
        sep_id: int | None = None,
    ) -> None:
        super().__init__()
        if embed_dim < 1:
            raise UserError(f"model.embed_dim={embed_dim} must be at least 1")
        if not 0 <= dropout < 1:
            raise UserError(f"model.dropout={dropout} is a share: give a number from 0 to below 1")
        self.embedding = nn.Embedding(vocab_size, embed_dim, padding_idx=pad_id)
        self.pe = pe(embed_dim=embed_dim, num_heads=num_heads, max_length=max_length)
        if self.pe.needs_attention and num_layers == 0:
            raise UserError(
                f"pe={type(self.pe).__name__.lower()} acts inside attention and this model has none; "
                "use pe=none, sinusoidal or learned, or model=attention"
            )
        self.pad_id, self.max_length, self.count_padding = pad_id, max_length, count_padding
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(
                embed_dim,
                num_heads,
                dropout=dropout,
                layer_norm=layer_norm,
                residual=residual,
                feed_forward=feed_forward,
            )
            for _ in range(num_layers)
        )
        self.sep_id = sep_id
        # A bag of words does not need it: it would add the same vector to every document.
        self.segments = nn.Embedding(2, embed_dim) if sep_id is not None and num_layers else None
        self.norm = nn.LayerNorm(embed_dim) if layer_norm else nn.Identity()
        self.pooling = make_pooling(pooling, embed_dim)
        self.head = nn.Linear(embed_dim, num_classes)
        self.threads = None if num_layers else 1  # a bag of words computes too little for several threads

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """input_ids: [B, T] int64, attention_mask: [B, T] bool, False on padding -> logits: [B, num_classes]."""
        # A plain mean needs no embedding of each token, which is most of the time of a bag of words.
        if self._may_shortcut and self.is_plain_mean:
            return self.head(mean_of_rows(self.embedding.weight, input_ids, attention_mask))
        return self.classify(self.look_up(input_ids, attention_mask), input_ids, attention_mask)

    @property
    def is_plain_mean(self) -> bool:
        """Whether it is only the mean of its tokens' vectors and the head, also if a user has replaced parts of it."""
        # Exact types, because a subclass or a module that a user has put in place may compute something else.
        return (
            type(self.pooling) is MeanPooling
            and type(self.embedding) is nn.Embedding
            and type(self.pe) is PositionalEncoding
            and type(self.norm) is nn.Identity
            and not len(self.blocks)
            and not self.count_padding
            and self._is_not_overridden("look_up", "classify", "_place")
        )

    def _is_not_overridden(self, *methods: str) -> bool:
        """Whether a subclass has none of these methods, which a shortcut would not call."""
        return all(getattr(type(self), method) is getattr(TextClassifier, method) for method in methods)

    @property
    def _may_shortcut(self) -> bool:
        """Whether the two shortcuts may be used: not with dropout, which would draw other numbers."""
        return not (self.training and self.dropout.p)

    def look_up(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The embedding of each token: [B, N, D], with `count_padding` of `max_length`, else of T tokens."""
        return self.embedding(self._padded(input_ids, attention_mask)[0])

    def classify(self, x: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The logits for embeddings x: [B, N, D] -> [B, num_classes]."""
        input_ids, attention_mask = self._padded(input_ids, attention_mask)
        x = self._place(x, input_ids)
        score_mask = attention_score_mask(attention_mask, self.pe, x.dtype)
        # Of the last block, the pooling of [CLS] uses only the first token.
        only_first = type(self.pooling) is ClsPooling and type(self.norm) in (nn.LayerNorm, nn.Identity)
        for number, block in enumerate(self.blocks, start=1):
            shortcut = only_first and self._may_shortcut and number == len(self.blocks) and type(block) is Block
            x = block(x, score_mask, self.pe, 1 if shortcut else None)
        pooled = torch.ones_like(attention_mask) if self.count_padding else attention_mask
        return self.head(self.dropout(self.pooling(self.norm(x), pooled)))

    def shares(self, counted: Tensor) -> Tensor:
        """Each embedding belongs to one token: [B, T] bool -> [B, N, T]."""
        return torch.diag_embed(self._padded(counted, counted)[1].float())[..., : counted.size(1)]

    def _padded(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        if not self.count_padding:
            return input_ids, attention_mask
        missing = (0, self.max_length - input_ids.size(1))
        return F.pad(input_ids, missing, value=self.pad_id), F.pad(attention_mask, missing)

    @torch.no_grad()
    def attention_weights(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The attention weights in a batch: [num_layers, B, num_heads, T, T], each row summing to 1."""
        assert len(self.blocks) > 0, "a bag of words has no attention"
        # Without shortcuts and `count_padding`: the weights of all tokens are wanted, and of no padding.
        x = self._place(self.embedding(input_ids), input_ids)
        score_mask = attention_score_mask(attention_mask, self.pe, x.dtype)
        weights = []
        for block in self.blocks:
            assert isinstance(block, Block)
            weights.append(block.weights(x, score_mask, self.pe))
            x = block(x, score_mask, self.pe)
        return torch.stack(weights)

    def _place(self, x: Tensor, input_ids: Tensor) -> Tensor:
        """Embeddings with positions, and in pairs with the number of the text."""
        if self.segments is not None:
            assert self.sep_id is not None
            x = x + self.segments(of_second_text(input_ids, self.sep_id))
        return self.dropout(self.pe.embed(x))


def of_second_text(input_ids: Tensor, sep_id: int) -> Tensor:
    """0 for the tokens up to the first `sep_id`, 1 for those behind it: [B, T] int64 -> [B, T] int64."""
    ends = input_ids.eq(sep_id).long()
    return (ends.cumsum(dim=1) > ends).long()
