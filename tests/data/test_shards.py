"""Shards: what was written is read, whatever the form; what is damaged or foreign is named."""

import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from MMSA_ext.data import synthetic
from MMSA_ext.data.features import fingerprint, read_features, write_features
from MMSA_ext.data.samples import Sample
from MMSA_ext.data.shards import load_shards, read_utterances, shard_files, write_shards
from MMSA_ext.data.utterances import Utterances
from MMSA_ext.errors import ConfigError, FeatureFileError, WriteError
from MMSA_ext.extras import install_command
from tests.conftest import make_feature_data

LETTERS = {"M": "regression_labels"} | {x: f"regression_labels_{x}" for x in "TAV"}


def samples_of(data: dict, dtype=np.float32):
    """The utterances of data in MMSA's layout, unpadded."""
    for split, values in data.items():
        for i, name in enumerate(values["id"]):
            tokens = values["text_bert"][i]
            frames = {
                key: values[key][i, : values[f"{key}_lengths"][i]].astype(dtype)
                for key in ("audio", "vision")
            }
            yield Sample(
                name,
                split,
                str(values["raw_text"][i]),
                tokens[:, tokens[1] == 1].astype(np.int64),
                **frames,
                labels={k: float(values[key][i]) for k, key in LETTERS.items() if key in values},
            )


@pytest.fixture
def data():
    data = make_feature_data((7, 3, 5), "sims")
    data["valid"]["text_bert"][0, 2, 1] = 1  # a second segment
    for split in data.values():
        del split["text"]
    return data


@pytest.mark.parametrize("parts", [1, 4, 20])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_read_as_the_feature_file_of_the_same_samples(tmp_path, data, parts, dtype):
    for split in data.values():
        for key in ("audio", "vision"):
            split[key] = split[key].astype(dtype)
    padded = read_features(write_features(tmp_path / "padded.pkl", data), "sims")
    written = write_shards(samples_of(data, dtype), tmp_path / "shards", parts)
    assert [part.name for part in written] == [f"part-{i:05d}.parquet" for i in range(parts)]
    sharded = read_features(tmp_path / "shards", "sims")
    assert list(sharded.splits) == list(padded.splits)
    for name, split in padded.splits.items():
        found = sharded.splits[name]
        assert (found.ids, found.raw_text) == (split.ids, split.raw_text)
        for key in ("text_bert", "audio", "vision", "audio_lengths", "vision_lengths"):
            want, got = getattr(split, key), getattr(found, key)
            assert want.dtype == got.dtype or key == "text_bert"
            np.testing.assert_array_equal(got, want)
        assert split.labels.keys() == found.labels.keys() == set("MTAV")
        for kind, labels in split.labels.items():
            np.testing.assert_array_equal(found.labels[kind], labels)


def test_a_part_alone(tmp_path, data):
    parts = write_shards(samples_of(data), tmp_path, 2)
    split = read_features(parts[1], require_labels=False).splits["train"]
    assert split.ids == data["train"]["id"][1::2]
    assert split.audio.shape[1] == max(data["train"]["audio_lengths"][1::2])


def test_the_fingerprint_is_of_the_bytes(tmp_path, data):
    for name in "ab":
        write_shards(samples_of(data), tmp_path / name, 3)
    found = fingerprint(tmp_path / "a")
    assert found == fingerprint(tmp_path / "b") == read_features(tmp_path / "a").fingerprint
    data["test"]["audio"][0, 0, 0] += 1
    write_shards(samples_of(data), tmp_path / "c", 3)
    assert fingerprint(tmp_path / "c") != found


def test_the_recipe_travels(tmp_path, data):
    recipe = {"audio": {"name": "librosa 33, 你好", "version": "1", "hop": 512}}
    write_shards(samples_of(data), tmp_path, 2, recipe)
    assert load_shards(tmp_path).data["recipe"] == recipe
    for part in shard_files(tmp_path):
        assert json.loads(pq.read_schema(part).metadata[b"recipe"]) == recipe


def test_windows_bound_what_is_read_at_once(tmp_path, data):
    (part,) = write_shards(samples_of(data), tmp_path, 1)
    windows = list(read_utterances(part, 4))
    assert [len(window) for window in windows] == [4, 4, 4, 3]
    assert Utterances.joined(windows).ids == [s.id for s in samples_of(data)]


