"""What goes wrong while a run trains: one clear line, and nothing corrupt left behind."""

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from attnlab.data.batching import TokenDataset
from attnlab.errors import UserError
from attnlab.models.classifier import TextClassifier
from attnlab.training.evaluate import evaluate
from attnlab.training.failures import OutOfMemory
from attnlab.training.train import train
from tests.conftest import ROOT, output_of

Compose = Callable[..., DictConfig]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_last_checkpoint(
    bad: float, tiny_config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = TextClassifier.forward
    steps = 0

    def diverge(self: TextClassifier, *batch: Any) -> torch.Tensor:
        nonlocal steps
        steps += self.training and len(batch[0]) > 4  # the check before training is a smaller batch
        return forward(self, *batch) * (bad if steps > 8 else 1.0)

    monkeypatch.setattr(TextClassifier, "forward", diverge)
    message = r"the training loss is (nan|inf) at step 9, with a learning rate of 0\.\d+; the last good .* Try a tenth"
    with pytest.raises(UserError, match=message):
        train(tiny_config(f"paths.run_dir={tmp_path}"))
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 6 and all(value.isfinite().all() for value in last["state_dict"].values())


def test_out_of_memory_says_with_what_batch_size_and_can_halve_it(
    tiny_config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make = TokenDataset.__getitem__

    def too_much(self: TokenDataset, indices: list[int]) -> Any:
        if len(indices) > 10:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
        return make(self, indices)

    monkeypatch.setattr(TokenDataset, "__getitem__", too_much)
    monkeypatch.setattr("attnlab.data.datamodule.EVAL_BATCH_FACTOR", 1)
    with pytest.raises(OutOfMemory, match=r"out of memory with data\.batch_size=32; give a smaller one.*halve_batch"):
        train(tiny_config())
    assert train(tiny_config("halve_batch_on_oom=true", f"paths.run_dir={tmp_path}/run"))["test/acc"] >= 0
    assert "starting again with data.batch_size=8" in caplog.text
    assert "batch_size: 8" in (tmp_path / "run" / "config.yaml").read_text()


def test_a_batch_that_the_machine_cannot_hold_is_out_of_memory(tiny_config: Compose, tmp_path: Path) -> None:
    """The allocator's own error, under a limit on the process's memory."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (20 * 2**30, 20 * 2**30))
        with pytest.raises(OutOfMemory, match=r"out of memory with data\.batch_size=32"):
            train(tiny_config("model.embed_dim=100000", "model.num_heads=1", f"paths.run_dir={tmp_path}"))

    process = multiprocessing.get_context("fork").Process(target=limited)
    process.start()
    process.join(100)
    assert process.exitcode == 0


def test_a_worker_that_dies_is_named(tiny_config: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    make, parent = TokenDataset.__getitem__, os.getpid()

    def die(self: TokenDataset, indices: list[int]) -> Any:
        if os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return make(self, indices)

    monkeypatch.setattr(TokenDataset, "__getitem__", die)
    with pytest.raises(UserError, match=r"a process that builds batches died .* data\.num_workers=0 does without"):
        train(tiny_config("data.num_workers=1"))


TOKENISE = """
import sys
from pathlib import Path
import attnlab.data.tokens as tokens
from attnlab.data.tokenization import BPE
fill = tokens._fill
def counted(*arguments):
    with open(sys.argv[2], "a") as file:
        file.write("filled\\n")
    fill(*arguments)
tokens._fill = counted
texts = {"train": [f"word {i} and more" for i in range(3000)]}
tokenizer, splits = tokens.tokenize(texts, BPE(vocab_size=200), Path(sys.argv[1]))
print(len(splits["train"].ids), tokenizer.get_vocab_size())
"""


def test_eight_processes_on_a_cold_cache_tokenise_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TOKENISE, str(tmp_path / "cache"), str(tmp_path / "filled")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(8)]
    outputs = [output_of(process, 100)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 8 and len(set(outputs)) == 1
    assert (tmp_path / "filled").read_text() == "filled\n"


def test_a_cache_that_was_killed_half_way_is_written_again(tmp_path: Path) -> None:
    cache, filled = tmp_path / "cache", tmp_path / "filled"
    slow = TOKENISE.replace("    fill(*arguments)", "    import time; fill(*arguments)").replace(
        "fill = tokens._fill", "import numpy, os\nnumpy.save = lambda *_: os.kill(os.getpid(), 9)\nfill = tokens._fill"
    )
    killed = subprocess.run([sys.executable, "-c", slow, str(cache), str(filled)], check=False)
    assert killed.returncode == -signal.SIGKILL and list(cache.glob("*.partial"))
    again = [sys.executable, "-c", TOKENISE, str(cache), str(filled)]
    assert subprocess.run(again, check=True, capture_output=True, text=True).stdout.split()[1] == "200"
    assert filled.read_text() == "filled\n" * 2 and not list(cache.glob("*.partial"))


def test_a_full_disk_leaves_no_half_of_a_cache(tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk."""
    limited = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))\n" + TOKENISE
    command = [sys.executable, "-c", limited, str(tmp_path), str(tmp_path / "filled")]
    failed = subprocess.run(command, check=False, capture_output=True, text=True)
    assert "UserError: can't write the cache" in failed.stderr and "paths.cache_dir=<folder>" in failed.stderr
    assert [path.suffix for path in tmp_path.iterdir() if path.name != "filled"] in ([".lock"], [])


