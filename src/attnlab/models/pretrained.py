"""A pretrained encoder of transformers with our pooling and head; transformers is imported only when it is used."""

import json
from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Interval
from torch import Tensor, nn

from attnlab.errors import UserError, as_user_error, needs_extra
from attnlab.models.classifier import of_second_text
from attnlab.models.pooling import make_pooling
from attnlab.models.positional import PositionalEncoding

# Settings in a config.json that would load more than weights: code, kernels, other number formats.
LEFT_OUT = ("auto_map", "quantization_config", "attn_implementation", "_attn_implementation", "dtype", "torch_dtype")


class PretrainedClassifier(nn.Module):
    """A text encoder such as BERT (Devlin et al., 2019), pooling of its tokens' vectors, and a head.

    Its weights are not initialised: they come from the encoder's own file, or from a checkpoint.

    Args:
        vocab_size, num_classes, pad_id, max_length, sep_id: set by the data, as for every model.
        encoder: the content of the encoder's config.json.
        pooling: "cls", "max", "mean" or "attention".
        dropout: share of values dropped before the head; the encoder has its own.
        train: "all" of it; or pooling and head, alone ("head"), with the "last_n" blocks of the encoder, or with
            low-rank changes to each of its linear layers ("lora"; Hu et al., 2022).
        last_n: the number of blocks.
        lora_rank: the rank of the changes, whose scale is 2, so that one learning rate suits all ranks.
        layer_decay: the learning rate of each block is that of the block above times this (Howard and Ruder, 2018).
        pe: only "none", as the encoder has its own positions.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        num_classes: int,
        pad_id: int,
        max_length: int,
        encoder: str,
        pe: Callable[..., PositionalEncoding],
        pooling: str = "mean",
        dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.0,
        train: Literal["all", "head", "last_n", "lora"] = "all",
        last_n: Annotated[int, Ge(1)] = 2,
        lora_rank: Annotated[int, Ge(1)] = 8,
        layer_decay: Annotated[float, Interval(gt=0, le=1)] = 1.0,
        sep_id: int | None = None,
    ) -> None:
        super().__init__()
        self.encoder = _make_encoder(encoder)
        width = int(self.encoder.config.hidden_size)
        if type(pe(embed_dim=width, num_heads=1, max_length=max_length)) is not PositionalEncoding:
            raise UserError("a pretrained encoder has its own positions: use pe=none")
        self._check_sizes(vocab_size, max_length)
        if train == "head" and pooling == "attention":
            raise UserError(
                "model.train=head keeps each document's pooled vector, and model.pooling=attention learns: choose one "
                "of cls, max, mean"
            )
        self.frozen, self.layer_decay, self.sep_id = train == "head", layer_decay, sep_id
        self._choose_trained(train, last_n, lora_rank)
        self.pooling = make_pooling(pooling, width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, num_classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """input_ids: [B, T] int64, attention_mask: [B, T] bool, False on padding -> logits: [B, num_classes].

        `input_ids` may be the documents' vectors, [B, D] float32, that `pool` has returned before.
        """
        if input_ids.is_floating_point():
            return self.head(self.dropout(input_ids))
        return self.classify(self.look_up(input_ids, attention_mask), input_ids, attention_mask)

    def look_up(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The embedding of each token: [B, T, D]."""
        return self.encoder.get_input_embeddings()(input_ids)

    def classify(self, x: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The logits for embeddings x: [B, T, D] -> [B, num_classes]."""
        return self.head(self.dropout(self.pool(x, input_ids, attention_mask)))

    def pool(self, x: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The vector of each document, for embeddings x: [B, T, D] -> [B, D]."""
        # In training a frozen encoder needs no graph; when it is explained, gradients pass through it.
        with torch.set_grad_enabled(torch.is_grad_enabled() and not (self.frozen and self.training)):
            y = self.encoder(**self._inputs(x, input_ids, attention_mask)).last_hidden_state
        return self.pooling(y, attention_mask)

    @torch.no_grad()
    def attention_weights(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The attention weights in a batch: [layers, B, H, T, T], each row summing to 1."""
        inputs = self._inputs(self.look_up(input_ids, attention_mask), input_ids, attention_mask)
        fused = self.encoder.config._attn_implementation
        self.encoder.set_attn_implementation("eager")  # the only one that returns its weights
        try:
            found = self.encoder(**inputs, output_attentions=True)
        finally:
            self.encoder.set_attn_implementation(fused)
        return torch.stack(found.attentions)

    def _inputs(self, x: Tensor, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """The arguments of the encoder."""
        # Embeddings and not ids, so that explanations can move along a path of embeddings.
        inputs = {"inputs_embeds": x, "attention_mask": attention_mask.long()}
        if self.sep_id is not None and getattr(self.encoder.config, "type_vocab_size", 0) > 1:
            inputs["token_type_ids"] = of_second_text(input_ids, self.sep_id)
        return inputs

    def shares(self, counted: Tensor) -> Tensor:
        """Each embedding belongs to one token: [B, T] bool -> [B, T, T]."""
        return torch.diag_embed(counted.float())

    def train(self, mode: bool = True) -> "PretrainedClassifier":
        """As in `nn.Module`, but without dropout in a frozen encoder."""
        super().train(mode)
        self.encoder.train(mode and not self.frozen)
        return self

    def rates(self) -> list[tuple[float, list[nn.Parameter]]]:
        """The trainable parameters in groups, from the head down, each with its share of the learning rate."""
        # Embeddings are below all blocks, everything else outside of them belongs to the head.
        blocks = self.blocks
        below_head = {id(p): len(blocks) - number for number, block in enumerate(blocks) for p in block.parameters()}
        groups: dict[int, list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                outside = len(blocks) + 1 if "embed" in name else 0
                groups.setdefault(below_head.get(id(parameter), outside), []).append(parameter)
        return [(self.layer_decay**number, groups[number]) for number in sorted(groups)]

    def merge(self) -> None:
        """Add low-rank changes to the weights that they apply to, which leaves the answers as they are."""
        for name, module in list(self.encoder.named_modules()):
            if hasattr(module, "base_layer"):
                module.merge()
                self.encoder.set_submodule(name, module.get_base_layer())

    @property
    def blocks(self) -> nn.ModuleList:
        """The encoder's layers, from the lowest."""
        return next(module for module in self.encoder.modules() if isinstance(module, nn.ModuleList))

    def _check_sizes(self, vocab_size: int, max_length: int) -> None:
        config = self.encoder.config
        if vocab_size > config.vocab_size:
            raise UserError(
                f"the tokenizer has {vocab_size:,} tokens and the encoder {config.vocab_size:,}: use its own, "
                "tokenizer=pretrained"
            )
        named = {name.rpartition(".")[2]: module for name, module in self.encoder.named_modules()}
        table, longest = named.get("position_embeddings"), getattr(config, "max_position_embeddings", None)
        if isinstance(table, nn.Embedding):  # positions of RoBERTa count from behind that of padding
            longest = table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
        if longest is not None and max_length > longest:
            raise UserError(
                f"tokenizer.max_length={max_length}: the encoder has positions for {longest} tokens at most"
            )

    def _choose_trained(self, train: str, last_n: int, lora_rank: int) -> None:
        if train == "all":
            return
        self.encoder.requires_grad_(False)
        if train == "last_n":
            blocks = self.blocks
            if last_n > len(blocks):
                raise UserError(f"model.last_n={last_n}: the encoder has {len(blocks)} blocks")
            for block in blocks[-last_n:]:
                block.requires_grad_(True)
        if train == "lora":
            with needs_extra("pretrained", "model.train=lora"):
                from peft import LoraConfig, inject_adapter_in_model
            linear = [name for name, module in self.encoder.named_modules() if isinstance(module, nn.Linear)]
            inject_adapter_in_model(
                LoraConfig(r=lora_rank, lora_alpha=2 * lora_rank, target_modules=linear), self.encoder
            )


def _make_encoder(text: str) -> Any:
    """The encoder that a config.json describes, without its weights."""
    with needs_extra("pretrained", "model=pretrained"):
        from transformers import AutoConfig, AutoModel
        from transformers.initialization import no_init_weights
        from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as KINDS
    # A config.json comes from outside: only kinds that transformers itself has, and none of `LEFT_OUT`.
    settings = {key: value for key, value in json.loads(text).items() if key not in LEFT_OUT}
    if (kind := settings.get("model_type")) not in KINDS or settings.get("is_encoder_decoder"):
        raise UserError(
            f"the encoder's model_type is {kind}; it should be a text encoder of transformers, such as bert or roberta"
        )
    with as_user_error(f"the encoder's {kind} can't be built from its config.json"), no_init_weights():
        config = AutoConfig.for_model(**settings)
        try:
            encoder = AutoModel.from_config(config, add_pooling_layer=False)
        except TypeError:  # this kind has no such argument
            encoder = AutoModel.from_config(config)
    if hasattr(encoder, "pooler"):
        encoder.pooler = None  # it belongs to another training objective, and files often lack its weights
    return encoder
