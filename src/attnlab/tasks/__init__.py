"""Tasks: what a label is, the loss and metrics of logits, the answer for them, and whether it is right."""

from typing import Any

from attnlab.config import instantiate
from attnlab.errors import as_user_error
from attnlab.tasks.base import Task
from attnlab.tasks.multi_label import MultiLabel
from attnlab.tasks.single_label import SingleLabel

__all__ = ["MultiLabel", "SingleLabel", "Task", "make_task"]


def make_task(config: dict[str, Any], label_names: list[str]) -> Task:
    """The task of a config for these classes.

    The class names are an argument and not part of the config, because a name may be anything, such as `${x}`.
    """
    with as_user_error(str(config.get("_target_")), only=(TypeError,)):
        return instantiate(config, _partial_=True)(label_names)
