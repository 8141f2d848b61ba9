"""mistakes.csv and report.html, which a run and a test leave."""

import csv
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from omegaconf import DictConfig
from statsmodels.stats.proportion import proportion_confint

from attnlab.reports.run_page import of_counts
from attnlab.training.evaluate import evaluate
from attnlab.training.predictions import MAX_TEXT, NUM_EXPLAINED, Mistake, write_mistakes
from attnlab.training.results import write_report
from attnlab.training.train import train
from tests.conftest import TINY

Compose = Callable[..., DictConfig]

SMALL = [setting for setting in TINY if not setting.startswith("data.")]


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def mistakes_in(folder: Path) -> list[dict[str, str]]:
    with (folder / "mistakes.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_mistakes_read_back_as_they_were_written(tmp_path: Path) -> None:
    text, name = ' "oil"\rfalls, they\nsay', ' R&D; "x"\rand\ny'
    write_mistakes(tmp_path / "mistakes.csv", [Mistake({"index": 3}, text, name, "other", 0.5, None)], pairs=False)
    (row,) = mistakes_in(tmp_path)
    assert (row["text"], row["label"], row["predicted"]) == (text, name, "other")
    read = pd.read_csv(tmp_path / "mistakes.csv", dtype=str, keep_default_na=False)
    assert read[["text", "label"]].values.tolist() == [[text, name]]


def test_a_confusion_matrix_tells_the_scores_and_their_intervals(tiny_config: Compose, tmp_path: Path) -> None:
    learning = ["model=bag", "optimizer.lr=0.1", "trainer.max_epochs=4"]
    metrics = train(tiny_config(*learning, f"paths.run_dir={tmp_path}/run"))
    table = pd.read_parquet(tmp_path / "run" / "predictions.parquet")
    counts = pd.crosstab(table["label"], table["predicted"])
    classes = counts.index.union(counts.columns)
    scores = of_counts(counts.reindex(index=classes, columns=classes, fill_value=0).to_numpy()[None])
    page = Page((tmp_path / "run" / "report.html").read_text())
    for name, (value,) in scores.items():
        assert value == pytest.approx(metrics[f"test/{name}"], abs=1e-6)
        found = re.search(rf"\b{name}\s*{value:.4f}\s*(\S+) to (\S+)", page.text)
        assert found is not None and float(found[1]) < value < float(found[2])


@pytest.mark.figures
def test_a_run_and_a_test_of_it_leave_the_same_mistakes_and_a_page(
    tiny_config: Compose, compose_config: Compose, tmp_path: Path
) -> None:
    metrics = train(tiny_config(f"paths.run_dir={tmp_path}/run"))
    mistakes = mistakes_in(tmp_path / "run")
    columns = "index file row text label predicted probability explained words"
    assert list(mistakes[0]) == columns.split()
    sure = [float(row["probability"]) for row in mistakes]
    assert sure == sorted(sure, reverse=True) and all(row["label"] != row["predicted"] for row in mistakes)
    table = pd.read_parquet(tmp_path / "run" / "predictions.parquet").set_index("index")
    assert len(mistakes) == min(50, int((~table["correct"]).sum()))
    for row in mistakes:
        answer = table.loc[int(row["index"])]
        assert (row["label"], row["predicted"]) == (answer["label"], answer["predicted"])
        assert float(row["probability"]) == pytest.approx(answer[f"p({row['predicted']})"], abs=1e-4)
    marked = [row for row in mistakes if row["words"]]
    assert marked == mistakes[:NUM_EXPLAINED] and all(row["explained"] == row["predicted"] for row in marked)
    assert all(word.rsplit(" ", 1)[0] in row["text"] for row in marked for word in row["words"].split("; "))

    page = Page((tmp_path / "run" / "report.html").read_text())
    low, high = proportion_confint(round(60 * metrics["test/acc"]), 60, method="wilson")
    assert f"{low:.4f} to {high:.4f}" in page.text
    assert all(row["text"] in page.text for row in mistakes)
    (title,) = re.findall("<title>(.*)</title>", (tmp_path / "run" / "report.html").read_text())
    assert "TextClassifier" in title and "Headlines" in title
    order = [
        "Accuracy",
        f"{metrics['test/acc']:.4f}",
        f"Best epoch {metrics['train/best_epoch']} of",
        "python src/predict.py",
        "loss",
        mistakes[0]["text"],
    ]
    assert sorted(order, key=page.text.index) == order
    folded = page.text.index(f"{len(mistakes) - 3} more")
    assert page.text.index(mistakes[2]["text"]) < folded < page.text.index(mistakes[3]["text"])
    assert "train_empty_documents" not in page.text  # zero
    pictures = [attributes["src"] or "" for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) >= 2 and all(source.startswith("data:image/png;base64,") for source in pictures)
    assert f"ckpt_path={tmp_path}/run" in page.text and "seed: 0" in page.text

    evaluate(
        compose_config(f"ckpt_path={tmp_path}/run", f"paths.run_dir={tmp_path}/test", "trainer=cpu", name="evaluate")
    )
    assert [row["index"] for row in mistakes_in(tmp_path / "test")] == [row["index"] for row in mistakes]
    assert f"ckpt_path={tmp_path}/run" in (tmp_path / "test" / "report.html").read_text()


def test_hostile_texts_and_labels_stay_text(compose_config: Compose, tmp_path: Path) -> None:
    script = "<script>alert(1)</script><img src=x onerror=alert(1)>"
    rows = [f"{script} {'spam ' * 400 if i % 3 else 'ham'},{'<b>a' if i % 2 else 'b&amp;'}" for i in range(200)]
    (tmp_path / "all.csv").write_text("\n".join(["text,label", *rows]))
    data = ["data=files", f"data.train={tmp_path}/all.csv", "data.test=0.2", "data.text=text", "data.label=label"]
    train(compose_config(*data, *SMALL, f"paths.run_dir={tmp_path}/run"))
    html = (tmp_path / "run" / "report.html").read_text()
    page = Page(html)
    assert script in page.text and "<b>a" in page.text and "b&amp;" in page.text
    assert not {"script", "b", "link", "iframe"} & {tag for tag, _ in page.tags}
    assert not re.search(r'(?:src|href)="(?!data:image/png;base64,)', html) and "url(" not in html
    assert f"[... the first {MAX_TEXT:,} of" in page.text and "documents truncated" in page.text
    written = {row["text"] for row in mistakes_in(tmp_path / "run")}
    assert written <= set(pd.read_csv(tmp_path / "all.csv")["text"]) and max(map(len, written)) > MAX_TEXT


def test_of_several_labels_the_surest_error_is_marked(tiny_config: Compose, tmp_path: Path) -> None:
    train(tiny_config("task=multi_label", "data.topics=all", "model=bag", f"paths.run_dir={tmp_path}/run"))
    table = pd.read_parquet(tmp_path / "run" / "predictions.parquet").set_index("index")
    for row in mistakes_in(tmp_path / "run")[:NUM_EXPLAINED]:
        answer = table.loc[int(row["index"])]
        wrong = set(answer["label"]) ^ set(answer["predicted"])
        assert row["explained"] in wrong
        probability = answer[f"p({row['explained']})"]
        sure = probability if row["explained"] in answer["predicted"] else 1 - probability
        assert float(row["probability"]) == pytest.approx(sure, abs=1e-4)


def test_a_run_without_a_test_has_a_page_without_one(tiny_config: Compose, tmp_path: Path) -> None:
    train(tiny_config("test=false", "model=bag", f"paths.run_dir={tmp_path}/run"))
    page = Page((tmp_path / "run" / "report.html").read_text())
    assert "was not tested" in page.text and "mistakes" not in page.text and "val" in page.text
    assert not (tmp_path / "run" / "mistakes.csv").exists()


def test_what_goes_wrong_with_the_page_stops_no_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    classifier = SimpleNamespace(pairs=False, task=SimpleNamespace(label_names=["a", "b"]))
    assert write_report(tmp_path / "gone", {}, {}, classifier, None, None) == []
    assert "No report.html: FileNotFoundError" in caplog.text
