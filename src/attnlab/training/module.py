"""The LightningModule: a text classifier with its loss, metrics, optimizer and tokenizer."""

import logging
import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MetricCollection

from attnlab.config import instantiate
from attnlab.data.batching import Batch
from attnlab.errors import UserError
from attnlab.models.pretrained import PretrainedClassifier
from attnlab.tasks.calibration import calibration
from attnlab.training.optimization import clip_grad_norm, make_optimizer
from attnlab.training.predictions import LogitBuffer, SplitPredictions
from attnlab.training.saved import FORMAT, Trained, check_format, temperature_of

log = logging.getLogger(__name__)


class TextClassification(LightningModule):
    """Trains a classifier. Its checkpoint has everything that predicting needs.

    Args:
        model: config of the classifier, without what the data decides.
        optimizer: config of the optimizer, without its parameters.
        scheduler: config of the learning-rate schedule, without the optimizer and the number of steps.
        label_names: names of the classes, in order.
        tokenizer: the trained tokenizer as JSON.
        pairs: whether documents are pairs of texts.
        task: config of the task, without what the data decides.
        text_format: how the data's texts are assembled, see `attnlab.data.text_format.TextFormat`.

    All are plain dicts, lists, strings and numbers, so that a checkpoint loads with `weights_only=True`.
    """

    buffer: LogitBuffer  # exists only while a split is evaluated

    def __init__(
        self,
        model: dict[str, Any],
        optimizer: dict[str, Any],
        scheduler: dict[str, Any],
        label_names: list[str],
        tokenizer: str,
        pairs: bool,
        task: dict[str, Any],
        text_format: dict[str, Any],
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.optimizer_config, self.scheduler_config, self.label_names = optimizer, scheduler, label_names
        parts = Trained(model, label_names, tokenizer, pairs, task, text_format)
        self.text_format = parts.text_format
        self.pairs, self.tokenizer, self.model, self.task = pairs, parts.tokenizer, parts.model, parts.task
        self.metrics = nn.ModuleDict({stage: self.task.metrics() for stage in ("val", "test")})
        # Sum of the losses of all documents since the last validation, and their number. A torchmetrics.MeanMetric
        # costs a tenth of a small step, and a buffer would get the precision of the weights.
        self.loss_sum, self.num_losses = torch.zeros(()), 0
        self.step_losses: list[Tensor] = []  # of the batches so far in this optimizer step
        self.last_seen = (0, 0)  # step and batch
        self.random_states: dict[str, Any] = {}
        self.predictions: SplitPredictions | None = None  # of the last test run, in every process

    def __setattr__(self, name: str, value: Any) -> None:
        """Lightning sets the name of the current hook 50 times a step: bypass torch's search for a parameter in it."""
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """input_ids: [B, T] int64, attention_mask: [B, T] bool -> logits: [B, C]."""
        return self.model(input_ids, attention_mask)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.task.loss(self(batch.input_ids, batch.attention_mask), batch.labels)
        trainer = self.trainer
        step = trainer.global_step + 1
        if (step, batch_idx) == self.last_seen:  # an optimizer such as LBFGS computes a loss several times
            return self._mean_over_step(loss, batch_idx)
        self.last_seen = step, batch_idx
        count = batch_idx + 1
        ends_step = count % trainer.accumulate_grad_batches == 0 or count == trainer.num_training_batches
        written = ends_step and step % trainer.log_every_n_steps == 0  # type: ignore[attr-defined]
        # On a CPU at every step; on a GPU, reading the loss waits for it, so only when a line is written.
        if (written or loss.device.type == "cpu") and not loss.isfinite():
            self._explain_divergence(float(loss.detach()), step)
        # Lightning's `log` costs as much as the step of a small model, so it is not used for each step.
        self.loss_sum.add_(loss.detach(), alpha=len(batch.labels))
        self.num_losses += len(batch.labels)
        self.step_losses.append(loss.detach())
        if written:
            # Written at once: `log` writes it after the checkpoint of this step, and a resumed run would lack it.
            mean = torch.stack(self.step_losses).mean().item()
            row = {"train/loss_step": mean, "lr": self._learning_rate(), "epoch": self.current_epoch}
            for logger in trainer.loggers:
                logger.log_metrics(row, step=step - 1)
        if ends_step:
            self.step_losses.clear()
            if step == trainer.max_steps:  # the last one: so that a validation follows, as after the last epoch
                trainer.should_stop = True
        return self._mean_over_step(loss, batch_idx)

    def _mean_over_step(self, loss: Tensor, batch_idx: int) -> Tensor:
        """Lightning divides by `accumulate_grad_batches` even where an epoch ends with fewer: this corrects it."""
        if (most := self.trainer.accumulate_grad_batches) == 1:
            return loss
        rest = int(self.trainer.num_training_batches) % most  # batches of the last step of an epoch
        return loss * (most / rest) if batch_idx >= self.trainer.num_training_batches - rest else loss

    def _learning_rate(self) -> float:
        return float(self.trainer.optimizers[0].param_groups[0]["lr"])

    def _explain_divergence(self, loss: float, step: int) -> None:
        raise UserError(
            f"the training loss is {loss} at step {step}, with a learning rate of {self._learning_rate():.3g}; the "
            "last good checkpoint is kept. Try a tenth of optimizer.lr, or scheduler.warmup=0.1"
        )

    def on_validation_epoch_start(self) -> None:
        self._begin("val", self.trainer.val_dataloaders)
        if self.num_losses:
            self.log("train/loss", self.loss_sum / self.num_losses, sync_dist=True)
            self.loss_sum, self.num_losses = torch.zeros_like(self.loss_sum), 0

    def validation_step(self, batch: Batch) -> None:
        self._evaluate(batch, "val")

    def on_validation_epoch_end(self) -> None:
        _, logits, labels = self.buffer.gather()
        self.task.calibrate(logits, labels)
        self._log_metrics("val", logits, labels)

    def on_test_epoch_start(self) -> None:
        self._begin("test", self.trainer.test_dataloaders)

    def test_step(self, batch: Batch) -> None:
        self._evaluate(batch, "test")

    def on_test_epoch_end(self) -> None:
        index, logits, labels = self.buffer.gather()
        probabilities = self.task.probabilities(logits)
        parts = (index, labels, probabilities, self.task.decide(probabilities), logits)
        self.predictions = SplitPredictions(*(part.cpu() for part in parts))
        self._log_metrics("test", logits, labels)

    def _begin(self, stage: str, loader: Any) -> None:
        self.buffer = LogitBuffer(loader.dataset.labels, self.task.num_outputs, self.device)
        # Weights may be in half precision; the mean of a thousand losses must not be.
        self.measured_in = torch.promote_types(next(self.parameters()).dtype, torch.float32)
        for metric in self.metrics[stage].values():  # type: ignore[operator]
            metric.set_dtype(self.measured_in)

    def _evaluate(self, batch: Batch, stage: str) -> None:
        logits = self(batch.input_ids, batch.attention_mask).to(self.measured_in)
        metrics = self.metrics[stage]
        assert isinstance(metrics, MetricCollection)
        self.task.update(metrics, logits, batch.labels)
        self.buffer.add(batch, logits)

    def _log_metrics(self, stage: str, logits: Tensor, labels: Tensor) -> None:
        """Once an epoch: Lightning's `log` costs more than the forward pass of a small model."""
        metrics = self.metrics[stage]
        assert isinstance(metrics, MetricCollection)
        scores = self.task.scores(metrics, logits, labels)
        if stage == "test":
            scores |= calibration(self.task, logits, labels)
        metrics.reset()
        del self.buffer
        for name, score in sorted(scores.items(), key=lambda item: item[0] != "loss"):  # first in the table
            # Computed from the logits of all processes, so their mean is the same.
            self.log(f"{stage}/{name}", score, prog_bar=name == "loss", batch_size=1, sync_dist=True)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Lightning's refuses sparse gradients, and fused optimizers under any mixed precision.

        Only 16-mixed scales gradients, so only there a fused optimizer makes clipping impossible.
        """
        if gradient_clip_val and gradient_clip_algorithm is None and self.trainer.scaler is None:
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            clip_grad_norm(parameters, gradient_clip_val)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what Lightning's lacks: validation metrics of these weights, random states, and the data's identity."""
        if not bool(self.loss_sum.isfinite()):
            self._explain_divergence(float(self.loss_sum), self.trainer.global_step)
        checkpoint["format"] = FORMAT
        checkpoint["temperature"] = self.task.temperature
        found = self.trainer.callback_metrics
        checkpoint["metrics"] = {key: float(value) for key, value in found.items() if key.startswith("val/")}
        checkpoint["data"] = self._fingerprint()
        checkpoint |= (own := self._own_state())
        if self.trainer.world_size > 1:
            checkpoint["ranks"] = [own] * self.trainer.world_size
            torch.distributed.all_gather_object(checkpoint["ranks"], own)

    def _own_state(self) -> dict[str, Any]:
        """What differs between the processes of a distributed run."""
        numpy_state: Any = np.random.get_state()
        states: dict[str, Any] = {"cpu": torch.get_rng_state(), "python": random.getstate()}
        states["numpy"] = (numpy_state[0], torch.from_numpy(numpy_state[1].astype(np.int64)), *numpy_state[2:])
        if self.device.type != "cpu":
            states[self.device.type] = torch.get_device_module(self.device).get_rng_state()
        return {"train_loss": (self.loss_sum.cpu(), self.num_losses), "random_states": states}

    def _fingerprint(self) -> str | None:
        """Of the data: the numbers of classes and tokens come from it, so a run can't resume with other data."""
        return getattr(self.trainer.datamodule, "fingerprint", None)  # type: ignore[attr-defined]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises `UserError` for a checkpoint of other data or of another version."""
        check_format(checkpoint)
        same_classes = checkpoint["hyper_parameters"]["label_names"] == self.label_names
        if not same_classes or checkpoint.get("data", self._fingerprint()) != self._fingerprint():
            raise UserError(
                "the data has changed since this run began, so it can't resume: restore its texts, labels and splits, "
                "or train a new run"
            )
        self.task.temperature = temperature_of(checkpoint)
        ranks = checkpoint.get("ranks", [checkpoint])
        if self.trainer.training and len(ranks) != self.trainer.world_size:
            log.warning(
                "%d processes resume a run of %d: results differ in the last bits", self.trainer.world_size, len(ranks)
            )
        own = ranks[min(self.trainer.global_rank, len(ranks) - 1)]
        self.random_states = own["random_states"]
        self.loss_sum, self.num_losses = own["train_loss"]

    def on_train_start(self) -> None:
        """The mean loss of the epoch and all random numbers continue from where the checkpoint was written."""
        self.loss_sum = self.loss_sum.to(self.device)
        for device, state in self.random_states.items():
            if device == "cpu":
                torch.set_rng_state(state)
            elif device == "python":
                random.setstate(state)
            elif device == "numpy":
                np.random.set_state((state[0], state[1].numpy().astype(np.uint32), *state[2:]))
            elif device == self.device.type:
                torch.get_device_module(self.device).set_rng_state(state)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        if isinstance(self.model, PretrainedClassifier):
            rate = self.optimizer_config["lr"]
            # A generator: Hydra would convert the dicts of a list to its own.
            params: Any = ({"params": group, "lr": share * rate} for share, group in self.model.rates())
        else:
            params = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = make_optimizer(self.optimizer_config, params)
        total_steps = self.trainer.estimated_stepping_batches
        scheduler = instantiate(self.scheduler_config, optimizer=optimizer, total_steps=total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
