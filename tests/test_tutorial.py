"""docs/tutorial.md works as told: its Python, its files and its commands, one after another."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.test_docs import FENCE, ROOT

PAGE = (ROOT / "docs" / "tutorial.md").read_text("utf-8")
STEPS = re.split(r"^## \d\. ", PAGE, flags=re.MULTILINE)[1:]
FILE = re.compile(r"`(\w+\.json)`")
Run = Callable[[str], tuple[int, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a reader works."""
    return tmp_path_factory.mktemp("reader")


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch, typed: Run) -> Run:
    """Runs a command there."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    return typed


def take(step: str, run: Run) -> list[str]:
    """Do what a step of the page shows; what its commands said."""
    said = []
    for found in FENCE.finditer(step):
        language, code = found.groups()
        if language == "python":
            exec(code, {})
        elif language == "json":
            Path(FILE.findall(step[: found.start()])[-1]).write_text(code)
        elif language == "bash":
            for line in code.replace("\\\n", " ").splitlines():
                ended, words = run(line)
                assert ended == 0, f"{line}\n{words}"
                said.append(words)
    return said


@pytest.mark.slow
def test_the_page_works_as_told(folder: Path, run: Run) -> None:
    _, _, _, convert, train, table, *_ = (take(step, run) for step in STEPS)
    assert "no 'speaker' in two splits" in convert[0]
    assert "usable: 0 problems, 0 warnings" in convert[1]
    assert "audio: opensmile 2.5.0 (feature_set eGeMAPSv02)" in convert[1]
    models = ("text_only", "dashfusion", "self_mm")
    for model, words in zip(models, train, strict=True):
        assert re.search(rf"^{model} +2 ", words, re.MULTILINE)
    assert all(model in table[0] for model in models)
    assert all(model.replace("_", r"\_") in Path("table.tex").read_text() for model in models)
    assert Path("results/report.html").is_file()
    predicted = pd.read_csv("predictions.csv")
    assert predicted["id"].tolist() == [f"u{i:03}" for i in range(84, 92)]
    assert predicted["prediction"].between(-3, 3).all()
    parts = [pd.read_parquet(path) for path in sorted(Path("scored").iterdir())]
    assert len(parts) == 2
    again = pd.concat(parts).set_index("id")["prediction"].sort_index()
    np.testing.assert_allclose(again, predicted["prediction"], atol=1e-4)


@pytest.mark.slow
def test_what_a_reader_may_do_wrong(folder: Path, run: Run) -> None:
    """After the page was followed."""
    checkpoint = next(Path("models").glob("dashfusion-*"))
    made = json.loads(Path("made.json").read_text())
    made["audio"]["feature_set"] = "ComParE"
    Path("other.json").write_text(json.dumps(made))
    convert = "mmsa-ext convert new.csv -o other.pkl --audio audio --vision vision"
    assert run(f"{convert} --pretrained minilm --recipe other.json")[0] == 0
    for line, words in (
        (f"mmsa-ext predict {checkpoint} other.pkl", "audio is opensmile 2.5.0 (feature_set ComP"),
        ("mmsa-ext run text_only interviews", "--dataset-file"),
        ("mmsa-ext run text_only interview --dataset-file interviews.json", "mean interviews?"),
        (
            "mmsa-ext convert utterances.csv -o x.pkl --audio audio --column label=ratng",
            "did you mean rating?",
        ),
        ("mmsa-ext check-data features.pkl -d sims", "outside [-1, 1]"),
    ):
        ended, said = run(line)
        assert ended != 0, line
        assert words in said
        assert "Traceback" not in said
