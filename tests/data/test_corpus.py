"""What a user may ask for of files that are read: a test set, groups, pairs, and rows or classes to leave out."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from attnlab.errors import UserError
from tests.data.test_readers import ROWS, TEXTS, Content, check, separated, source


def test_a_test_set_is_cut_out_of_one_file(tmp_path: Path) -> None:
    """Stratified, the same for every run, and no row on both sides."""
    rows = [(f"text {row}", "common" if row % 4 else "rare") for row in range(100)] + [
        ("lonely", "pair"),
        ("too", "pair"),
    ]
    first = source(tmp_path, {"a.csv": separated(rows)}, test=0.2).load()
    again = source(tmp_path, {"a.csv": separated(rows)}, test=0.2).load(["test"])
    other = source(tmp_path, {"a.csv": separated(rows)}, test=0.2, split_seed=1).load()
    assert first.test.texts == again.test.texts != other.test.texts
    assert sorted(first.train.texts + first.test.texts) == sorted(text for text, _ in rows)
    assert np.bincount(first.test.labels).tolist() == [15, 0, 5] and first.label_names == ["common", "pair", "rare"]
    assert {"lonely", "too"} <= set(first.train.texts)  # or one of them could not be validated on


def test_documents_of_one_group_stay_on_one_side(tmp_path: Path) -> None:
    rows = [(f"text {row}", "ab"[row % 2], f"user {row // 5}") for row in range(100)]
    files: Content = {"a.csv": separated(rows, header="text,label,user\n")}
    corpus = source(tmp_path, files, test=0.2, group="user").load()
    assert corpus.train.groups is not None and corpus.test.groups is not None
    assert not set(corpus.train.groups) & set(corpus.test.groups) and 18 <= len(corpus.test.texts) <= 22
    given: Content = {**files, "b.csv": "text,label\nx,a\n"}  # which is cut nowhere
    assert source(tmp_path, given, test="b.csv", group="user").load().test.texts == ["x"]
    assert Counter(corpus.train.groups + corpus.test.groups) == {f"user {user}": 5 for user in range(20)}


def test_rows_without_a_text_are_counted_and_can_be_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    parts = {f"{i}.csv": f"text,label\n{','.join(ROWS[i])}\n,sport\nx y,\n \t,a\n" for i in range(2)}
    with pytest.raises(
        UserError, match=r"4 of 8 rows have no text \(.*0\.csv row 1, .*0\.csv row 3, .*1\.csv row 1, .*on_em"
    ):
        source(tmp_path, parts, train=["0.csv", "1.csv"]).load()
    corpus = source(tmp_path, parts, train=["0.csv", "1.csv"], on_empty="drop").load()
    assert corpus.train.texts == TEXTS[:2] and corpus.label_names == ["sport", "weather"]
    assert re.search(r"4 of 8 rows have no text \(.*\): left out", caplog.text)
    assert re.search(r"2 of 8 rows have no label \(.*0\.csv row 2, .*1\.csv row 2\): left out", caplog.text)


def test_pairs_of_texts(tmp_path: Path) -> None:
    rows = [(*text.split(" number "), label) for text, label in ROWS]
    files: Content = {"a.csv": separated(rows, header="premise,hypothesis,label\n")}
    corpus = source(tmp_path, files, text="premise", text_pair="hypothesis", test=0.5).load()
    assert sorted(corpus.train.documents + corpus.test.documents) == sorted(row[:2] for row in rows)
    assert corpus.train.as_single_texts[0] == " || ".join(corpus.train.documents[0])
    files = {"a.csv": separated([*rows, ("x", "", "sport")], header="premise,hypothesis,label\n")}
    with pytest.raises(UserError, match=r"1 of 13 rows have no second text \(row 12\)"):
        source(tmp_path, files, text="premise", text_pair="hypothesis").load()
    with pytest.raises(UserError, match=r"data\.text_pair=other is not a column of"):
        source(tmp_path, files, text="premise", text_pair="other").load()


def test_classes_that_are_too_small_can_be_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [*ROWS, ("one more", "lone"), ("and one", "single")]
    files: Content = {"a.csv": separated(rows), "b.csv": separated([("x", "sport"), ("y", "lone")])}
    corpus = source(tmp_path, files, test="b.csv", min_label_count=2).load()
    check(corpus)
    assert corpus.test.texts == ["x"]
    assert "2 rows are left out, of 2 classes with fewer than data.min_label_count=2" in caplog.text
    # A trained model is tested on the same documents.
    assert source(tmp_path, files, test="b.csv", min_label_count=2).load(["test"]).test.texts == ["x"]


def test_a_test_file_without_labels_is_said_to_be_for_predicting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files: Content = {"a.csv": separated(), "b.csv": "id,text\n1,x\n"}
    corpus = source(tmp_path, files, test="b.csv").load()
    check(corpus)
    assert not corpus.test.texts and "b.csv has no labels, so nothing is tested: src/predict.py" in caplog.text
    with pytest.raises(UserError, match="holds no label"):
        source(tmp_path, files, test="b.csv").load(["test"])
    with pytest.raises(UserError, match=r"data\.label=label is not a column of .*b\.csv"):
        source(tmp_path, files, train="b.csv").load()
