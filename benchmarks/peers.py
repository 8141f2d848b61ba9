"""The encoder of `experiment=pretrained/finetune` trained by transformers, and its vectors given to scikit-learn."""

import json
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from tokenizers import Tokenizer

from attnlab.config import instantiate
from attnlab.data.batching import VectorDataset
from attnlab.data.datamodule import TextDataModule
from attnlab.data.tokenization import pad_id
from attnlab.training.encoder import cache_encoder_features, load_encoder, model_settings
from attnlab.training.trainer import make_trainer
from benchmarks.common import AG_NEWS, QUIET, ROOT, Row, config_of, data_of, folder, run

SIZE, EPOCHS, TARGET = 1000, 2, 0.6
SETTINGS = [f"data.path={AG_NEWS}", f"data.limit={SIZE}", "data.validation=0.02", f"trainer.max_epochs={EPOCHS}"]
# In place of a clock the time of the process, which is a clock's on a machine with nobody else.
TRAIN = """
import runpy, sys, time
time.monotonic = time.perf_counter = time.process_time
sys.argv[0] = "src/train.py"
runpy.run_path("src/train.py", run_name="__main__")
"""
Curve = list[tuple[float, float]]  # seconds of training so far, validation accuracy


def encoder_rows(runs: Path) -> list[Row]:
    """Each is measured once and kept in `runs`."""
    curves = {"ours": _kept(runs / "ours.json", ours), "transformers": _kept(runs / "transformers.json", theirs)}
    common = min(max(score for _, score in curve) for curve in curves.values())
    seconds = {name: next(time for time, score in curve if score >= common) for name, curve in curves.items()}
    ratio = seconds["ours"] / seconds["transformers"]
    what = f"seconds to {common:.3f} on validation, against the transformers Trainer (padded to 128)"
    rows = [Row(what, seconds["ours"], seconds["transformers"], ratio, "s", TARGET, at_least=False)]
    for size in (100, 1000):
        score = _kept(runs / f"regression_{size}.json", partial(regression, size))
        files = runs.glob(f"frozen_encoder/{size}/*/metrics.json")
        mean = float(np.mean([json.loads(file.read_text())["test/acc"] for file in files]))
        what = f"our head on the frozen encoder, {size:,} documents, against scikit-learn's logistic regression"
        rows.append(Row(what, mean, score, mean - score, "accuracy"))
    return rows


def _kept(file: Path, measure: Callable[[], Any]) -> Any:
    if not file.exists():
        print(f"  {file.stem}", flush=True)
        file.write_text(json.dumps(measure()))
    return json.loads(file.read_text())


def ours() -> Curve:
    """Of the epochs of a run, that validation takes no part of."""
    place = ROOT / "logs/bench/pretrained/ours"
    shutil.rmtree(place, ignore_errors=True)
    given = "experiment=pretrained/finetune", *QUIET, *SETTINGS, "test=false", f"paths.run_dir={place}"
    run("-c", TRAIN, *given, script=None, threads=1)
    curve = pd.read_csv(place / "metrics.csv")["val/acc"].dropna().tolist()
    seconds = json.loads((place / "metrics.json").read_text())["train/seconds"]
    shutil.rmtree(place / "checkpoints")
    return [(seconds * (epoch + 1) / EPOCHS, score) for epoch, score in enumerate(curve)]


def theirs() -> Curve:
    """`AutoModelForSequenceClassification` under `Trainer` as both come, with our learning rate and warm-up."""
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

    config = config_of("experiment=pretrained/finetune", *SETTINGS)
    data = data_of(config)
    train = data.splits["train"]
    assert isinstance(data.tokenizer, Tokenizer)
    data.tokenizer.enable_padding(length=128, pad_id=pad_id(data.tokenizer))
    encodings = data.tokenizer.encode_batch(train.texts)
    columns = {"input_ids": [encoding.ids for encoding in encodings], "label": train.labels}
    columns["attention_mask"] = [encoding.attention_mask for encoding in encodings]
    path, num_labels = config["model"]["path"], len(data.label_names)
    model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=num_labels)
    curve: Curve = []
    torch.manual_seed(0)

    class Clock(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.start = time.process_time()

        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            begin = time.process_time()
            curve.append((begin - self.start, accuracy(model, data)))
            self.start += time.process_time() - begin

    with folder() as place:
        settings = TrainingArguments(
            output_dir=str(place),
            learning_rate=config["optimizer"]["lr"],
            warmup_steps=0.1,
            per_device_train_batch_size=32,
            num_train_epochs=EPOCHS,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
        )
        Trainer(model, settings, train_dataset=Dataset.from_dict(columns), callbacks=[Clock()]).train()
    return curve


@torch.inference_mode()
def accuracy(model: Any, data: TextDataModule) -> float:
    model.eval()
    right = 0
    for batch in data.val_dataloader():
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask.long()).logits
        right += int((logits.argmax(dim=1) == batch.labels).sum())
    model.train()
    return right / len(data.datasets["val"])


def regression(size: int) -> float:
    """Test accuracy of scikit-learn's logistic regression on the vectors that the runs of `frozen encoder` kept."""
    from sklearn.linear_model import LogisticRegressionCV

    config = config_of("experiment=pretrained/frozen", f"data.path={AG_NEWS}", f"data.limit={size}")
    data = data_of(config)
    model = instantiate(
        model_settings(config["model"]),
        vocab_size=data.tokenizer.get_vocab_size(),
        num_classes=len(data.label_names),
        pad_id=0,
        max_length=config["tokenizer"]["max_length"],
    )
    load_encoder(config["model"]["path"], model)
    with folder() as place:
        cache_encoder_features(model, data, make_trainer(config, place))
    vectors = {split: cast(VectorDataset, data.datasets[split]).vectors for split in ("train", "test")}
    search = LogisticRegressionCV(Cs=10, cv=5, max_iter=1000)
    search.fit(vectors["train"], data.datasets["train"].labels)
    return float(search.score(vectors["test"], data.datasets["test"].labels))
