"""The pages of W&B: what they show and what is sent to a server; that runs log it, test_loggers.py looks at."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import wandb
from omegaconf import DictConfig

from attnlab.errors import UserError
from attnlab.training.dashboard import SEARCHED, dashboard
from attnlab.training.loggers import CONFUSION, MISTAKES
from tests.conftest import ROOT
from tests.training.test_loggers import StandIn

pytest.importorskip("wandb_workspaces")
Compose = Callable[..., DictConfig]
WANTED = {"Bar Chart", "Run History Line Plot", "Parallel Coordinates Plot", "Vega2", "Scatter Plot", "Media Browser"}


class Pages(StandIn):
    """What a server answers who saves a view or a report."""

    def answer(self, query: str, variables: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        given = variables or {}
        if "upsertView" in query:
            self.server.saved.append(given)
            view = {key: given[key] for key in ("name", "displayName", "type", "description", "spec")}
            view |= {"id": f"id{len(self.server.saved)}", "project": {"id": "p", "name": "p", "entityName": "me"}}
            return {"data": {"upsertView": {"view": view, "inserted": True}}}
        if "internalId" in query:
            known = given["projectName"] == "attnlab"
            return {"data": {"project": {"internalId": "UHJvamVjdEludGVybmFsSWQ6MQ=="} if known else None}}
        if "GetProjects" in query:
            page = {"endCursor": None, "hasNextPage": False}
            project = {
                "id": "p",
                "name": "attnlab",
                "entityName": "me",
                "createdAt": "2026-01-01T00:00:00",
                "user": None,
            }
            edges = [{"node": project | {"isBenchmark": False, "internalId": "1"}}]
            return {"data": {"models": {"pageInfo": page, "edges": edges}}}
        return super().answer(query, variables, **more)


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    http = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    vars(http).update(saved=[], received=[])
    threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True).start()
    wandb.teardown()  # it keeps the address of the first test that used it
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{http.server_port}")
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    yield vars(http)["saved"]
    http.shutdown()
    http.server_close()
    wandb.teardown()


def kinds(spec: Any) -> Iterator[str]:
    """The kinds of all panels in a page's JSON."""
    if isinstance(spec, dict):
        if "viewType" in spec:
            yield spec["viewType"]
        spec = list(spec.values())
    if isinstance(spec, list):
        for part in spec:
            yield from kinds(part)


def test_a_view_and_a_report_are_saved(saved: list[dict[str, Any]], compose_config: Compose) -> None:
    urls = dashboard(compose_config("project=attnlab", name="dashboard"))
    report, view = saved
    assert (report["type"], view["type"]) == ("runs", "project-view") and len(urls) == 2
    for page in saved:
        assert (page["entityName"], page["projectName"], page["displayName"]) == ("me", "attnlab", "attnlab")
        assert set(kinds(json.loads(page["spec"]))) >= WANTED
        searched = [key.replace(".", ".value.") for key in SEARCHED]
        for key in (*searched, "test/acc", "val/acc", CONFUSION, MISTAKES, "search/trials"):
            assert key in page["spec"], key
    with pytest.raises(UserError, match=r"W&B: .*project 'me/other' not found"):
        dashboard(compose_config("project=other", name="dashboard"))


def test_without_a_key_there_is_one_line(tmp_path: Path) -> None:
    bare = {key: value for key, value in os.environ.items() if key != "WANDB_API_KEY"} | {"NETRC": str(tmp_path / "no")}
    command = ["make", "dashboard", "PROJECT=mine", f"BIN={Path(sys.executable).parent}", "-o", ".venv/.dashboard"]
    result = subprocess.run(command, cwd=ROOT, env=bare, capture_output=True, text=True, timeout=100, check=False)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    said = [line for line in result.stderr.splitlines() if "WANDB_API_KEY" in line]
    assert len(said) == 1 and "wandb login" in said[0]
