import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from omegaconf import DictConfig

from attnlab.errors import UserError
from attnlab.training.evaluate import evaluate
from attnlab.training.train import train
from tests.conftest import train_in

Compose = Callable[..., DictConfig]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    return train_in(tmp_path_factory.mktemp("run"))


@pytest.fixture
def evaluate_with(compose_config: Compose) -> Callable[..., dict[str, float]]:
    return lambda *overrides: evaluate(compose_config("trainer=cpu", *overrides, name="evaluate"))


def test_a_run_and_its_checkpoint_give_the_runs_own_test_score(
    run: Path, evaluate_with: Callable[..., dict[str, float]], tmp_path: Path
) -> None:
    import json

    expected = json.loads((run / "metrics.json").read_text())
    for path in (run, run / "checkpoints" / "best.ckpt"):
        metrics = evaluate_with(f"ckpt_path={path}")
        for key in ("test/acc", "test/f1", "test/f1_macro", "test/loss", "ceiling/order_aware"):
            assert metrics[key] == pytest.approx(expected[key], rel=1e-5)
    folder, _ = (tmp_path / "logs" / "evaluate" / "runs").iterdir()
    assert {"config.yaml", "metrics.json", "predictions.parquet", "per_class.csv"} <= {p.name for p in folder.iterdir()}


def test_other_data_with_classes_in_another_order(
    run: Path, evaluate_with: Callable[..., dict[str, float]], tmp_path: Path
) -> None:
    from attnlab.data.sources import Headlines

    corpus = Headlines(batch_size=4, train_size=200, test_size=60, noise=0.05, order_share=0.3).load()
    file = tmp_path / "test.csv"
    with file.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["text", "label"])
        for text, label in zip(corpus.test.texts, corpus.test.labels, strict=True):
            writer.writerow([text, corpus.label_names[label]])  # sorted by name: Business comes first
    own = evaluate_with(f"ckpt_path={run}")
    files = evaluate_with(f"ckpt_path={run}", "data=files", f"data.test={file}")  # a test set is enough
    assert files["test/acc"] == pytest.approx(own["test/acc"])
    (tmp_path / "hub").mkdir()
    shutil.copy(file, tmp_path / "hub" / "test.csv")
    hub = evaluate_with(f"ckpt_path={run}", "data=hub", f"data.path={tmp_path}/hub")
    assert hub["test/acc"] == pytest.approx(own["test/acc"])


def test_a_test_set_of_some_of_the_classes_is_scored_by_the_models_names(
    run: Path, evaluate_with: Callable[..., dict[str, float]], tmp_path: Path
) -> None:
    import pandas as pd

    (tmp_path / "one.csv").write_text("text,label\nThe league: a match,Sports\nA cup final,Sports\n")
    evaluate_with(f"ckpt_path={run}", "data=files", f"data.test={tmp_path}/one.csv", f"paths.run_dir={tmp_path}/out")
    predictions = pd.read_parquet(tmp_path / "out" / "predictions.parquet")
    assert predictions["label"].tolist() == ["Sports", "Sports"] and "p(World)" in predictions


def test_what_cannot_be_evaluated_is_named(
    run: Path, evaluate_with: Callable[..., dict[str, float]], tmp_path: Path
) -> None:
    lone = tmp_path / "lone.ckpt"
    shutil.copy(run / "checkpoints" / "best.ckpt", lone)
    (tmp_path / "other.ckpt").write_bytes(b"no checkpoint")
    (tmp_path / "chess.csv").write_text("text,label\na,chess\nb,go\n")
    (tmp_path / "unlabelled.csv").write_text("text,label\na,-1\nb,-1\n")
    unlabelled = f"data.test={tmp_path}/unlabelled.csv"
    chess = f"data.train={tmp_path}/chess.csv", f"data.test={tmp_path}/chess.csv"
    for overrides, message in (
        ((f"ckpt_path={tmp_path}/nowhere",), "neither a checkpoint nor a run's folder"),
        ((f"ckpt_path={lone}",), "its data is unknown"),
        ((f"ckpt_path={tmp_path}/other.ckpt", "data=headlines"), "is not a checkpoint"),
        ((f"ckpt_path={lone}", "data=files", *chess), "chess, go, which the model does not know; it knows World"),
        ((f"ckpt_path={lone}", "data=files", unlabelled), r"the data has no labels \(all are -1\)"),
        ((f"ckpt_path={lone}", "data=files"), "data.test is needed"),
        ((), "ckpt_path is needed"),
    ):
        with pytest.raises(UserError, match=message):
            evaluate_with(*overrides)


