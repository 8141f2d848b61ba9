"""What a user types behind a program's name."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from attnlab.composing import FOLDERS, read_arguments
from attnlab.config import resolve
from attnlab.errors import UserError

Compose = Callable[..., DictConfig]


@pytest.mark.parametrize(
    "text",
    [
        "Oil prices, and gold: fall [again] (a = b) {c}",
        *("it's", '"quoted"', "'quoted'", " space at both ends ", "two\nlines\tand a tab", "", "=", "#no comment"),
        *("true", "null", "1_000", "1e3", "-1", "[a,b]", "{a: 1}", "range(3)", "a,b", "ünïcödé 😀 中文", "\u2028"),
        *("${seed}", r"\${seed}", r"\\${seed}", "$HOME ${", r"C:\new\text", "a\\", r"\'", r"\\'", "? ?? ????"),
    ],
)
def test_a_text_is_taken_as_the_shell_hands_it_over(text: str, compose_config: Compose) -> None:
    read = read_arguments("predict", [f"text={text}", f"text_pair={text}", "ckpt_path=x"])
    assert read[2] == "ckpt_path=x" and all("=" in argument for argument in read)
    config = resolve(compose_config(f"text={text}", f"text_pair={text}", "ckpt_path=x", name="predict"))
    assert config["text"] == config["text_pair"] == text


def test_bytes_that_are_no_characters_are_one_line() -> None:
    for argument, message in (
        (b"text=caf\xe9", r"text=caf\\xe9 is not in UTF-8; input=<file> data.encoding=latin-1 reads"),
        (b"input=caf\xe9.csv", r"input=caf\\xe9.csv is not in this locale's encoding; LC_ALL=C.UTF-8"),
    ):
        with pytest.raises(UserError, match=message):
            read_arguments("predict", [os.fsdecode(argument)])


def test_a_locale_of_ascii_takes_nothing_from_a_text() -> None:
    """There Python hands over each byte of a text by itself."""
    text = "naïve 😀"
    bytewise = text.encode().decode("ascii", "surrogateescape")
    assert read_arguments("predict", [f"text={bytewise}"]) == [f"text='{text}'"]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("data.train=path (1).csv", "quote the value, once more for the shell: \"data.train='path (1).csv'\""),
        ("data.train=it's.csv", r"data.train='it\'s.csv'"),
        ("callbacks=null", "callbacks=null: a group takes the name of a part; ~callbacks removes"),
        *((f"{key}={__file__}/below", "is not a directory; give another") for key in FOLDERS),
        (f"++hydra.run.dir={__file__}", "is not a directory; give another"),
    ],
)
def test_an_argument_that_hydra_cannot_read_is_one_line(argument: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        read_arguments("train", ["-m", "seed=0,1", argument])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "argument",
    [
        "data.train='path (1).csv'",
        "~callbacks",
        "--cfg=job",
        "-m",
        "model.num_heads=1,2",
        "data.limit=null",
        "text=a,b",
    ],
)
def test_an_argument_that_hydra_can_read_is_left_to_it(argument: str) -> None:
    assert read_arguments("train", [argument]) == [argument]


@pytest.mark.slow
def test_the_documents_of_ag_news_are_taken_as_they_are(ag_news_path: str, compose_config: Compose) -> None:
    import pyarrow.parquet

    (file,) = Path(ag_news_path).rglob("test*.parquet")
    for text in pyarrow.parquet.read_table(file)["text"].to_pylist()[:200]:
        assert resolve(compose_config(f"text={text}", "ckpt_path=x", name="predict"))["text"] == text


def test_what_is_given_on_resume_is_of_the_run_not_of_the_default_config() -> None:
    given = ["resume=latest", "data.train=new.csv", "trainer.min_epochs=3", "tags=[a]", "paths.log_dir=logs"]
    read = ["resume=latest", "++data.train=new.csv", "++trainer.min_epochs=3", "tags=[a]", "paths.log_dir=logs"]
    assert read_arguments("train", given) == read
    assert read_arguments("train", ["-m", *given]) == ["-m", *given]
    assert read_arguments("train", given[1:]) == given[1:]


def test_to_look_at_an_argument_makes_no_folder(tmp_path: Path) -> None:
    for argument in (f"paths.log_dir={tmp_path}/new", f"paths.log_dir={tmp_path}/a,{tmp_path}/b", "hydra.run.dir=x/y"):
        read_arguments("train", [argument, "-m"])
    assert list(tmp_path.iterdir()) == [] and not Path("x").exists()