def test_samples_are_not_held(tmp_path, monkeypatch):
    """The generator is asked for more only as what came before is written."""
    monkeypatch.setattr("MMSA_ext.data.shards._BUFFERED", 40_000)
    alive = set()

    def generated():
        for i in range(100):
            frames = np.zeros((10, 100), np.float32)
            held = frames.view(Watched)
            alive.add(i)
            held.gone = lambda i=i: alive.discard(i)
            yield Sample(str(i), audio=held)
            assert len(alive) < 40

    write_shards(generated(), tmp_path, 3)
    assert sum(len(w) for part in shard_files(tmp_path) for w in read_utterances(part)) == 100


class Watched(np.ndarray):
    def __del__(self):
        getattr(self, "gone", lambda: None)()


def test_ragged_takes_at_most_sixty_percent_of_padded(tmp_path):
    """Of generated data of the size of SIMS, without compression; with it they take less."""
    data = synthetic.make("sims", sizes=(60, 4, 4), text_features=False)
    padded = sum(s[k].nbytes for s in data.values() for k in ("text_bert", "audio", "vision"))
    assert data["train"]["audio"].dtype == np.float32
    write_shards(samples_of(data), tmp_path, 2)
    parts = [pq.ParquetFile(part) for part in shard_files(tmp_path)]
    plain = sum(
        p.metadata.row_group(g).total_byte_size
        for p in parts
        for g in range(p.metadata.num_row_groups)
    )
    stored = sum(part.stat().st_size for part in shard_files(tmp_path))
    assert stored < plain < 0.6 * padded


def one(**changed) -> Sample:
    rng = np.random.default_rng(0)
    sample = Sample(
        "a",
        "test",
        "text",
        np.array([[2, 7, 3], [1, 1, 1], [0, 0, 0]]),
        audio=rng.normal(size=(4, 5)).astype(np.float32),
        vision=rng.normal(size=(3, 2)).astype(np.float32),
        labels={"M": 0.5},
    )
    return replace(sample, **changed)


UNFIT = {
    "id 'a' is there twice": {"id": "a"},
    "id '' is no text": {"id": ""},
    "split of 'b' is 'dev'": {"split": "dev"},
    r"audio of 'b' has shape \(4, 6\)": {"audio": np.zeros((4, 6))},
    "audio of 'b' is absent": {"audio": None},
    "text of 'b' is there": {"text": np.zeros((3, 8))},
    "vision of 'b' is infinite": {"vision": np.full((3, 2), -np.inf)},
    "audio of 'b' is infinite": {"audio": np.full((4, 5), 1e300)},
    "text_bert of 'b' has shape .* or padding": {"text_bert": np.array([[2, 0], [1, 0], [0, 0]])},
    "text_bert of 'b' holds what is no token": {"text_bert": np.array([[2.5], [1], [0]])},
}


@pytest.mark.parametrize("said", UNFIT)
def test_a_sample_that_does_not_fit_leaves_nothing(tmp_path, said):
    samples = [one(), replace(one(id="b"), **UNFIT[said])]
    with pytest.raises(FeatureFileError, match=said):
        write_shards(samples, tmp_path / "shards", 2)
    assert not list((tmp_path / "shards").iterdir())


def test_what_mmsa_mends_is_mended(tmp_path, caplog):
    frames = one().audio.copy()
    frames[0, 0], frames[1, 1] = np.nan, -np.inf
    with caplog.at_level(logging.WARNING, "MMSA"):
        (part,) = write_shards([one(audio=frames)], tmp_path, 1)
    assert "2 NaN or -inf" in caplog.text
    (found,) = read_utterances(part)
    frames[0, 0] = frames[1, 1] = 0
    np.testing.assert_array_equal(found.arrays["audio"][0], frames)


def test_of_two_writers_at_once_one_is_refused(tmp_path):
    def samples(prefix):
        for i in range(6):
            if prefix == "late" and i == 5:  # another writer is done in the meantime
                write_shards(samples("early"), tmp_path, 2)
            yield one(id=f"{prefix}{i}")

    with pytest.raises(ConfigError, match="holds Parquet files already"):
        write_shards(samples("late"), tmp_path, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "part-00000.parquet",
        "part-00001.parquet",
    ]
    found = pa.concat_tables([pq.read_table(path) for path in sorted(tmp_path.glob("*.parquet"))])
    assert {name[:5] for name in found.column("id").to_pylist()} == {"early"}


