"""Why a trained model answers as it does.

from attnlab.inference import Predictor, explain

explanation, = explain(predictor, ["Oil prices fall as supply grows"])
explanation.strongest(3)  # [("Oil", 2.13), ...]: the words that spoke most for the class, or against it
"""

from collections.abc import Sequence

from attnlab.data.tokens import Documents
from attnlab.errors import UserError
from attnlab.inference.predictor import Predictor
from attnlab.training.attribution import Explanation, attribute


def explain(
    predictor: Predictor, documents: Documents, labels: Sequence[str] | None = None, attention: bool = True
) -> list[Explanation]:
    """Which words spoke for a class, of each document.

    Args:
        labels: the class to explain for each document; None: the most probable one.
        attention: bring the attention weights too, of a model that has any.

    Raises:
        UserError: there is no class of such a name, or the model can't be explained.
    """
    if labels is None:
        targets = predictor(documents).probabilities.argmax(axis=1).tolist()  # 0 of an empty text
    elif unknown := set(labels) - set(predictor.label_names):
        raise UserError(f"{unknown.pop()!r} is none of the classes {', '.join(predictor.label_names)}")
    else:
        targets = [predictor.label_names.index(label) for label in labels]
    return attribute(predictor.trained, documents, targets, attention)
