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
import pandas as pd
import pytest
import requests
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from attnlab.data.text_format import TextFormat
from attnlab.errors import UserError
from attnlab.inference import Explanation, Predictor
from attnlab.inference.demo import LIMIT, Model, OwnHosts, build, serve
from attnlab.inference.explaining import MAPS, draw_attention
from attnlab.training.train import train
from tests.conftest import ROOT, TINY, output_of, train_in

Compose = Callable[..., DictConfig]

TEXT = "Oil prices ${7*7} fall {{7*7}} as the <b>team</b> wins 😀"
LONG = f"a long one{' of more words' * 10_000}, with an end"
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
        train_in(folder, model, "trainer.max_epochs=1", name=name)
    rows = "".join(f'"the {number}. mistake, {LONG}",World,Sports\n' for number in range(7))
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
        _, errors = output_of(process, 60)
    assert process.returncode == -signal.SIGINT and errors == "interrupted\n"


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
    assert megabyte.status_code == 500 and f"is too long: {LIMIT:,} are allowed" in megabyte.json()["error"]
    for wrong in ("oil", [1], [["a", "b"]], {"a": "b"}, ["\ud83d"]):
        assert ask(url, wrong).json()["error"] == "documents should be a list of strings"
    assert ask(url, [TEXT]).ok


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "127.0.0.1:7860"}, 200),
        ({"Host": "localhost", "Origin": "http://localhost:7860"}, 200),
        ({"Host": "[::1]:7860"}, 200),
        ({"Host": "evil.example:7860"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "evil.example", "Origin": "http://127.0.0.1"}, 403),
        ({"Host": "127.0.0.1:7860", "Origin": "https://evil.example"}, 403),
        ({"Host": "127.0.0.1:7860", "Origin": "null"}, 403),
        ({"Host": "[127.0.0.1"}, 403),
    ],
)
def test_other_hosts_and_sites_are_refused(headers: dict[str, str], status: int) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse("here")(scope, receive, send)

    client = TestClient(OwnHosts(app, {"127.0.0.1", "localhost", "::1"}))
    assert client.get("/config", headers=headers).status_code == status


@pytest.mark.slow
def test_a_site_that_calls_itself_this_machine_gets_nothing(url: str) -> None:
    """By DNS rebinding, or from its own page in the same browser."""
    evil = {"Origin": "http://evil.example"}
    for headers in (evil, evil | {"Host": "evil.example"}, {"Host": "evil.example"}):
        for request in (
            requests.get(f"{url}/config", headers=headers, timeout=60),
            requests.post(f"{url}/gradio_api/run/predict", json={"data": [[TEXT]]}, headers=headers, timeout=60),
            requests.options(
                f"{url}/gradio_api/run/predict", headers=headers | {"Access-Control-Request-Method": "POST"}, timeout=60
            ),
        ):
            assert request.status_code == 403
            assert not any(name.lower().startswith("access-control") for name in request.headers)
    assert "mistake, a long" not in requests.get(f"{url}/config", timeout=60).text