def test_options_out_of_range(tmp_path):
    with pytest.raises(ConfigError, match="shards is 0"):
        write_shards([one()], tmp_path, 0)
    with pytest.raises(ConfigError, match="recipe audio has no texts"):
        write_shards([one()], tmp_path, 1, {"audio": {}})
    with pytest.raises(FeatureFileError, match="no samples"):
        write_shards([], tmp_path, 1)
    write_shards([one()], tmp_path, 1)
    with pytest.raises(ConfigError, match="holds Parquet files already"):
        write_shards([one()], tmp_path, 1)
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="file"):
        write_shards([one()], tmp_path / "file", 1)


def test_a_killed_writer_leaves_no_part(tmp_path):
    code = """
import sys, time, numpy as np
from MMSA_ext.data.samples import Sample
from MMSA_ext.data.shards import write_shards
from MMSA_ext.data import shards
shards._BUFFERED = 1
def slow():
    for i in range(10**6):
        yield Sample(str(i), audio=np.ones((5, 4)))
        if i == 20: print("on", flush=True)
write_shards(slow(), sys.argv[1], 3)
"""
    run = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE)
    run.stdout.readline()
    run.kill()
    run.wait()
    assert not list(tmp_path.glob("*.parquet"))
    write_shards([one()], tmp_path, 1)  # and what it left is tidied
    assert [path.name for path in tmp_path.iterdir()] == ["part-00000.parquet"]


@pytest.mark.parametrize("at", [0, 4, 0.1, 0.3, 0.5, 0.7, 0.9, -3, -12, -40])
def test_a_changed_byte_is_found(tmp_path, at):
    rng = np.random.default_rng(0)
    samples = [one(id=str(i), audio=rng.normal(size=(9, 5))) for i in range(20)]
    (part,) = write_shards(samples, tmp_path, 1)
    content = bytearray(part.read_bytes())
    content[int(at * len(content)) if isinstance(at, float) else at] ^= 0x41
    part.write_bytes(content)
    try:
        found = list(read_utterances(part))
    except FeatureFileError as error:
        said = str(error)
        assert str(part) in said
        return  # else, what is changed is nothing that is read
    read = Utterances.joined(found)
    for sample, frames in zip(samples, read.arrays["audio"], strict=True):
        np.testing.assert_array_equal(frames, sample.audio.astype(np.float32))


def test_a_truncated_part(tmp_path):
    (part,) = write_shards([one()], tmp_path, 1)
    whole = part.read_bytes()
    for end in (0, 3, len(whole) // 2, len(whole) - 1):
        part.write_bytes(whole[:end])
        with pytest.raises(FeatureFileError, match="damaged or no Parquet file"):
            read_features(part, require_labels=False)


def rewrite(part: Path, change) -> None:
    table = pq.read_table(part)
    columns = {name: table.column(name) for name in table.schema.names}
    metadata = dict(table.schema.metadata)
    change(columns, metadata)
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), part)


def lists(values, kind=None) -> pa.Array:
    return pa.array(values, pa.list_(kind or pa.float32()))


