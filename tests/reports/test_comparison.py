import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from attnlab.analysis.comparison import make_study
from attnlab.reports.comparison import print_report, write_report
from attnlab.reports.result import Study
from tests.analysis.fake import write_run, write_sweep
from tests.analysis.test_comparison import POOLINGS, write_grid


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return make_study([write_grid(tmp_path_factory.mktemp("runs"))])


@pytest.fixture(scope="module")
def report(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_report(folder, study)
    return folder


def test_the_csv_holds_every_number(study: Study, report: Path) -> None:
    table = pd.read_csv(report / "comparison.csv")
    assert len(table) == sum(len(comparison.rows) for comparison in study.comparisons) == 6 + 3 + 2
    assert {"comparison", "setting", "runs", "test/acc mean", "test/acc sd", "test/acc low", "test/acc high"} < set(
        table
    )
    assert {"model/parameters", "train/seconds", "train/samples_per_second", "error", "df", "from_runs"} < set(table)
    found = table[table["setting"] == "pooling=max, num_heads=2"].iloc[0]
    assert found["p_adjusted"] == study.comparisons[0].rows.loc["pooling=max, num_heads=2", "p_adjusted"]


def test_the_markdown_shows_tables_and_figures_that_are_there(report: Path) -> None:
    text = (report / "comparison.md").read_text()
    assert "| pooling=max, num_heads=2 | 3 | 0.8" in text and "## Only model.pooling differs" in text
    figures = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert figures == [
        "figures/differences_all.png",
        "figures/time_all.png",
        "figures/differences_model.pooling.png",
        "figures/curves_model.pooling.png",
        "figures/differences_model.num_heads.png",
        "figures/curves_model.num_heads.png",
    ]
    assert all((report / figure).stat().st_size > 5000 for figure in figures)


def test_the_page_needs_nothing_else(report: Path) -> None:
    page = (report / "comparison.html").read_text()
    assert page.count("data:image/svg+xml;base64,") == 6
    # But for the program that moves figures, which lies beside it.
    assert (
        re.findall(r'(?:src|href)="(?!data:)(.*?)"', page) == ["plotly.min.js"] and (report / "plotly.min.js").exists()
    )
    assert "@import" not in page and "url(" not in page and page.count("plotly-graph-div") == 2 * 3 - 0
    assert "pooling=max, num_heads=2" in page and "worse" not in re.findall(r'<tr class="(\w+)"', page)


def test_names_from_configs_stay_text(tmp_path: Path) -> None:
    write_sweep(tmp_path / "runs", "data.text", {"<script>x</script>|[red]": 0.8, "b": 0.8}, seeds=range(2))
    study = make_study([tmp_path / "runs"])
    write_report(tmp_path, study)
    print_report(tmp_path, study)
    assert "<script>x" not in (tmp_path / "comparison.html").read_text()
    assert "| <script>x</script>\\|[red] |" in (tmp_path / "comparison.md").read_text()


def test_the_terminal_shows_verdicts_in_80_columns(
    study: Study, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    print_report(tmp_path, study)
    shown = capsys.readouterr().out
    assert "better" in shown and "no difference that 9 pairs" in shown and "comparison.html is the page" in shown
    assert max(len(line) for line in shown.splitlines() if "Everything is in" not in line) <= 80


def test_a_loss_has_no_points(tmp_path: Path) -> None:
    study = make_study([write_sweep(tmp_path / "runs", "model.pooling", POOLINGS)], metric="test/loss")
    write_report(tmp_path, study)
    assert "points" not in (tmp_path / "comparison.md").read_text()


def test_runs_without_curves_or_speed_are_reported_too(tmp_path: Path) -> None:
    for i, pooling in enumerate(("cls", "max")):
        folder = write_run(tmp_path / "runs" / str(i), {"model.pooling": pooling})
        (folder / "metrics.csv").unlink()
        (folder / "metrics.json").write_text(json.dumps({"test/acc": 0.8 + i / 10}))
    write_report(tmp_path, make_study([tmp_path / "runs"]))
    assert "better" in (tmp_path / "comparison.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_the_page_at_any_width_and_prints_it(width: int, report: Path, tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium")
    # A frame, as a window can't be narrower than 500 pixels.
    page = (report / "comparison.html").read_text()
    (tmp_path / "page.html").write_text(page)
    (tmp_path / "frame.html").write_text(
        f'<iframe src="page.html" width="{width}" height="900" onload="const d=this.contentDocument;'
        "document.title=JSON.stringify([d.documentElement.scrollWidth,"
        '[...d.images].map(i=>i.naturalWidth)])"></iframe>'
    )
    command = [
        *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
        *(
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--allow-file-access-from-files",
            f"--user-data-dir={tmp_path}/user",
        ),
    ]
    url = f"file://{tmp_path}"
    shown = subprocess.run([*command, "--dump-dom", f"{url}/frame.html"], capture_output=True, text=True, timeout=120)
    found = re.search(r"<title>(.*?)</title>", shown.stdout)
    assert found is not None, shown.stderr
    scroll_width, image_widths = json.loads(found[1])
    assert scroll_width <= width and len(image_widths) == 6 and min(image_widths) > 100
    subprocess.run([*command, f"--print-to-pdf={tmp_path}/page.pdf", f"{url}/page.html"], check=True, timeout=120)
    assert 1 <= (tmp_path / "page.pdf").read_bytes().count(b"/Type /Page\n") <= 12


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_figures_move_without_a_network(width: int, report: Path, browser: Any) -> None:
    page = browser.new_page(viewport={"width": width, "height": 844})
    said, asked = list[str](), list[str]()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"file://{report}/comparison.html")
    page.locator("summary").first.click()
    plot = page.locator(".js-plotly-plot").first
    plot.scroll_into_view_if_needed()
    plot.locator(".xy path.point").first.hover(force=True)
    page.locator(".hoverlayer .hovertext").first.wait_for(timeout=20_000)
    assert said == [] and all(url.startswith(("file:", "data:", "blob:")) for url in asked)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
