"""`src/demo.py`: a page on this machine that shows the answers of trained models for a text that one types."""

import json
import logging
import os
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from annotated_types import Ge, Interval, Len
from omegaconf import DictConfig
from pydantic import TypeAdapter

from attnlab.config import resolve
from attnlab.data.corpus import BETWEEN_TEXTS
from attnlab.data.tokens import Documents
from attnlab.errors import UserError, needs_extra, relative_to_cwd
from attnlab.inference.explaining import draw_attention, explain
from attnlab.inference.predictor import Predictor, is_text
from attnlab.reports.page import render
from attnlab.reports.run_page import headline_of_folder
from attnlab.runs import find_checkpoint
from attnlab.training.attribution import attends
from attnlab.training.predictions import TEXTS
from attnlab.validation import validate_values

if TYPE_CHECKING:
    import gradio as gr
    from starlette.types import ASGIApp, Receive, Scope, Send

HOST = "127.0.0.1"
LIMIT = 500_000  # characters in a request
CLASSES = 10  # on the page, the most probable ones
ANSWERS = ("label", "predicted")  # columns of mistakes.csv, besides `TEXTS`
PREVIEW = 100  # characters of a document in the table of mistakes
# The browser reads the file and puts its text into the box: nothing is uploaded, so no request can name a path here.
OPEN_FILE = """current => new Promise(resolve => {
  const input = Object.assign(document.createElement("input"), {type: "file", accept: ".txt,.md,text/*"});
  input.oncancel = () => resolve(current);
  input.onchange = async () => {
    const file = input.files[0];
    let text = current, refused = "";
    if (file.size > BYTES) refused = `has ${file.size.toLocaleString("en")} bytes: LIMIT characters are the most`;
    else {
      try { text = new TextDecoder("utf-8", {fatal: true}).decode(await file.arrayBuffer()); }
      catch { refused = "is not text in UTF-8"; }
    }
    if (refused) alert(`${file.name} ${refused}. src/predict.py input=... takes large files and tables`);
    resolve(text);
  };
  input.click();
})""".replace("BYTES", str(4 * LIMIT)).replace("LIMIT", f"{LIMIT:,}")
SETTINGS: dict[str, Any] = {
    "ckpt_path": str | Annotated[list[str], Len(1)],
    "port": Annotated[int, Interval(ge=1, le=65535)],
    "share": bool,
    "threads": Annotated[int, Ge(1)] | None,
}


@dataclass(frozen=True)
class Model:
    """A model on the page.

    Attributes:
        name: its path, as the user gave it.
        mistakes: rows of its text or two texts, the label and the predicted one.
        title: see `attnlab.reports.run_page.headline`.
        accuracy: on the test documents, "" if unknown.
    """

    name: str
    predictor: Predictor
    mistakes: list[list[str]] = field(default_factory=list)
    title: str = ""
    accuracy: str = ""


def serve(cfg: DictConfig) -> None:
    """Serve a page with the models of `cfg.ckpt_path` on http://127.0.0.1:<cfg.port> until Ctrl-C."""
    config = resolve(cfg)
    validate_values(config, SETTINGS)
    paths = config["ckpt_path"] if isinstance(config["ckpt_path"], list) else [config["ckpt_path"]]
    share = config["share"]
    page = build([_load(path, config["threads"], with_documents=not share) for path in paths])
    logging.getLogger("httpx").setLevel(logging.WARNING)  # gradio sends requests to itself at the start
    # A proxy could not reach this machine's own address.
    os.environ["no_proxy"] = f"{HOST},{getproxies().get('no', '')}"
    hosts = {HOST, "localhost", "::1"}

    @asynccontextmanager
    async def guarded(app: Any) -> AsyncIterator[None]:
        """Run at the start of the app, before the first request."""
        # Outside of gradio's own middleware, one of which allows any origin.
        app.middleware_stack = OwnHosts(app.middleware_stack, hosts)
        yield

    try:
        _, url, public = page.launch(
            server_name=HOST,
            server_port=config["port"],
            share=share,
            app_kwargs={"lifespan": guarded},
            max_threads=1,  # one request after another, each with all cores
            max_file_size=1,  # a byte: the page has no uploads
            prevent_thread_lock=True,
            quiet=True,
            show_error=True,
            footer_links=[],
            run_history=False,
            css=render("demo_style.html"),
        )
    except OSError as error:
        raise UserError(f"port={config['port']} is in use or can't be opened: give another") from error
    if share and not public:
        raise UserError(
            "share=true: gradio has made no public link, which requires a network and a program that it downloads"
        )
    if public:
        hosts.add(str(urlsplit(public).hostname))
    print(f"The page is on {public or url} until Ctrl-C", flush=True)
    Event().wait()


