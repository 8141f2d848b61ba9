from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from attnlab.data.batching import Batch
from attnlab.data.datamodule import TextDataModule
from attnlab.data.sources import Headlines
from attnlab.data.tokenization import BPE
from attnlab.errors import UserError
from attnlab.training.module import TextClassification
from attnlab.training.optimization import clip_grad_norm, linear
from attnlab.training.saved import load_weights

MODEL = {
    "_target_": "attnlab.models.classifier.TextClassifier",
    "embed_dim": 8,
    "num_layers": 1,
    "num_heads": 2,
    "pooling": "mean",
    "dropout": 0.2,
    "pe": {"_target_": "attnlab.models.positional.Learned", "_partial_": True},
}
OPTIMIZER = {"_target_": "torch.optim.AdamW", "lr": 0.01}
TASK = {"_target_": "attnlab.tasks.single_label.SingleLabel"}
SCHEDULER = {"_target_": "attnlab.training.optimization.linear", "warmup": 0.1}


@pytest.fixture
def data(tmp_path: Path) -> TextDataModule:
    source = Headlines(batch_size=10, train_size=100, test_size=30, noise=0.0, order_share=0.3)
    data = TextDataModule(source, BPE(vocab_size=200, max_length=40), tmp_path)
    data.setup()
    return data


def make_module(data: TextDataModule) -> TextClassification:
    torch.manual_seed(0)
    return TextClassification(MODEL, OPTIMIZER, SCHEDULER, data.label_names, data.tokenizer.to_str(), False, TASK, {})


def make_trainer(folder: Path, **settings: object) -> Trainer:
    settings = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False} | settings
    settings |= {"enable_model_summary": False, "num_sanity_val_steps": 0, "default_root_dir": folder}
    return Trainer(**settings)  # type: ignore[arg-type]


def test_learned_positions_have_max_length_rows(data: TextDataModule) -> None:
    assert dict(make_module(data).named_parameters())["model.pe.table"].shape == (40, 8)


def test_a_checkpoint_is_all_that_predicting_needs(data: TextDataModule, tmp_path: Path) -> None:
    module = make_module(data)
    trainer = make_trainer(tmp_path, max_epochs=1, enable_checkpointing=False)
    trainer.fit(module, data)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = load_weights(tmp_path / "model.ckpt", TextClassification).eval()
    assert loaded.label_names == data.label_names and loaded.tokenizer.to_str() == data.tokenizer.to_str()
    batch = next(iter(data.test_dataloader()))
    assert torch.equal(loaded(batch.input_ids, batch.attention_mask), module.eval()(*batch[:2]))
    saved = torch.load(tmp_path / "model.ckpt", weights_only=True)
    assert set(saved["metrics"]) == {f"val/{name}" for name in ("loss", "acc", "acc_balanced", "f1", "f1_macro")}


class Seen(Callback):
    """The articles of each training epoch, in order."""

    def __init__(self) -> None:
        self.epochs: dict[int, list[int]] = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        del pl_module, batch_idx
        self.epochs.setdefault(trainer.current_epoch, []).extend(batch.indices.tolist())


def test_every_epoch_has_an_order_of_its_own(data: TextDataModule, tmp_path: Path) -> None:
    seen = Seen()
    make_trainer(tmp_path, max_epochs=2, callbacks=[seen], enable_checkpointing=False).fit(make_module(data), data)
    assert sorted(seen.epochs[0]) == sorted(seen.epochs[1]) == list(range(90))
    assert seen.epochs[0] != seen.epochs[1]


def test_training_is_what_a_bare_loop_does(data: TextDataModule, tmp_path: Path) -> None:
    """Logging, clipping and moving batches in our own ways change no weight."""
    module, plain = make_module(data), make_module(data)
    torch.manual_seed(1)
    make_trainer(tmp_path, max_epochs=1, gradient_clip_val=0.5, enable_checkpointing=False).fit(module, data)
    torch.manual_seed(1)
    loader = data.train_dataloader()
    optimizer = torch.optim.AdamW(plain.parameters(), lr=0.01)
    scheduler = linear(optimizer, total_steps=len(loader), warmup=0.1)
    for ids, mask, labels, _ in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(plain(ids, mask), labels).backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        optimizer.step()
        scheduler.step()
    for ours, theirs in zip(module.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs)


class Losses(Callback):
    """The loss of each training step, times its articles, and the mean that was logged after each epoch."""

    def __init__(self) -> None:
        self.steps: list[tuple[float, int]] = []
        self.logged: list[float] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        del trainer, pl_module, batch_idx
        self.steps.append((float(outputs["loss"]), len(batch.labels)))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        del pl_module
        self.logged.append(float(trainer.callback_metrics["train/loss"]))


def test_the_training_loss_is_the_mean_over_articles_also_across_a_resume(data: TextDataModule, tmp_path: Path) -> None:
    every_step = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    whole, resumed = Losses(), Losses()
    make_trainer(tmp_path, max_epochs=2, callbacks=[every_step, whole]).fit(make_module(data), data)
    for epoch, logged in enumerate(whole.logged):
        losses, sizes = zip(*whole.steps[9 * epoch : 9 * epoch + 9], strict=True)
        assert logged == pytest.approx(np.average(losses, weights=sizes), rel=1e-5)
    trainer = make_trainer(tmp_path, max_epochs=1, callbacks=[resumed])
    trainer.fit(make_module(data), data, ckpt_path=tmp_path / "step=4.ckpt", weights_only=True)
    assert len(resumed.steps) == 5 and resumed.logged[0] == pytest.approx(whole.logged[0], rel=0.05)
    assert resumed.logged[0] != pytest.approx(np.mean([loss for loss, _ in resumed.steps]), rel=0.001)


