"""A small encoder with random weights, and its tokenizer, as transformers saves them."""

from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from attnlab.data.sources.headlines import generate

POSITIONS = 64
NAMES = {"bert": ("[UNK]", "[CLS]", "[SEP]", "[PAD]"), "roberta": ("<unk>", "<s>", "</s>", "<pad>")}


def save_encoder(folder: Path, kind: str = "bert", **settings: Any) -> Path:
    """One of width 16; `settings` of its config."""
    import torch
    from transformers import AutoConfig, AutoModel

    folder.mkdir(parents=True)
    tokenizer = _tokenizer(*NAMES["roberta" if kind == "roberta" else "bert"])
    tokenizer.save(str(folder / "tokenizer.json"))
    small = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
    sizes = {"vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": POSITIONS, "pad_token_id": 3}
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **small | sizes | settings)
    AutoModel.from_config(config).save_pretrained(folder)
    return folder


def _tokenizer(unknown: str, begin: str, end: str, pad: str) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token=unknown))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    special = [unknown, begin, end, pad]
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(generate(300, 0.0, 0.0, np.random.default_rng(0)).texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}", pair=f"{begin} $A {end} $B:1 {end}:1", special_tokens=[(begin, 1), (end, 2)]
    )
    tokenizer.enable_padding(length=50, pad_id=3, pad_token=pad)  # as some come, and we do without
    return tokenizer
