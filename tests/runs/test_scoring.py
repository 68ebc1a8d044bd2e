"""Scoring folders of shards and tables of texts."""

import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from MMSA_ext import Scorer, predict_file
from MMSA_ext.cli import app
from MMSA_ext.data.shards import write_shards
from MMSA_ext.errors import FeatureFileError
from MMSA_ext.models.contract import core_model
from MMSA_ext.runs.scoring import score_shards, score_texts
from tests.conftest import tiny_config, train
from tests.data.test_shards import samples_of

runner = CliRunner()


@pytest.fixture
def scorer(checkpoints):
    return Scorer(checkpoints["dashfusion"], gpu_ids="cpu")


def results(folder):
    return [pd.read_parquet(path) for path in sorted(folder.glob("*.parquet"))]


@pytest.mark.parametrize("model", ["dashfusion", "self_mm"])
def test_shards_are_scored_as_the_feature_file(model, tmp_path, data, features, checkpoints):
    write_shards(samples_of(data), tmp_path / "s", 5)
    scorer = Scorer(checkpoints[model], gpu_ids="cpu", embed=True)
    parts = score_shards(scorer, tmp_path / "s", tmp_path / "r")
    assert [part.samples for part in parts] == [5, 5, 5, 5, 4]
    want = predict_file(checkpoints[model], features)
    for number, found in enumerate(results(tmp_path / "r")):
        assert list(found)[:5] == ["split", "id", "label", "prediction", "error"]
        expected = want.iloc[number::5]  # in the order of the part
        assert found["id"].tolist() == expected["id"].tolist()
        assert found["split"].tolist() == expected["split"].tolist()
        np.testing.assert_array_equal(found["label"], expected["label"].astype(np.float32))
        np.testing.assert_allclose(found["prediction"], expected["prediction"], atol=1e-5)
        assert found["error"].isna().all()
        assert len(found["embedding"][0]) > 1
    again = predict_file(checkpoints[model], tmp_path / "s")  # read into memory as a whole
    np.testing.assert_allclose(again.prediction, want.prediction, atol=1e-5)


def test_windows_change_nothing(tmp_path, data, scorer, monkeypatch):
    write_shards(samples_of(data), tmp_path / "s", 1)
    score_shards(scorer, tmp_path / "s", tmp_path / "one")
    monkeypatch.setattr("MMSA_ext.runs.scoring.WINDOW", 5)
    monkeypatch.setattr("MMSA_ext.runs.prediction._PADDED_AT_ONCE", 1000)
    score_shards(scorer, tmp_path / "s", tmp_path / "many")
    (one,), (many,) = results(tmp_path / "one"), results(tmp_path / "many")
    assert one["id"].tolist() == many["id"].tolist()
    np.testing.assert_allclose(one["prediction"], many["prediction"], atol=1e-5)


def test_samples_of_like_length_are_padded_together(data, scorer, monkeypatch):
    """Each group is as long as its longest, and groups do not overlap in length."""
    rng = np.random.default_rng(0)
    samples = list(samples_of(data)) * 10
    batch = {
        "text_bert": [s.text_bert for s in samples],
        "audio": [np.ones((n, 5), np.float32) for n in rng.integers(1, 13, len(samples))],
        "vision": [s.vision[:2] for s in samples],
    }
    padded = []
    inner = core_model(scorer.model).forward
    monkeypatch.setattr(
        core_model(scorer.model),
        "forward",
        lambda inputs: padded.append(inputs.audio.shape[:2]) or inner(inputs),
    )
    scorer(batch)
    together = sum(n * length for n, length in padded)
    valid = sum(map(len, batch["audio"]))
    assert together < 1.35 * valid < 12 * len(samples)
    padded.clear()
    monkeypatch.setattr(core_model(scorer.model), "reads_padding", True)
    scorer(batch)
    assert sum(n * length for n, length in padded) > 1.1 * together


