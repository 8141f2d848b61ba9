import pytest
from scipy.stats import binomtest

from attnlab.errors import UserError
from attnlab.metrics import direction, interval, is_share


@pytest.mark.parametrize(
    ("metric", "better", "share"),
    [
        ("val/loss", "min", False),
        ("test/acc", "max", True),
        ("val/f1_macro", "max", True),
        ("test/ece", "min", False),
        ("test/log_loss_uncalibrated", "min", False),
        ("test/acc_kept_90", "max", True),
        ("train/seconds", "min", False),
        ("train/samples_per_second", "max", False),
        ("model/parameters", "min", False),
        ("data/test_duplicates", "min", False),
        ("ceiling/order_aware", "max", False),
    ],
)
def test_each_number_has_a_direction(metric: str, better: str, share: bool) -> None:
    assert direction(metric) == better and is_share(metric) == share


@pytest.mark.parametrize("metric", ["val/auroc", "val/mcc", "test/mcc", "test/temperature", "accuracy"])
def test_of_a_metric_that_is_not_known_the_user_says_the_direction(metric: str) -> None:
    with pytest.raises(UserError, match=f"{metric} is better is not known: give mode=min"):
        direction(metric)
    assert direction(metric, "max") == "max" and direction(metric, "min") == "min"


def test_no_direction_is_taken_that_contradicts_the_metric() -> None:
    with pytest.raises(UserError, match="mode=max contradicts test/loss"):
        direction("test/loss", "max")


@pytest.mark.parametrize(("right", "number"), [(0, 1), (1, 1), (0, 20), (20, 20), (1, 2), (7, 20), (7000, 7600)])
def test_the_interval_of_a_share_is_wilsons(right: int, number: int) -> None:
    expected = binomtest(right, number).proportion_ci(method="wilson")
    assert interval(right, number) == pytest.approx((expected.low, expected.high), abs=1e-12)
