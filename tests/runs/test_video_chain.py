"""From videos to a score: a corpus with a planted sentiment is trained on, and new clips scored."""

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from MMSA_ext.video.talking_head import make_talking_head

TRAIN = (
    "mmsa-ext run dashfusion mosi -f features.pkl -s 1111 -g cpu --set pretrained=minilm "
    "--set num_epochs=12 --set batch_size=8 --set learning_rate=5e-4 "
    "--model-save-dir models --res-save-dir results --log-dir logs"
)


@pytest.mark.slow
def test_new_clips_are_scored_in_the_order_of_their_sentiment(tmp_path, monkeypatch, typed, capsys):
    """All say the same words, so only face and voice tell."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MMSA_EXT_CACHE", str(tmp_path / "cache"))
    rows = ["id,path,text,label,split"]
    for i, sentiment in enumerate(np.linspace(-1, 1, 40)):
        make_talking_head(f"clips/c{i}.mp4", float(sentiment), 1.6, i, size=160)
        split = {1: "valid", 3: "test"}.get(i % 5, "train")
        rows.append(f"c{i},clips/c{i}.mp4,this is what was said,{3 * sentiment:.2f},{split}")
    Path("corpus.csv").write_text("\n".join(rows))
    ended, said = typed("mmsa-ext extract corpus.csv -o features.pkl --pretrained minilm -j 2")
    assert ended == 0, said
    ended, said = typed("mmsa-ext check-data features.pkl -d mosi")
    assert ended == 0, said
    ended, said = typed(TRAIN)
    assert ended == 0, said
    truth = np.random.default_rng(1).permutation(np.linspace(-0.9, 0.9, 12))
    for i, sentiment in enumerate(truth):
        make_talking_head(f"new/n{i:02}.mp4", float(sentiment), 1.6, 100 + i, size=160)
        Path(f"new/n{i:02}.txt").write_text("this is what was said")
    ended, said = typed("mmsa-ext predict models/*.pth new -o scores.csv -g cpu")
    assert ended == 0, said
    scores = pd.read_csv("scores.csv")["prediction"].to_numpy()
    corr = np.corrcoef(scores, truth)[0, 1]
    pairs = list(combinations(range(12), 2))
    right = np.mean([(scores[i] > scores[j]) == (truth[i] > truth[j]) for i, j in pairs])
    with capsys.disabled():
        print(f"\nn = 12 new clips: correlation {corr:.3f}, {right:.3f} of 66 pairs in order")
    assert corr > 0.8
    assert right > 0.8
    line = "mmsa-ext predict models/*.pth new/n00.mp4 --plot plot.png -o one.json -g cpu"
    ended, said = typed(line)
    assert ended == 0, said
    assert Path("plot.png").stat().st_size > 10_000
    (one,) = json.loads(Path("one.json").read_text("utf-8"))
    assert one["prediction"] == pytest.approx(scores[0], abs=1e-4)
    assert len(one["utterances"][0]["words"]) == 5
