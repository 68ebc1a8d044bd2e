"""docs/video.md works as told: its Python and its commands, one after another."""

import re
from pathlib import Path

import pandas as pd
import pytest

from tests.test_docs import FENCE, ROOT

PAGE = (ROOT / "docs" / "video.md").read_text("utf-8")


@pytest.mark.slow
def test_the_page_works_as_told(tmp_path, monkeypatch, typed, capsys):
    pytest.importorskip("pocketsphinx")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MMSA_EXT_CACHE", str(tmp_path / "cache"))
    said = {}
    for language, code in FENCE.findall(PAGE):
        if language == "python":
            exec(code, {})
            said["python"] = capsys.readouterr().out
            continue
        for line in code.replace("\\\n", " ").splitlines():
            if line.startswith("mmsa-ext"):
                ended, words = typed(line.replace("CHECKPOINT", "*"))
                assert ended == 0, f"{line}\n{words}"
                said[line.split()[1]] = words
    assert re.search(r"^vision +12 +1 / 1 / 1", said["extract"], re.MULTILINE)
    assert "usable: 0 problems" in said["check-data"]
    assert len(pd.read_csv("scores.csv")) == 1
    assert Path("scores.png").is_file()
    assert len(said["python"].split()) > 3


def test_the_table_of_extractors_is_that_of_the_code():
    from MMSA_ext.video.extractors import list_extractors

    section = PAGE.split("### Extractors")[1].split("##")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| `([\w,]+)` \|$", section, re.MULTILINE))
    extras = {entry.name: entry.extra for entry in list_extractors()}
    assert set(rows) == set(extras)
    for name, extra in extras.items():
        assert rows[name] == extra or not extra
