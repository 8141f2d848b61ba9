"""What `src/demo.py` does: a page on this machine where one types a text and sees what trained models make of it."""

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

from attnlab.checking import check_config
from attnlab.config import resolve
from attnlab.data.corpus import BETWEEN_TEXTS
from attnlab.data.tokens import Documents
from attnlab.errors import UserError, needs_extra
from attnlab.inference.explaining import draw_attention, explain
from attnlab.inference.predictor import Predictor, is_text
from attnlab.paths import shown
from attnlab.reports.page import render
from attnlab.training import headline
from attnlab.training.attribution import attends
from attnlab.training.mistakes import TEXTS
from attnlab.training.saved import find_checkpoint

if TYPE_CHECKING:
    import gradio as gr
    from starlette.types import ASGIApp, Receive, Scope, Send

HOST = "127.0.0.1"
LIMIT = 500_000  # characters in one request
CLASSES = 10  # that are shown, the most probable ones
ANSWERS = ("label", "predicted")  # columns of mistakes.csv, beside `TEXTS`
GLIMPSE = 100  # characters of a document in the table of mistakes
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
        name: its path as it was given.
        mistakes: of each the document, which of a pair is two texts, its label and what was predicted.
        title: what it is, `attnlab.training.headline.title`.
        accuracy: on the test documents, "" where it is not known.
    """

    name: str
    predictor: Predictor
    mistakes: list[list[str]] = field(default_factory=list)
    title: str = ""
    accuracy: str = ""


def serve(cfg: DictConfig) -> None:
    """Show the models of `cfg.ckpt_path` on http://127.0.0.1:<cfg.port> until Ctrl-C.

    Raises:
        UserError: a checkpoint can't be used, or the page can't be shown.
    """
    config = resolve(cfg)
    check_config(config, SETTINGS)
    paths = config["ckpt_path"] if isinstance(config["ckpt_path"], list) else [config["ckpt_path"]]
    share = config["share"]
    page = build([_load(path, config["threads"], with_documents=not share) for path in paths])
    logging.getLogger("httpx").setLevel(logging.WARNING)  # gradio asks itself whether it is there
    os.environ["no_proxy"] = f"{HOST},{getproxies().get('no', '')}"
    hosts = {HOST, "localhost", "::1"}

    @asynccontextmanager
    async def guarded(app: Any) -> AsyncIterator[None]:
        """Around gradio's own layers, of which one allows other origins; before the first request is taken."""
        app.middleware_stack = OwnHosts(app.middleware_stack, hosts)
        yield

    try:
        _, url, public = page.launch(
            server_name=HOST,
            server_port=config["port"],
            share=share,
            app_kwargs={"lifespan": guarded},
            max_threads=1,  # one request after another, with all cores
            max_file_size=1,  # nothing is uploaded
            prevent_thread_lock=True,
            quiet=True,
            show_error=True,
            footer_links=[],
            run_history=False,
            css=render("inference/demo_style.html"),
        )
    except OSError as error:
        raise UserError(f"port={config['port']} can't be opened, or is in use: give another") from error
    if share and not public:
        raise UserError("share=true: there is no public link, which takes a network and a program that gradio loads")
    if public:
        hosts.add(str(urlsplit(public).hostname))
    print(f"The page is on {public or url} until Ctrl-C", flush=True)
    Event().wait()


def _load(path: str, threads: int | None, with_documents: bool) -> Model:
    """`with_documents`: with those that the model got wrong, which a page for everybody does not have."""
    checkpoint = find_checkpoint(Path(path))
    folder, name = checkpoint.parent.parent, str(shown(Path(path)))
    predictor = Predictor.load(checkpoint, threads)
    mistakes = _mistakes(folder / "mistakes.csv", predictor.pairs) if with_documents else []
    title, accuracy = headline.of_folder(folder)
    return Model(name, predictor, mistakes, title or name, accuracy)


def _mistakes(file: Path, pairs: bool) -> list[list[str]]:
    """The documents and `ANSWERS` of its rows, none where there is no such file. Raises `UserError` for another."""
    import pandas as pd

    if not file.is_file():
        return []
    columns = [*TEXTS[: 1 + pairs], *ANSWERS]
    try:  # Python's own reader refuses long texts
        rows = pd.read_csv(file, dtype=str, keep_default_na=False, usecols=columns)
    except ValueError as error:
        raise UserError(f"{shown(file)} has no {', '.join(columns)} that can be read: remove it") from error
    return rows[columns].values.tolist()