def test_what_is_finished_is_not_computed_again(tmp_path, data, scorer, checkpoints, monkeypatch):
    write_shards(samples_of(data), tmp_path / "s", 3)
    score_shards(scorer, tmp_path / "s", tmp_path / "r")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "r").iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "score", None)
        found = score_shards(scorer, tmp_path / "s", tmp_path / "r")
    assert [(part.samples, part.found) for part in found] == [(8, True)] * 3
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "r").iterdir()}

    damaged = sorted(before)[1]
    damaged.write_bytes(damaged.read_bytes()[:-9])
    found = score_shards(scorer, tmp_path / "s", tmp_path / "r")
    assert [part.found for part in found] == [True, False, True]
    part = tmp_path / "s" / "part-00002.parquet"
    part.unlink()
    changed = [replace(s, id=f"{s.id}x") for s in samples_of(data)]
    write_shards(changed, tmp_path / "t", 3)
    (tmp_path / "t" / part.name).rename(part)
    found = score_shards(scorer, tmp_path / "s", tmp_path / "r")
    assert [part.found for part in found] == [True, True, False]
    for other in (
        Scorer(checkpoints["self_mm"], gpu_ids="cpu"),
        Scorer(checkpoints["dashfusion"], gpu_ids="cpu", too_long="cut"),
    ):
        found = score_shards(other, tmp_path / "s", tmp_path / "r")
        assert not any(part.found for part in found)


def test_a_sample_that_fails_costs_nothing_but_itself(tmp_path, data, scorer):
    samples = list(samples_of(data))
    samples[3] = replace(samples[3], audio=np.ones((13, 5), np.float32))
    samples[8] = replace(samples[8], text_bert=np.array([[2, 900, 3], [1, 1, 1], [0, 0, 0]]))
    (part,) = write_shards(samples, tmp_path / "s", 1)
    table = pq.read_table(part)
    frames = table.column("vision").to_pylist()
    frames[11][0] = float("nan")
    column = table.schema.get_field_index("vision")
    table = table.set_column(
        column, table.schema.field("vision"), pa.array(frames, pa.list_(pa.float32()))
    )
    pq.write_table(table, part)
    (found,) = score_shards(scorer, tmp_path / "s", tmp_path / "r")
    assert (found.samples, found.failed) == (24, 3)
    (table,) = results(tmp_path / "r")
    errors = table["error"].dropna()
    assert errors.index.tolist() == [3, 8, 11]
    for row, said in ((3, "more than the 12 steps"), (8, "token id 900"), (11, "'vision'")):
        assert said in errors[row]
        assert str(part) in errors[row]
        assert "\n" not in errors[row]
    for row in (3, 11):
        assert table["id"][row] in errors[row]
    assert table["prediction"].isna().tolist() == table["error"].notna().tolist()
    write_shards(samples_of(data), tmp_path / "sound", 1)
    score_shards(scorer, tmp_path / "sound", tmp_path / "r2")
    (sound,) = results(tmp_path / "r2")
    kept = table["error"].isna()
    np.testing.assert_allclose(table["prediction"][kept], sound["prediction"][kept], atol=1e-5)


