"""Which words spoke for an answer, for a user."""

import csv
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import numpy as np
import pytest
import torch
from omegaconf import DictConfig

from attnlab.data.sources.headlines import TOPICS, generate
from attnlab.errors import UserError
from attnlab.inference import Explanation, Predictor, explain
from attnlab.inference.explaining import show_explanation
from attnlab.inference.prediction import predict
from attnlab.training.attribution import attribute
from attnlab.training.train import train

Compose = Callable[..., DictConfig]

BAG = ["model=ngram_bag", "optimizer=adagrad"]


@pytest.fixture(scope="module")
def planted() -> dict[str, set[str]]:
    """Of each topic the words that no other one has."""
    words = {
        name: set(" ".join(parts.values()).replace("|", " ").replace("{}", " ").split())
        for name, parts in TOPICS.items()
    }
    return {name: own - set().union(*(words[other] for other in words if other != name)) for name, own in words.items()}


@pytest.mark.parametrize(
    "parts", [BAG, pytest.param(["model.embed_dim=32", "pe=none", "optimizer.lr=0.01"], marks=pytest.mark.slow)]
)
def test_the_planted_words_are_found(
    parts: list[str], planted: dict[str, set[str]], tiny_config: Compose, tmp_path: Path
) -> None:
    sizes = ["data.train_size=400", "tokenizer.vocab_size=2000", "trainer.max_epochs=8", "data.order_share=0"]
    train(tiny_config(*parts, *sizes, "test=false", f"paths.run_dir={tmp_path}/run"))
    articles = generate(100, noise=0, order_share=0, rng=np.random.default_rng(5))
    explanations = explain(Predictor.load(tmp_path / "run"), articles.texts, attention=False)
    topics = list(TOPICS)
    right = [one for one, label in zip(explanations, articles.labels, strict=True) if one.label == topics[label]]
    assert len(right) > 60
    strongest = [max(one.pieces(), key=lambda piece: piece[1] or 0)[0] in planted[one.label] for one in right]
    by_chance = [
        np.mean([word in planted[one.label] for word, score in one.pieces() if score is not None]) for one in right
    ]
    assert np.mean(strongest) > 2 * np.mean(by_chance) and np.mean(strongest) > 0.7


@pytest.fixture
def run_dir(tiny_config: Compose, tmp_path: Path) -> Path:
    train(tiny_config("test=false", "trainer.max_epochs=1", f"paths.run_dir={tmp_path}/run"))
    return tmp_path / "run"


def test_an_explanation_covers_the_text_and_names_its_class(run_dir: Path) -> None:
    predictor = Predictor.load(run_dir)
    texts = ["Oil prices fall, é\n[x]", "", "word " * 300]
    found = explain(predictor, texts)
    assert [one.label for one in found[:1]] == predictor(texts).labels[:1]
    for text, one in zip(texts, found, strict=True):
        assert "".join(piece for piece, _ in one.pieces()) == text == one.text
        size = len(one.tokens)
        assert len(one.spans) == len(one.scores) == size and one.tokens[0] == "[CLS]" and one.scores[0] == 0
        assert one.attention is not None and one.attention.shape[2:] == (size, size)
        assert [text[start:stop] for start, stop in one.spans[1:-1]] == one.tokens[1:-1]
    assert not found[1].scores.any() and found[1].strongest(3) == [] and found[0].unread == 0 < found[2].unread < 1500
    (asked,) = explain(predictor, texts[:1], ["Sports"], attention=False)
    assert asked.label == "Sports" and asked.attention is None
    with pytest.raises(UserError, match="'Cooking' is not one of the classes"):
        explain(predictor, texts[:1], ["Cooking"])


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_words_are_whole_whatever_their_accents_are_made_of(form: Literal["NFC", "NFD"], run_dir: Path) -> None:
    predictor = Predictor.load(run_dir)
    words = [unicodedata.normalize(form, word) for word in ("café", "schöne", "Größé", "각", "e\u0323\u0301")]
    cut = unicodedata.normalize(form, "é ") * 200
    found = explain(predictor, [" ".join(words), cut, "\u200b".join(words)], attention=False)
    assert [piece for piece, score in found[0].pieces() if score is not None] == words
    assert [one.unread for one in found] == [0, len(" ".join(cut.split()[126:])), 0]
    assert {word for word, _ in found[1].strongest(3)} == {unicodedata.normalize(form, "é")}
    assert all("".join(piece for piece, _ in one.pieces()) == one.text for one in found)