@pytest.mark.parametrize("max_norm", [0.1, 100.0])
def test_sparse_gradients_are_clipped_as_dense_ones(max_norm: float) -> None:
    gradients = []
    for sparse in (True, False):
        torch.manual_seed(0)
        bag, head = nn.EmbeddingBag(20, 4, sparse=sparse), nn.Linear(4, 3)
        head(bag(torch.tensor([[1, 2, 2, 7], [7, 2, 5, 5]]))).square().sum().backward()
        parameters = [*bag.parameters(), *head.parameters()]
        clip_grad_norm(parameters, max_norm)
        gradients.append([parameter.grad for parameter in parameters if parameter.grad is not None])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours.to_dense() if ours.is_sparse else ours, theirs)


@pytest.mark.parametrize("step", [4, 9, 13])
def test_a_run_that_goes_on_from_a_checkpoint_ends_with_the_same_weights(
    data: TextDataModule, tmp_path: Path, step: int
) -> None:
    """In the middle of an epoch of 9 batches, at its end and in the next: the same articles in the same order."""
    settings = MODEL | {"dropout": 0.0}
    whole, resumed = (
        TextClassification(settings, OPTIMIZER, SCHEDULER, data.label_names, data.tokenizer.to_str(), False, TASK, {})
        for _ in range(2)
    )
    every_step = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    make_trainer(tmp_path, max_epochs=2, callbacks=[every_step]).fit(whole, data)
    trainer = make_trainer(tmp_path, max_epochs=2, callbacks=[every_step])
    trainer.fit(resumed, data, ckpt_path=tmp_path / f"step={step}.ckpt", weights_only=True)
    assert trainer.global_step == 18
    for expected, got in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(expected, got)


def test_predictions_come_in_the_order_of_the_split(data: TextDataModule, tmp_path: Path) -> None:
    module = make_module(data)
    metrics = make_trainer(tmp_path).test(module, data, verbose=False)[0]
    predictions = module.predictions
    assert predictions is not None
    assert predictions.index.tolist() == list(range(30))
    assert predictions.labels.tolist() == data.splits["test"].labels.tolist()
    torch.testing.assert_close(predictions.probabilities.sum(dim=1), torch.ones(30))
    accuracy = (predictions.probabilities.argmax(dim=1) == predictions.labels).float().mean()
    assert metrics["test/acc"] == pytest.approx(accuracy.item())


class Payload:
    """Pickles as a call that leaves a file behind."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.marker,)


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.ckpt").write_text("hello")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    marker = tmp_path / "the-payload-ran"
    torch.save({"state_dict": Payload(marker)}, tmp_path / "payload.ckpt")
    for name in ("text", "other", "payload"):
        with pytest.raises(UserError, match=rf"{name}\.ckpt is not a checkpoint"):
            load_weights(tmp_path / f"{name}.ckpt", TextClassification)
    assert not marker.exists()


def test_a_checkpoint_cannot_name_code_to_run(data: TextDataModule, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_epochs=1, enable_checkpointing=False, limit_train_batches=1)
    trainer.fit(make_module(data), data)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    checkpoint = torch.load(tmp_path / "model.ckpt", weights_only=True)
    for target in ("os.system", "attnlab.data.tokens.shutil.rmtree", "torch.hub.load"):
        checkpoint["hyper_parameters"]["model"] = {"_target_": target}
        torch.save(checkpoint, tmp_path / "hostile.ckpt")
        with pytest.raises(UserError, match=rf"{target}: Target"):
            load_weights(tmp_path / "hostile.ckpt", TextClassification)


@pytest.mark.usefixtures("own_parts")
def test_a_model_that_replaces_what_it_made_loads(
    data: TextDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attnlab.training.saved.SPARE", 0)
    module = make_module(data)
    settings = dict(module.hparams) | {"model": module.hparams["model"] | {"_target_": "tests.parts.Replaced"}}
    trainer = make_trainer(tmp_path, max_epochs=1, enable_checkpointing=False, limit_train_batches=1)
    trainer.fit(TextClassification(**settings), data)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    kept = torch.load(tmp_path / "model.ckpt", weights_only=True)["state_dict"]
    loaded = load_weights(tmp_path / "model.ckpt", TextClassification).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in kept.items())


def test_a_checkpoint_cannot_ask_for_more_memory_than_it_holds(data: TextDataModule, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_epochs=1, enable_checkpointing=False, limit_train_batches=1)
    trainer.fit(make_module(data), data)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    checkpoint = torch.load(tmp_path / "model.ckpt", weights_only=True)
    huge = 10**7
    checkpoint["hyper_parameters"]["model"] |= {"embed_dim": huge, "num_heads": 1}
    torch.save(checkpoint, tmp_path / "settings.ckpt")
    # One number that says it were the whole table.
    for name, value in checkpoint["state_dict"].items():
        sides = [{8: huge, 24: 3 * huge}.get(side, side) for side in value.shape]
        checkpoint["state_dict"][name] = torch.zeros(1).expand(*sides)
    torch.save(checkpoint, tmp_path / "weights.ckpt")
    for kind in ("settings", "weights"):
        with pytest.raises(UserError, match=rf"{kind}\.ckpt has other weights than its model"):
            load_weights(tmp_path / f"{kind}.ckpt", TextClassification)
