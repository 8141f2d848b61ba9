"""`src/export.py`: a folder that answers as the model does, without attnlab."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from attnlab.errors import UserError
from attnlab.inference import Predictor, formats
from attnlab.inference.export import export
from attnlab.inference.formats import FORMATS
from attnlab.training.train import train
from tests.conftest import ROOT, TINY

Compose = Callable[..., DictConfig]
EXAMPLE = ["Oil prices fall as supply grows"]
TEXTS = ["oil", "The [SEP] league: a match of the season, and a cup final", "shares fall"]
NGRAMS = ["model=ngram_bag", "model.pooling=attention", "model.leads=[2,4]", "model.buckets=5000"]


def trained(folder: Path, *overrides: str) -> Path:
    """The folder of a run."""
    paths = [f"paths.log_dir={folder}/logs", f"paths.run_dir={folder}/run"]
    tiny = [word for word in TINY if not ("data=files" in overrides and word.startswith("data."))]
    with initialize_config_dir(str(ROOT / "conf")):
        train(compose("train", overrides=[*tiny, "trainer.max_epochs=1", *overrides, *paths]))
    return folder / "run"


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("bag"), "model=bag")


@pytest.fixture
def write(compose_config: Compose, tmp_path: Path) -> Callable[..., Path]:
    """`write(run, "format=onnx")`: the exported folder."""

    def make(run: Path, *overrides: str) -> Path:
        export(compose_config(f"ckpt_path={run}", f"output={tmp_path}/out", *overrides, name="export"))
        return tmp_path / "out"

    return make


def use(folder: Path, texts: list[Any] | None = None, without: tuple[str, ...] = ("attnlab",)) -> str:
    """What the lines in the folder's README print, in a process that can't import some packages."""
    (lines,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    if texts is not None:
        lines, number = re.subn(r"(?<=^texts, config = )\[.*?\](?=, json)", str(texts), lines, flags=re.MULTILINE)
        assert number == 1
    code = f"import sys; sys.modules.update(dict.fromkeys({without}))\n{lines}"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def assert_answers(said: str, run: Path, texts: list[Any]) -> None:
    """A list of labels and then the probability of each; where a text has several, the lists alone."""
    expected = Predictor.load(run)(texts)
    labels, _, probabilities = said.strip().partition("] " if isinstance(expected.labels[0], str) else "\n")
    assert re.findall(r"'(.*?)'", labels) == np.hstack(expected.labels).tolist()
    if probabilities:
        found = [float(number) for number in re.findall(r"\d\.\d+", probabilities)]
        assert found == pytest.approx(expected.probabilities.max(axis=1).tolist(), abs=1e-4)


def test_the_lines_in_the_readme_answer_without_attnlab(bag: Path, write: Callable[..., Path]) -> None:
    folder = write(bag, "format=onnx")
    assert {file.name for file in folder.iterdir()} == {"model.onnx", "tokenizer.json", "config.json", "README.md"}
    assert json.loads((folder / "config.json").read_text())["checked"]["difference"] < 1e-5
    assert_answers(use(folder, without=("attnlab", "torch")), bag, EXAMPLE)


@pytest.mark.slow
def test_eight_bits_are_scored_before_and_after(
    write: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    run = trained(tmp_path, *NGRAMS, "data.train_size=1000", "trainer.max_epochs=3")
    folder = write(run, "format=onnx", "quantize=int8")
    facts = json.loads((folder / "config.json").read_text())
    assert facts["bytes"] < facts["before"]["bytes"] / 2
    assert f"quantize=int8: {facts['bytes']:,} bytes, accuracy {facts['accuracy']:.4f} (" in caplog.text
    scores = json.loads((run / "metrics.json").read_text())
    assert facts["before"]["accuracy"] == pytest.approx(scores["test/acc"])
    assert facts["interval"][0] < facts["accuracy"] < facts["interval"][1]
    assert facts["accuracy"] == pytest.approx(scores["test/acc"], abs=0.1)
    assert f"| before `quantize=int8` | {scores['test/acc']:.4f} |" in (folder / "README.md").read_text()
    assert facts["checked"]["difference"] > facts["before"]["difference"]
    assert all(file.stat().st_mode & 0o777 == 0o644 for file in folder.iterdir())
    assert "['" in use(folder, TEXTS, ("attnlab", "torch"))


@pytest.mark.parametrize(
    "form", ["safetensors", *(pytest.param(form, marks=pytest.mark.slow) for form in ("onnx", "torch"))]
)
def test_several_texts_at_once(form: str, bag: Path, write: Callable[..., Path]) -> None:
    folder = write(bag, f"format={form}")
    assert_answers(use(folder), bag, EXAMPLE)
    assert_answers(use(folder, TEXTS), bag, TEXTS)


@pytest.mark.slow
def test_weights_of_other_models_are_used_with_attnlab(write: Callable[..., Path], tmp_path: Path) -> None:
    run = trained(tmp_path, "model=transformer", "model.num_heads=2", "pe=alibi")
    folder = write(run, "format=safetensors")
    assert "these lines require attnlab" in (folder / "README.md").read_text()
    assert_answers(use(folder, TEXTS, without=()), run, TEXTS)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_several_labels(form: str, write: Callable[..., Path], tmp_path: Path) -> None:
    run = trained(tmp_path, "model=bag", "task=multi_label", "data.topics=all")
    folder = write(run, f"format={form}")
    assert_answers(use(folder, TEXTS), run, TEXTS)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_pairs(form: str, write: Callable[..., Path], tmp_path: Path) -> None:
    rows = [f"the {a} plays,a {a} is {b},{'yes' if a == b else 'no'}" for a in "abcdef" for b in "abcdef"]
    (tmp_path / "pairs.csv").write_text("\n".join(["text,other,label", *rows * 3]) + "\n")
    data = ["data=files", f"data.train={tmp_path}/pairs.csv", "data.test=0.2", "data.text_pair=other"]
    run = trained(tmp_path, *data, "model.num_heads=2")
    folder = write(run, f"format={form}")
    assert re.search(r"Trained on pairs\.csv \(\d+ documents\)\.", (folder / "README.md").read_text())
    pairs = [("the a plays", "a a is b"), ("b", "c")]
    without = () if form == "safetensors" else ("attnlab",)
    assert_answers(use(folder, pairs, without), run, pairs)


def test_it_is_said_how_a_text_was_assembled_and_that_is_how(write: Callable[..., Path], tmp_path: Path) -> None:
    rows = [f"{word}{n},{word}s again,{word}" for word in ("oil", "team") for n in range(20)]
    (tmp_path / "two.csv").write_text("\n".join(["title,body,label", *rows]) + "\n")
    data = ["data=files", f"data.train={tmp_path}/two.csv", "data.test=0.2", "data.text=[title,body]", "data.join=''"]
    run = trained(tmp_path, *data, "model=bag")
    folder = write(run, "format=safetensors")
    config = json.loads((folder / "config.json").read_text())
    readme = (folder / "README.md").read_text(encoding="utf-8")
    (way,) = re.findall(r"`(config\[.*?\(filter\(.*?)`", readme)
    assert "`['title', 'body']`" in readme
    text = eval(way, {"config": config, "columns": ["oil1", "moons"]})
    text_format = Predictor.load(run).text_format
    assert text_format is not None
    assert [text] == text_format.documents([{"title": "oil1", "body": "moons"}]) == ["oil1moons"]
    assert_answers(use(folder, [text]), run, [text])


def test_a_bare_checkpoint_is_checked_on_random_tokens_which_is_said(
    bag: Path, write: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    alone = tmp_path / "alone.ckpt"
    alone.write_bytes((bag / "checkpoints" / "best.ckpt").read_bytes())
    with pytest.raises(UserError, match=r"quantize=int8 is measured on test documents: give some with data="):
        write(alone, "quantize=int8")
    folder = write(alone, "format=safetensors")
    assert (
        "alone.ckpt is not in the folder of a run, so the exported model is checked on documents of random"
        in caplog.text
    )
    assert json.loads((folder / "config.json").read_text())["accuracy"] is None
    assert "Checked at the export on 64 documents of random tokens" in (folder / "README.md").read_text()


def test_data_that_has_moved_is_said_or_given(
    write: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = "text,label\n" + "oil falls,a\nthe league wins,b\n" * 20
    (tmp_path / "all.csv").write_text(rows)
    files = ["data=files", f"data.train={tmp_path}/all.csv", "data.test=0.2"]
    run = trained(tmp_path, "model=bag", *files)
    (tmp_path / "all.csv").rename(tmp_path / "moved.csv")
    folder = write(run, "format=safetensors")
    assert "the run's test documents can't be read (" in caplog.text
    assert str(tmp_path) not in (folder / "README.md").read_text() + (folder / "config.json").read_text()
    given = ["data=files", f"data.test={tmp_path}/moved.csv", f"output={tmp_path}/second"]
    write(run, "format=safetensors", *given)
    assert "40 test documents of moved.csv" in (tmp_path / "second" / "README.md").read_text()


def test_other_answers_are_refused_and_leave_nothing(
    bag: Path, write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = FORMATS["safetensors"].open

    def almost(path: Path, answers: formats.Answers) -> formats.Answer:
        opened = right(path, answers)
        return lambda *inputs: opened(*inputs) + 2e-4

    for wrong, difference in (
        (almost, "0.0002"),
        (lambda *_: lambda ids, _: torch.full((len(ids), 4), torch.nan), "nan"),
    ):
        monkeypatch.setitem(FORMATS, "safetensors", replace(FORMATS["safetensors"], open=wrong))
        with pytest.raises(UserError, match=f"a probability differs by {difference}, and 0.0001 is allowed"):
            write(bag, "format=safetensors")
        assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".export-*"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["format=tf"], "format=tf should be 'onnx', 'torch' or 'safetensors'"),
        (["format=torch", "quantize=int8"], "quantize=int8 is only for format=onnx"),
        (["quantize=int4"], "quantize=int4 should be 'int8'"),
        (["hub=me"], "hub=me should be <user>/<name>"),
        (["output={full}"], "output=.*full exists already: give another folder, or remove it"),
        (["output=/proc/none/out"], "output=/proc/none/out can't be written"),
        (["ckpt_path={hostile}"], "is not a checkpoint"),
        (["ckpt_path=nowhere"], "neither a checkpoint nor a run's folder"),
    ],
)
def test_a_mistake_is_one_line(
    overrides: list[str], message: str, bag: Path, write: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    hostile = {"state_dict": {}, "hyper_parameters": {"model": {"_target_": "os.system"}}}
    torch.save(hostile, tmp_path / "hostile.ckpt")
    files = {"full": tmp_path / "full", "hostile": tmp_path / "hostile.ckpt"}
    with pytest.raises(UserError, match=message) as caught:
        write(bag, "format=safetensors", *(override.format(**files) for override in overrides))
    assert "\n" not in str(caught.value) and not list((tmp_path / "full").iterdir())


def test_a_package_that_is_not_installed_is_named_with_its_extra(
    bag: Path, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda name: None if name == "onnxruntime" else name)
    with pytest.raises(
        UserError,
        match=r"model.onnx requires onnxruntime: .venv/bin/pip install -c constraints.txt -e \"\.\[export\]\"",
    ):
        write(bag, "format=onnx")


def test_a_card_is_written_and_pushed(bag: Path, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    pushed: dict[str, Any] = {}

    def upload(self: object, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
        del self, commit_message
        pushed[repo_id] = {file.name for file in folder_path.iterdir()}

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", lambda _self, name, **_: f"https://hub/{name}")
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload)
    folder = write(bag, "format=safetensors", "hub=me/topics")
    assert pushed == {"me/topics": {"README.md", "config.json", "model.safetensors", "tokenizer.json"}}
    _, front, readme = (folder / "README.md").read_text().split("---\n", 2)
    card = yaml.safe_load(front)
    accuracy = json.loads((bag / "metrics.json").read_text())["test/acc"]
    assert card["pipeline_tag"] == "text-classification"
    assert card["model-index"][0]["results"][0]["metrics"][0]["value"] == pytest.approx(accuracy)
    assert "# me/topics" in readme and f"| test/acc | {accuracy:.4f} |" in readme
    assert all(f"\n## {part}\n" in readme for part in ("Use", "Data", "Scores", "Calibration", "Limits"))


def test_without_network_the_card_is_there_and_the_push_one_line(
    bag: Path, write: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"hub=me/topics: not pushed: .* hf upload me/topics .*out$") as caught:
        write(bag, "format=safetensors", "hub=me/topics")
    assert "\n" not in str(caught.value)
    assert "# me/topics" in (tmp_path / "out" / "README.md").read_text()