def test_a_text_is_explained_in_80_columns_without_colour(
    run_dir: Path, compose_config: Compose, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    settings = [f"ckpt_path={run_dir}", "text=Oil prices fall", "explain=true", f"paths.run_dir={run_dir.parent}/out"]
    predict(compose_config(*settings, name="predict"))
    shown = capsys.readouterr().out
    assert "All words together" in shown and "prices" in shown.split("word")[1]
    assert max(len(line) for line in shown.splitlines() if "attention.png" not in line) <= 80
    assert (run_dir.parent / "out" / "attention.png").stat().st_size > 1000


def test_signs_have_colours_and_a_legend_on_a_terminal(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blue for words that spoke for the class and orange for those against it, as on the pages."""
    predictor = Predictor.load(run_dir)
    text = "strong with weak but never notable"
    spans = [(match.start(), match.end()) for match in re.finditer(r"\S+", text)]
    scores = np.array([2.0, -2.0, 0.5, -0.5, 0.01, 0.0], dtype=np.float32)
    words: list[int | None] = list(range(len(spans)))
    explanation = Explanation("Sports", text, text.split(), spans, words, scores, 0.0, 0)
    monkeypatch.setattr("attnlab.inference.explaining.explain", lambda *_: [explanation])
    for name, value in {"FORCE_COLOR": "1", "COLORTERM": "truecolor", "TERM": "xterm-256color"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    show_explanation(predictor, text, tmp_path)
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert {word: style for style, word in re.findall("\x1b\\[([0-9;]+)m(\\S+)\x1b\\[0m", lines[0])} == {
        "strong": "37;48;2;0;114;178",
        "with": "30;48;2;213;94;0",
        "weak": "4;38;2;0;114;178",
        "but": "3;38;2;213;94;0",
    }
    assert lines[0].endswith(" never notable")
    assert "\x1b[37;48;2;0;114;178mfor\x1b[0m Sports, \x1b[30;48;2;213;94;0magainst\x1b[0m it:" in lines[1]
    assert re.search(r"strong +│ +\+2\.000", shown) and re.search(r"with +│ +-2\.000", shown)


@pytest.mark.usefixtures("own_parts")
@pytest.mark.parametrize("model", ["model=bag", "model._target_=tests.parts.Untold"])
def test_a_model_without_attention_says_so(
    model: str, tiny_config: Compose, compose_config: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny_config(model, "test=false", "trainer.max_epochs=1", f"paths.run_dir={tmp_path}/run"))
    settings = [f"ckpt_path={tmp_path}/run", "explain=true", f"paths.run_dir={tmp_path}/out"]
    predict(compose_config(*settings, "text=Oil prices fall", name="predict"))
    assert "has no attention" in capsys.readouterr().out
    assert not (tmp_path / "out" / "attention.png").exists()


def test_rows_get_a_column(run_dir: Path, compose_config: Compose, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("text\nOil prices fall\n\nstriker wins\n")
    (tmp_path / "taken.csv").write_text("text,spoke_for\nOil,x\n")
    settings = [f"ckpt_path={run_dir}", "explain=true", f"output={tmp_path}/out.csv"]
    predict(compose_config(*settings, f"input={tmp_path}/in.csv", name="predict"))
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["text", "predicted", "probability", "spoke_for"]
    assert all(word in rows[0]["spoke_for"] for word in ("Oil ", "prices ", "fall ")) and "; " in rows[0]["spoke_for"]
    with pytest.raises(UserError, match="has a column spoke_for already"):
        predict(compose_config(*settings, f"input={tmp_path}/taken.csv", name="predict"))


def test_a_model_that_cannot_be_asked_is_named() -> None:
    classifier = SimpleNamespace(model=torch.nn.Linear(1, 1), tokenizer=None)
    with pytest.raises(UserError, match="Linear has no look_up, classify and shares"):
        attribute(classifier, ["Oil"], [0])