FOREIGN = {
    "lacks column 'id'": lambda c, m: c.pop("id"),
    "lacks the widths": lambda c, m: m.clear(),
    "'mmsa_ext' is no JSON": lambda c, m: m.update({b"mmsa_ext": b"{"}),
    "'audio' has the width -5": lambda c, m: m.update({b"mmsa_ext": b'{"widths": {"audio": -5}}'}),
    "'vision' has the width None": lambda c, m: m.update(
        {b"mmsa_ext": b'{"widths": {"audio": 5}}'}
    ),
    "says that it is part 7 of 2": lambda c, m: m.update(
        {b"mmsa_ext": b'{"widths": {"audio": 5, "vision": 2}, "part": 7, "parts": 2}'}
    ),
    "says that it is part 0 of 2000000": lambda c, m: m.update(
        {b"mmsa_ext": b'{"widths": {"audio": 5, "vision": 2}, "part": 0, "parts": 2000000}'}
    ),
    "its recipe 'sound' is no modality": lambda c, m: m.update({b"recipe": b'{"sound": {}}'}),
    "column 'audio' is string": lambda c, m: c.update(audio=pa.array(["x", "y"])),
    r"column 'audio' is list<.*string": lambda c, m: c.update(
        audio=lists([["x"]] * 2, pa.string())
    ),
    "column 'id' is int64": lambda c, m: c.update(id=pa.array([1, 2])),
    "column 'id' is empty": lambda c, m: c.update(id=pa.array(["a", None])),
    "column 'split' of 'b' is 'dev'": lambda c, m: c.update(split=pa.array(["test", "dev"])),
    "column 'audio' of 'b' has 6 values": lambda c, m: c.update(
        audio=lists([[1.0] * 5, [1.0] * 6])
    ),
    "column 'audio' of 'b' is missing": lambda c, m: c.update(audio=lists([[1.0] * 5, None])),
    "column 'vision' of 'b' has missing values": lambda c, m: c.update(
        vision=lists([[1.0, 2.0], [1.0, None]])
    ),
    "column 'text_bert' of 'b' has no tokens": lambda c, m: c.update(
        text_bert=lists([[2, 3, 4], []], pa.int32())
    ),
    "column 'segments' of 'b' has 2 values": lambda c, m: c.update(
        segments=lists([None, [0, 1]], pa.int8())
    ),
    "column 'audio' of 'b' holds NaN or infinity": lambda c, m: c.update(
        audio=lists([[1.0] * 5, [np.nan] * 5])
    ),
    "column 'vision' of 'a' holds NaN or infinity": lambda c, m: c.update(
        vision=lists([[1.0, np.inf], [1.0, 1.0]])
    ),
    "text_bert: ids .*1 sample: 1 .id 'b'": lambda c, m: c.update(
        text_bert=lists([[2, 3, 4], [-1]], pa.int32())
    ),
}


@pytest.mark.parametrize("said", FOREIGN)
def test_a_foreign_part(tmp_path, said):
    (part,) = write_shards([one(), one(id="b")], tmp_path, 1)
    rewrite(part, FOREIGN[said])
    with pytest.raises(FeatureFileError, match=said) as error:
        read_features(part, require_labels=False)
    assert str(part) in str(error.value)


def test_text_that_is_no_utf8(tmp_path):
    (part,) = write_shards([one()], tmp_path, 1)
    wrong = pa.Array.from_buffers(
        pa.string(), 1, [*pa.array([b"\xff\xfe"]).buffers()[:2], pa.py_buffer(b"\xff\xfe")]
    )
    rewrite(part, lambda c, m: c.update(raw_text=wrong))
    with pytest.raises(FeatureFileError, match="damaged"):
        list(read_utterances(part))


def test_parts_that_do_not_belong_together(tmp_path):
    write_shards([one(), one(id="b")], tmp_path / "a", 2)
    write_shards(
        [one(), one(id="b", vision=one().vision)],
        tmp_path / "b",
        2,
        {"audio": {"name": "x", "version": "1"}},
    )
    other = (tmp_path / "b" / "part-00001.parquet").read_bytes()
    (tmp_path / "a" / "part-00001.parquet").write_bytes(other)
    with pytest.raises(FeatureFileError, match="its recipe are not those"):
        load_shards(tmp_path / "a")
    (tmp_path / "b" / "part-00000.parquet").unlink()
    with pytest.raises(FeatureFileError, match="1 of the 2 parts"):
        load_shards(tmp_path / "b")
    with pytest.raises(FeatureFileError, match="without shards"):
        load_shards(tmp_path)


def test_an_absent_modality_has_no_column(tmp_path):
    (part,) = write_shards([one(audio=None)], tmp_path, 1)
    assert "audio" not in pq.read_schema(part).names
    assert "audio" not in load_shards(part).data["test"]


def test_without_pyarrow_the_install_line_is_said(tmp_path):
    code = """
import sys
sys.modules["pyarrow"] = None
from MMSA_ext.data.shards import write_shards
from MMSA_ext.data.features import read_features
try:
    write_shards([], sys.argv[1], 1)
except Exception as error:
    print(type(error).__name__, error)
"""
    run = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "x"], capture_output=True, text=True, check=True
    )
    assert "ConfigError a Parquet file needs pyarrow, which is not installed: " in run.stdout
    assert install_command("shards") in run.stdout
