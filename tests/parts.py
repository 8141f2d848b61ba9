"""Parts as a researcher writes them, each with one thing that this program's own parts do not do."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric, MetricCollection

from attnlab.models.classifier import TextClassifier
from attnlab.tasks import SingleLabel


class Agreement(Metric):
    """A metric that says no direction; the more documents, the more it is."""

    right: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("right", torch.zeros(()))

    def update(self, preds: Tensor, target: Tensor, **_: Any) -> None:
        self.right += (preds.argmax(dim=1) == target).sum()

    def compute(self) -> Tensor:
        return self.right


class Measured(SingleLabel):
    """With two further metrics: torchmetrics knows that more of `mcc` is better, and of `agreement` nobody says it."""

    METRICS = (*SingleLabel.METRICS, "mcc", "agreement")

    def metrics(self) -> MetricCollection:
        from torchmetrics.classification import MulticlassMatthewsCorrCoef

        metrics = super().metrics()
        metrics.add_metrics({"mcc": MulticlassMatthewsCorrCoef(len(self.label_names)), "agreement": Agreement()})
        return metrics


class Replaced(TextClassifier):
    """Makes its parts anew, so that more is made than stays."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for _ in range(5):
            self.embedding = nn.Embedding(*self.embedding.weight.shape)
            self.head = nn.Linear(self.embedding.embedding_dim, settings["num_classes"])


class Ordinal(SingleLabel):
    """Classes in an order: a logit for each border between two, that the document is above it (McCullagh, 1980).

    The answer is the median class, not the most probable one.
    """

    @property
    def num_outputs(self) -> int:
        return len(self.label_names) - 1

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self.losses(logits, labels).mean()

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        return -self.uncalibrated(logits).gather(1, labels[:, None])[:, 0].clamp(min=1e-9).log()

    def uncalibrated(self, logits: Tensor) -> Tensor:
        above = logits.sigmoid().cummin(dim=1).values
        return -F.pad(F.pad(above, (1, 0), value=1.0), (0, 1)).diff(dim=1)

    def decide(self, probabilities: Tensor) -> Tensor:
        return (probabilities.cumsum(dim=1)[:, :-1] < 0.5).sum(dim=1)


class Unpooled(TextClassifier):
    """Forgets to pool."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.head(self.look_up(input_ids, attention_mask))


class OneLogit(TextClassifier):
    """Gives one."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return super().forward(input_ids, attention_mask)[:, :1]


class Untold(TextClassifier):
    """Has layers, and does not tell what attends to what."""

    attention_weights = None  # type: ignore[assignment]


class OneTooMany(TextClassifier):
    """Gives a logit more than there are classes."""

    def __init__(self, *, num_classes: int, **settings: Any) -> None:
        super().__init__(num_classes=num_classes + 1, **settings)


class Unaveraged(SingleLabel):
    """A loss for each document."""

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self.losses(logits, labels)


class Buggy(TextClassifier):
    """With a mistake in its constructor."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.scale = len(3)  # type: ignore[arg-type]


class BuggyForward(TextClassifier):
    """With a mistake in what it computes."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return super().forward(input_ids, attention_mask) + "x"  # type: ignore[operator]


class Plain(torch.optim.SGD):
    """Its `step` takes no closure."""

    def step(self) -> None:  # type: ignore[override]
        super().step()


class Forgets(Callback):
    """The last epoch is the worst, whatever the optimizer does: before its validation the weights are zero."""

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == (trainer.max_epochs or 0) - 1:
            with torch.no_grad():
                for weight in pl_module.parameters():
                    weight.zero_()
