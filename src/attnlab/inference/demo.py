"""What `src/demo.py` does: a page on this machine where one types a text and sees what trained models make of it."""

import csv
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated, Any
from urllib.request import getproxies

from annotated_types import Ge, Interval, Len
from omegaconf import DictConfig
from pydantic import TypeAdapter

from attnlab.checking import check_config
from attnlab.config import resolve
from attnlab.data.sources.corpus import BETWEEN_TEXTS
from attnlab.data.tokens import Documents
from attnlab.errors import UserError, needs_extra
from attnlab.inference.explaining import draw_attention, explain
from attnlab.inference.predictor import Predictor, is_text
from attnlab.paths import shown
from attnlab.training.attribution import attends
from attnlab.training.saved import find_checkpoint

if TYPE_CHECKING:
    import gradio as gr

HOST = "127.0.0.1"
LIMIT = 100_000  # characters in one request
CLASSES = 10  # that are shown, the most probable ones
COLUMNS = ["text", "label", "predicted"]  # of mistakes.csv
SETTINGS: dict[str, Any] = {
    "ckpt_path": str | Annotated[list[str], Len(1)],
    "port": Annotated[int, Interval(ge=1, le=65535)],
    "share": bool,
    "threads": Annotated[int, Ge(1)] | None,
}


@dataclass(frozen=True)
class Model:
    """A model on the page: what it is called there, and its mistakes, each with its `COLUMNS`."""

    name: str
    predictor: Predictor
    mistakes: list[list[str]]


def serve(cfg: DictConfig) -> None:
    """Show the models of `cfg.ckpt_path` on http://127.0.0.1:<cfg.port> until Ctrl-C.

    Raises:
        UserError: a checkpoint can't be used, or the page can't be shown.
    """
    config = resolve(cfg)
    check_config(config, SETTINGS)
    paths = config["ckpt_path"] if isinstance(config["ckpt_path"], list) else [config["ckpt_path"]]
    page = build([_load(path, config["threads"]) for path in paths])
    logging.getLogger("httpx").setLevel(logging.WARNING)  # gradio asks itself whether it is there
    os.environ["no_proxy"] = f"{HOST},{getproxies().get('no', '')}"
    try:
        _, url, public = page.launch(
            server_name=HOST,
            server_port=config["port"],
            share=config["share"],
            max_threads=1,  # one request after another, with all cores
            max_file_size=1,  # nothing is uploaded
            prevent_thread_lock=True,
            quiet=True,
            show_error=True,
            footer_links=[],
            run_history=False,
        )
    except OSError as error:
        raise UserError(f"port={config['port']} can't be opened, or is in use: give another") from error
    if config["share"] and not public:
        raise UserError("share=true: there is no public link, which takes a network and a program that gradio loads")
    print(f"The page is on {public or url} until Ctrl-C", flush=True)
    Event().wait()


def _load(path: str, threads: int | None) -> Model:
    checkpoint = find_checkpoint(Path(path))
    mistakes = _mistakes(checkpoint.parent.parent / "mistakes.csv")
    return Model(str(shown(Path(path))), Predictor.load(checkpoint, threads), mistakes)


def _mistakes(file: Path) -> list[list[str]]:
    """The `COLUMNS` of its rows; none where there is no such file. Raises `UserError` for one of another kind."""
    if not file.is_file():
        return []
    try:
        with file.open(encoding="utf-8", newline="") as rows:
            return [[row[name] for name in COLUMNS] for row in csv.DictReader(rows)]
    except (KeyError, ValueError, csv.Error) as error:
        raise UserError(f"{shown(file)} has no {', '.join(COLUMNS)} that can be read: remove it") from error


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

    def choose(mistake: list[str]) -> Any:
        return mistake[0].partition(BETWEEN_TEXTS)[::2] if pairs else mistake[0]

    with gr.Blocks(title="attnlab", fill_width=len(models) > 1) as page:
        boxes = [gr.Textbox(label=label, lines=1, max_lines=12) for label in ("Text", "Second text")[: 1 + pairs]]
        button = gr.Button("Classify", variant="primary")
        with gr.Row():
            columns = [_column(model) for model in models]
        hidden: Any = {"api_visibility": "private"}
        outputs = [part for parts, _ in columns for part in parts]
        gr.on([button.click, *(box.submit for box in boxes)], show, boxes, outputs, **hidden)
        for _, table in columns:
            table.click(choose, table, boxes, **hidden).then(show, boxes, outputs, **hidden)
        gr.events.api(predict, queue=False)
    return page


def _column(model: Model) -> "tuple[list[gr.Component], gr.Dataset]":
    """What `_results` fills, and the table of mistakes."""
    import gradio as gr

    with gr.Column(min_width=320):
        gr.Markdown(f"**{model.name}**")
        several = model.predictor.several
        parts: list[gr.Component] = [
            gr.Label(label="Probability", num_top_classes=CLASSES, show_heading=not several),
            gr.HighlightedText(label="What speaks for it", show_legend=True),
        ]
        if attends(model.predictor.trained.model):
            parts.append(gr.Plot(show_label=False))
        table = gr.Dataset(
            label="Mistakes on the test documents: choose one",
            components=["textbox"] * len(COLUMNS),
            headers=COLUMNS,
            samples=model.mistakes,
            samples_per_page=5,
            visible=bool(model.mistakes),
        )
    return parts, table


def _results(predictor: Predictor, documents: Documents) -> list[Any]:
    """Of one document the probabilities, the marked words and, of a model that has any, the attention."""
    import gradio as gr

    (answer,), (explanation,) = _answers(predictor, documents), explain(predictor, documents)
    probabilities = answer["probabilities"]
    if predictor.several:
        probabilities = {f"{name} *" if name in answer["label"] else name: p for name, p in probabilities.items()}
    part = ", in the part that the model reads" if explanation.unread else ""
    words = gr.HighlightedText(
        [*explanation.marks()],
        label=f"What speaks for {explanation.label} (+1) and against it (-1){part}",
    )
    return [probabilities, words, *([] if explanation.attention is None else [draw_attention(explanation)])]


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
