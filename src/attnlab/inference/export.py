"""`src/export.py`: a folder with the model and everything that using it requires without attnlab."""

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from omegaconf import DictConfig
from tokenizers import Tokenizer
from torch import nn

from attnlab.config import resolve
from attnlab.data.tokenization import max_length, pad_id
from attnlab.errors import UserError, as_user_error, first_line, relative_to_cwd
from attnlab.inference.formats import FORMATS, Answers, Comparison, Documents, compare, find_documents, quantize
from attnlab.models.classifier import TextClassifier
from attnlab.models.pretrained import PretrainedClassifier
from attnlab.process import use_threads
from attnlab.reports.page import render
from attnlab.reports.run_page import data_name
from attnlab.run_dirs import make_run_dir
from attnlab.runs import RunFolder, find_checkpoint
from attnlab.tasks import MultiLabel
from attnlab.training.saved import Trained, load_weights
from attnlab.validation import validate_values

log = logging.getLogger(__name__)

ALLOWED = 1e-4  # the largest difference of a probability from that of the trained model
SETTINGS: dict[str, Any] = {
    "ckpt_path": str,
    "format": Literal["onnx", "torch", "safetensors"],
    "quantize": Literal["int8"] | None,
    "output": str | None,
    "hub": str | None,
}


def export(cfg: DictConfig) -> None:
    """Write the checkpoint `cfg.ckpt_path` in the format `cfg.format` as a folder, and push it to `cfg.hub`.

    Raises:
        UserError: the checkpoint can't be exported, its export gives other answers, the folder exists already, or it
            can't be pushed, in which case it is written.
    """
    config = resolve(cfg)
    validate_values(config, SETTINGS)
    FORMATS[config["format"]].check()
    if config["quantize"] and config["format"] != "onnx":
        raise UserError(f"quantize={config['quantize']} is only for format=onnx")
    if config["hub"] and not re.fullmatch(r"[\w.-]+/[\w.-]+", config["hub"]):
        raise UserError(f"hub={config['hub']} should be <user>/<name>")
    checkpoint = find_checkpoint(Path(config["ckpt_path"]))
    trained = load_weights(checkpoint, Trained).eval()
    # Low-rank changes are merged into the weights, so that the export does not require peft.
    if isinstance(trained.model, PretrainedClassifier):
        trained.model.merge()
        trained.settings["train"] = "all"
    use_threads(None, trained.model)
    output = Path(config["output"] or make_run_dir(config) / "model")
    with written_whole(output) as folder:
        documents = find_documents(config, checkpoint, trained)
        if config["quantize"] and not documents.labelled:
            raise UserError(f"quantize={config['quantize']} is measured on test documents: give some with data=...")
        facts = _write_model(folder, trained, documents, config)
        (folder / "config.json").write_text(json.dumps(facts, indent=2) + "\n")
        _write_tokenizer(folder / "tokenizer.json", trained.tokenizer)
        for file in folder.iterdir():
            file.chmod(0o644)  # safetensors makes its file readable only by the owner
        write_readme(folder, facts, trained.model, checkpoint, config["hub"] or output.name)
    log.info("The export is in %s; its README.md says how to use it", relative_to_cwd(output))
    if config["hub"]:
        log.info("Pushed to %s", push(output, config["hub"]))


@contextmanager
def written_whole(output: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `output` at the end; if filling it fails, nothing is written."""
    if output.exists():
        raise UserError(f"output={output} exists already: give another folder, or remove it")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        # In the same parent, as a rename is atomic only within one file system.
        with TemporaryDirectory(prefix=".export-", dir=output.parent) as parent:
            folder = Path(parent, output.name)
            folder.mkdir()
            yield folder
            folder.rename(output)
    except OSError as error:
        raise UserError(f"output={output} can't be written: {error.strerror or first_line(error)}") from error


def _write_model(folder: Path, trained: Trained, documents: Documents, config: dict[str, Any]) -> dict[str, Any]:
    """Write the model's file, check it, and return the content of config.json."""
    form = FORMATS[config["format"]]
    answers = Answers(trained.model, trained.task, max_length(trained.tokenizer))
    file = folder / form.file
    form.write(answers, file)
    found = compare(answers, form.open(file, answers), documents, trained.task)
    if not found.difference <= ALLOWED:  # also true of NaN
        raise UserError(
            f"format={config['format']} gives other answers than the trained model: on {documents.name} a probability "
            f"differs by {found.difference:.1g}, and {ALLOWED:g} is allowed; nothing was written"
        )
    log.info("On %s no probability differs by more than %.1g", documents.name, found.difference)
    facts = _describe(trained, config) | {
        "file": form.file,
        "checked": {"documents": documents.name, "difference": found.difference, "allowed": ALLOWED},
        "before": None,
        **_score(file, found),
    }
    log.info("%s: %s", form.file, _summary(facts))
    if config["quantize"]:
        quantize(file)
        found = compare(answers, form.open(file, answers), documents, trained.task)
        before = {name: facts[name] for name in ("bytes", "accuracy", "interval")}
        before |= {"changed": found.changed, "difference": facts["checked"]["difference"]}
        facts |= {"before": before, "checked": facts["checked"] | {"difference": found.difference}}
        facts |= _score(file, found)
        log.info("quantize=%s: %s; %s answers changed", config["quantize"], _summary(facts), f"{found.changed:,}")
    return facts


def _describe(trained: Trained, config: dict[str, Any]) -> dict[str, Any]:
    """Everything that using the model requires."""
    task = trained.task
    return {
        "format": config["format"],
        "quantize": config["quantize"],
        "labels": task.label_names,
        "thresholds": task.thresholds.tolist() if isinstance(task, MultiLabel) else None,
        "temperature": task.temperature,
        "max_length": max_length(trained.tokenizer),
        "pad_id": pad_id(trained.tokenizer),
        "pairs": trained.pairs,
        "text_format": trained.text_format.plain(),
        "model": trained.settings if config["format"] == "safetensors" else None,
        "task": None if task.is_standard else trained.task_settings,
        "versions": {name: version(name) for name in ("attnlab", "torch", "tokenizers")},
    }


def _score(file: Path, found: Comparison) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "accuracy": found.accuracy, "interval": found.interval}


