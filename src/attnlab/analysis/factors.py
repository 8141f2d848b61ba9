"""What differs between runs."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from attnlab.errors import UserError
from attnlab.runs import RunFolder

# Files of `conf/` that name a part, in the order in which a difference is named after them.
GROUPS = ("task", "embedding", "model", "pe", "tokenizer", "data", "optimizer", "scheduler")
# What decides neither what is learned nor from what; `model.pe` is a copy of `pe`.
IGNORED = (
    *("choices", "seed", "data.fold", "tags", "task_name", "paths", "logger", "model.pe", "data.num_workers", "resume"),
    *("halve_batch_on_oom", "callbacks.progress", "callbacks.model_summary", "callbacks.last_checkpoint"),
    *("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.log_every_n_steps"),
)
BUDGET = ("data.limit", "trainer.max_epochs", "trainer.max_steps", "trainer.max_time", "callbacks.early_stopping")
DATA = ("data",)
ABSENT = "-"


@dataclass(frozen=True)
class Factors:
    """What differs between runs.

    Attributes:
        values: a row for each run, a column for each factor, named and valued as on the command line.
        companions: for a factor, the settings that always change with it: which of them mattered can't be told.
    """

    values: pd.DataFrame
    companions: dict[str, list[str]]

    def named(self, name: str) -> str:
        """The factor of this name, in full or its last part, or with this companion. Raises `UserError` for none."""
        for factor in self.values:
            if name in (factor, short_name(factor, list(self.values)), *self.companions[factor]):
                return str(factor)
        differing = ", ".join(self.values) or "nothing"
        raise UserError(f"by={name} does not differ between these runs; what differs: {differing}")

    def differing_budget(self) -> list[str]:
        """What decides for how long or on how many documents a run may train."""
        return [key for key in self._keys() if _below(key, BUDGET)]

    def differing_data(self) -> list[str]:
        """What decides which documents a run saw."""
        return [key for key in self._keys() if _below(key, DATA) and not _below(key, (*BUDGET, "data.batch_size"))]

    def _keys(self) -> list[str]:
        return sorted({*self.values, *(key for keys in self.companions.values() for key in keys)})


def find_factors(runs: list[RunFolder]) -> Factors:
    """Compare the configs of all runs key by key.

    Keys that go with the choice of a part (the `feed_forward` of `model=transformer`) stand under the part's name, keys
    that split the runs alike (the learning rate that changes with the model) under the first one's.
    """
    table = pd.DataFrame([flat(run.config) for run in runs]).fillna(ABSENT)
    table = table[[key for key in table if not _below(key, IGNORED)]]
    table["trainer.devices"] = [run.devices for run in runs]  # in all: each takes a batch of its own
    table = table.loc[:, table.replace("null", ABSENT).nunique() > 1]  # a part that is left out has no keys
    for group in reversed(GROUPS):
        choice = pd.Series([run.choices.get(group) for run in runs], dtype=object)
        own = [key for key in table if _below(key, (group,))]
        if own and choice.notna().all() and choice.nunique() > 1:
            table = table.drop(columns=[key for key in own if table[key].groupby(choice).nunique().max() == 1])
            table.insert(0, group, choice)
    order = {group: rank for rank, group in enumerate(GROUPS)}
    table = table[sorted(table, key=lambda key: (order.get(key.split(".")[0], len(order)), key != key.split(".")[0]))]
    first_of: dict[tuple[int, ...], str] = {}
    companions: dict[str, list[str]] = {}
    for key in table:
        first = first_of.setdefault(tuple(pd.factorize(table[key])[0]), key)
        companions.setdefault(_name(first), []).append(_name(key))
    values = table[list(first_of.values())].rename(columns=_name)
    # Of a part that is there or not (early stopping), its name says enough.
    short = {name: {".".join(key.split(".")[:2]) for key in keys} - {name} for name, keys in companions.items()}
    return Factors(values, {name: sorted(keys) for name, keys in short.items()})


def short_name(key: str, keys: list[str]) -> str:
    """`pooling` for `model.pooling` where no other of `keys` ends so."""
    last = key.rsplit(".", 1)[-1]
    return last if [other.rsplit(".", 1)[-1] for other in keys].count(last) == 1 else key


def _below(key: str, prefixes: tuple[str, ...]) -> bool:
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """`{"a": {"b": 1}}` as `{"a.b": "1"}`."""
    values: dict[str, str] = {}
    for key, value in config.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": as_text(value)}
    return values


def as_text(value: Any) -> str:
    """A value as it stands on the command line; of our own classes the name alone."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value).rsplit(".", 1)[-1] if str(value).startswith("attnlab.") else str(value)


def _name(key: str) -> str:
    return key.removesuffix("._target_")
