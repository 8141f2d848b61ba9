"""Documents a second of a trained model: `experiment=ag_news` against its tokenizer alone and what else one can run."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from attnlab.config import instantiate
from attnlab.data.sources import Corpus
from attnlab.inference import Predictor
from benchmarks.accuracy import words
from benchmarks.common import DATA, QUIET, THREADS, Row, compare, config_of, folder, in_turn, run

DOCUMENTS = 30_400  # so many that it counts little how the last blocks fall on the cores
FEW = 200  # documents for the encoder, which takes a hundred times as long as any other
IMPORT = "import torch"
LOAD = "from attnlab.inference import Predictor; Predictor.load({!r})"


def measure() -> list[Row]:
    corpus: Corpus = instantiate(config_of(*DATA)["data"]).load()
    texts = (corpus.test.texts * (DOCUMENTS // len(corpus.test.texts) + 1))[:DOCUMENTS]
    with folder() as place:
        print("predict: one epoch of experiment=ag_news, and what it is compared with")
        run("experiment=ag_news", *DATA, *QUIET, "trainer.max_epochs=1", "test=false", f"hydra.run.dir={place}/run")
        # As in `predict.py` where OMP_NUM_THREADS says nothing.
        predictor = Predictor(Predictor.load(place / "run", threads=1).trained, at_once=THREADS)
        systems: dict[str, Callable[[], float]] = {
            "ours": speed(one_thread_each(predictor), texts),
            "tokenizer": speed(predictor.trained.tokenizer.encode_batch_fast, texts),
            "fastText": speed(fasttext(corpus, place), texts),
            "scikit-learn": speed(sklearn(corpus), texts),
            "pipeline": speed(pipeline(), texts[:FEW]),
        }
        print("documents a second")
        figures = in_turn(systems)
        return [*_rows(figures), *_starting(place, texts)]


def _rows(figures: dict[str, list[float]]) -> list[Row]:
    names = {
        "tokenizer": "its tokenizer alone",
        "fastText": "fastText's predict, bigrams",
        "scikit-learn": "scikit-learn, TF-IDF of 1-2 grams and logistic regression",
        "pipeline": "transformers.pipeline, an encoder of 6 layers, width 384, not trained",
    }
    targets: dict[str, dict[str, Any]] = {"tokenizer": {"target": 0.8}}
    return [
        compare(f"predicting against {what}", "documents/s", figures["ours"], figures[name], **targets.get(name, {}))
        for name, what in names.items()
    ]


def _starting(place: Path, texts: list[str]) -> list[Row]:
    """From prompt to answers."""
    file = place / "new.csv"
    pd.DataFrame({"text": texts}).to_csv(file, index=False)
    of_file = [f"ckpt_path={place}/run", f"input={file}", f"output={place}/answers.csv"]
    print("file to file, seconds; and to import and load")
    seconds = in_turn(
        {
            "file": lambda: run(*of_file, script="predict.py")[0],
            "load": lambda: run("-c", LOAD.format(f"{place}/run"), script=None)[0],
            "import": lambda: run("-c", IMPORT, script=None)[0],
        }
    )
    what = f"predict.py, {len(texts):,} rows of a .csv, against importing and loading"
    return [
        compare(
            f"importing and loading against {IMPORT!r}",
            "s",
            seconds["load"],
            seconds["import"],
            target=1.3,
            at_least=False,
        ),
        compare(what, "s", seconds["file"], seconds["load"]),
    ]


def one_thread_each(predictor: Predictor) -> Callable[[list[str]], Any]:
    """As `predict.py` has it: the tokenizer makes no threads beside those of the predictor."""

    def answer(texts: list[str]) -> Any:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        try:
            return predictor(texts)
        finally:
            del os.environ["TOKENIZERS_PARALLELISM"]

    return answer


def speed(answer: Callable[[list[str]], Any], texts: list[str]) -> Callable[[], float]:
    """A measurement of documents a second."""

    def measured() -> float:
        start = time.perf_counter()
        answer(texts)
        return len(texts) / (time.perf_counter() - start)

    return measured


def fasttext(corpus: Corpus, place: Path) -> Callable[[list[str]], Any]:
    """The model of the fastText command line; its time includes taking the texts apart as in training."""
    from fasttext.FastText import train_supervised

    file = place / "train.txt"
    pairs = zip(corpus.train.labels, corpus.train.texts, strict=True)
    file.write_text("".join(f"__label__{label} {words(text)}\n" for label, text in pairs), encoding="utf-8")
    model = train_supervised(str(file), lr=0.5, epoch=1, wordNgrams=2, dim=10, thread=THREADS, verbose=0)
    # The wheel's `predict` is older than numpy 2; what it calls works.
    return lambda texts: [model.f.predict(f"{words(text)}\n", 1, 0.0, "strict") for text in texts]


def sklearn(corpus: Corpus) -> Callable[[list[str]], Any]:
    """Trained on a part: what it takes to answer grows little with the vocabulary."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    features = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    model = make_pipeline(features, LogisticRegression(tol=0.01))
    return model.fit(corpus.train.texts[:10_000], corpus.train.labels[:10_000]).predict_proba


def pipeline() -> Callable[[list[str]], Any]:
    """`transformers.pipeline` over an encoder of MiniLM's size with random weights, which answer as fast as others."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        PreTrainedTokenizerFast,
        TextClassificationPipeline,
    )

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["[UNK]", "[PAD]"]
    texts = instantiate(config_of("data.train_size=1000")["data"]).load().train.texts
    tokenizer.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=8000, special_tokens=special))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]")
    sizes = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    model = BertForSequenceClassification(BertConfig(vocab_size=len(fast), num_labels=4, **sizes))
    answers = TextClassificationPipeline(model=model.eval(), tokenizer=fast, device=torch.device("cpu"))
    return lambda texts: answers(texts, batch_size=32, truncation=True, max_length=128)
