"""What every form gives: the samples of its source, unpadded, in MMSA's layout."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import MMSA_ext
from MMSA_ext.data.convert import ConversionReport, convert
from MMSA_ext.data.convert.forms import FORMS, find_form
from MMSA_ext.data.convert.source import Source
from MMSA_ext.data.encode_text import encode_text, text_recipe
from MMSA_ext.data.features import check_features, read_features, safe_load, write_features
from MMSA_ext.errors import ConfigError, FeatureFileError
from tests.data.convert import sources

FRAMES = ("audio", "vision")
FOLDERS = {"audio": "audio", "vision": "vision"}
# form -> (source, options)
SOURCES: dict[str, tuple[str, dict[str, Any]]] = {
    "table": ("utterances.csv", FOLDERS),
    "arrays": ("arrays", {}),
    "hugging_face": ("hub", {}),
    "mult": ("mosi_data.pkl", {}),
    "mag_bert": ("mosi.pkl", {}),
    "mmsa_fet": ("dataset.pkl", {"front_padding": "turn"}),
    "openface": ("utterances.csv", {"audio": "audio", "vision": "openface"}),
}


def converted(folder: Path, name: str, output: str = "out.pkl", **options: Any) -> ConversionReport:
    """Convert a source of a folder; folders of sequences are in it too."""
    places = {key: folder / options.pop(key) for key in FRAMES if key in options}
    return convert(folder / name, folder / output, **options, **places)


def frames(split: dict[str, Any], key: str, row: int) -> np.ndarray:
    return split[key][row, : split[f"{key}_lengths"][row]]


@pytest.mark.parametrize("form", FORMS)
def test_samples_are_those_of_the_source(form: str, tmp_path: Path) -> None:
    rows = getattr(sources, form)(tmp_path)
    source, options = SOURCES[form]
    report = converted(tmp_path, source, **options)
    data = safe_load(tmp_path / "out.pkl")
    assert report.samples == sources.COUNTS
    assert read_splits(data) == ["train", "valid", "test"]
    place = dict.fromkeys(data, 0)
    for row in rows:
        split, i = data[row["split"]], place[row["split"]]
        place[row["split"]] += 1
        name = f"{row['id']}$_$0.0$_$1.5" if form == "mult" else row["id"]
        assert split["id"][i] == name
        assert split["raw_text"][i] == ("" if form == "mult" else row["text"])
        assert split["regression_labels"][i] == np.float32(row["label"])
        for key in FRAMES:
            np.testing.assert_allclose(frames(split, key, i), row[key], rtol=1e-6)
            assert not split[key][i, split[f"{key}_lengths"][i] :].any()
    for key in FRAMES:
        lengths = {data[split][key].shape[1] for split in sources.SPLITS}
        assert lengths == {max(len(row[key]) for row in rows)}, "all splits have one length"
    assert check_features(tmp_path / "out.pkl", "mosi").ok


def read_splits(data: dict[str, Any]) -> list[str]:
    return [name for name in data if name != "recipe"]


@pytest.mark.parametrize(
    ("form", "source"),
    [
        *((form, source) for form, (source, _) in SOURCES.items() if form != "openface"),
        ("mmsa_fet", "one.pkl"),
        ("openface", "clip.csv"),
    ],
)
def test_forms_are_recognised(form: str, source: str, tmp_path: Path) -> None:
    getattr(sources, form)(tmp_path)
    assert find_form(Source(tmp_path / source)) == form


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"", "empty"),
        (b"\x89HDF\r\n\x1a\n", "go with --audio"),
        (b"\x93NUMPY\x01\x00", "in a folder"),
        (b"PK\x03\x04[Content_Types].xml", "none of the forms"),
        (b"\x80\x04K\x01.", "holds int, not a dict"),
    ],
)
def test_other_files_are_called_what_they_are(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(content)
    with pytest.raises(FeatureFileError, match=said):
        converted(tmp_path, "source")
    assert not (tmp_path / "out.pkl").exists()


@pytest.mark.parametrize("form", FORMS)
def test_another_form_than_named_is_an_error(form: str, tmp_path: Path) -> None:
    sources.table(tmp_path)
    source = "audio/train0.npy" if form == "table" else "utterances.csv"
    with pytest.raises(FeatureFileError):
        converted(tmp_path, source, form=form)


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FeatureFileError, match="No such file"):
        converted(tmp_path, "nothing.csv")
    with pytest.raises(FeatureFileError, match="neither a data set"):
        convert(tmp_path, tmp_path / "out.pkl")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"form": "tabel"}, "did you mean table"),
        ({"too_long": "shorten"}, "'cut', 'pool' or 'error'"),
        ({"incomplete": "keep"}, "'error' or 'drop'"),
        ({"shares": (0.5, 0.5)}, "sum 1"),
        ({"shares": (0.9, 0.2, -0.1)}, "sum 1"),
        ({"seed": -1}, "is no seed"),
        ({"max_length": {"video": 3}}, "'video'"),
        ({"max_length": {"text": 2}}, "3 or more"),
        ({"columns": {"txet": "a"}}, "did you mean text"),
        ({"columns": {"text": "txt"}}, "did you mean text"),
        ({"group": "speakr"}, "did you mean speaker"),
        ({"front_padding": "turn"}, "goes with arrays, mult, mmsa_fet"),
        ({"recipe": {"audio": {"name": "x"}}}, "'name' and 'version'"),
        ({"recipe": {"adio": {}}}, "did you mean audio"),
        ({"shards": 0}, "1 or more"),
    ],
)
def test_options_are_refused(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    sources.table(tmp_path)
    with pytest.raises(ConfigError, match=said):
        converted(tmp_path, "utterances.csv", **options)
    assert not (tmp_path / "out.pkl").exists()


@pytest.mark.parametrize("option", [{"columns": {"text": "a"}}, {"group": "a"}, FOLDERS])
def test_options_that_mean_nothing_to_a_form_are_refused(
    option: dict[str, Any], tmp_path: Path
) -> None:
    sources.mult(tmp_path)
    with pytest.raises(ConfigError, match="means nothing to a source of form mult"):
        converted(tmp_path, "mosi_data.pkl", **option)


def test_the_source_is_not_overwritten(tmp_path: Path) -> None:
    sources.table(tmp_path)
    with pytest.raises(ConfigError, match="is the input"):
        convert(tmp_path / "utterances.csv", tmp_path / "utterances.csv")


def test_recipe_of_the_user_is_kept(tmp_path: Path) -> None:
    sources.openface(tmp_path)
    made = sources.write_recipe(tmp_path / "made.json")
    source, options = SOURCES["openface"]
    report = converted(tmp_path, source, **options, recipe=made, pretrained="minilm")
    recipe = safe_load(tmp_path / "out.pkl")["recipe"]
    assert recipe == report.recipe
    assert recipe["audio"] == {"name": "opensmile", "version": "2.6"}
    assert recipe["vision"]["name"] == "openface"
    assert recipe["vision"]["features"] == sources.VISION
    assert recipe["text"] == text_recipe("minilm", 50)


def test_the_user_knows_better(tmp_path: Path) -> None:
    rows = sources.openface(tmp_path)
    assert len(rows) > 1
    source, options = SOURCES["openface"]
    made = {key: {"name": "mine", "version": "1"} for key in ("text", "vision")}
    converted(tmp_path, source, **options, recipe=made, pretrained="minilm")
    assert safe_load(tmp_path / "out.pkl")["recipe"] == made


def test_word_vectors_beside_new_tokens_are_not_theirs(tmp_path: Path) -> None:
    sources.mult(tmp_path)
    data = safe_load(tmp_path / "mosi_data.pkl")
    for split in data.values():
        split["raw_text"] = ["some words"] * len(split["id"])
    write_features(tmp_path / "x.pkl", data)
    converted(tmp_path, "x.pkl", pretrained="minilm")
    found = safe_load(tmp_path / "out.pkl")
    assert found["recipe"]["text"] == text_recipe("minilm", 50) | {"fields": ["text_bert"]}
    assert found["train"]["text"].shape == (12, 5, 6)
    assert found["train"]["text_bert"].shape == (12, 3, 4)


def test_texts_that_are_too_long_may_be_refused(tmp_path: Path) -> None:
    sources.table(tmp_path)
    options = {"pretrained": "minilm", "too_long": "error"}
    with pytest.raises(FeatureFileError, match=r"max-length text=6 \(1\): 6 samples, .* 7 tokens"):
        converted(tmp_path, "utterances.csv", max_length={"text": 6}, **options)
    converted(tmp_path, "utterances.csv", **options)


def test_tokens_are_those_of_encode_text(tmp_path: Path) -> None:
    sources.table(tmp_path)
    converted(tmp_path, "utterances.csv", "plain.pkl", **FOLDERS)
    converted(tmp_path, "utterances.csv", **FOLDERS, pretrained="minilm")
    encode_text(
        *(tmp_path / "plain.pkl", tmp_path / "encoded.pkl", "minilm"),
        fields=("text_bert",),
        progress=False,
    )
    ours, theirs = (safe_load(tmp_path / name) for name in ("out.pkl", "encoded.pkl"))
    assert ours["recipe"] == theirs["recipe"]
    for name in sources.SPLITS:
        length = ours[name]["text_bert"].shape[2]
        np.testing.assert_array_equal(
            ours[name]["text_bert"], theirs[name]["text_bert"][:, :, :length]
        )
        assert not theirs[name]["text_bert"][:, 1, length:].any()


def test_words_that_are_lost_are_said(tmp_path: Path) -> None:
    sources.table(tmp_path)
    report = converted(
        tmp_path, "utterances.csv", **FOLDERS, pretrained="minilm", max_length={"text": 3}
    )
    assert safe_load(tmp_path / "out.pkl")["train"]["text_bert"].shape == (12, 3, 3)
    assert "20 of 20 samples cut at 3 tokens" in report.render()
    assert "--max-length" in report.warnings[0]


def test_public_name() -> None:
    assert MMSA_ext.convert is convert


def test_what_is_read_back(tmp_path: Path) -> None:
    rows = sources.table(tmp_path)
    report = converted(tmp_path, "utterances.csv", **FOLDERS, pretrained="minilm")
    split = read_features(tmp_path / "out.pkl", "mosi").splits["train"]
    own = [row for row in rows if row["split"] == "train"]
    assert split.ids == [row["id"] for row in own]
    assert split.audio_lengths.tolist() == [len(row["audio"]) for row in own]
    said = report.render()
    assert "train  12       audio     2 / 4.08 / 7" in said
    assert f"mmsa-ext run -m MODEL -d mosi -f {tmp_path / 'out.pkl'}" in said