@pytest.mark.slow
def test_a_read_only_data_folder_is_enough(tmp_path: Path) -> None:
    """Mounted read-only in a name space of its own, as permissions do not hold root back."""
    source, mounted = tmp_path / "source", tmp_path / "mounted"
    source.mkdir()
    mounted.mkdir()
    rows = "".join(f"{word} number {i},{word}\n" for i in range(20) for word in ("red", "blue"))
    for split in ("train", "test"):
        (source / f"{split}.csv").write_text(f"text,label\n{rows}")
    files = [f"data.{split}={mounted}/{split}.csv" for split in ("train", "test")]
    command = f"mount --bind -o ro {source} {mounted} && exec {sys.executable} {ROOT}/src/train.py data=files "
    command += " ".join([*files, "model=bag", "trainer=cpu", "trainer.max_epochs=1"])
    result = subprocess.run(
        ["unshare", "-m", "sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    if "unshare" in result.stderr or "mount:" in result.stderr:
        pytest.skip("no name spaces of mounts here")
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_a_run_that_cannot_reach_wandb_says_what_to_do(
    tiny_config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody answers at the address."""
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "5")
    monkeypatch.delenv("WANDB_MODE")
    with pytest.raises(UserError, match=r"W&B: .*; logger\.wandb\.mode=offline keeps the run .* `wandb sync`"):
        train(tiny_config("logger=wandb", f"paths.run_dir={tmp_path}"))
    assert (
        train(tiny_config("logger=wandb", "logger.wandb.mode=offline", f"paths.run_dir={tmp_path}/b"))["test/acc"] >= 0
    )
    assert list(tmp_path.glob("b/wandb/*run-*/run-*.wandb"))


def test_what_differs_from_training_is_said(
    tiny_config: Compose, compose_config: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    train(tiny_config(f"paths.run_dir={run}"))
    file = run / "environment.json"
    assert '"threads": 1' in file.read_text() and '"torch"' in file.read_text() and '"commit"' in file.read_text()
    evaluate(compose_config("trainer=cpu", f"ckpt_path={run}", name="evaluate"))
    assert "Different from training" not in caplog.text
    file.write_text(file.read_text().replace('"threads": 1', '"threads": 7'))
    evaluate(compose_config("trainer=cpu", f"ckpt_path={run}", name="evaluate"))
    assert "Different from training, which may change scores: threads 7, now 1" in caplog.text
