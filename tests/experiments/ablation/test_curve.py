import numpy as np
import pytest

from attnlab.experiments.ablation.curve import Course, bootstrap, fit, in_words

SIZES = np.array([100.0, 300, 1000, 3000, 10000])


def test_a_power_law_is_found_and_says_what_more_documents_bring() -> None:
    law = fit(SIZES, 0.1 * (SIZES / 10000) ** -0.5 + 0.02)
    assert (law.scale, law.exponent, law.rest) == pytest.approx((0.1, 0.5, 0.02), rel=0.05)
    more = law.documents_for(0.01)
    assert float(law(10000 + more)) == pytest.approx(float(law(10000)) - 0.01, abs=1e-6)
    assert np.isinf(law.documents_for(0.5))


def test_noisier_seeds_leave_the_exponent_less_certain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attnlab.experiments.ablation.curve.RESAMPLES", 30)
    spreads = []
    for noise in (0.001, 0.02):
        draw = np.random.default_rng(0)
        errors = [0.1 * (n / 10000) ** -0.5 + noise * draw.standard_normal(4) for n in SIZES]
        spreads.append(np.std([one.exponent for one in bootstrap(SIZES, errors)]))
    assert spreads[0] < spreads[1]


def test_a_law_that_is_more_than_a_point_off_is_said_to_tell_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attnlab.experiments.ablation.curve.RESAMPLES", 5)
    steady = 0.1 * (SIZES / 10000) ** -0.5 + 0.02
    uneven = steady + np.array([0, 0.03, -0.03, 0.03, 0])
    said = [in_words("test/acc", Course("bag", SIZES, [np.full(3, n) for n in own])) for own in (steady, uneven)]
    assert "one more point would take" in said[0] and "misses" not in said[0]
    assert "The law misses the scores by up to" in said[1] and "do not rely on it" in said[1]