@pytest.mark.slow
def test_nothing_is_uploaded_or_read_by_its_path(url: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker.txt"
    marker.write_text("the planted secret")
    assert requests.get(f"{url}/gradio_api/file={marker}", timeout=60).status_code == 403
    with marker.open("rb") as content:
        assert requests.post(f"{url}/gradio_api/upload", files={"files": content}, timeout=60).status_code == 413


@pytest.mark.slow
def test_a_request_that_names_a_file_does_not_read_it(runs: list[Path], tmp_path: Path) -> None:
    """Gradio takes a dictionary of this form for a file that was uploaded, wherever it lies (its issue 11162)."""
    from gradio.routes import App

    marker = tmp_path / "marker.txt"
    marker.write_text("the planted secret")
    file = {"path": str(marker), "meta": {"_type": "gradio.FileData"}, "orig_name": "marker.txt"}
    page = build([Model("bag", Predictor.load(runs[1]))])
    page.has_launched = True  # as `launch` does: before it gradio checks no path
    client = TestClient(App.create_app(page), raise_server_exceptions=False)
    bodies: list[dict[str, Any]] = [{"data": [[file]]}, {"data": [file]}]
    for call in page.fns.values():  # those of the page have no name, but a number
        data = [file] * max(1, len(call.inputs))
        bodies.append({"data": data, "fn_index": call._id, "session_hash": "marker"})
    assert len(bodies) > 3
    for body in bodies:
        answer = client.post("/gradio_api/run/predict", json=body)
        assert "planted" not in answer.text
        assert "fn_index" in body or answer.status_code == 500
    assert not list(Path(page.GRADIO_CACHE).rglob("marker.txt"))


@pytest.mark.slow
def test_a_port_in_use_is_one_line(url: str, runs: list[Path], compose_config: Compose) -> None:
    port = url.rpartition(":")[2]
    with pytest.raises(UserError, match=f"port={port} is in use or can't be opened: give another"):
        serve(compose_config(f"ckpt_path={runs[1]}", f"port={port}", name="demo"))


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser(width: int, url: str, browser: Any) -> None:
    """By keyboard alone, on a phone and on a desk."""
    page = browser.new_page(viewport={"width": width, "height": 844})
    said, asked, refused = [], [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    page.get_by_label("Text").wait_for()
    page.keyboard.press("Tab")
    page.keyboard.type(TEXT)
    page.keyboard.press("Enter")
    page.locator(".answer").last.wait_for(timeout=60_000)
    page.get_by_text("Attention", exact=True).click()
    page.locator(".plot-container img, [data-testid=matplotlib] img").wait_for(timeout=60_000)
    answers = page.locator(".answer h2").all_inner_texts()
    assert len(answers) == 2 and set(answers) <= {"World", "Sports", "Business", "Sci/Tech"}
    assert page.locator(".answer .text").all_inner_texts() == [TEXT] * 2
    for answer in answers:
        assert page.get_by_text(f"spoke for {answer}").count()
    assert "TextClassifier" in page.title() and page.get_by_text("on 60 test documents").count() == 2
    assert page.get_by_text("the 4. mistake").count() and not page.get_by_text("the 5. mistake").count()
    page.get_by_text("the 4. mistake").click()
    page.wait_for_function(f"document.querySelector('textarea').value === {json.dumps(f'the 4. mistake, {LONG}')}")
    page.get_by_text("characters were not read").first.wait_for(timeout=60_000)
    page.on("dialog", lambda dialog: refused.append(dialog.message))
    page.on("dialog", lambda dialog: dialog.accept())
    text = f"{TEXT}\n"
    files = {"file.txt": text.encode(), "none.txt": b"\xff\xfe", "long.txt": b"a " * LIMIT * 3}
    for number, (name, content) in enumerate(files.items()):
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="Open a text file").click()
        chooser.value.set_files([{"name": name, "mimeType": "text/plain", "buffer": content}])
        page.wait_for_function(f"document.querySelector('textarea').value === {json.dumps(text)}")
        page.wait_for_timeout(500)
        assert len(refused) == number
    assert (
        len(refused) == 2 and "none.txt is not text in UTF-8" in refused[0] and "long.txt has 3,000,000" in refused[1]
    )
    page.get_by_label("Text").fill(" ")
    page.keyboard.press("Enter")
    page.get_by_text("There is no text").wait_for()
    page.locator(".answer").last.wait_for(state="detached")
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
    (html,) = call(Model("several", predictor), "show", TEXT)
    classes = re.findall(r"<span>([^<]*)</span><span>", html)
    answered = {name.removesuffix(" *") for name in classes if name.endswith(" *")}
    assert answered == set(predictor([TEXT]).labels[0]) and len(classes) == 4


@pytest.mark.slow
def test_a_pair_has_two_boxes(runs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("a,b,label\n" + "".join(f"oil {n},team,{n % 2}\n" for n in range(60)))
    data = ["data=files", f"data.train={tmp_path}/pairs.csv", "data.test=0.3", "data.text=a", "data.text_pair=b"]
    tiny = [setting for setting in TINY if not setting.startswith(("data.", "tokenizer."))]
    with initialize_config_dir(str(ROOT / "conf")):
        paths = [f"paths.log_dir={tmp_path}/logs", f"paths.run_dir={tmp_path}/run"]
        train(compose("train", overrides=[*tiny, *data, "model=bag", *paths]))
    wrong = pd.read_csv(tmp_path / "run" / "mistakes.csv")
    assert set(wrong["text"]) <= {f"oil {n}" for n in range(60)} and set(wrong["text_pair"]) == {"team"}
    pairs = Model("pairs", Predictor.load(tmp_path / "run"), [["oil || gas", "a team", "0", "1"]])
    (html,) = call(pairs, "show", "oil 1", "team " * 500)
    assert set(re.findall(r"<span>([^<]*)</span><span>", html)) == {"0", "1"} and "characters were not read" in html
    assert call(pairs, "choose", 0) == ["oil || gas", "a team"]
    with pytest.warns(UserWarning, match="Both texts are needed"):
        assert call(pairs, "show", "oil 1", "") == [None]
    with pytest.raises(UserError, match="pairs was trained on pairs of texts and others were not"):
        build([pairs, Model("bag", Predictor.load(runs[1]))])


def test_a_page_says_how_several_columns_were_a_text(runs: list[Path]) -> None:
    predictor = Predictor.load(runs[1])
    assert "Trained on" not in str(build([Model("bag", predictor)]).get_config_file())
    predictor.text_format = TextFormat(text=("title", "body"), join="")
    assert "Trained on text from title + body, joined by" in str(build([Model("bag", predictor)]).get_config_file())


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"text,label\nteam,World\n", b"text,label,predicted\n\xff,World,Sports\n"])
def test_mistakes_that_cannot_be_read_are_one_line(
    content: bytes, runs: list[Path], compose_config: Compose, tmp_path: Path
) -> None:
    shutil.copytree(runs[1], tmp_path / "run")
    (tmp_path / "run" / "mistakes.csv").write_bytes(content)
    with pytest.raises(
        UserError, match=r"can't read the columns text, label, predicted of .*mistakes.csv: remove the file"
    ):
        serve(compose_config(f"ckpt_path={tmp_path}/run", name="demo"))


