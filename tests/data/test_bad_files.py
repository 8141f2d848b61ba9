"""Files as they come: each is read as a user would expect, or refused with one line that names file, row and remedy."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attnlab.data.datamodule import TextDataModule
from attnlab.data.sources import Corpus, Files
from attnlab.data.splits import split_corpus
from attnlab.data.tokenization import BPE
from attnlab.errors import UserError

GOOD = "text,label\n" + "".join(f"word{i} is here,{'ab'[i % 2]}\n" for i in range(20))


def parquet(text: list[Any] | None = None, label: list[Any] | pa.Array | None = None) -> bytes:
    """Some of both, if only one column is given as long as that one."""
    size = len(text or label or range(999))
    columns = {"text": text or [f"w {i}" for i in range(size)], "label": label or ["a", "b", "c"] * (size // 3)}
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def load(folder: Path, name: str, content: bytes | str) -> Corpus:
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return Files(batch_size=2, train=str(file), test=str(file)).load()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cut.parquet", parquet()[:500], "can't read data.train=.*cut.parquet: .*Fix the file or download it again"),
        ("holed.parquet", parquet()[:100] + bytes(200) + parquet()[300:], "can't read data.train=.*holed.parquet: "),
        ("empty.parquet", "", "can't read data.train=.*empty.parquet: Parquet file size is 0 bytes"),
        ("empty.csv", "", "can't read data.train=.*empty.csv: No columns to parse"),
        ("header_alone.csv", "text,label\n", "can't read data.train=.*header_alone.csv: it has no rows"),
        ("wide_row.csv", GOOD + "one,two,three\n", "can't read data.train=.*wide_row.csv: .* line 22, saw 3"),
        (
            "short_row.csv",
            GOOD + "lonely\n",
            r"short_row.csv: 1 of 21 rows have no label \(row 20\); data.on_em",
        ),
        (
            "latin1.csv",
            GOOD.replace("word3", "wörd").encode("latin1"),
            "latin1.csv: 'utf-8' .*; if it is not UTF-8, give its encoding with data.encoding=",
        ),
        ("open_quote.csv", 'text,label\n"never closed,a\nx,b\n', "open_quote.csv: .*EOF inside string"),
        ("empty_text.csv", GOOD + ",a\n", r"empty_text.csv: 1 of 21 rows have no text \(row 20\)"),
        ("white_text.csv", GOOD + " \u3000 ,a\n", r"white_text.csv: 1 of 21 rows have no text \(row 20\)"),
        (
            "bytes.parquet",
            parquet(label=[b"x"] * 3),
            "label of .*bytes.parquet holds b'x'; labels are strings",
        ),
        ("number.parquet", parquet(text=[12] * 3), r"data.text=text of .*number.parquet holds int \(row 0\), not text"),
        ("all_wide.csv", "text,label\nx,a,1\ny,b,2\n", "can't read data.train=.*all_wide.csv: .* line 2, saw 3"),
        ("no_label.csv", "text,label\nx,\ny,\n", "data.label=label of .*no_label.csv holds no label; name another"),
        ("quoted_header.tsv", '"text"\t"label"\nx\ta\n', 'it has "text", "label"; data.quoting=minimal takes the quot'),
        ("missing.csv", GOOD + "foo,\n", "missing.csv: 1 of 21 rows have no label"),
        ("twice.csv", "text,text,label\nx,y,a\nz,w,b\n", "twice.csv has two columns named text; rename one"),
        (
            "wrong_column.csv",
            "text,label\n" + "".join(f"a,text {i}\n" for i in range(50)),
            "50 different values in 50 rows",
        ),
        (
            "cut.jsonl",
            '{"text": "x", "label": 1}\n{"text": ',
            "cut.jsonl: JSON error in line 2, column 10: Expecting value. Fix",
        ),
        ("empty.json", "", "can't read data.train=.*empty.json: it has no rows"),
        ("empty_list.json", "[]", "can't read data.train=.*empty_list.json: it has no rows"),
        ("scalar.jsonl", '{"text":"x","label":1}\n7\n', "scalar.jsonl is JSON of an unknown shape; write one doc"),
        (
            "pairs.json",
            '{"train": [["x", "a"]], "test": [["y", "b"]]}',
            "pairs.json holds one object with the keys train, test; .* name it with data.field=<key>",
        ),
        (
            "lists.json",
            '{"text": ["x", "y"], "label": ["a"]}',
            "the columns are of different lengths: {'text",
        ),
        (
            "nested.json",
            json.dumps([{"text": {"a": 1}, "label": 1}] * 2),
            r"nested.json holds dict \(row 0\), not text",
        ),
        (
            "surrogate.jsonl",
            '{"text":"\\ud800","label":1}\n',
            "surrogate.jsonl: row 0 holds one half of a surrogate pair",
        ),
        ("no_header.csv", "x,a\ny,b\n", "data.text=text is not a column of .*no_header.csv; it has x, a"),
        (
            "other.csv",
            "a;b\nx;y\n",
            "data.text=text is not a column of .*other.csv; it has a;b; if the first row is not a header",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value[-9:] and len(value) < 20 else "",
)
def test_what_cannot_be_read_is_refused_in_one_line(
    name: str, content: bytes | str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load(tmp_path, name, content)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "first", "classes"),
    [
        ("nul.csv", GOOD.replace("word0", "wo\0rd0"), "wo\0rd0 is here", ["a", "b"]),
        ("bom.csv", "\ufeff" + GOOD, "word0 is here", ["a", "b"]),
        ("windows.csv", GOOD.replace("\n", "\r\n"), "word0 is here", ["a", "b"]),
        ("long.csv", f"text,label\n{'x ' * 500_000},a\nshort,b\n", "x " * 500_000, ["a", "b"]),
        ("scripts.csv", "text,label\n😀 שלום مرحبا,a\n👩‍👩‍👧 ok,b\n", "😀 שלום مرحبا", ["a", "b"]),
        ("na.csv", "text,label\nNA,null\nnan,None\n", "NA", ["None", "null"]),
        ("negative.csv", "text,label\nx,-1\ny,1\n", "x", ["-1", "1"]),
        ("zeros.csv", "text,label\nx,007\ny,7\nz,10\n", "x", ["007", "7", "10"]),
        ("truth.csv", "text,label\nx,TRUE\ny,FALSE\nz,MAYBE\n", "x", ["FALSE", "MAYBE", "TRUE"]),
        ("mixed.csv", "text,label\nx,1\ny,unknown\nz,0\n", "x", ["0", "1", "unknown"]),
        ("float.csv", "text,label\nx,1.0\ny,10.0\nz,5.0\n", "x", ["1.0", "5.0", "10.0"]),
        ("number.csv", "text,label\n012,a\n13,b\n", "012", ["a", "b"]),
        ("late.csv", "text,label\n" + "12,0\n3,1\n" * 20_000 + "x,late\n", "12", ["0", "1", "late"]),
        ("dotted.csv", "text,text.1,label\nx,y,a\nz,w,b\n", "x", ["a", "b"]),
        ("blank_line.csv", "text,label\n\nx,a\n\ny,b\n", "x", ["a", "b"]),
        ("quotes.tsv", 'text\tlabel\n"x\ta\ny"\tb\n"z"\ta\n', '"x', ["a", "b"]),
        ("quotes.csv", 'text,label\n"x, ""y""",a\nz,b\n', 'x, "y"', ["a", "b"]),
        ("truth.json", '[{"text":"x","label":true},{"text":"y","label":false}]', "x", ["false", "true"]),
        ("mixed.jsonl", '{"text":"x","label":1}\n{"text":"y","label":"a"}\n', "x", ["1", "a"]),
        ("numbers.jsonl", '{"text":1.50,"label":1.0}\n\n{"text":"y","label":10}\n', "1.50", ["1.0", "10"]),
        ("lines.json", '\ufeff{"text":"x","label":2}\n{"text":"y","label":10,"id":{"of":[1]}}\n', "x", ["2", "10"]),
        ("indented.json", '[\n {"text": "x",\n  "label": "None"},\n {"text": "y", "label": "a"}]', "x", ["None", "a"]),
        ("null.parquet", parquet(text=["null", "NA", "None"], label=["NA", "null", "1"]), "null", ["1", "NA", "null"]),
        ("integers.parquet", parquet(label=[10, -2, 9]), "w 0", ["-2", "9", "10"]),
        ("truth.parquet", parquet(label=[True, False, True]), "w 0", ["False", "True"]),
        ("stars.parquet", parquet(label=[1.0, 5.0, 4.5]), "w 0", ["1.0", "4.5", "5.0"]),
        ("utf16.csv", GOOD.encode("utf16"), "word0 is here", ["a", "b"]),
        ("utf32.csv", GOOD.encode("utf32"), "word0 is here", ["a", "b"]),
        ("dictionary.parquet", parquet(label=pa.array(["b", "a", "b"]).dictionary_encode()), "w 0", ["a", "b"]),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value[-9:] and len(value) < 20 else "",
)
def test_what_is_unusual_is_read_as_it_stands(
    name: str, content: bytes | str, first: str, classes: list[str], tmp_path: Path
) -> None:
    corpus = load(tmp_path, name, content)
    assert corpus.train.texts[0] == first and corpus.label_names == classes


