"""What of other libraries is used although it is private: an upgrade may take it away, and this says which one did."""

import os
import re
from collections.abc import Callable
from importlib.metadata import version

import optuna
import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from tests.conftest import ROOT

USE = re.compile(r"(?<!self)(?<!cls)\.(_[a-z]\w+)\b")
OURS = {"_target_"}  # a key of configs


def _optuna_trial() -> bool:
    study = optuna.create_study()
    trial = study.ask()
    number: int = study._storage.get_trial_id_from_study_id_trial_number(study._study_id, trial.number)
    return number == trial._trial_id


def _heartbeat() -> bool:
    from optuna.storages._heartbeat import get_heartbeat_thread

    study = optuna.create_study()
    return callable(get_heartbeat_thread(study.ask()._trial_id, study._storage).start)


def _ranges() -> bool:
    from hydra_plugins.hydra_optuna_sweeper._impl import create_params_from_overrides

    found: bool = create_params_from_overrides(["x=1"]) == ({}, {"x": "1"}, [])
    return found


def _hydra_internal() -> bool:
    from hydra._internal.core_plugins.basic_launcher import BasicLauncher
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    return hasattr(BasicLauncher, "launch") and hasattr(BasicSweeper, "split_arguments")


def _job_return() -> bool:
    from hydra.core.utils import JobReturn

    return JobReturn(_return_value=1)._return_value == 1


def _checkpoint_record() -> bool:
    callback = ModelCheckpoint()
    saved = callback._last_global_step_saved == 0 and callback._last_checkpoint_saved == ""
    return saved and callable(callback._should_save_on_train_epoch_end)


def _processes() -> bool:
    from joblib.externals.loky import ProcessPoolExecutor

    with ProcessPoolExecutor(max_workers=1) as worker:
        pid: int = worker.submit(os.getpid).result()
        return list(worker._processes) == [pid]


def _attention_kind() -> bool:
    transformers = pytest.importorskip("transformers")
    return hasattr(transformers.BertConfig(), "_attn_implementation")


# Library, the names, what they are for, whether they still mean what we take them for.
PRIVATE: list[tuple[str, set[str], str, Callable[[], bool]]] = [
    (
        "optuna",
        {"_storage", "_study_id", "_trial_id"},
        "a job reports to a trial of which it knows the number",
        _optuna_trial,
    ),
    ("optuna", {"_heartbeat"}, "a trial that Optuna does not run itself shows that it lives", _heartbeat),
    ("hydra-optuna-sweeper", {"_impl"}, "ranges as the sweeper reads them", _ranges),
    (
        "hydra-core",
        {"_internal"},
        "jobs one after another in this process; the grid of a command line",
        _hydra_internal,
    ),
    ("hydra-core", {"_return_value"}, "what a job has raised, without raising it", _job_return),
    (
        "lightning",
        {"_last_global_step_saved", "_last_checkpoint_saved", "_should_save_on_train_epoch_end"},
        "last and best as one file",
        _checkpoint_record,
    ),
    ("joblib", {"_processes"}, "Ctrl-C reaches the process in which a job runs", _processes),
    ("transformers", {"_attn_implementation"}, "attention maps want the unfused kernel", _attention_kind),
]


@pytest.mark.parametrize(
    ("library", "names", "purpose", "works"), PRIVATE, ids=[" ".join(sorted(p[1])) for p in PRIVATE]
)
def test_it_is_still_there(library: str, names: set[str], purpose: str, works: Callable[[], bool]) -> None:
    assert works(), f"{library} {version(library)} has changed {', '.join(sorted(names))}: {purpose}"


def test_the_list_is_complete() -> None:
    used = {name for path in (ROOT / "src").rglob("*.py") for name in USE.findall(path.read_text(encoding="utf-8"))}
    ours = {
        name for path in (ROOT / "src").rglob("*.py") for name in re.findall(r"\bdef (_\w+)", path.read_text("utf-8"))
    }
    assert used - OURS - ours == set().union(*(names for _, names, _, _ in PRIVATE))
