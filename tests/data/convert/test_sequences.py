"""Sequences by id, in every kind of file."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from MMSA_ext.data.features import safe_load
from MMSA_ext.errors import FeatureFileError
from tests.data.convert import sources
from tests.data.convert.test_forms import converted, frames


def npy(folder: Path, name: str, array: np.ndarray) -> None:
    np.save(folder / f"{name}.npy", array)


def npz(folder: Path, name: str, array: np.ndarray) -> None:
    np.savez(folder / f"{name}.npz", audio=array, rate=np.array(100))


def hdf5(folder: Path, name: str, array: np.ndarray) -> None:
    with h5py.File(folder / f"{name}.h5", "w") as file:
        file["features"] = array


def csv(folder: Path, name: str, array: np.ndarray) -> None:
    np.savetxt(folder / f"{name}.csv", array, delimiter=",")


def csv_with_header(folder: Path, name: str, array: np.ndarray) -> None:
    header = "f0;f1;f2;f3;f4"
    np.savetxt(folder / f"{name}.csv", array, delimiter=";", header=header, comments="")


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, Any]]:
    rows = sources.utterances()
    for row in rows:
        row["id"] = f"v{row['id']}$_$1"
    sources.write_csv(tmp_path / "t.csv", rows)
    (tmp_path / "audio").mkdir()
    return rows


def check(folder: Path, rows: list[dict[str, Any]], audio: str = "audio") -> None:
    converted(folder, "t.csv", audio=audio)
    train = safe_load(folder / "out.pkl")["train"]
    for i, row in enumerate(row for row in rows if row["split"] == "train"):
        np.testing.assert_allclose(frames(train, "audio", i), row["audio"], rtol=1e-6)


@pytest.mark.parametrize("write", [npy, npz, hdf5, csv, csv_with_header])
def test_a_file_an_id(
    write: Callable[[Path, str, np.ndarray], None], rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    for row in rows:
        write(tmp_path / "audio", row["id"], row["audio"])
    check(tmp_path, rows)


def test_a_folder_a_video(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    for row in rows:
        (tmp_path / "audio" / row["id"].split("$_$")[0]).mkdir()
        npy(tmp_path / "audio", row["id"].replace("$_$", "/"), row["audio"])
    check(tmp_path, rows)


@pytest.mark.parametrize("join", ["$_$", "/"])
def test_one_hdf5_file(join: str, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    with h5py.File(tmp_path / "audio.h5", "w") as file:
        for row in rows:
            file[row["id"].replace("$_$", join)] = row["audio"]
    check(tmp_path, rows, "audio.h5")


def test_one_npz_file(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    np.savez(tmp_path / "audio.npz", **{row["id"]: row["audio"] for row in rows})
    check(tmp_path, rows, "audio.npz")


def test_float16_stays_and_one_dimension_is_one_frame(
    rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    for row in rows:
        npy(tmp_path / "audio", row["id"], row["audio"][0].astype(np.float16))
    converted(tmp_path, "t.csv", audio="audio")
    train = safe_load(tmp_path / "out.pkl")["train"]
    assert train["audio"].dtype == np.float16
    assert train["audio"].shape == (12, 1, sources.AUDIO)


def test_booleans_and_integers_are_numbers(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    for i, row in enumerate(rows):
        npy(tmp_path / "audio", row["id"], row["audio"] > 0 if i % 2 else np.ones((2, 5), int))
    converted(tmp_path, "t.csv", audio="audio")
    assert set(np.unique(safe_load(tmp_path / "out.pkl")["train"]["audio"])) == {0.0, 1.0}


def test_what_cannot_be_used_is_named_at_once(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    audio = tmp_path / "audio"
    names = [row["id"] for row in rows]
    for name, row in zip(names, rows, strict=True):
        npy(audio, name, row["audio"])
    (audio / f"{names[0]}.npy").write_bytes(b"no array")
    np.save(audio / f"{names[1]}.npy", np.array([None, {}], object), allow_pickle=True)
    npy(audio, names[8], np.ones((3, 4)))
    npy(audio, names[3], np.ones((3, 4, 5)))
    npy(audio, names[4], np.full((2, 5), 1e300))
    npy(audio, names[5], np.array([["a", "b"]]))
    csv(audio, names[6], rows[6]["audio"])
    (audio / f"{names[7]}.npy").unlink()
    with zipfile.ZipFile(audio / f"{names[7]}.npz", "w") as file:
        file.writestr("x.npy", b"no array")
    with pytest.raises(FeatureFileError) as error:
        converted(tmp_path, "t.csv", audio="audio")
    for said in (
        rf"audio cannot be read \(5\): .*{rows[0]['id'][:7]}",
        r"holds float64 \(3, 4, 5\)",
        r"holds <U1 \(1, 2\)",
        r"audio differs in its number of features from 5, .* has 4",
        r"audio is infinite, or too large for float32 \(1\)",
        r"audio: several files of one id \(1\)",
    ):
        assert error.match(said), said
    assert "audio is missing" not in str(error.value)


@pytest.mark.parametrize("shape", ["(900000000000, 5)", "(((((", "(2,"])
def test_a_header_that_lies_is_a_problem(
    shape: str, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    for row in rows:
        npy(tmp_path / "audio", row["id"], row["audio"])
    (tmp_path / "audio" / f"{rows[0]['id']}.npy").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "all.npz", "w") as file:
        file.writestr(f"{rows[0]['id']}.npy", content)
    for place in ("audio", "all.npz"):
        with pytest.raises(FeatureFileError, match="audio cannot be read"):
            converted(tmp_path, "t.csv", audio=place)


@pytest.mark.parametrize(
    ("first", "said"),
    [
        (",a,b\n0,1,2\n", "row or column numbers"),
        (",0,1,2\n0,1,2,3\n", "row or column numbers"),
        ("0,1,2\n1,2,3\n", "row or column numbers"),
        ("b,a\n2,1\n", "the columns differ, or their order does"),
    ],
)
def test_columns_that_are_no_features_or_other_ones(
    first: str, said: str, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    for row in rows:
        (tmp_path / "audio" / f"{row['id']}.csv").write_text("a,b\n1,2\n")
    (tmp_path / "audio" / f"{rows[0]['id']}.csv").write_text(first)
    with pytest.raises(FeatureFileError, match=said):
        converted(tmp_path, "t.csv", audio="audio")


def test_nan_stays_and_is_counted(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    rows[0]["audio"][0, 0] = np.nan
    rows[0]["audio"][0, 1] = -np.inf
    for row in rows:
        npy(tmp_path / "audio", row["id"], row["audio"])
    npy(tmp_path / "audio", "of_nobody", np.ones((2, 5)))
    report = converted(tmp_path, "t.csv", audio="audio")
    assert report.of("train", "audio").not_numbers == 2
    audio = safe_load(tmp_path / "out.pkl")["train"]["audio"]
    assert np.isnan(audio[0, 0, 0])
    assert np.isneginf(audio[0, 0, 1])
    assert "audio: sequences of no id in the source (1): of_nobody" in report.render()


def test_zero_frames_count_and_no_frame_is_one(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    for row in rows:
        npy(tmp_path / "audio", row["id"], np.vstack([row["audio"], np.zeros((2, 5))]))
    npy(tmp_path / "audio", rows[1]["id"], np.zeros((0, 5)))
    report = converted(tmp_path, "t.csv", audio="audio")
    lengths = safe_load(tmp_path / "out.pkl")["train"]["audio_lengths"]
    assert lengths[0] == len(rows[0]["audio"]) + 2
    assert lengths[1] == 1
    assert "audio without a frame gets one of zeros (1)" in report.render()


def test_places_without_sequences(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    for place, said in (
        ("audio", "holds no sequence"),
        ("t.csv", "give a folder"),
        ("nothing", "no such file or folder"),
        ("no.h5", "is no HDF5 file"),
        ("no.npz", "is no .npz file"),
    ):
        if place.startswith("no."):
            (tmp_path / place).write_bytes(b"something")
        with pytest.raises(FeatureFileError, match=said):
            converted(tmp_path, "t.csv", audio=place)


@pytest.mark.parametrize("too_long", ["cut", "pool"])
def test_longest(too_long: str, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    for row in rows:
        npy(tmp_path / "audio", row["id"], row["audio"])
    report = converted(tmp_path, "t.csv", audio="audio", max_length={"audio": 3}, too_long=too_long)
    train = safe_load(tmp_path / "out.pkl")["train"]
    own = [row["audio"] for row in rows if row["split"] == "train"]
    assert train["audio"].shape[1] == 3
    assert train["audio_lengths"] == [min(3, len(array)) for array in own]
    found = report.of("train", "audio")
    assert found.cut == sum(len(array) > 3 for array in own) > 0
    lost = sum(max(0, len(array) - 3) for array in own)
    assert found.dropped == (lost if too_long == "cut" else 0)
    i = next(i for i, array in enumerate(own) if len(array) == 6)
    expected = own[i][:3] if too_long == "cut" else own[i].reshape(3, 2, 5).mean(axis=1)
    np.testing.assert_allclose(train["audio"][i], expected, rtol=1e-5)


def test_too_long_may_be_refused(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    for row in rows:
        npy(tmp_path / "audio", row["id"], row["audio"])
    with pytest.raises(FeatureFileError, match=r"longer than --max-length audio=3.*has "):
        converted(tmp_path, "t.csv", audio="audio", max_length={"audio": 3}, too_long="error")
