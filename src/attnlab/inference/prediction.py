"""What `src/predict.py` does: answers for a text or for the rows of a file."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from annotated_types import Ge
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn
from rich.table import Table

from attnlab.checking import check_config
from attnlab.config import resolve
from attnlab.data.forms import Form, Format
from attnlab.data.tokens import Documents
from attnlab.errors import UserError
from attnlab.inference.predictor import Predictions, Predictor
from attnlab.inference.tables import STREAM, Writer, read_parts
from attnlab.paths import make_run_dir, shown
from attnlab.training.saved import data_of_run, find_checkpoint

if TYPE_CHECKING:
    import pandas as pd

FORM = ("header", "delimiter", "encoding", "quoting")  # of the data that a run was trained on
BETWEEN = ";"  # several labels of a document
SETTINGS: dict[str, Any] = {
    "ckpt_path": str,
    "text": str | None,
    "text_pair": str | None,
    "input": str | None,
    "output": str | None,
    "format": Format | None,
    "text_column": str | list[str] | None,
    "top_k": Annotated[int, Ge(1)],
    "threads": Annotated[int, Ge(1)] | None,
}


def predict(cfg: DictConfig) -> None:
    """Answer `cfg.text`, or every row of `cfg.input` into `cfg.output`.

    Raises:
        UserError: the checkpoint or the input can't be used.
    """
    config = resolve(cfg)
    check_config(config, SETTINGS)
    if (config["text"] is None) == (config["input"] is None):
        raise UserError('give either text="..." or input=<file>, or input=- for standard input')
    checkpoint = find_checkpoint(Path(config["ckpt_path"]))
    predictor = Predictor.load(checkpoint, config["threads"])
    if config["text"] is not None:
        if predictor.pairs != (config["text_pair"] is not None):
            raise UserError(
                "this model is of pairs of texts: give text_pair too"
                if predictor.pairs
                else "this model is of single texts: leave out text_pair"
            )
        _show(predictor, config["text"] if not predictor.pairs else (config["text"], config["text_pair"]))
        return
    output = config["output"] or str(make_run_dir(config) / "predictions.csv")
    _answer_rows(predictor, config, data_of_run(checkpoint) or {}, output)


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


def _answer_rows(predictor: Predictor, config: Mapping[str, Any], data: Mapping[str, Any], output: str) -> None:
    form = Form(config["format"], **{key: data[key] for key in FORM if key in data})
    texts = config["text_column"] or data.get("text", "text")
    columns = [str(column) for column in (texts if isinstance(texts, list) else [texts])]
    pair = str(data.get("text_pair", "text_pair")) if predictor.pairs else None
    empty = 0
    console = Console(stderr=True)
    counted = TextColumn("{task.completed:,.0f} rows, {task.fields[speed]:,.0f} a second")
    with (
        Writer(output, form) as writer,
        Progress(SpinnerColumn(), counted, console=console, disable=not console.is_terminal) as progress,
    ):
        bar = progress.add_task("", total=None, speed=0.0)
        for part in read_parts(config["input"], form):
            if part.empty:
                continue
            predictions = predictor(_documents(part, columns, pair, data.get("join", " "), config["input"]))
            empty += sum(label is None for label in predictions.labels)
            writer.write(_with_answers(part, predictor, predictions, config["top_k"], config["input"]))
            progress.update(bar, advance=len(part), speed=progress.tasks[bar].speed or 0.0)
    if not writer.rows:
        raise UserError(f"input={config['input']} has no rows")
    if empty:
        console.print(f"{empty:,} of {writer.rows:,} rows have no text, and no answer", highlight=False)
    if output != STREAM:
        written = f"{writer.rows:,} rows are in {shown(Path(output))}"
        console.print(written, soft_wrap=True, highlight=False, markup=False)


def _documents(part: "pd.DataFrame", columns: list[str], pair: str | None, join: str, name: str) -> Documents:
    for column in [*columns, *([pair] if pair else [])]:
        if column not in part.columns:
            raise UserError(
                f"input={name} has no column {column}; it has {', '.join(part.columns)}: name the one with the texts "
                "by text_column="
            )
    parts = [part[column].fillna("").astype(str) for column in columns]
    texts = [join.join(filter(None, row)) for row in zip(*parts, strict=True)]
    return list(zip(texts, part[pair].fillna("").astype(str), strict=True)) if pair else texts


def _with_answers(
    part: "pd.DataFrame", predictor: Predictor, predictions: Predictions, top_k: int, name: str
) -> "pd.DataFrame":
    """The rows with the answer and its probability, the `top_k` most probable classes, or all of several classes."""
    probabilities = predictions.probabilities
    added: dict[str, Any] = {}
    if predictor.several:
        added["predicted"] = [BETWEEN.join(label or []) for label in predictions.labels]
        added |= {f"p({label})": column for label, column in zip(predictor.label_names, probabilities.T, strict=True)}
    elif top_k == 1:
        added = {"predicted": [label or "" for label in predictions.labels], "probability": probabilities.max(axis=1)}
    else:
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
        names = np.array(predictor.label_names, dtype=object)
        for place, numbers in enumerate(order.T, start=1):
            answered = np.where(np.isnan(probabilities[:, 0]), "", names[numbers])
            added |= {f"predicted_{place}": answered, f"probability_{place}": probabilities[range(len(part)), numbers]}
    if taken := [column for column in added if column in part.columns]:
        raise UserError(f"input={name} has a column {taken[0]} already; rename it")
    return part.assign(**added)