def test_data_given_by_a_relative_path_is_that_data_from_anywhere(
    compose_config: Compose,
    evaluate_with: Callable[..., dict[str, float]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another folder has a file of that name, too."""
    for folder, order in (("here", ("red", "blue")), ("there", ("blue", "red"))):
        (tmp_path / folder).mkdir()
        rows = [
            f"{word} number {i},{label}" for i in range(20) for word, label in zip(("red", "blue"), order, strict=True)
        ]
        (tmp_path / folder / "data.csv").write_text("\n".join(["text,label", *rows]))
    monkeypatch.chdir(tmp_path / "here")
    files = ["data=files", "data.train=data.csv", "data.test=data.csv", "tokenizer=wordlevel", "optimizer.lr=0.1"]
    settings = ["model=bag", "trainer=cpu", "trainer.max_epochs=5", f"paths.run_dir={tmp_path}/run"]
    assert train(compose_config(*files, *settings))["test/acc"] == 1.0
    monkeypatch.chdir(tmp_path / "there")
    assert evaluate_with(f"ckpt_path={tmp_path}/run")["test/acc"] == 1.0
    assert evaluate_with(f"ckpt_path={tmp_path}/run", "data=files", "data.test=data.csv")["test/acc"] == 0.0


def test_a_share_of_a_file_is_tested_on_again(
    compose_config: Compose,
    evaluate_with: Callable[..., dict[str, float]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Out of shards, named by a relative pattern, with classes that are left out."""
    monkeypatch.chdir(tmp_path)
    for part in range(2):
        rows = [f"{word} number {i},{'red' if i % 5 else word}" for i in range(30) for word in ("red", "blue")]
        (tmp_path / f"part-{part}.csv").write_text("\n".join(["text,label", *rows, f"x,lone{part}"]))
    files = ["data=files", "data.train=part-*.csv", "data.test=0.2", "data.min_label_count=2"]
    settings = ["model.embed_dim=8", "trainer=cpu", "trainer.max_epochs=1", f"paths.run_dir={tmp_path}/run"]
    expected = train(compose_config(*files, *settings))
    monkeypatch.chdir(tmp_path.parent)
    metrics = evaluate_with(f"ckpt_path={tmp_path}/run", f"paths.run_dir={tmp_path}/test")
    assert 0 < metrics["test/loss"] == pytest.approx(expected["test/loss"], rel=1e-5)
    for folder in ("run", "test"):
        for row in pd.read_parquet(tmp_path / folder / "predictions.parquet").itertuples():
            assert pd.read_csv(row.file)["label"][row.row] == row.label


def test_texts_of_other_data_are_assembled_as_in_training_and_what_is_otherwise_is_said(
    evaluate_with: Callable[..., dict[str, float]],
    compose_config: Compose,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Also by a checkpoint that has left its run's folder."""
    rows = [(f"{word}{n}", f"s of day {n}", word) for word in ("oil", "team") for n in range(20)]
    (tmp_path / "rows.csv").write_text("title,body,label\n" + "".join(f"{','.join(row)}\n" for row in rows))
    joined = "".join(f"{title}{body},{label}\n" for title, body, label in rows)
    (tmp_path / "joined.csv").write_text(f"text,label\n{joined}")
    tiny = ["trainer=cpu", "trainer.max_epochs=2", "tokenizer.vocab_size=60", "model=bag", "optimizer.lr=0.1"]
    data = [f"data.train={tmp_path}/rows.csv", "data.test=0.2", "data.text=[title,body]", "data.join=''"]
    train(compose_config(*tiny, "data=files", *data, f"paths.run_dir={tmp_path}/run"))
    (tmp_path / "run/checkpoints/best.ckpt").rename(tmp_path / "moved.ckpt")
    given = [f"ckpt_path={tmp_path}/moved.ckpt", "data=files"]
    as_trained = evaluate_with(*given, f"data.test={tmp_path}/rows.csv")
    assert "otherwise" not in caplog.text
    expected = evaluate_with(*given, f"data.test={tmp_path}/joined.csv", "data.text=text")
    assert as_trained["test/loss"] == expected["test/loss"]
    assert "differently than in training: text=['text'] (in training ['title', 'body'])" in caplog.text
    assert (
        evaluate_with(*given, f"data.test={tmp_path}/rows.csv", "data.join=' '")["test/loss"] != expected["test/loss"]
    )
