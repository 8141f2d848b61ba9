"""`src/demo.py`: a page, and what it answers over HTTP and in a browser."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from attnlab.errors import UserError
from attnlab.inference import Explanation, Predictor
from attnlab.inference.demo import LIMIT, Model, build, serve
from attnlab.inference.explaining import MAPS, draw_attention
from attnlab.training.run import train
from tests.conftest import ROOT, TINY

Compose = Callable[..., DictConfig]

TEXT = "Oil prices fall as the <b>team</b> wins 😀"
# Says which hosts are asked for: Python runs a file of this name when it starts.
WATCH = """
import sys
def watch(event, arguments):
    hosts = {"socket.connect": lambda: arguments[1][0], "socket.getaddrinfo": lambda: arguments[0]}
    if event in hosts and "127.0.0.1" not in str(hosts[event]()):
        print("asked", hosts[event](), file=sys.stderr)
sys.addaudithook(watch)
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The folders of two runs, one with attention and mistakes."""
    folder = tmp_path_factory.mktemp("runs")
    for name, model in (("attention", "model.num_heads=2"), ("bag", "model=bag")):
        paths = [f"paths.log_dir={folder}/logs", f"paths.run_dir={folder}/{name}"]
        with initialize_config_dir(str(ROOT / "conf")):
            train(compose("train", overrides=[*TINY, model, "trainer.max_epochs=1", *paths]))
    rows = "".join(f'"the {number}. mistake, a long one of more words",World,Sports\n' for number in range(7))
    (folder / "attention" / "mistakes.csv").write_text("text,label,predicted\n" + rows)
    return [folder / "attention", folder / "bag"]


@contextlib.contextmanager
def started(folder: Path, *overrides: str) -> Iterator[subprocess.Popen[str]]:
    """The process of a demo, ended by Ctrl-C."""
    (folder / "sitecustomize.py").write_text(WATCH)
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "src" / "demo.py"), *overrides],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "http_proxy": "http://127.0.0.1:9"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def url(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the page of both runs is. At its end nobody else was asked for anything, and Ctrl-C said one line."""
    folder, port = tmp_path_factory.mktemp("demo"), free_port()
    with started(folder, f"ckpt_path=[{runs[0]},{runs[1]}]", f"port={port}") as process:
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        assert line == f"The page is on http://127.0.0.1:{port}/ until Ctrl-C\n", process.stderr.read()
        yield f"http://127.0.0.1:{port}"
    assert process.returncode == -signal.SIGINT and process.stderr.read() == "interrupted\n"


def ask(url: str, documents: Any) -> requests.Response:
    return requests.post(f"{url}/gradio_api/run/predict", json={"data": [documents]}, timeout=120)


@pytest.mark.slow
def test_the_documented_request_is_answered_as_by_the_predictor(url: str, runs: list[Path]) -> None:
    (command,) = re.findall(r"^curl .*", (ROOT / "docs" / "demo.md").read_text(encoding="utf-8"), re.MULTILINE)
    if shutil.which("curl") is None:
        pytest.skip("no curl")
    given = command.replace("http://127.0.0.1:7860", url)
    answered = json.loads(subprocess.run(given, shell=True, capture_output=True, check=True).stdout)["data"][0]
    texts = json.loads(command.split("-d ")[1].strip("'"))["data"][0]
    assert list(answered) == [str(run) for run in runs]
    for run in runs:
        expected = Predictor.load(run)(texts)
        assert [row["label"] for row in answered[str(run)]] == expected.labels
        found = [list(row["probabilities"].values()) for row in answered[str(run)]]
        assert np.array(found) == pytest.approx(expected.probabilities, abs=1e-6)


