from collections import Counter

import numpy as np
import pytest

from attnlab.data.sources.headlines import TOPICS, ceilings, generate


def test_same_seed_same_articles() -> None:
    first, again, other = (generate(50, 0.1, 0.3, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.texts == again.texts and (first.labels == again.labels).all()
    assert first.texts != other.texts


def test_dials_are_exact_shares() -> None:
    corpus = generate(1000, noise=0.2, order_share=0.0, rng=np.random.default_rng(0))
    # A fifth is drawn anew from four classes, of which a quarter keeps its label.
    assert 0.12 < np.mean(corpus.labels != corpus.clean_labels) < 0.18
    assert np.bincount(corpus.clean_labels).tolist() == [250] * 4
    clean = generate(1000, noise=0.0, order_share=1.0, rng=np.random.default_rng(0))
    assert (clean.labels == clean.clean_labels).all()


def topics_in_order(text: str) -> list[int]:
    """The topics whose subjects the title and the first sentence name."""
    sentences = text.split(". ")[:2]
    found = []
    for sentence in sentences:
        scores = Counter(
            topic
            for topic, parts in enumerate(TOPICS.values())
            for phrases in parts.values()
            for phrase in phrases.split("|")
            if all(piece.strip() in sentence for piece in phrase.split("{}"))
        )
        found.append(scores.most_common(1)[0][0])
    return found


def test_the_title_decides_the_class() -> None:
    corpus = generate(200, noise=0.0, order_share=0.5, rng=np.random.default_rng(0))
    topics = [topics_in_order(text) for text in corpus.texts]
    assert [title for title, _ in topics] == corpus.labels.tolist()
    assert sum(title != body for title, body in topics) == 100


def test_no_word_changes_its_form_with_its_place() -> None:
    """A capital at the start of a clause would tell a bag of words which clause came first."""
    corpus = generate(300, noise=0.0, order_share=1.0, rng=np.random.default_rng(0))
    titles = {word for text in corpus.texts for word in text.split(": ", 1)[1].split(". ")[0].split()}
    words = {word for parts in TOPICS.values() for phrases in parts.values() for word in phrases.split()}
    assert not {word for word in titles if word.lower() in words and word != word.lower()}


@pytest.mark.parametrize(
    ("noise", "order_share", "aware", "blind"),
    [(0.0, 0.0, 1.0, 1.0), (0.0, 1.0, 1.0, 0.5), (1.0, 0.5, 0.25, 0.25), (0.05, 0.3, 0.9625, 0.82)],
)
def test_ceilings(noise: float, order_share: float, aware: float, blind: float) -> None:
    assert ceilings(noise, order_share) == pytest.approx((aware, blind))


def test_ceilings_are_what_an_oracle_reaches() -> None:
    noise, order_share, size = 0.2, 0.4, 20_000
    corpus = generate(size, noise, order_share, np.random.default_rng(0))
    aware, _ = ceilings(noise, order_share)
    reached = np.mean(corpus.labels == corpus.clean_labels)
    assert reached == pytest.approx(aware, abs=4 * np.sqrt(aware * (1 - aware) / size))
