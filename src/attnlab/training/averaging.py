"""Averages of the weights over training, used wherever the model is evaluated: validated, chosen, saved and tested.

Lightning's own callbacks save averaged weights and then test raw ones (`WeightAveraging`), or choose among raw ones
(`StochasticWeightAveraging`), and validate the initial weights until averaging begins.
"""

from typing import Annotated, Any

from annotated_types import Ge, Interval
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn

from attnlab.errors import UserError


class WeightAverage(WeightAveraging):
    """Lightning's, but with the raw weights until averaging begins, and with the average in every test."""

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(pl_module)
        super().on_validation_epoch_start(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The temperature and thresholds that validating the average has chosen are stored with the average."""
        super().on_validation_end(trainer, pl_module)
        if self._average_model is not None:
            for average, current in zip(self._average_model.module.buffers(), pl_module.buffers(), strict=True):
                average.copy_(current)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._begin(pl_module)
        super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(pl_module)
        super().on_train_end(trainer, pl_module)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn == TrainerFn.FITTING:  # a test needs the `state_dict`, which is the average
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def _begin(self, pl_module: LightningModule) -> None:
        average = self._average_model
        if average is not None and not average.n_averaged:
            average.module.load_state_dict(pl_module.state_dict())


class EMA(WeightAverage, EMAWeightAveraging):
    """Exponential moving average of the weights (Polyak and Juditsky, 1992; Tarvainen and Valpola, 2017).

    Args:
        decay: share of the average that is kept at each update.
        update_every_n_steps: optimizer steps between two updates.
        update_starting_at_step: optimizer steps before the first update; until then the raw weights are used.
    """

    def __init__(
        self,
        decay: Annotated[float, Interval(ge=0, lt=1)] = 0.999,
        update_every_n_steps: Annotated[int, Ge(1)] = 1,
        update_starting_at_step: Annotated[int, Ge(0)] = 0,
    ) -> None:
        super().__init__(
            decay=decay, update_every_n_steps=update_every_n_steps, update_starting_at_step=update_starting_at_step
        )


class SWA(WeightAverage):
    """Stochastic weight averaging (Izmailov et al., 2018): the mean of the weights at the ends of the last epochs.

    It requires a learning rate that does not decay: `callbacks=swa` sets `scheduler=none`.

    Args:
        swa_epoch_start: the first epoch in the mean, as a number from 0 or as a share of `trainer.max_epochs`.
    """

    def __init__(self, swa_epoch_start: Annotated[int, Ge(0)] | Annotated[float, Interval(ge=0, lt=1)] = 0.5) -> None:
        super().__init__()
        self.swa_epoch_start = swa_epoch_start
        self.first = 0
        self.at_epoch_end = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raises `UserError` where the first epoch is unknown or never reached."""
        start, last = self.swa_epoch_start, trainer.max_epochs
        if isinstance(start, float) and (last is None or last < 0):
            raise UserError(
                f"swa_epoch_start={start} is a share of trainer.max_epochs={last}, which has no limit: use a number"
            )
        self.first = int(start * (last or 0)) if isinstance(start, float) else start
        if last is not None and 0 <= last <= self.first:
            raise UserError(f"swa_epoch_start={start} is never reached: trainer.max_epochs={last}")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """At the last step of an epoch, before the epoch's validation."""
        self.at_epoch_end = trainer.is_last_batch and trainer.current_epoch >= self.first
        super().on_train_batch_end(trainer, pl_module, *args, **kwargs)

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return step_idx is not None and self.at_epoch_end
