"""Integrated gradients on models of random weights: the axioms, for every part that a model can have."""

from typing import Any

import pytest
import torch

from attnlab.models.classifier import TextClassifier
from attnlab.models.gradients import TOLERANCE, integrated_gradients
from attnlab.models.pooling import POOLINGS
from attnlab.models.positional import ALiBi, Learned, PositionalEncoding, Rotary, Sinusoidal
from tests.models.test_classifier import CLASSES, MAX_LENGTH, PAD, VOCAB, batch
from tests.models.test_ngrams import build as build_ngrams
from tests.models.test_ngrams import give_scores

TARGETS = torch.tensor([0, 1, 2]) % CLASSES


def build(**changes: Any) -> Any:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"vocab_size": VOCAB, "num_classes": CLASSES, "pad_id": PAD, "max_length": MAX_LENGTH}
    settings |= {"embed_dim": 8, "num_layers": 1, "num_heads": 2, "pe": PositionalEncoding, "pooling": "mean"}
    return TextClassifier(**settings | changes).eval()


def documents() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, mask and all tokens but the first, which stands for [CLS]."""
    ids, mask = batch([4, 9, 6], width=9)
    counted = mask.clone()
    counted[:, 0] = False
    return ids, mask, counted


def check_completeness(model: Any, tolerance: float) -> None:
    """The scores sum to the rise of the logit from a document whose tokens' embeddings are zero."""
    ids, mask, counted = documents()
    scores, lacking = integrated_gradients(model, ids, mask, counted, TARGETS)
    assert scores.shape == ids.shape and not scores[~counted].any() and scores[counted].any()
    with torch.no_grad():
        x = model.look_up(ids, mask)
        torch.testing.assert_close(model.classify(x, ids, mask), model(ids, mask))
        without = x * (model.shares(counted).sum(dim=2) == 0)[..., None]
        rise = (model(ids, mask) - model.classify(without, ids, mask)).gather(1, TARGETS[:, None])[:, 0]
    torch.testing.assert_close(scores.sum(dim=1), rise, atol=tolerance, rtol=0)
    torch.testing.assert_close(lacking, rise - scores.sum(dim=1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("pe", [PositionalEncoding, Sinusoidal, Learned, Rotary, ALiBi])
def test_completeness_of_every_encoding_and_pooling(pe: type[PositionalEncoding], pooling: str) -> None:
    # The largest of several values has kinks, which no number of points meets exactly.
    check_completeness(build(pe=pe, pooling=pooling), TOLERANCE if pooling == "max" else 1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {"num_layers": 0},
        {"num_layers": 0, "layer_norm": True, "pooling": "attention"},
        {"num_layers": 2, "layer_norm": True, "residual": True, "feed_forward": 16},
        {"count_padding": True, "pe": Learned},
        {"sep_id": 7},
    ],
)
def test_completeness_of_every_model(settings: dict[str, Any]) -> None:
    check_completeness(build(**settings), TOLERANCE)


@pytest.mark.parametrize("pooling", ["mean", "attention"])
@pytest.mark.parametrize(("ngrams", "leads"), [(1, []), (3, [2, 20])])
def test_completeness_of_ngrams(ngrams: int, leads: list[int], pooling: str) -> None:
    check_completeness(give_scores(build_ngrams(ngrams=ngrams, leads=leads, pooling=pooling)), 1e-5)


def test_of_a_mean_a_score_is_the_tokens_own_part_of_the_logit() -> None:
    model, (ids, mask, counted) = build(num_layers=0), documents()
    scores, _ = integrated_gradients(model, ids, mask, counted, TARGETS)
    parts = model.embedding(ids) @ model.head.weight.T / mask.sum(dim=1)[:, None, None]
    expected = parts.gather(2, TARGETS[:, None, None].expand(-1, ids.size(1), 1))[..., 0] * counted
    torch.testing.assert_close(scores, expected)


def test_an_ngrams_tokens_have_equal_shares_but_for_cls() -> None:
    shares = build_ngrams(ngrams=3, leads=[1]).shares(torch.tensor([[False, True, True, True]]))[0]
    third = [1 / 3] * 3
    expected: list[list[float]] = [[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]  # tokens
    expected += [[0, 1, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 0.5, 0.5]]  # pairs
    expected += [[0, 0.5, 0.5, 0], [0, *third], [0, 0, 0, 0]]  # triples, and the first token once more
    torch.testing.assert_close(shares, torch.tensor(expected))


def test_padding_changes_no_score() -> None:
    model, (ids, mask, counted) = build(pe=Rotary), documents()
    alone = integrated_gradients(model, ids[:1, :4], mask[:1, :4], counted[:1, :4], TARGETS[:1])[0]
    torch.testing.assert_close(integrated_gradients(model, ids, mask, counted, TARGETS)[0][:1, :4], alone)