@pytest.mark.slow
def test_no_model_is_said_to_be_sure(runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = Predictor.load(runs[1])
    monkeypatch.setattr(predictor.trained.task, "temperature", 1e-6)
    (html,) = call(Model("sure", predictor), "show", TEXT)
    assert html.count("&gt; 99.9 %") == 1 and html.count("&lt; 0.1 %") == 3


def test_a_mistake_is_one_line(compose_config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"state_dict": {}, "hyper_parameters": {"model": {"_target_": "os.system"}}}, tmp_path / "x.ckpt")
    for overrides, message in {
        (): "ckpt_path is needed",
        ("ckpt_path=[]",): r"ckpt_path=\[\] should be",
        ("ckpt_path=none",): "ckpt_path=none is neither a checkpoint nor a run's folder",
        (f"ckpt_path=[{tmp_path}/x.ckpt]",): "x.ckpt is not a checkpoint",
        ("ckpt_path=a", "port=0"): "port=0 should be greater than or equal to 1",
        ("ckpt_path=a", "share=maybe"): "share=maybe should be a valid boolean",
    }.items():
        with pytest.raises(UserError, match=message) as caught:
            serve(compose_config(*overrides, name="demo"))
        assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(
        UserError, match=r"requires an optional extra: .venv/bin/pip install -c constraints.txt -e \"\.\[demo\]"
    ):
        build([])


@pytest.mark.parametrize(("layers", "heads", "size"), [(1, 1, 3), (2, 3, 60), (1, 100, 2)])
def test_attention_is_a_map_a_head(layers: int, heads: int, size: int) -> None:
    attention = np.random.default_rng(0).random((layers, heads, size, size), dtype=np.float32)
    tokens = [f"${number}" for number in range(size)]
    scores = np.zeros(size, dtype=np.float32)
    figure = draw_attention(Explanation("World", "", tokens, [(0, 0)] * size, [None] * size, scores, 0.0, 0, attention))
    drawn = [axes for axes in figure.axes if axes.images]
    assert len(drawn) == min(layers * heads, MAPS) and drawn[-1].get_title().endswith(f"of {heads}")
    assert np.array_equal(
        np.asarray(drawn[-1].images[0].get_array()), attention.reshape(-1, size, size)[len(drawn) - 1]
    )
    names = [text.get_text() for text in drawn[0].texts]
    assert names == ([token for token in tokens for _ in "xy"] if size < 40 else [])
    figure.canvas.draw()
