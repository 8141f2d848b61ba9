"""`src/predict.py`: answers for a text or for the rows of a file."""

import os
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from annotated_types import Ge
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from attnlab.config import resolve
from attnlab.data.readers import Form, Row
from attnlab.data.text_format import Quoting, TextFormat
from attnlab.data.tokens import Documents
from attnlab.errors import UserError, relative_to_cwd
from attnlab.inference.explaining import SPOKE_FOR, show_explanation, with_words
from attnlab.inference.predictor import Predictions, Predictor
from attnlab.inference.tables import STREAM, Output, Part, Writer, read_parts
from attnlab.run_dirs import make_run_dir
from attnlab.runs import find_checkpoint
from attnlab.validation import validate_values

SETTINGS: dict[str, Any] = {
    "ckpt_path": str,
    "text": str | None,
    "text_pair": str | None,
    "input": str | None,
    "output": str | None,
    "format": Output | None,
    "data.text_pair": str | int | None,
    "data.join": str | None,
    "data.format": Form | None,
    "data.header": bool | None,
    "data.delimiter": str | None,
    "data.encoding": str | None,
    "data.quoting": Quoting,
    "data.field": str | None,
    "text_column": str | int | list[str | int] | None,
    "top_k": Annotated[int, Ge(1)] | Literal["all"],
    "explain": bool,
    "threads": Annotated[int, Ge(1)] | None,
}


def predict(cfg: DictConfig) -> None:
    """Answer `cfg.text`, or every row of `cfg.input`, with the results in `cfg.output`."""
    # "???" may be a text, but for OmegaConf it is a missing value.
    question_marks = {key: "???" for key in ("text", "text_pair") if OmegaConf.is_missing(cfg, key)}
    cfg = cfg.copy()
    cfg.update(dict.fromkeys(question_marks))
    config = resolve(cfg) | question_marks
    validate_values(config, SETTINGS)
    if (config["text"] is None) == (config["input"] is None):
        raise UserError('give either text="..." or input=<file>, or input=- for standard input')
    checkpoint = find_checkpoint(Path(config["ckpt_path"]))
    predictor = Predictor.load(checkpoint, config["threads"])
    if predictor.at_once > 1:  # each block of rows has a thread already
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if config["text"] is not None:
        if predictor.pairs != (config["text_pair"] is not None):
            raise UserError(
                "the model was trained on pairs of texts: give text_pair too"
                if predictor.pairs
                else "the model was trained on single texts: leave out text_pair"
            )
        document = config["text"] if not predictor.pairs else (config["text"], config["text_pair"])
        _show(predictor, document)
        if config["explain"]:
            show_explanation(predictor, document, make_run_dir(config))
        return
    output = config["output"] or str(make_run_dir(config) / "predictions.csv")
    try:
        _answer_rows(predictor, config, output)
    except BrokenPipeError:  # as in `| head`
        # Python would raise it once more when it closes standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show(predictor: Predictor, document: str | tuple[str, str]) -> None:
    documents: Any = [document]
    predictions = predictor(documents)
    if predictions.labels[0] is None:
        raise UserError("the text is empty")
    answers = predictions.labels[0] if isinstance(predictions.labels[0], list) else [predictions.labels[0]]
    table = Table("class", "probability", "answer")
    table.columns[1].justify = "right"
    for number in np.argsort(-predictions.probabilities[0], kind="stable")[:20]:
        name = predictor.label_names[number]
        table.add_row(name, f"{predictions.probabilities[0, number]:.4f}", "*" if name in answers else "")
    Console().print(table)


