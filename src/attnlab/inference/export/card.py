"""README.md beside an exported model, which on the Hub of Hugging Face is its card; and the way there."""

import json
import re
from pathlib import Path
from typing import Any

from torch import nn

from attnlab.errors import as_user_error
from attnlab.models.classifier import TextClassifier
from attnlab.paths import shown
from attnlab.reports.page import render
from attnlab.training.headline import name_of
from attnlab.training.saved import data_of_run


def write_readme(folder: Path, facts: dict[str, Any], model: nn.Module, checkpoint: Path, title: str) -> None:
    """README.md out of what config.json says, `facts`, and of what is known of the checkpoint's run."""
    run, data = checkpoint.parent.parent, data_of_run(checkpoint)
    metrics = json.loads((run / "metrics.json").read_text()) if data and (run / "metrics.json").is_file() else {}
    facts = facts | {
        "title": title,
        "data": name_of(data) if data else None,
        "documents": int(metrics["train/documents"]) if "train/documents" in metrics else None,
        "metrics": {name: value for name, value in metrics.items() if name.startswith("test/")},
        "losses": {name: value for name, value in metrics.items() if name.startswith("data/test_")},
        "mean": facts["format"] == "safetensors" and facts["task"] is None and _is_mean(model),
    }
    readme = f"---\n{_front_matter(facts)}\n---\n\n{render('inference/export/readme.md', **facts)}"
    (folder / "README.md").write_text(re.sub(r"\n{3,}", "\n\n", readme).rstrip() + "\n", encoding="utf-8")


def _is_mean(model: nn.Module) -> bool:
    """Whether the model is no more than the mean of its tokens' vectors and the head."""
    weights = {"embedding.weight", "head.weight", "head.bias"}
    return isinstance(model, TextClassifier) and model.is_plain_mean and set(model.state_dict()) == weights


def _front_matter(facts: dict[str, Any]) -> str:
    """The card's data as YAML, which the Hub lists a model by."""
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
    """Send the folder to the repository `name`, a new and public one where there is none; returns its address.

    Raises:
        UserError: it can't be sent.
    """
    from huggingface_hub import HfApi

    advice = (
        f"; the folder {shown(folder)} is whole, and with network and token (hf auth login) this sends it: "
        f"hf upload {name} {shown(folder)}"
    )
    with as_user_error(f"hub={name}: not pushed", advice):
        address = HfApi().create_repo(name, exist_ok=True)
        HfApi().upload_folder(repo_id=name, folder_path=folder, commit_message="Export of attnlab")
        return str(address)