def test_killed_in_the_middle_it_goes_on(tmp_path, data, checkpoints, scorer):
    write_shards(samples_of(data), tmp_path / "s", 4)
    code = """
import sys, time
from MMSA_ext import Scorer
from MMSA_ext.runs import scoring
def tell(part):
    print(part.part.name, part.found, flush=True)
    if part.part.name.startswith("part-00001"): time.sleep(60)
scoring.score_shards(Scorer(sys.argv[1], gpu_ids="cpu"), sys.argv[2], sys.argv[3], tell)
"""
    command = [sys.executable, "-c", code, str(checkpoints["dashfusion"])]
    command += [str(tmp_path / "s"), str(tmp_path / "r")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout.readline() == "part-00000.parquet False\n"
        assert run.stdout.readline() == "part-00001.parquet False\n"
        run.kill()
    rest = score_shards(scorer, tmp_path / "s", tmp_path / "r")
    assert [part.found for part in rest] == [True, True, False, False]
    ids = [name for table in results(tmp_path / "r") for name in table["id"]]
    assert sorted(ids) == sorted(s.id for s in samples_of(data))


def test_a_part_that_cannot_be_read_stops_no_other(tmp_path, data, scorer):
    parts = write_shards(samples_of(data), tmp_path / "s", 3)
    parts[1].write_bytes(b"PAR1 and no more")
    found = score_shards(scorer, tmp_path / "s", tmp_path / "r")
    assert [bool(part.error) for part in found] == [False, True, False]
    assert str(parts[1]) in found[1].error
    assert len(results(tmp_path / "r")) == 2
    with pytest.raises(FeatureFileError, match="without shards"):
        score_shards(scorer, tmp_path, tmp_path / "r")


def test_a_part_that_was_lost_is_said(tmp_path, data, scorer):
    parts = write_shards(samples_of(data), tmp_path / "s", 3)
    score_shards(scorer, tmp_path / "s", tmp_path / "r")
    parts[1].unlink()
    found = score_shards(scorer, tmp_path / "s", tmp_path / "r")
    assert [part.part for part in found] == parts
    assert [bool(part.error) for part in found] == [False, True, False]
    assert found[1].error.startswith(f"{parts[1]}: is not there")
    alone = score_shards(scorer, parts[0], tmp_path / "alone")  # as one machine of many does
    assert [part.error for part in alone] == [""]


def predict(*arguments):
    return runner.invoke(app, ["predict", *map(str, arguments), "-g", "cpu"])


def test_shards_on_the_command_line(tmp_path, data, checkpoints):
    samples = list(samples_of(data))
    samples[3] = replace(samples[3], audio=np.ones((13, 5), np.float32))
    parts = write_shards(samples, tmp_path / "s", 2)
    given = (checkpoints["dashfusion"], tmp_path / "s")
    assert "name it with -o" in str(predict(*given).exception)
    first = predict(*given, "-o", tmp_path / "r")
    assert first.exit_code == 0, first.output
    assert "23 predictions of 24 samples" in first.output
    assert "1 samples could not be scored" in first.output
    assert "finished before" in predict(*given, "-o", tmp_path / "r").output
    cut = predict(*given, "-o", tmp_path / "r", "--too-long", "cut")
    assert "24 predictions of 24 samples" in cut.output
    parts[0].write_bytes(b"")
    broken = predict(*given, "-o", tmp_path / "r")
    assert broken.exit_code == 1
    assert "1 of 2 parts could not be read or are missing" in broken.output
    alone = predict(given[0], parts[1], "-o", tmp_path / "alone")
    assert alone.exit_code == 0
    assert [path.name for path in (tmp_path / "alone").iterdir()] == [
        "part-00001.predictions.parquet"
    ]
    turned = predict(*given, "-o", tmp_path / "r", "--front-padding", "turn")
    assert "--front-padding has no effect" in str(turned.exception)
    assert "give an input or --text" in str(predict(given[0]).exception)


TEXTS = ["word1 word7", "word9, word3", "", "word1 " * 80]


def test_a_run_reads_shards(tmp_path, data, features, checkpoints, tiny_encoder):
    write_shards(samples_of(data), tmp_path / "shards", 2)
    config = tiny_config("text_only", tiny_encoder, num_epochs=1)
    trained = train("text_only", tmp_path / "shards", tmp_path, config=config).checkpoint
    of_file, of_shards = (
        predict_file(path, features, gpu_ids="cpu") for path in (checkpoints["text_only"], trained)
    )
    pd.testing.assert_frame_equal(of_shards, of_file, rtol=1e-4)


def test_a_table_of_texts(tmp_path, checkpoints):
    table = tmp_path / "texts.csv"
    frame = pd.DataFrame({"more": 1, "text": TEXTS, "id": ["007", "b", "NA", "d"]})
    frame.to_csv(table, index=False, encoding="utf-8-sig")
    scorer = Scorer(checkpoints["text_only"], gpu_ids="cpu")
    found = score_texts(scorer, table)
    assert found["id"].tolist() == ["007", "b", "NA", "d"]
    want = scorer({"raw_text": TEXTS[:3]})["prediction"]
    np.testing.assert_allclose(found["prediction"][:3], want, atol=1e-6)
    assert "reads at most 64" in found["error"][3]
    assert found["error"].tolist()[:3] == [""] * 3
    shown = predict(checkpoints["text_only"], table)
    assert shown.exit_code == 0
    assert "1 of 4 texts could not be scored" in shown.output
    output = tmp_path / "out.csv"
    assert (
        predict(checkpoints["text_only"], table, "-o", output, "--too-long", "cut").exit_code == 0
    )
    assert pd.read_csv(output)["prediction"].notna().all()
    one = predict(checkpoints["text_only"], "--text", TEXTS[0])
    assert float(one.output.splitlines()[-1]) == pytest.approx(float(want[0]), rel=1e-4)


def test_where_nothing_can_be_scored_it_fails(tmp_path, checkpoints):
    table = tmp_path / "texts.csv"
    pd.DataFrame({"id": ["a"], "text": TEXTS[3:4]}).to_csv(table, index=False)
    shown = predict(checkpoints["text_only"], table)
    assert shown.exit_code == 1
    assert "1 of 1 texts could not be scored" in shown.output
    empty = predict(checkpoints["text_only"], "--text", " ")
    assert "--text is empty" in str(empty.exception)


def test_a_table_with_semicolons(tmp_path, checkpoints):
    table = tmp_path / "texts.csv"
    table.write_text("id;text\n007;yes, but\n7;no\n")
    scorer = Scorer(checkpoints["text_only"], gpu_ids="cpu")
    found = score_texts(scorer, table)
    assert found["id"].tolist() == ["007", "7"]
    want = scorer({"raw_text": ["yes, but", "no"]})["prediction"]
    np.testing.assert_allclose(found["prediction"], want, atol=1e-6)


@pytest.mark.parametrize("kind", ["texts", "checkpoint", "shards"])
def test_an_input_is_never_the_output(kind, tmp_path, checkpoints, data):
    write_shards(samples_of(data), tmp_path / "shards", 1)
    (tmp_path / "texts.csv").write_text("id,text\na,word1\n")
    checkpoint = shutil.copy(checkpoints["text_only"], tmp_path)
    source = tmp_path / "shards" if kind == "shards" else tmp_path / "texts.csv"
    output = checkpoint if kind == "checkpoint" else source
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    said = predict(checkpoint, source, "-o", output)
    assert "is the input; name another output" in str(said.exception)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}


def test_texts_for_a_model_that_reads_more(checkpoints):
    said = predict(checkpoints["dashfusion"], "--text", "word1")
    assert "it has no audio, which dashfusion reads; it has no vision" in str(said.exception)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"id,txt\n1,a\n", "no column 'text'; did you mean txt"),
        (b"id,text\n", "has a header and no rows"),
        (b"", "has a header and no rows"),
        (b"id,text\n1,\xff\n", "is no text in UTF-8"),
        (b'id,text\n1,"a\n', "cannot be read as a table"),
        (b"id,text\n1,yes, but\n", r"2 columns, but not in 1 of its rows.* 2 \(3\)"),
    ],
)
def test_a_table_that_is_none(tmp_path, content, said, checkpoints):
    table = tmp_path / "texts.csv"
    table.write_bytes(content)
    with pytest.raises(FeatureFileError, match=said) as error:
        score_texts(Scorer(checkpoints["text_only"], gpu_ids="cpu"), table)
    assert str(table) in str(error.value)
