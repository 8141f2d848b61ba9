"""Attention as a picture."""

from typing import TYPE_CHECKING

from attnlab.training.attribution import Explanation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAPS = 8  # heads in one picture, the first ones of the first layers
COLUMNS = 2
NAMED = 40  # tokens; more names would run into each other
LENGTH = 12  # characters of a token


def draw_attention(explanation: Explanation) -> "Figure":
    """A map a head: each token's row shows what it attends to. `explanation.attention` has to be there."""
    import matplotlib
    from matplotlib.figure import Figure

    assert explanation.attention is not None
    layers, heads, size, _ = explanation.attention.shape
    maps = explanation.attention.reshape(-1, size, size)
    shown = min(len(maps), MAPS)
    columns = min(shown, COLUMNS)
    rows = -(-shown // columns)
    figure = Figure(figsize=(3.5 * columns, 4 * rows + 0.5), layout="constrained")
    figure.suptitle("What each token (row) attends to (column);\nit does not say what decided the answer")
    with matplotlib.rc_context({"text.parse_math": False}):  # a "$" in a text is a dollar
        for number, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
            axes.axis("on" if number < shown else "off")
            if number < shown:
                axes.imshow(maps[number], cmap="Blues", vmin=0)
                axes.set_title(f"layer {number // heads + 1} of {layers}, head {number % heads + 1} of {heads}")
                names = [token[:LENGTH] for token in explanation.tokens] if size <= NAMED else []
                axes.set(xticks=[], yticks=[])
                for place, name in enumerate(names):  # with ticks it takes four times as long
                    axes.text(-1, place, name, ha="right", va="center", fontsize=7)
                    axes.text(place, size, name, ha="center", va="top", fontsize=7, rotation=90)
    return figure