class OwnHosts:
    """Answers only what is asked of one of `hosts`, and not on behalf of another site's page.

    A site can give its own name the address 127.0.0.1 (DNS rebinding); a browser then takes what is answered there for
    the site's own. It still says which name was asked for (Host), and which site asks (Origin).
    """

    def __init__(self, app: "ASGIApp", hosts: Collection[str]) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        from starlette.datastructures import Headers
        from starlette.responses import PlainTextResponse

        if scope["type"] in ("http", "websocket"):
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            asked = [f"//{headers.get('host', '')}", *([] if origin is None else [origin])]
            if not all(_host(address) in self.hosts for address in asked):
                await PlainTextResponse("This page answers its own machine alone", 403)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _host(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:  # no address
        return None


def build(models: Sequence[Model]) -> "gr.Blocks":
    """The page, and its HTTP interface `predict`: a list of documents in, for each model a list of answers out.

    Raises:
        UserError: gradio is not there, or some models take single texts and others pairs.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # or it calls home when it is imported
    with needs_extra("demo", "the page"):
        import gradio as gr
    pairs = models[0].predictor.pairs
    if any(model.predictor.pairs != pairs for model in models):
        raise UserError(f"ckpt_path: {models[0].name} is of {'pairs of' if pairs else 'single'} texts and others not")

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
                page.load(partial(_glimpses, model), None, table, **hidden)
        gr.events.api(predict, queue=False)
    return page


def _chooser(model: Model) -> Callable[[int], list[str] | str]:
    """Gives the boxes a mistake as it is; the table holds only its beginning."""

    def choose(mistake: int) -> list[str] | str:
        texts = model.mistakes[mistake][: -len(ANSWERS)]
        return texts if len(texts) > 1 else texts[0]  # of one box gradio takes the value

    return choose


def _glimpses(model: Model) -> "gr.Dataset":
    """The table of mistakes; it is no part of the page, whose settings anybody who reaches it can read."""
    import gradio as gr

    texts = [BETWEEN_TEXTS.join(mistake[: -len(ANSWERS)])[:GLIMPSE] for mistake in model.mistakes]
    answers = [mistake[-len(ANSWERS) :] for mistake in model.mistakes]
    return gr.Dataset(samples=[[text, *names] for text, names in zip(texts, answers, strict=True)])


def _column(model: Model, headed: bool) -> "tuple[list[gr.Component], gr.Dataset]":
    """What `_results` fills, and the table of mistakes."""
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
    """Of one document the classes and the marked words and, of a model that has any, the attention."""
    (answer,), (explanation,) = _answers(predictor, documents), explain(predictor, documents)
    ranked = sorted(answer["probabilities"].items(), key=lambda item: -item[1])[:CLASSES]
    html = _html(
        answer=answer["label"] if predictor.several else [answer["label"]],
        several=predictor.several,
        classes=[(name, share, _percent(share)) for name, share in ranked],
        pieces=[(text, score or 0.0) for text, score in explanation.marks()],
        label=explanation.label,
        unread=explanation.unread,
    )
    return [html, *([] if explanation.attention is None else [draw_attention(explanation)])]


def _html(**values: Any) -> str:
    """Of the page's template, without what gradio would take for a template of its own."""
    html = render("inference/demo.html", **{"model": None, **values})
    return html.replace("{", "&#123;").replace("$", "&#36;")


def _percent(share: float) -> str:
    """Never 100 % or 0 %, which no model can be sure of."""
    return "> 99.9 %" if share > 0.999 else "< 0.1 %" if share < 0.001 else f"{100 * share:.1f} %"


def _answers(predictor: Predictor, documents: Documents) -> list[dict[str, Any]]:
    """For each document `label`, a name, a list of names or None of an empty text, and `probabilities` by class."""
    predictions = predictor(documents)
    return [
        {"label": label, "probabilities": dict(zip(predictor.label_names, row, strict=True))}
        for label, row in zip(predictions.labels, predictions.probabilities.tolist(), strict=True)
    ]


def _checked(documents: Any, pairs: bool) -> Documents:
    """The documents as a predictor takes them. Raises `UserError` for what are none, or too long."""
    given = json.dumps(documents, ensure_ascii=False)
    if len(given) > LIMIT:
        raise UserError(f"{len(given):,} characters are too many at once: {LIMIT:,} are the most")
    try:
        adapter: TypeAdapter[Documents] = TypeAdapter(list[tuple[str, str]] if pairs else list[str])
        return adapter.validate_json(given)
    except ValueError as error:  # half of a character, too
        raise UserError(f"documents should be a list of {'lists of two strings' if pairs else 'strings'}") from error
