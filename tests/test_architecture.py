"""The floors of docs/architecture.md: who imports whom, read from the code."""

import ast
import graphlib
import re
from functools import cache
from pathlib import Path

from tests.conftest import ROOT

SRC = ROOT / "src"
TARGET = re.compile(r"_target_: (attnlab\.[\w.]+)")
ARROW = re.compile(r"^ *(\w+) --> ([\w &]+)$", re.MULTILINE)
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def modules() -> dict[str, Path]:
    found = {".".join(path.relative_to(SRC).with_suffix("").parts): path for path in SRC.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for name, path in found.items()}


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """The project's own modules that a file imports, at its start or in a function."""
    tree = parsed(path)
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return found & set(known)


def room(module: str) -> str:
    """The folder of `src/attnlab`; its own files are the ground floor, what stands above it are entry points."""
    parts = module.split(".")
    if parts[0] != "attnlab" or module == "attnlab.composing":
        return "entry"
    return parts[1] if (SRC / "attnlab" / ".".join(parts[1:2])).is_dir() and len(parts) > 1 else "ground"


def targets() -> set[str]:
    """The rooms whose parts a config names: `training` makes them all, but for those of Hydra itself."""
    configs = [path for path in (ROOT / "conf").rglob("*.yaml") if "hydra" not in path.relative_to(ROOT / "conf").parts]
    named = {name for path in configs for name in TARGET.findall(path.read_text(encoding="utf-8"))}
    return {room(name) for name in named}


def arrows() -> set[tuple[str, str]]:
    known = modules()
    pairs = {(room(a), room(b)) for a, path in known.items() for b in imports(path, known)}
    return {(a, b) for a, b in pairs if a != b}


def test_no_two_files_import_each_other() -> None:
    known = modules()
    graph = {name: imports(path, known) - {name} for name, path in known.items()}
    tuple(graphlib.TopologicalSorter(graph).static_order())


def test_rooms_import_what_lies_below_them_alone() -> None:
    tuple(graphlib.TopologicalSorter({a: {y for x, y in arrows() if x == a} for a, _ in arrows()}).static_order())


def test_what_a_config_names_lies_below_the_room_that_makes_it() -> None:
    below = {b for a, b in arrows() if a == "training"}
    assert targets() - {"training"} <= below


def test_the_picture_has_every_arrow() -> None:
    drawn = {(a, b.strip()) for a, targets in ARROW.findall(PAGE) for b in targets.split("&")}
    assert drawn == {(a, b) for a, b in arrows() if b != "ground"}


def test_the_walk_names_files_that_are_there() -> None:
    walk = re.findall(r"^\d+\. `([\w./]+)`", PAGE, re.MULTILINE)
    assert 0 < len(walk) <= 12
    assert all((ROOT / name).is_file() for name in walk)
