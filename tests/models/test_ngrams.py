from typing import Any

import pytest
import torch

from attnlab.errors import UserError
from attnlab.models.ngrams import SCORE_SCALE, NgramBag
from attnlab.models.positional import Learned, PositionalEncoding
from tests.models.test_classifier import CLASSES, MAX_LENGTH, PAD, VOCAB, batch


def build(**changes: Any) -> NgramBag:
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCAB, "num_classes": CLASSES, "pad_id": PAD, "max_length": MAX_LENGTH}
    settings: dict[str, Any] = {"embed_dim": 8, "ngrams": 2, "buckets": 1000, "pe": PositionalEncoding}
    return NgramBag(**{**sizes, **settings, **changes}).eval()


def give_scores(model: NgramBag) -> NgramBag:
    if model.scores is not None:
        torch.nn.init.normal_(model.scores.weight)
    return model


@pytest.mark.parametrize("pooling", ["mean", "attention"])
@pytest.mark.parametrize(("ngrams", "leads"), [(1, []), (2, []), (3, [2, 4]), (1, [3])])
def test_padding_changes_nothing(ngrams: int, leads: list[int], pooling: str) -> None:
    model = give_scores(build(ngrams=ngrams, leads=leads, pooling=pooling))
    logits = model(*batch([3, 7, 5], width=7))
    assert logits.shape == (3, CLASSES)
    ids, mask = batch([3, 7, 5], width=12)
    torch.testing.assert_close(model(ids, mask), logits)
    torch.testing.assert_close(model(ids.masked_fill(~mask, 9), mask), logits)


def test_with_unigrams_alone_it_is_the_mean_of_the_embeddings() -> None:
    model = build(ngrams=1)
    ids, mask = batch([3, 7], width=7)
    for row, length in enumerate([3, 7]):
        expected = model.head(model.embedding.weight[ids[row, :length]].mean(dim=0))
        torch.testing.assert_close(model(ids, mask)[row], expected)


def test_attention_is_the_mean_until_it_has_learnt_scores_and_then_weights_with_their_softmax() -> None:
    model, mean = build(pooling="attention"), build(pooling="mean")
    ids, mask = batch([3, 7], width=7)
    assert model.scores is not None
    mean.load_state_dict({name: value for name, value in model.state_dict().items() if name != "scores.weight"})
    torch.testing.assert_close(model(ids, mask), mean(ids, mask))
    rows = model._rows(ids, mask)[0][0, [0, 1, 2, 7, 8]]  # of the first article: three tokens and two pairs
    give_scores(model)
    weights = (SCORE_SCALE * model.scores.weight[rows, 0]).softmax(dim=0)
    expected = model.head(weights @ model.embedding.weight[rows])
    torch.testing.assert_close(model(ids, mask)[0], expected)


@pytest.mark.parametrize(("ngrams", "sees"), [(1, False), (2, True), (3, True)])
def test_order_is_in_the_ngrams(ngrams: int, sees: bool) -> None:
    model = build(ngrams=ngrams).double()
    ids, mask = batch([8], width=8)
    swapped = ids[:, [0, 5, 2, 3, 4, 1, 6, 7]]
    assert torch.allclose(model(ids, mask), model(swapped, mask), atol=1e-9, rtol=0) != sees


def test_an_ngram_has_one_row_wherever_it_stands_and_different_ones_rarely_share_it() -> None:
    model = build(ngrams=3, buckets=100_000)
    ids = torch.tensor([[7, 8, 9, 7, 8, 9, 5]])
    rows, present = model._rows(ids, torch.ones_like(ids, dtype=torch.bool))
    assert rows.shape == present.shape == (1, 7 + 6 + 5)
    bigrams, trigrams = rows[0, 7:13], rows[0, 13:]
    assert bigrams[0] == bigrams[3] and bigrams[1] == bigrams[4] and trigrams[0] == trigrams[3]
    assert len(set(rows[0].tolist())) == 4 + 4 + 4
    pairs = torch.cartesian_prod(torch.arange(100), torch.arange(100))
    rows, _ = model._rows(pairs, torch.ones_like(pairs, dtype=torch.bool))
    assert rows[:, 2].min() >= VOCAB and rows[:, 2].max() < VOCAB + 100_000
    # 10,000 balls thrown into 100,000 urns fill 9,516 of them on average, with a deviation of 21.
    assert len(set(rows[:, 2].tolist())) > 9_400


def test_a_lead_token_has_a_row_of_its_own_which_it_loses_further_back() -> None:
    model = build(ngrams=1, leads=[2, 3], buckets=100_000)
    ids = torch.tensor([[7, 8, 9, 6], [9, 8, 7, 6]])
    rows, present = model._rows(ids, torch.tensor([[True] * 4, [True, False, False, False]]))
    first, second = rows[:, 4:6], rows[:, 6:]
    assert rows.shape == (2, 4 + 2 + 3) and present.sum(dim=1).tolist() == [9, 3]
    assert first[0, 1] == first[1, 1] and second[0].tolist() == second[1].flip(0).tolist()
    assert len({*rows[0].tolist()}) == 9 and min(*first[0], *second[0]) >= VOCAB
    assert not torch.allclose(model(ids[:1], present[:1, :4]), model(ids[:1].flip(1), present[:1, :4]))


def test_articles_shorter_than_an_ngram_have_tokens() -> None:
    model = build(ngrams=3)
    ids, mask = batch([1, 2], width=2)
    torch.testing.assert_close(model(ids, mask)[0], model.head(model.embedding.weight[ids[0, 0]]))


@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_gradients_touch_only_what_the_batch_holds_and_dropout_only_training(pooling: str) -> None:
    model = give_scores(build(ngram_dropout=0.5, pooling=pooling))
    ids, mask = batch([7], width=7)
    torch.testing.assert_close(model(ids, mask), model(ids, mask))
    model(ids, mask).sum().backward()
    gradient = model.embedding.weight.grad
    assert gradient is not None and gradient.is_sparse
    assert set(gradient.coalesce().indices()[0].tolist()) == set(model._rows(ids, mask)[0][0].tolist())
    model.train()
    assert not torch.allclose(model(ids, mask), model(ids, mask))
    assert model(*batch([1] * 50, width=1)).isfinite().all()  # even where everything was left out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ngrams": 0}, r"model.ngrams=0 must be at least 1"),
        ({"buckets": 0}, r"model.buckets=0 must be at least 1"),
        ({"embed_dim": 0}, r"model.embed_dim=0 must be at least 1"),
        ({"ngram_dropout": 1.0}, r"model.ngram_dropout=1.0 is a share: give a number from 0 to below 1"),
        ({"dropout": -0.1}, r"model.dropout=-0.1 is a share"),
        ({"pooling": "max"}, r"model.pooling=max is not for model=ngram_bag; choose one of mean, attention"),
        ({"pe": Learned}, r"has no positions: use pe=none"),
    ],
)
def test_what_it_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(**changes)
