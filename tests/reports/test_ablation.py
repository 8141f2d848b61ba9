"""The figure of an ablation says what its colours mean."""

from pathlib import Path

import pandas as pd
import pytest

from attnlab.reports.ablation import LEGEND, draw_worth

INTERVALS = {"better": (0.01, 0.02, 0.03), "worse": (-0.03, -0.02, -0.01), "open": (-0.01, 0.0, 0.01)}


def rows(*names: str, interaction: bool = False) -> pd.DataFrame:
    found = [
        {"part": name, "model": "old", "instead": "new", **dict(zip(("low", "worth", "high"), values, strict=True))}
        for name, values in INTERVALS.items()
        if name in names
    ]
    if interaction:
        found.append({"part": "a x b", "model": "", "instead": "", "low": 0.01, "worth": 0.02, "high": 0.03})
    return pd.DataFrame(found)


@pytest.mark.parametrize(
    ("names", "interaction", "used"),
    [(tuple(INTERVALS), False, [0, 1, 2]), (("worse",), False, [1]), (("better", "open"), True, [0, 2, 3])],
)
def test_each_colour_has_a_key_and_no_other(
    names: tuple[str, ...], interaction: bool, used: list[int], tmp_path: Path
) -> None:
    draw_worth(tmp_path, rows(*names, interaction=interaction), "test/acc", "max", 0.8)
    svg = (tmp_path / "ablation.svg").read_text()  # matplotlib writes each text as a comment above its outlines
    assert [label for label in LEGEND.values() if f"<!-- {label} -->" in svg] == [
        list(LEGEND.values())[i] for i in used
    ]
    assert all(color.lower() in svg.lower() for color in [list(LEGEND)[i] for i in used])
    assert f"<!-- {names[0]}: old \u2192 new -->" in svg
