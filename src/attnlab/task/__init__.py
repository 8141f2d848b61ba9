"""What a label is: the loss of a model's logits, their metrics, the answer they stand for, and when it is right."""

from attnlab.task.base import Task
from attnlab.task.multi_label import MultiLabel
from attnlab.task.single_label import SingleLabel

METRICS = tuple(dict.fromkeys((*SingleLabel.METRICS, *MultiLabel.METRICS)))  # of any task

__all__ = ["METRICS", "MultiLabel", "SingleLabel", "Task"]
