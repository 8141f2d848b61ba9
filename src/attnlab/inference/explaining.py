"""Why a trained model answers as it does.

from attnlab.inference import Predictor, explain

explanation, = explain(predictor, ["Oil prices fall as supply grows"])
explanation.strongest(3)  # [("Oil", 2.13), ...]: the words that spoke most for the class, or against it
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from attnlab.data.tokens import Documents
from attnlab.errors import UserError
from attnlab.inference.predictor import Predictions, Predictor
from attnlab.training.attribution import Explanation, attribute

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAPS = 8  # heads in one picture, the first ones of the first layers
COLUMNS = 2  # of maps
NAMED = 40  # tokens; more names would run into each other
LENGTH = 12  # characters of a token


def explain(
    predictor: Predictor, documents: Documents, labels: Sequence[str] | None = None, attention: bool = True
) -> list[Explanation]:
    """Which words spoke for a class, of each document.

    Args:
        labels: the class to explain for each document; None: the one that was answered, of several the most probable.
        attention: bring the attention weights too, of a model that has any.

    Raises:
        UserError: there is no class of such a name, or the model can't be explained.
    """
    if labels is None:
        targets = leading(predictor, predictor(documents))
    elif unknown := set(labels) - set(predictor.label_names):
        raise UserError(f"{unknown.pop()!r} is none of the classes {', '.join(predictor.label_names)}")
    else:
        targets = [predictor.label_names.index(label) for label in labels]
    return attribute(predictor.trained, documents, targets, attention)


def leading(predictor: Predictor, predictions: Predictions) -> list[int]:
    """The class by which each answer is explained, as the task says; any one of an empty text."""
    return predictor.trained.task.leading(torch.from_numpy(predictions.probabilities).nan_to_num(0)).tolist()


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
