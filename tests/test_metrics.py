import pytest

from attnlab.metrics import direction, is_share


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
    ],
)
def test_each_number_has_a_direction(metric: str, better: str, share: bool) -> None:
    assert direction(metric) == better and is_share(metric) == share
