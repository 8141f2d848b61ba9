"""Explanations for a user: beside the answers of a table, on the terminal, as a picture."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from attnlab.data.tokens import Documents
from attnlab.inference.explaining import MAPS, draw_attention, explain, leading
from attnlab.inference.predictor import Predictions, Predictor
from attnlab.inference.tables import Row
from attnlab.models.gradients import TOLERANCE
from attnlab.paths import shown
from attnlab.training.attribution import Explanation

SPOKE_FOR = "spoke_for"  # a column
WORDS = 10  # in the table on the terminal
# Of strong marks and of weak ones: blue and orange of Okabe and Ito, told apart by more than their hue.
FOR = "white on #0072B2", "underline #0072B2"
AGAINST = "black on #D55E00", "italic #D55E00"


def with_words(rows: list[Row], predictor: Predictor, documents: Documents, predictions: Predictions) -> list[Row]:
    """The rows with the strongest words for the class that was answered, None where there is no text."""
    labels = [predictor.label_names[number] for number in leading(predictor, predictions)]
    words = [explanation.in_words() or None for explanation in explain(predictor, documents, labels, attention=False)]
    return [row | {SPOKE_FOR: some} for row, some in zip(rows, words, strict=True)]


def show_explanation(predictor: Predictor, document: str | tuple[str, str], folder: Path) -> None:
    """On the terminal the words that spoke for the most probable class, and what attends to what in attention.png."""
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
    # Another task may explain something else than a logit.
    what = "on the logit of" if predictor.trained.task.is_usual else "against"
    console.print(f"All words together: {gain:+.3f}, {what} the same document without its words")
    if abs(explanation.lacking) > TOLERANCE * max(1.0, abs(gain)):
        console.print(f"The scores are approximate: their sum is off by {explanation.lacking:.3f}")
    if explanation.unread:
        console.print(
            f"{explanation.unread:,} characters were not read: the model takes no more (tokenizer.max_length)"
        )
    if explanation.attention is None:
        console.print("This model has no attention to draw")
        return
    draw_attention(explanation).savefig(folder / "attention.png", bbox_inches="tight")
    layers, heads = explanation.attention.shape[:2]
    number = f"the first {MAPS} of {layers * heads} heads" if layers * heads > MAPS else "every head"
    place = f"{shown(folder / 'attention.png')} shows what attends to what in {number}, which is no explanation"
    console.print(place, soft_wrap=True, markup=False)


def _coloured(explanation: Explanation) -> Text:
    """The text, words that spoke for the class and against it in the colours of the pages."""
    text = Text()
    for piece, score in explanation.marks():
        strength = score or 0.0
        strong, weak = FOR if strength > 0 else AGAINST
        style = "" if abs(strength) < 0.1 else strong if abs(strength) >= 0.5 else weak
        unread = explanation.unread and score is None and piece.strip()
        text.append(" ..." if unread else piece, style)
    return text
