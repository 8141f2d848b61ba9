"""A pretrained encoder under our pooling and head."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from attnlab.errors import UserError
from attnlab.models.positional import PositionalEncoding, Rotary
from attnlab.models.pretrained import PretrainedClassifier
from tests.encoders import POSITIONS, save_encoder

PAD = 3


def build(folder: Path, **settings: Any) -> PretrainedClassifier:
    """With random weights and 3 classes."""
    data: dict[str, Any] = {"vocab_size": 50, "num_classes": 3, "pad_id": PAD, "max_length": 16}
    data |= {"pe": PositionalEncoding, "encoder": (folder / "config.json").read_text()}
    torch.manual_seed(0)
    model = PretrainedClassifier(**data | settings)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


def batch(*lengths: int) -> tuple[torch.Tensor, torch.Tensor]:
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    ids = torch.randint(4, 50, mask.shape, generator=torch.Generator().manual_seed(0))
    return ids.masked_fill(~mask, PAD), mask


@pytest.mark.parametrize("pooling", ["cls", "max", "mean", "attention"])
def test_padding_changes_nothing(pooling: str, encoder: Path) -> None:
    model = build(encoder, pooling=pooling)
    ids, mask = batch(9, 4)
    alone = model(ids[1:, :4], mask[1:, :4])
    torch.testing.assert_close(model(ids, mask)[1:], alone, atol=1e-5, rtol=0)
    assert not torch.allclose(model(ids, mask)[0], alone[0])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["roberta", "distilbert", "electra", "albert", "modernbert", "mpnet"])
def test_other_kinds(kind: str, tmp_path: Path) -> None:
    own = {"distilbert": {"dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 24}, "albert": {"embedding_size": 8}}
    others = {"modernbert": {"cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}}
    model = build(save_encoder(tmp_path / kind, kind, **(own | others).get(kind, {})), layer_decay=0.5)
    ids, mask = batch(9, 4)
    torch.testing.assert_close(model(ids, mask)[1:], model(ids[1:, :4], mask[1:, :4]), atol=1e-5, rtol=0)
    model.train()(ids, mask).sum().backward()
    assert len(model.rates()) >= 3


def test_the_second_text_is_known(encoder: Path) -> None:
    model = build(encoder, sep_id=2)
    ids, mask = batch(7)
    ids[0, 3] = ids[0, 6] = 2
    seen = []
    model.encoder.register_forward_pre_hook(lambda _, __, given: seen.append(given["token_type_ids"]), with_kwargs=True)
    model(ids, mask)
    assert seen[0].tolist() == [[0, 0, 0, 0, 1, 1, 1]]


def test_what_learns_and_how_fast(encoder: Path) -> None:
    sizes = {}
    for train in ("all", "last_n", "lora", "head"):
        model = build(encoder, train=train, last_n=1, lora_rank=2, layer_decay=0.5)
        rates = model.rates()
        sizes[train] = sum(parameter.numel() for _, group in rates for parameter in group)
        if train == "all":
            assert [share for share, _ in rates] == [1, 0.5, 0.25, 0.125, 0.0625]
            assert sizes["all"] == sum(parameter.numel() for parameter in model.parameters())
        if train == "last_n":
            assert [share for share, _ in rates] == [1, 0.5]
    assert sizes["head"] == 3 * 16 + 3 < sizes["lora"] < sizes["last_n"] < sizes["all"]


def test_low_rank_changes_merge(encoder: Path) -> None:
    model = build(encoder, train="lora")
    ids, mask = batch(9, 4)
    before = model(ids, mask)
    model.merge()
    torch.testing.assert_close(model(ids, mask), before, atol=1e-4, rtol=1e-4)
    assert model.state_dict().keys() == build(encoder).state_dict().keys()


def test_attention_can_be_seen(encoder: Path) -> None:
    model = build(encoder)
    ids, mask = batch(9, 4)
    weights = model.attention_weights(ids, mask)
    assert weights.shape == (3, 2, 2, 9, 9) and weights[:, 1, :, :, 4:].max() < 1e-6
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(3, 2, 2, 9))
    assert model.encoder.config._attn_implementation == "sdpa"


def test_the_attention_of_a_pair_is_that_of_its_answer(encoder: Path) -> None:
    model = build(encoder, sep_id=2)
    ids, mask = batch(7)
    ids[0, 3] = ids[0, 6] = 2
    found = model.attention_weights(ids, mask)
    model.encoder.set_attn_implementation("eager")
    types = torch.tensor([[0, 0, 0, 0, 1, 1, 1]])
    with torch.no_grad():
        given = {"input_ids": ids, "attention_mask": mask.long(), "output_attentions": True}
        expected, blind = (model.encoder(**given, **more).attentions for more in ({"token_type_ids": types}, {}))
    torch.testing.assert_close(found, torch.stack(expected))
    assert not torch.allclose(found, torch.stack(blind), atol=0.01)


def test_a_frozen_encoder_has_no_dropout_and_takes_its_own_vectors(encoder: Path) -> None:
    model = build(encoder, train="head").train()
    ids, mask = batch(9, 4)
    logits = model(ids, mask)
    assert torch.equal(logits, model(ids, mask)) and logits.requires_grad
    torch.testing.assert_close(model(model.pool(model.look_up(ids, mask), ids, mask), mask), logits)


def test_nothing_in_a_config_runs(encoder: Path) -> None:
    config = json.loads((encoder / "config.json").read_text())
    config |= {"auto_map": {"AutoModel": "evil.Model"}, "attn_implementation": "someone/kernel", "dtype": "bfloat16"}
    config |= {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}
    model = build(encoder, encoder=json.dumps(config))
    assert model.encoder.config._attn_implementation in ("sdpa", "eager")
    assert next(model.encoder.parameters()).dtype == torch.float32


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_length": POSITIONS + 1}, "tokenizer.max_length=65: the encoder has positions for 64 tokens"),
        (
            {"vocab_size": 10_000},
            "the tokenizer has 10,000 tokens and the encoder .*: use its own, tokenizer=pretrained",
        ),
        ({"train": "last_n", "last_n": 4}, "model.last_n=4: the encoder has 3 blocks"),
        ({"train": "head", "pooling": "attention"}, "model.pooling=attention learns: choose one of cls, max, mean"),
        ({"pe": partial(Rotary)}, "has its own positions: use pe=none"),
        ({"encoder": '{"model_type": "gpt2"}'}, "model_type is gpt2; it should be a text encoder"),
        ({"encoder": '{"model_type": "bert", "hidden_size": 10}'}, "bert can't be built from its config.json: "),
    ],
)
def test_what_does_not_fit_is_one_line(settings: dict[str, Any], message: str, encoder: Path) -> None:
    with pytest.raises(UserError, match=message):
        build(encoder, **settings)