def _load(path: str, threads: int | None, with_documents: bool) -> Model:
    """`with_documents`: with the mistakes, which a public page must not show."""
    checkpoint = find_checkpoint(Path(path))
    folder, name = checkpoint.parent.parent, str(relative_to_cwd(Path(path)))
    predictor = Predictor.load(checkpoint, threads)
    mistakes = _mistakes(folder / "mistakes.csv", predictor.pairs) if with_documents else []
    title, accuracy = headline_of_folder(folder)
    return Model(name, predictor, mistakes, title or name, accuracy)


def _mistakes(file: Path, pairs: bool) -> list[list[str]]:
    """The texts and `ANSWERS` in the rows of mistakes.csv, if it exists."""
    import pandas as pd

    if not file.is_file():
        return []
    columns = [*TEXTS[: 1 + pairs], *ANSWERS]
    try:  # not the `csv` module, which refuses fields of more than 131,072 characters
        rows = pd.read_csv(file, dtype=str, keep_default_na=False, usecols=columns)
    except ValueError as error:
        raise UserError(
            f"can't read the columns {', '.join(columns)} of {relative_to_cwd(file)}: remove the file"
        ) from error
    return rows[columns].values.tolist()


class OwnHosts:
    """Middleware that answers only requests to one of `hosts`, and none from the page of another site.

    A site can give its own name the address 127.0.0.1 (DNS rebinding), and a browser then lets its page read the
    answers. But the browser still sends the requested name (Host) and the site of the page (Origin).
    """

    def __init__(self, app: "ASGIApp", hosts: Collection[str]) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        from starlette.datastructures import Headers
        from starlette.responses import PlainTextResponse

        if scope["type"] in ("http", "websocket"):
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            addresses = [f"//{headers.get('host', '')}", *([] if origin is None else [origin])]
            if not all(_host(address) in self.hosts for address in addresses):
                await PlainTextResponse("This page answers only requests of its own machine", 403)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _host(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:  # not an address
        return None


def build(models: Sequence[Model]) -> "gr.Blocks":
    """The page, with the HTTP interface `predict`: from a list of documents to a list of answers for each model."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # set before the import, which sends analytics
    with needs_extra("demo", "the page"):
        import gradio as gr
    pairs = models[0].predictor.pairs
    if any(model.predictor.pairs != pairs for model in models):
        kind = "pairs of" if pairs else "single"
        raise UserError(f"ckpt_path: {models[0].name} was trained on {kind} texts and others were not: show them apart")

    def predict(documents: list[Any]) -> dict[str, Any]:
        try:
            found = _checked(documents, pairs)
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from error
        return {model.name: _answers(model.predictor, found) for model in models}

    def show(*texts: str) -> list[Any]:
        try:
            documents = _checked([texts if pairs else texts[0]], pairs)
            if not is_text(documents[0]):
                raise UserError("Both texts are needed" if pairs else "There is no text")
            return [value for model in models for value in _results(model.predictor, documents)]
        except UserError as error:
            gr.Warning(str(error))
            return [None] * len(outputs)

    title = " / ".join(model.title for model in models)
    with gr.Blocks(title=f"{title}: attnlab", fill_width=len(models) > 1) as page:
        if len(models) == 1:
            gr.HTML(_html(model=models[0]))
        boxes = [gr.Textbox(label=label, lines=1, max_lines=12) for label in ("Text", "Second text")[: 1 + pairs]]
        with gr.Row():
            button = gr.Button("Classify", variant="primary")
            names = ("Open a file as text", "Open a file as second text") if pairs else ("Open a text file",)
            openers = [gr.Button(name) for name in names]
        with gr.Row():
            columns = [_column(model, headed=len(models) > 1) for model in models]
        hidden: Any = {"api_visibility": "private"}
        outputs = [part for parts, _ in columns for part in parts]
        gr.on([button.click, *(box.submit for box in boxes)], show, boxes, outputs, **hidden)
        for opener, box in zip(openers, boxes, strict=True):
            opened = opener.click(None, box, box, js=OPEN_FILE)
            if not pairs:
                opened.then(show, boxes, outputs, **hidden)
        for model, (_, table) in zip(models, columns, strict=True):
            table.click(_chooser(model), table, boxes, **hidden).then(show, boxes, outputs, **hidden)
            if model.mistakes:
                page.load(partial(_previews, model), None, table, **hidden)
        gr.events.api(predict, queue=False)
    return page


def _chooser(model: Model) -> Callable[[int], list[str] | str]:
    """The function that puts a mistake into the text boxes, whole, as the table has only its beginning."""

    def choose(mistake: int) -> list[str] | str:
        texts = model.mistakes[mistake][: -len(ANSWERS)]
        return texts if len(texts) > 1 else texts[0]  # for a single box gradio expects no list

    return choose


def _previews(model: Model) -> "gr.Dataset":
    """The table of mistakes, which is loaded later: anyone who can reach the page can read its settings."""
    import gradio as gr

    texts = [BETWEEN_TEXTS.join(mistake[: -len(ANSWERS)])[:PREVIEW] for mistake in model.mistakes]
    answers = [mistake[-len(ANSWERS) :] for mistake in model.mistakes]
    return gr.Dataset(samples=[[text, *names] for text, names in zip(texts, answers, strict=True)])


def _column(model: Model, headed: bool) -> "tuple[list[gr.Component], gr.Dataset]":
    """The components that `_results` fills, and the table of mistakes."""
    import gradio as gr

    with gr.Column(min_width=320):
        if headed:
            gr.HTML(_html(model=model))
        parts: list[gr.Component] = [gr.HTML()]
        if attends(model.predictor.trained.model):
            with gr.Accordion("Attention", open=False):
                parts.append(gr.Plot(show_label=False))
        table = gr.Dataset(
            label="Mistakes on the test documents: choose one",
            type="index",
            components=["textbox"] * (1 + len(ANSWERS)),
            headers=["text", *ANSWERS],
            samples=[],
            samples_per_page=5,
            visible=bool(model.mistakes),
        )
    return parts, table


def _results(predictor: Predictor, documents: Documents) -> list[Any]:
    """The classes and the marked words for one document, and the attention if the model has any."""
    (answer,), (explanation,) = _answers(predictor, documents), explain(predictor, documents)
    ranked = sorted(answer["probabilities"].items(), key=lambda item: -item[1])[:CLASSES]
    html = _html(
        answer=answer["label"] if predictor.multi_label else [answer["label"]],
        multi_label=predictor.multi_label,
        classes=[(name, share, _percent(share)) for name, share in ranked],
        pieces=[(text, score or 0.0) for text, score in explanation.marks()],
        label=explanation.label,
        unread=explanation.unread,
    )
    return [html, *([] if explanation.attention is None else [draw_attention(explanation)])]


def _html(**values: Any) -> str:
    """Render the page's template; "{" and "$" are escaped, which gradio would take for its own templates."""
    html = render("demo.html", **{"model": None, **values})
    return html.replace("{", "&#123;").replace("$", "&#36;")


def _percent(share: float) -> str:
    """A probability in percent, but never 100 % or 0 %, of which no model can be certain."""
    return "> 99.9 %" if share > 0.999 else "< 0.1 %" if share < 0.001 else f"{100 * share:.1f} %"


def _answers(predictor: Predictor, documents: Documents) -> list[dict[str, Any]]:
    """For each document its `label`, a name, a list of names or None, and its `probabilities` by class."""
    predictions = predictor(documents)
    return [
        {"label": label, "probabilities": dict(zip(predictor.label_names, row, strict=True))}
        for label, row in zip(predictions.labels, predictions.probabilities.tolist(), strict=True)
    ]


def _checked(documents: Any, pairs: bool) -> Documents:
    """The documents of a request for a predictor. Raises `UserError` if they are too long or no texts."""
    given = json.dumps(documents, ensure_ascii=False)
    if len(given) > LIMIT:
        raise UserError(f"a request of {len(given):,} characters is too long: {LIMIT:,} are allowed")
    try:
        adapter: TypeAdapter[Documents] = TypeAdapter(list[tuple[str, str]] if pairs else list[str])
        return adapter.validate_json(given)
    except ValueError as error:  # also for half of a surrogate pair
        raise UserError(f"documents should be a list of {'lists of two strings' if pairs else 'strings'}") from error