def _summary(facts: dict[str, Any]) -> str:
    size = f"{facts['bytes']:,} bytes"
    if facts["accuracy"] is None:
        return size
    return f"{size}, accuracy {facts['accuracy']:.4f} ({facts['interval'][0]:.4f} to {facts['interval'][1]:.4f})"


def _write_tokenizer(file: Path, tokenizer: Tokenizer) -> None:
    """Write the tokenizer with padding of the texts of a call to the longest of them."""
    # A copy, as padding would change what the trained model reads.
    padding = Tokenizer.from_str(tokenizer.to_str())
    number = pad_id(tokenizer)
    padding.enable_padding(pad_id=number, pad_token=tokenizer.id_to_token(number))
    padding.save(str(file))


def write_readme(folder: Path, facts: dict[str, Any], model: nn.Module, checkpoint: Path, title: str) -> None:
    """Write README.md from the content of config.json, `facts`, and from the run of the checkpoint."""
    run = RunFolder.of_checkpoint(checkpoint)
    data = run.config.get("data")
    metrics = run.metrics if data else {}
    facts = facts | {
        "title": title,
        "data": data_name(data) if data else None,
        "documents": int(metrics["train/documents"]) if "train/documents" in metrics else None,
        "metrics": {name: value for name, value in metrics.items() if name.startswith("test/")},
        "losses": {name: value for name, value in metrics.items() if name.startswith("data/test_")},
        "mean": facts["format"] == "safetensors" and facts["task"] is None and _is_mean(model),
    }
    # Conditions in the template leave several empty lines.
    readme = f"---\n{_front_matter(facts)}\n---\n\n{render('model_card.md', **facts)}"
    (folder / "README.md").write_text(re.sub(r"\n{3,}", "\n\n", readme).rstrip() + "\n", encoding="utf-8")


def _is_mean(model: nn.Module) -> bool:
    """Whether the model is only the mean of its tokens' vectors and the head."""
    weights = {"embedding.weight", "head.weight", "head.bias"}
    return isinstance(model, TextClassifier) and model.is_plain_mean and set(model.state_dict()) == weights


def _front_matter(facts: dict[str, Any]) -> str:
    """The metadata of a model card as YAML, by which the Hub lists a model."""
    from huggingface_hub import EvalResult, ModelCardData

    scored = EvalResult(
        task_type="text-classification",
        dataset_type=facts["data"] or "unknown",
        dataset_name=facts["data"] or "unknown",
        dataset_split="test",
        metric_type="accuracy",
        metric_value=facts["accuracy"],
    )
    card = ModelCardData(
        model_name=facts["title"],
        pipeline_tag="text-classification",
        tags=["attnlab", facts["format"]],
        eval_results=[scored] if facts["accuracy"] is not None else None,
    )
    return card.to_yaml().strip()


def push(folder: Path, name: str) -> str:
    """Upload the folder to the repository `name`, which is created as a public one if needed; returns its address."""
    from huggingface_hub import HfApi

    advice = (
        f"; the folder {relative_to_cwd(folder)} is complete: with network and token (hf auth login) upload it with "
        f"hf upload {name} {relative_to_cwd(folder)}"
    )
    with as_user_error(f"hub={name}: not pushed", advice):
        address = HfApi().create_repo(name, exist_ok=True)
        HfApi().upload_folder(repo_id=name, folder_path=folder, commit_message="Export of attnlab")
        return str(address)
