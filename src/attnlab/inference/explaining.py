"""Explanations of a trained model's answers, as a column of a table, on the terminal and as a picture.

from attnlab.inference import Predictor, explain

explanation, = explain(predictor, ["Oil prices fall as supply grows"])
explanation.strongest(3)  # [("Oil", 2.13), ...]: the words that spoke most for the class, or against it
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from attnlab.data.tokens import Documents
from attnlab.errors import UserError, relative_to_cwd
from attnlab.inference.predictor import Predictions, Predictor
from attnlab.models.gradients import TOLERANCE
from attnlab.training.attribution import Explanation, attribute

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAPS = 8  # heads in one picture, the first ones of the first layers
COLUMNS = 2  # of maps
NAMED = 40  # tokens with names; more names would overlap
LENGTH = 12  # characters of a token

SPOKE_FOR = "spoke_for"  # the column with the explanation
WORDS = 10  # in the table on the terminal
# Strong and weak marks, in blue and orange of Okabe and Ito, which also differ in more than their hue.
FOR = "white on #0072B2", "underline #0072B2"
AGAINST = "black on #D55E00", "italic #D55E00"


def explain(
    predictor: Predictor, documents: Documents, labels: Sequence[str] | None = None, attention: bool = True
) -> list[Explanation]:
    """For each document, how much each word spoke for a class.

    Args:
        labels: the class to explain for each document; None for the predicted one, or the most probable of several.
        attention: whether to include the attention weights, if the model has any.

    Raises:
        UserError: a class does not exist, or the model can't be explained.
    """
    if labels is None:
        targets = explained_classes(predictor, predictor(documents))
    elif unknown := set(labels) - set(predictor.label_names):
        raise UserError(f"{unknown.pop()!r} is not one of the classes {', '.join(predictor.label_names)}")
    else:
        targets = [predictor.label_names.index(label) for label in labels]
    return attribute(predictor.trained, documents, targets, attention)


def explained_classes(predictor: Predictor, predictions: Predictions) -> list[int]:
    """The class for which each answer is explained; for an empty text it is arbitrary."""
    return predictor.trained.task.explained_class(torch.from_numpy(predictions.probabilities).nan_to_num(0)).tolist()


def draw_attention(explanation: Explanation) -> "Figure":
    """A map for each head: each token's row shows what it attends to. `explanation.attention` must not be None."""
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
    with matplotlib.rc_context({"text.parse_math": False}):  # otherwise text between two "$" is set as a formula
        for number, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
            axes.axis("on" if number < shown else "off")
            if number < shown:
                axes.imshow(maps[number], cmap="Blues", vmin=0)
                axes.set_title(f"layer {number // heads + 1} of {layers}, head {number % heads + 1} of {heads}")
                names = [token[:LENGTH] for token in explanation.tokens] if size <= NAMED else []
                axes.set(xticks=[], yticks=[])
                for place, name in enumerate(names):  # ticks would take four times as long
                    axes.text(-1, place, name, ha="right", va="center", fontsize=7)
                    axes.text(place, size, name, ha="center", va="top", fontsize=7, rotation=90)
    return figure


def with_words(
    rows: list[dict[str, Any]], predictor: Predictor, documents: Documents, predictions: Predictions
) -> list[dict[str, Any]]:
    """The rows with the strongest words for the predicted class, None for an empty text."""
    labels = [predictor.label_names[number] for number in explained_classes(predictor, predictions)]
    words = [explanation.in_words() or None for explanation in explain(predictor, documents, labels, attention=False)]
    return [row | {SPOKE_FOR: some} for row, some in zip(rows, words, strict=True)]


def show_explanation(predictor: Predictor, document: str | tuple[str, str], folder: Path) -> None:
    """Print the words that spoke for the predicted class, and draw the attention weights in attention.png."""
    documents: Any = [document]
    (explanation,) = explain(predictor, documents)
    console = Console(highlight=False)
    table = Table("word", f"for {explanation.label}")
    table.columns[1].justify = "right"
    for word, score in explanation.strongest(WORDS):
        table.add_row(Text(word), f"{score:+.3f}")
    console.print(_coloured(explanation))
    console.print(Text.assemble(("for", FOR[0]), f" {explanation.label}, ", ("against", AGAINST[0]), " it:"))
    console.print(table)
    gain = float(explanation.scores.sum())
    # A user's own task may explain something other than a logit.
    what = "on the logit of" if predictor.trained.task.is_standard else "against"
    console.print(f"All words together: {gain:+.3f}, {what} the same document without its words")
    if abs(explanation.lacking) > TOLERANCE * max(1.0, abs(gain)):
        console.print(f"The scores are approximate: their sum is off by {explanation.lacking:.3f}")
    if explanation.unread:
        console.print(f"{explanation.unread:,} characters were not read: they exceed tokenizer.max_length")
    if explanation.attention is None:
        console.print("This model has no attention, so there is no attention.png")
        return
    draw_attention(explanation).savefig(folder / "attention.png", bbox_inches="tight")
    layers, heads = explanation.attention.shape[:2]
    number = f"the first {MAPS} of {layers * heads} heads" if layers * heads > MAPS else "every head"
    place = (
        f"{relative_to_cwd(folder / 'attention.png')} shows what attends to what in {number}; it is not an explanation"
    )
    console.print(place, soft_wrap=True, markup=False)


def _coloured(explanation: Explanation) -> Text:
    """The text, with words for and against the class in the colours of the pages."""
    text = Text()
    for piece, score in explanation.marks():
        strength = score or 0.0
        strong, weak = FOR if strength > 0 else AGAINST
        style = "" if abs(strength) < 0.1 else strong if abs(strength) >= 0.5 else weak
        unread = explanation.unread and score is None and piece.strip()
        text.append(" ..." if unread else piece, style)
    return text
