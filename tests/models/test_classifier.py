from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from attnlab.errors import UserError
from attnlab.models import pooling as pooling_module
from attnlab.models.attention import Block
from attnlab.models.classifier import TextClassifier
from attnlab.models.pooling import POOLINGS, Pooling, mean_of_vectors
from attnlab.models.positional import ALiBi, Learned, PositionalEncoding, Rotary, Sinusoidal

VOCAB, CLASSES, PAD, MAX_LENGTH = 50, 3, 4, 12
MODELS = {
    "bag": partial(TextClassifier, num_layers=0),
    "attention": partial(TextClassifier, num_layers=1, num_heads=2),
    "attention+norm+residual": partial(TextClassifier, num_layers=1, num_heads=2, layer_norm=True, residual=True),
    "transformer": partial(TextClassifier, num_layers=2, num_heads=2, feed_forward=16, layer_norm=True, residual=True),
}
ENCODINGS: dict[str, type[PositionalEncoding]] = {
    "none": PositionalEncoding,
    "sinusoidal": Sinusoidal,
    "learned": Learned,
    "rotary": Rotary,
    "alibi": ALiBi,
}
IN_ATTENTION = ("rotary", "alibi")
EVERY = [case for case in product(MODELS, ENCODINGS, POOLINGS) if not (case[0] == "bag" and case[1] in IN_ATTENTION)]


def build(model: str = "attention", pe: str = "sinusoidal", pooling: str = "mean", **changes: Any) -> TextClassifier:
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCAB, "num_classes": CLASSES, "pad_id": PAD, "max_length": MAX_LENGTH}
    settings: dict[str, Any] = {"embed_dim": 8, "pe": ENCODINGS[pe], "pooling": pooling, **sizes, **changes}
    return MODELS[model](**settings).eval()


def batch(lengths: list[int], width: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, VOCAB, (len(lengths), MAX_LENGTH), generator=generator)[:, :width]
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    return ids.masked_fill(~mask, PAD), mask


@pytest.mark.parametrize(("model", "pe", "pooling"), EVERY)
def test_padding_changes_nothing(model: str, pe: str, pooling: str) -> None:
    classifier = build(model, pe, pooling)
    logits = classifier(*batch([3, 7, 5], width=7))
    assert logits.shape == (3, CLASSES)
    torch.testing.assert_close(classifier(*batch([3, 7, 5], width=12)), logits, atol=1e-6, rtol=0)
    # Nor does what stands in the padding.
    ids, mask = batch([3, 7, 5], width=12)
    torch.testing.assert_close(classifier(ids.masked_fill(~mask, 9), mask), logits, atol=1e-6, rtol=0)


class Doubled(Pooling):
    """Twice the mean."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return 2 * mean_of_vectors(x, mask)


class Louder(TextClassifier):
    """Twice the vectors."""

    def look_up(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return 2 * super().look_up(input_ids, attention_mask)


@pytest.mark.parametrize(("model", "pooling"), [("bag", "mean"), ("attention", "cls"), ("attention", "mean")])
def test_what_a_subclass_replaces_is_used(model: str, pooling: str) -> None:
    inputs, classifier = batch([3, 7, 5], width=7), build(model, "none", pooling)
    twice = classifier.classify(2 * classifier.look_up(*inputs), *inputs)
    classifier.__class__ = Louder
    torch.testing.assert_close(classifier(*inputs), twice)
    classifier.__class__ = TextClassifier
    classifier.pooling = Doubled(8)
    vectors = 2 * build(model, "none", "mean")(*inputs) - classifier.head.bias
    torch.testing.assert_close(classifier(*inputs), vectors)


@pytest.mark.parametrize(("model", "pe", "pooling"), [case for case in EVERY if case[2] in ("cls", "mean")])
@pytest.mark.parametrize("few_rows", [0, pooling_module.FEW_ROWS])
def test_the_shorter_ways_give_the_same_logits_and_gradients(
    model: str, pe: str, pooling: str, few_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pooling of every token's vector, where the other takes the first alone, rows of the table, or all of it."""
    monkeypatch.setattr(pooling_module, "FEW_ROWS", few_rows)
    classifier, plain = build(model, pe, pooling), build(model, pe, pooling)
    plain.pooling.__class__ = type("Same", (type(plain.pooling),), {})  # which might do anything
    ids, mask = batch([3, 7, 5], width=7)
    for each in (classifier, plain):
        each(ids, mask).square().sum().backward()
    torch.testing.assert_close(classifier(ids, mask), plain(ids, mask), atol=1e-6, rtol=0)
    for ours, theirs in zip(classifier.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=0)


def test_counted_padding_is_the_notebooks_mean_over_all_positions() -> None:
    model = build("bag", "none", "mean", count_padding=True)
    ids, mask = batch([3, 7], width=7)
    full = torch.nn.functional.pad(ids, (0, MAX_LENGTH - 7), value=PAD)
    torch.testing.assert_close(model(ids, mask), model.head(model.embedding(full).mean(dim=1)))
    attention = build("attention", "sinusoidal", "max", count_padding=True)
    torch.testing.assert_close(attention(ids, mask), attention(*batch([3, 7], width=MAX_LENGTH)))


