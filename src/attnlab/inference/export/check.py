"""Whether an exported model answers as the model does, on the documents that its run was tested on."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from attnlab.config import instantiate
from attnlab.data.batching import Batch
from attnlab.data.sources import with_absolute_paths
from attnlab.data.tokenization import max_length
from attnlab.errors import UserError
from attnlab.inference.export.formats import Answer
from attnlab.metrics import interval
from attnlab.tasks import Task
from attnlab.training.headline import name_of
from attnlab.training.saved import Trained, data_of_run

log = logging.getLogger(__name__)

MADE_UP = 64  # documents, where there are none to test on


@dataclass(frozen=True)
class Documents:
    """What an exported model is checked on; `labelled`: and scored."""

    batches: Iterable[Batch]
    name: str
    labelled: bool = True


@dataclass(frozen=True)
class Comparison:
    """Of an exported model with the trained one, on the same documents.

    Attributes:
        difference: the largest one of a probability.
        changed: documents that are answered otherwise.
        accuracy: of the exported model, with Wilson's interval of 95 %; None where the documents have no labels.
    """

    difference: float
    changed: int
    accuracy: float | None = None
    interval: tuple[float, float] | None = None


@torch.inference_mode()
def compare(trained: Answer, exported: Answer, documents: Documents, task: Task) -> Comparison:
    """Ask both; a probability that is no number makes a difference that is none either."""
    number = changed = right = 0
    difference = torch.zeros(())
    for batch in documents.batches:
        expected, found = (answer(batch.input_ids, batch.attention_mask) for answer in (trained, exported))
        difference = torch.maximum(difference, (found - expected).abs().max())
        answers = task.decide(found)
        changed += int((answers != task.decide(expected)).reshape(len(answers), -1).any(dim=1).sum())
        if documents.labelled:
            right += int(task.correct(answers, batch.labels).sum())
        number += len(answers)
    if not documents.labelled:
        return Comparison(float(difference), changed)
    return Comparison(float(difference), changed, right / number, interval(right, number))


def find_documents(config: dict[str, Any], checkpoint: Path, trained: Trained) -> Documents:
    """The test documents of `config["data"]`, or of the run that the checkpoint lies in.

    Where the run's are not to be had, random tokens, which is said.

    Raises:
        UserError: `config["data"]` can't be used.
    """
    if config.get("data"):
        from attnlab.training.evaluation import as_trained  # brings Lightning

        return _test_documents(as_trained(config["data"], trained), trained, config)
    try:
        if (data := data_of_run(checkpoint)) is not None:
            return _test_documents(data, trained, config)
        reason = f"{checkpoint.name} lies in no run's folder"
    except UserError as error:
        reason = f"the run's test documents can't be read ({error})"
    log.warning(
        "%s, so the exported model is checked on documents of random tokens and not scored; data=... names others",
        reason,
    )
    return Documents(_made_up(trained), f"{MADE_UP} documents of random tokens", labelled=False)


def _test_documents(data: dict[str, Any], trained: Trained, config: dict[str, Any]) -> Documents:
    from attnlab.training.evaluation import test_data  # brings Lightning

    data = with_absolute_paths(data)
    datamodule = test_data(instantiate(data), trained, Path(config["paths"]["cache_dir"]))
    loader = datamodule.test_dataloader()
    return Documents(loader, f"{len(loader.dataset):,} test documents of {name_of(data)}")  # type: ignore[arg-type]


def _made_up(trained: Trained) -> Sequence[Batch]:
    """Documents of each length up to the longest, in two batches."""
    generator = torch.Generator().manual_seed(0)
    longest = max_length(trained.tokenizer)
    ids = torch.randint(trained.tokenizer.get_vocab_size(), (MADE_UP, longest), generator=generator)
    lengths = torch.linspace(min(2, longest), longest, MADE_UP).long()
    return [
        Batch(
            ids[rows, : lengths[rows].max()],
            torch.arange(int(lengths[rows].max())) < lengths[rows, None],
            torch.zeros(len(rows), dtype=torch.long),
            rows,
        )
        for rows in torch.arange(MADE_UP).chunk(2)
    ]