def test_an_article_of_a_megabyte_is_cut(tmp_path: Path) -> None:
    rows = "".join(f"{'word ' * 200_000},a\nshort {i},b\n" for i in range(2))
    (tmp_path / "long.csv").write_text("text,label\n" + rows + "one more,a\ntwo more,b\n")
    source = Files(batch_size=2, train=str(tmp_path / "long.csv"), test=str(tmp_path / "long.csv"))
    data = TextDataModule(source, BPE(vocab_size=100, max_length=20), tmp_path / "cache")
    data.setup()
    assert data.datasets["train"].tokens.lengths.max() == 20


def test_one_class_and_one_document_of_a_class_are_refused(tmp_path: Path) -> None:
    for content, message in (
        ("text,label\nx,a\ny,a\n", "the training set has one class only"),
        (GOOD + "z,lone\n", r"1 of 3 classes have one document .*\(lone\): data.min_label_count=2 leaves them out"),
    ):
        with pytest.raises(UserError, match=message):
            split_corpus(load(tmp_path, "few.csv", content))


# Characters that a UTF-8 file can hold.
TEXT = st.text(st.characters(codec="utf-8"), max_size=30)
SCALAR = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats() | TEXT
ANY_ROWS = st.lists(st.fixed_dictionaries({}, optional={"text": SCALAR, "label": SCALAR}), max_size=6)


def assert_read_or_refused(folder: Path, name: str, content: bytes) -> None:
    try:
        corpus = load(folder, name, content)
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000
    else:
        assert all(text.strip() for text in corpus.train.texts)
        assert set(corpus.train.labels) <= set(range(len(corpus.label_names)))


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ANY_ROWS)
def test_any_rows_are_read_or_refused(rows: list[dict[str, object]], tmp_path: Path) -> None:
    assert_read_or_refused(tmp_path, "rows.jsonl", "\n".join(map(json.dumps, rows)).encode(errors="replace"))


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200), suffix=st.sampled_from(["csv", "tsv", "json", "jsonl", "parquet"]))
def test_any_bytes_are_read_or_refused(content: bytes, suffix: str, tmp_path: Path) -> None:
    assert_read_or_refused(
        tmp_path, f"bytes.{suffix}", b"text,label\n" + content if suffix in ("csv", "tsv") else content
    )


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10**6), value=st.integers(0, 255))
def test_a_parquet_file_with_one_wrong_byte(place: int, value: int, tmp_path: Path) -> None:
    content = bytearray(parquet())
    content[place % len(content)] = value
    assert_read_or_refused(tmp_path, "byte.parquet", bytes(content))
