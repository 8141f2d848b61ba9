from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from attnlab.errors import UserError
from attnlab.study.comparison import compare, make_study
from attnlab.study.ranks import Ranks, rank_settings
from attnlab.study.runs import read_runs
from tests.conftest import Compose
from tests.study.fake import write_run


def write_sets(folder: Path, number: int, scores: dict[str, float]) -> Path:
    for place in range(number):
        for pooling, accuracy in scores.items():
            changes = {"model.pooling": pooling, "data.path": f"set{place}"}
            score = accuracy - 0.1 * (place % 3)
            write_run(folder / f"{place}_{pooling}", changes, accuracy=score, seed=place)
    return folder


def test_a_setting_that_is_better_on_every_set_is_called_so(tmp_path: Path, compose_config: Compose) -> None:
    folder = write_sets(tmp_path / "runs", 8, {"cls": 0.7, "mean": 0.72, "max": 0.8})
    ranks = compare(compose_config(f"runs={folder}", "across=true", name="compare"))
    assert isinstance(ranks, Ranks)
    assert list(ranks.table.index) == ["model.pooling=max", "model.pooling=mean", "model.pooling=cls"]
    assert ranks.table["rank"].tolist() == [1, 2, 3] and ranks.table["verdict"].iloc[-1] == "worse"
    assert ranks.p == pytest.approx(stats.friedmanchisquare(*ranks.scores.to_numpy()).pvalue)
    assert ranks.critical == pytest.approx(2.343 * np.sqrt(3 * 4 / (6 * 8)), abs=0.01)  # Demsar's table 5
    (made,) = (tmp_path / "logs" / "compare" / "runs").iterdir()
    assert len(pd.read_csv(made / "ranks.csv")) == 3 and (made / "ranks.png").stat().st_size > 5000


def test_two_settings_or_few_sets(tmp_path: Path) -> None:
    two = rank_settings(read_runs([write_sets(tmp_path / "a", 8, {"cls": 0.7, "max": 0.8})])[0], "test/acc", 0.05)
    assert two.p == two.table["p_holm"].iloc[1] == pytest.approx(2 / 2**8)
    with pytest.raises(UserError, match="on all of 2 data sets; it takes 2 on 3 or more"):
        rank_settings(read_runs([write_sets(tmp_path / "b", 2, {"cls": 0.7, "max": 0.8})])[0], "test/acc", 0.05)


def test_the_newest_data_set_is_compared_and_the_others_are_named(tmp_path: Path) -> None:
    study = make_study([write_sets(tmp_path, 3, {"cls": 0.7, "max": 0.8})])
    assert len(study.runs) == 2 and {run.config["data"]["path"] for run in study.runs} == {"set2"}
    assert (
        "2 runs on Headlines set2, the newest; left out: 2 on Headlines set0, 2 on Headlines set1" in study.warnings[0]
    )