def _answer_rows(predictor: Predictor, config: Mapping[str, Any], output: str) -> None:
    top_k, answers = config["top_k"], _added(predictor, config["top_k"])
    console, empty, name = Console(stderr=True), 0, config["input"]
    given = {key: value for key, value in config["data"].items() if value is not None}
    given |= {} if config["text_column"] is None else {"text": config["text_column"]}
    text_format = _text_format(predictor, given)
    # Parts that were read and not yet answered: `stream` reads ahead, and answers come in the order of the parts.
    read: deque[tuple[Part, Documents]] = deque()

    def documents() -> Iterator[Documents]:
        for part in read_parts(name, text_format, given):
            if predictor.pairs and part.text_format.text_pair is None:
                raise UserError(
                    f"input={name} has one text on each line, and the model was trained on pairs of texts: give a "
                    "table with both"
                )
            try:
                read.append((part, part.text_format.documents(part.rows)))
            except UserError as error:
                raise UserError(f"input={name}: {error}") from error
            yield read[-1][1]

    added = answers | ({SPOKE_FOR: str} if config["explain"] else {})
    together = predictor.label_names if predictor.multi_label else ()
    with Writer(output, config["format"], added, together) as writer, _progress(console) as progress:
        bar = progress.add_task("", total=None, rows=0, speed=0.0)
        for predictions in predictor.stream(documents()):
            part, texts = read.popleft()
            empty += sum(label is None for label in predictions.labels)
            if taken := next((column for row in part.rows for column in added if column in row), None):
                raise UserError(f"input={name} has a column {taken} already; rename it, as the answers need this name")
            rows = _with_answers(part.rows, predictor, predictions, top_k, list(answers))
            writer.write(with_words(rows, predictor, texts, predictions) if config["explain"] else rows, part.schema)
            speed = writer.rows / (progress.tasks[bar].elapsed or 1)
            total = None if part.share is None else 1.0
            progress.update(bar, total=total, completed=part.share or 0, rows=writer.rows, speed=speed)
    if not writer.rows:
        raise UserError(f"input={name} has no rows")
    if empty:
        console.print(f"{empty:,} of {writer.rows:,} rows have no text and get no answer", highlight=False)
    if output != STREAM:
        written = f"{writer.rows:,} rows are in {relative_to_cwd(Path(output))}"
        console.print(written, soft_wrap=True, highlight=False, markup=False)


def _text_format(predictor: Predictor, given: Mapping[str, Any]) -> TextFormat:
    """The text format of training with the settings that are `given`; differences are reported."""
    if changes := predictor.text_format.changes(given):
        print(f"Texts are assembled differently than in training: {changes}", file=sys.stderr)
    return predictor.text_format.changed(given)


def _progress(console: Console) -> Progress:
    counted = TextColumn("{task.fields[rows]:,} rows, {task.fields[speed]:,.0f} a second")
    columns = SpinnerColumn(), BarColumn(), TaskProgressColumn(), counted, TimeRemainingColumn()
    return Progress(*columns, console=console, disable=not console.is_terminal)


def _added(predictor: Predictor, top_k: int | str) -> dict[str, type]:
    """The types of the columns of answers: a label, the `top_k` most probable ones, or all probabilities."""
    few = "any number of them a document" if predictor.multi_label else len(predictor.label_names)
    if isinstance(top_k, int) and top_k > (1 if predictor.multi_label else len(predictor.label_names)):
        raise UserError(f"top_k={top_k}: the model knows {few}; top_k=all gives each class a column")
    if predictor.multi_label or top_k == "all":
        predicted = list if predictor.multi_label else str
        return {"predicted": predicted, **{f"p({label})": float for label in predictor.label_names}}
    if top_k == 1:
        return {"predicted": str, "probability": float}
    places = range(1, int(top_k) + 1)
    return {name: kind for k in places for name, kind in ((f"predicted_{k}", str), (f"probability_{k}", float))}


def _with_answers(
    rows: list[Row], predictor: Predictor, predictions: Predictions, top_k: int | str, added: list[str]
) -> list[Row]:
    """The rows with the columns `added`, see `_added`, which are None for an empty text."""
    probabilities = predictions.probabilities
    columns: list[Any] = [predictions.labels]
    if predictor.multi_label or top_k == "all":
        columns += map(_exact, probabilities.T)
    elif top_k == 1:
        columns.append(_exact(predictor.trained.task.confidence(torch.from_numpy(probabilities)).numpy()))
    else:
        order, names = np.argsort(-probabilities, axis=1, kind="stable"), np.array(predictor.label_names, dtype=object)
        of_places = [(names[numbers].tolist(), probabilities[range(len(rows)), numbers]) for numbers in order.T[:top_k]]
        columns = [column for labels, values in of_places for column in (labels, _exact(values))]
    nothing = dict.fromkeys(added)
    return [
        row | (nothing if label is None else dict(zip(added, answer, strict=True)))
        for row, label, answer in zip(rows, predictions.labels, zip(*columns, strict=True), strict=True)
    ]


def _exact(values: npt.NDArray[np.float32]) -> list[float]:
    """The numbers with the digits of single precision, without those that a conversion to double would add."""
    return values.astype(str).astype(float).tolist()