@pytest.mark.parametrize(("model", "pe", "pooling"), EVERY)
def test_every_parameter_learns(model: str, pe: str, pooling: str) -> None:
    classifier = build(model, pe, pooling).train()
    classifier(*batch([3, 7, 5], width=7)).square().sum().backward()
    still = {name for name, parameter in classifier.named_parameters() if parameter.grad is None}
    assert not still


def order_matters(classifier: TextClassifier) -> bool:
    ids, mask = batch([8], width=8)
    swapped = ids[:, [0, 5, 2, 3, 4, 1, 6, 7]]  # [CLS] stays in front
    return not torch.allclose(classifier(ids, mask), classifier(swapped, mask), atol=1e-9, rtol=0)


@pytest.mark.parametrize("model", ["attention", "transformer"])
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("pe", ENCODINGS)
def test_only_a_positional_encoding_lets_a_model_see_order(model: str, pe: str, pooling: str) -> None:
    classifier = build(model, pe, pooling).double()
    assert order_matters(classifier) == (pe != "none")


def test_a_bag_of_words_is_the_mean_of_its_embeddings() -> None:
    classifier = build("bag", "none", "mean")
    ids, mask = batch([3, 7], width=7)
    for row, length in enumerate([3, 7]):
        expected = classifier.head(classifier.embedding(ids[row, :length]).mean(dim=0))
        torch.testing.assert_close(classifier(ids, mask)[row], expected)


@pytest.mark.parametrize("pe", ENCODINGS)
def test_attention_weights_are_what_the_model_uses(pe: str) -> None:
    classifier = build("attention", pe)
    ids, mask = batch([3, 7, 5], width=7)
    weights = classifier.attention_weights(ids, mask)
    assert weights.shape == (1, 3, 2, 7, 7)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(1, 3, 2, 7))
    assert (weights[0].permute(0, 3, 1, 2)[~mask] == 0).all()  # nobody attends to padding
    block = classifier.blocks[0]
    assert isinstance(block, Block)
    values = block.attention.qkv(classifier.pe.embed(classifier.embedding(ids)))[..., 16:].unflatten(-1, (2, 4))
    mixed = torch.einsum("bhqk,bkhd->bqhd", weights[0], values).flatten(2)
    expected = classifier.head(classifier.pooling(block.attention.out(mixed), mask))
    torch.testing.assert_close(classifier(ids, mask), expected, atol=1e-6, rtol=1e-5)


def test_layer_norm_is_applied() -> None:
    """The notebook constructed it and left it out of the forward pass."""
    ids, mask = batch([7], width=7)
    for model in MODELS:
        for layer_norm in (True, False):
            classifier = build(model, "none", layer_norm=layer_norm, residual=False)
            before = classifier(ids, mask)
            classifier.embedding.weight.data *= 10
            scale_matters = not torch.allclose(classifier(ids, mask), before, atol=1e-3)
            assert scale_matters == (not layer_norm), model


@pytest.mark.parametrize(
    ("build_it", "message"),
    [
        (partial(build, pooling="foo"), "pooling=foo is unknown; choose one of cls, max, mean, attention"),
        (partial(build, num_heads=500), "num_heads=500 does not divide model.embed_dim=8; use one of 1, 2, 4, 8"),
        (partial(build, num_heads=0), "num_heads=0 does not divide"),
        (partial(build, embed_dim=0), "embed_dim=0 must be at least 1"),
        (partial(build, dropout=1.0), r"dropout=1\.0 is a share"),
        (partial(build, "bag", "rotary"), "pe=rotary acts inside attention and this model has none"),
        (partial(build, "bag", "alibi"), "pe=alibi acts inside attention and this model has none"),
        (partial(build, pe="rotary", num_heads=8), "num_heads=8 leaves one .* use at most 4 heads"),
    ],
)
def test_contradictions_are_refused(build_it: Callable[[], TextClassifier], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_it()


def test_a_token_is_of_the_text_that_it_stands_in() -> None:
    """Without positions the same words on the other side of the first end are another document; a bag sees no sides."""
    end = 9
    ids = torch.tensor([[2, 10, 11, end, 12, end, PAD], [2, 12, end, 10, 11, end, PAD]])
    mask = ids != PAD
    for model, differ in (("transformer", True), ("attention", True), ("bag", False)):
        one, other = build(model, "none", sep_id=end)(ids, mask)
        assert torch.allclose(one, other, atol=1e-6) != differ
        one, other = build(model, "none")(ids, mask)
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)
    more = sum(p.numel() for p in build(sep_id=end).parameters()) - sum(p.numel() for p in build().parameters())
    assert more == 2 * 8