@pytest.mark.slow
def test_what_is_unusual_is_answered_or_refused(url: str, runs: list[Path]) -> None:
    (none, emoji), _ = ask(url, ["", "😀" * 1000]).json()["data"][0].values()
    assert none["label"] is None and set(none["probabilities"].values()) == {None}
    assert sum(emoji["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda number: ask(url, [TEXT] * number).json()["data"][0], range(1, 33)))
    assert [len(answer[str(runs[1])]) for answer in answers] == list(range(1, 33))
    megabyte = ask(url, ["oil " * 250_000])
    assert megabyte.status_code == 500 and f"too many at once: {LIMIT:,} are the most" in megabyte.json()["error"]
    for wrong in ("oil", [1], [["a", "b"]], {"a": "b"}, ["\ud83d"]):
        assert ask(url, wrong).json()["error"] == "documents should be a list of strings"
    assert ask(url, [TEXT]).ok


@pytest.mark.slow
def test_a_port_in_use_is_one_line(url: str, runs: list[Path], compose_config: Compose) -> None:
    port = url.rpartition(":")[2]
    with pytest.raises(UserError, match=f"port={port} can't be opened, or is in use: give another"):
        serve(compose_config(f"ckpt_path={runs[1]}", f"port={port}", name="demo"))


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser(width: int, url: str, browser: Any) -> None:
    """By keyboard alone, on a phone and on a desk."""
    page = browser.new_page(viewport={"width": width, "height": 844})
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    page.get_by_label("Text").wait_for()
    page.keyboard.press("Tab")
    page.keyboard.type(TEXT)
    page.keyboard.press("Enter")
    page.locator(".plot-container img, [data-testid=matplotlib] img").wait_for(timeout=60_000)
    answers = page.get_by_test_id("label-output-value").all_inner_texts()
    assert len(answers) == 2 and set(answers) <= {"World", "Sports", "Business", "Sci/Tech"}
    for answer in answers:
        assert page.get_by_text(f"What speaks for {answer} (+1) and against it (-1)").count()
    assert page.get_by_text("the 4. mistake").count() and not page.get_by_text("the 5. mistake").count()
    page.get_by_text("the 4. mistake").click()
    page.wait_for_function("document.querySelector('textarea').value.startsWith('the 4. mistake, a long one')")
    page.get_by_label("Text").fill(" ")
    page.keyboard.press("Enter")
    page.get_by_text("There is no text").wait_for()
    page.get_by_test_id("label-output-value").last.wait_for(state="detached")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert said == [] and all(address.startswith((url, "data:", "blob:")) for address in asked)


def call(model: Model, name: str, *values: Any) -> Any:
    """What the page calls."""
    function = next(call.fn for call in build([model]).fns.values() if call.name == name)
    assert function is not None
    return function(*values)


@pytest.mark.slow
def test_several_labels_have_a_star(tiny_config: Compose, tmp_path: Path) -> None:
    train(tiny_config("model=bag", "task=multi_label", "data.topics=all", f"paths.run_dir={tmp_path}/run"))
    predictor = Predictor.load(tmp_path / "run")
    probabilities, _ = call(Model("several", predictor, []), "show", TEXT)
    answered = {name.removesuffix(" *") for name in probabilities if name.endswith(" *")}
    assert answered == set(predictor([TEXT]).labels[0]) and len(probabilities) == 4


@pytest.mark.slow
def test_a_pair_has_two_boxes(runs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("a,b,label\n" + "".join(f"oil {n},team,{n % 2}\n" for n in range(60)))
    data = ["data=files", f"data.train={tmp_path}/pairs.csv", "data.test=0.3", "data.text=a", "data.text_pair=b"]
    tiny = [setting for setting in TINY if not setting.startswith(("data.", "tokenizer."))]
    with initialize_config_dir(str(ROOT / "conf")):
        paths = [f"paths.log_dir={tmp_path}/logs", f"paths.run_dir={tmp_path}/run"]
        train(compose("train", overrides=[*tiny, *data, "model=bag", *paths]))
    pairs = Model("pairs", Predictor.load(tmp_path / "run"), [["oil || a team", "0", "1"]])
    probabilities, words = call(pairs, "show", "oil 1", "team " * 500)
    assert probabilities.keys() == {"0", "1"} and "in the part that the model reads" in words.label
    assert call(pairs, "choose", pairs.mistakes[0]) == ("oil", "a team")
    with pytest.warns(UserWarning, match="Both texts are needed"):
        assert call(pairs, "show", "oil 1", "") == [None, None]
    with pytest.raises(UserError, match="pairs is of pairs of texts and others not"):
        build([pairs, Model("bag", Predictor.load(runs[1]), [])])


def test_a_mistake_is_one_line(compose_config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "best.ckpt").touch()
    (tmp_path / "run" / "mistakes.csv").write_bytes(b"text,label\n\xff,World\n")
    torch.save({"state_dict": {}, "hyper_parameters": {"model": {"_target_": "os.system"}}}, tmp_path / "x.ckpt")
    for overrides, message in {
        (): "ckpt_path is needed",
        ("ckpt_path=[]",): r"ckpt_path=\[\] should be",
        ("ckpt_path=none",): "ckpt_path=none is neither a checkpoint nor a run's folder",
        (f"ckpt_path=[{tmp_path}/x.ckpt]",): "x.ckpt is no checkpoint",
        (f"ckpt_path={tmp_path}/run",): "mistakes.csv has no text, label, predicted that can be read: remove it",
        ("ckpt_path=a", "port=0"): "port=0 should be greater than or equal to 1",
        ("ckpt_path=a", "share=maybe"): "share=maybe should be a valid boolean",
    }.items():
        with pytest.raises(UserError, match=message) as caught:
            serve(compose_config(*overrides, name="demo"))
        assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match=r"wants an extra: .venv/bin/pip install -e \"\.\[demo\]"):
        build([])


@pytest.mark.parametrize(("layers", "heads", "size"), [(1, 1, 3), (2, 3, 60), (1, 100, 2)])
def test_attention_is_a_map_a_head(layers: int, heads: int, size: int) -> None:
    attention = np.random.default_rng(0).random((layers, heads, size, size), dtype=np.float32)
    tokens = [f"${number}" for number in range(size)]
    scores = np.zeros(size, dtype=np.float32)
    figure = draw_attention(Explanation("World", "", tokens, [(0, 0)] * size, [None] * size, scores, 0.0, attention))
    drawn = [axes for axes in figure.axes if axes.images]
    assert len(drawn) == min(layers * heads, MAPS) and drawn[-1].get_title().endswith(f"of {heads}")
    assert np.array_equal(
        np.asarray(drawn[-1].images[0].get_array()), attention.reshape(-1, size, size)[len(drawn) - 1]
    )
    names = [text.get_text() for text in drawn[0].texts]
    assert names == ([token for token in tokens for _ in "xy"] if size < 40 else [])
    figure.canvas.draw()
