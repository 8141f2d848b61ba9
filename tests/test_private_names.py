"""What of other libraries is used although it is private: an upgrade may take it away, and this says which one did.

Four kinds are looked for in the code: private attributes and modules, private names as strings, private members of a
foreign base class, and attributes of foreign classes and modules that are replaced.
"""

import ast
import importlib
import inspect
import os
import re
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import optuna
import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from tests.conftest import ROOT

SRC = ROOT / "src"
USE = re.compile(r"(?<!self)(?<!cls)\.(_[a-z]\w+|externals)\b")
PRIVATE_NAME = re.compile(r"_[a-z]\w*[a-z]")
OURS = {"_target_", "_duplicates", "_documents_cut", "_uncalibrated"}  # a key of configs, ends of metrics' names
PUBLIC_PATCHES = {"sys.excepthook", "wandb.run"}  # which their libraries offer to be set


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


def _encoder_config() -> bool:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig()
    return hasattr(config, "_attn_implementation") and hasattr(config, "_name_or_path")


def _hook_name() -> bool:
    from lightning.pytorch import LightningModule

    return "_current_fx_name" in vars(LightningModule())


def _csv_logger() -> bool:
    from lightning.fabric.loggers.csv_logs import _ExperimentWriter
    from lightning.pytorch.loggers import CSVLogger

    return callable(_ExperimentWriter._check_log_dir_exists) and "_experiment" in vars(CSVLogger("x"))


def _tensorboard() -> bool:
    pytest.importorskip("tensorboard")
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger("x", purge_step=3)._kwargs["purge_step"] == 3


def _average() -> bool:
    from lightning.pytorch.callbacks import WeightAveraging

    return "_average_model" in vars(WeightAveraging())


def _description() -> bool:
    from lightning.pytorch.callbacks import RichProgressBar

    return callable(RichProgressBar._get_train_description)


def _dict_keys() -> bool:
    from hydra.core.override_parser.overrides_visitor import HydraOverrideVisitor

    return callable(HydraOverrideVisitor.visitDictKey)


def _slurm_jobs() -> bool:
    slurm = pytest.importorskip("submitit.slurm.slurm")
    return slurm.SlurmExecutor.job_class is slurm.SlurmJob


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
        {
            "_last_global_step_saved",
            "_last_checkpoint_saved",
            "_save_on_train_epoch_end",
            "_should_save_on_train_epoch_end",
        },
        "last and best as one file",
        _checkpoint_record,
    ),
    (
        "lightning",
        {"_current_fx_name"},
        "Lightning sets it 50 times a step, and torch would take it for a parameter each time",
        _hook_name,
    ),
    (
        "lightning",
        {"_experiment", "_check_log_dir_exists"},
        "curves go on in the file of the run that is resumed",
        _csv_logger,
    ),
    ("lightning", {"_kwargs"}, "TensorBoard drops the steps after the checkpoint of a resumed run", _tensorboard),
    ("lightning", {"_average_model"}, "the averaged weights are validated", _average),
    ("lightning", {"_get_train_description"}, "the progress bar counts epochs from 1", _description),
    (
        "hydra-core",
        {"HydraOverrideVisitor.visitDictKey"},
        "a number may be the key of a dict on a command line",
        _dict_keys,
    ),
    (
        "submitit",
        {"slurm.SlurmExecutor.job_class", "slurm.SlurmJob"},
        "a job that Slurm has lost is noticed",
        _slurm_jobs,
    ),
    ("joblib", {"_processes", "externals"}, "Ctrl-C reaches the process in which a job runs", _processes),
    (
        "transformers",
        {"_attn_implementation", "_name_or_path"},
        "attention maps require the unfused kernel; a saved encoder does not name the folder that it came from",
        _encoder_config,
    ),
]


@pytest.mark.parametrize(
    ("library", "names", "purpose", "works"), PRIVATE, ids=[" ".join(sorted(p[1])) for p in PRIVATE]
)
def test_it_is_still_there(library: str, names: set[str], purpose: str, works: Callable[[], bool]) -> None:
    assert works(), f"{library} {version(library)} has changed {', '.join(sorted(names))}: {purpose}"


def names_in(tree: ast.Module) -> Iterator[str]:
    """Private names that stand as strings, and attributes of what was imported that are replaced."""
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    imported = {(alias.asname or alias.name).split(".")[0] for node in imports for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and PRIVATE_NAME.fullmatch(node.value):
            yield node.value
        for target in node.targets if isinstance(node, ast.Assign) else []:
            if isinstance(target, ast.Attribute) and ast.unparse(target).split(".")[0] in imported:
                yield ast.unparse(target)


def inherited(module: str) -> Iterator[str]:
    """Private members that a class of ours uses or overrides and that a foreign base class has."""
    for kind in vars(importlib.import_module(module)).values():
        if inspect.isclass(kind) and kind.__module__ == module and kind.__mro__[1:-1]:
            used = set(re.findall(r"\b(?:self\.|def )(_[a-z]\w+)", inspect.getsource(kind)))
            for base in kind.__mro__[1:-1]:
                if base.__module__.partition(".")[0] in ("lightning", "hydra", "submitit", "gradio", "transformers"):
                    source = inspect.getsource(base)
                    yield from (name for name in used if re.search(rf"\b{name}\b", source))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__")


def test_the_list_is_complete() -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in SRC.rglob("*.py")}
    defined = {name for text in texts.values() for name in re.findall(r"\b(?:def|class) (_\w+)", text)}
    used = {name for text in texts.values() for name in USE.findall(text)}
    used |= {name for text in texts.values() for name in names_in(ast.parse(text))}
    used -= defined | OURS | PUBLIC_PATCHES
    # Ray's plugin is imported only where Ray is installed; it has no foreign base class of a library named here.
    used |= {name for path in texts if path.name != "attnlab_ray.py" for name in inherited(module_name(path))}
    assert used == set().union(*(names for _, names, _, _ in PRIVATE))
