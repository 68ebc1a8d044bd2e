"""Feature files as data: what must pass, what is refused, and what a bad file is called."""

import builtins
import hashlib
import io
import os
import pickle
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch

from MMSA_ext.data.features import check_features
from MMSA_ext.data.safe_pickle import load_pickle, safe_load
from MMSA_ext.errors import FeatureFileError
from tests.attack.guarded import guarded
from tests.attack.tally import Tally
from tests.data.pickles.test_source import Trickle


class Calls:
    """Pickles to a call of `function(*args)`, then a state for its result."""

    def __init__(self, function: Any, *args: Any, state: Any = None) -> None:
        self.function, self.args, self.state = function, args, state

    def __reduce__(self) -> tuple[Any, ...]:
        return (self.function, self.args, *(() if self.state is None else (self.state,)))


def loaded(value: Any, protocol: int = 4) -> Any:
    return safe_load(io.BytesIO(pickle.dumps(value, protocol)))


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("hostile", "offender"),
    [
        (Calls(os.system, "exit 1"), f"{os.system.__module__}.system"),
        (Calls(builtins.eval, "1"), "builtins.eval"),
        (Calls(np.load, "x.npy"), "numpy.load"),
        (np.ma.zeros(2), "numpy.ma"),
        (torch.zeros(2), "torch"),
        (pandas.DataFrame({"a": [1, 2]}), r"(pandas|copyreg).*numpy array"),
        (np.array([Calls(os.system, "exit 1")], dtype=object), "system"),
        ({"train": {"audio": [Calls(builtins.exec, "1")]}}, "builtins.exec"),
    ],
    ids=["system", "eval", "np.load", "masked", "torch", "pandas", "in array", "nested"],
)
def test_anything_else_is_refused_by_name(hostile: Any, offender: str, protocol: int) -> None:
    with pytest.raises(FeatureFileError, match=f"refused.*{offender}"):
        loaded(hostile, protocol)


def test_refused_content_does_not_run(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    with pytest.raises(FeatureFileError):
        loaded(Calls(os.mkdir, str(witness)))
    assert not witness.exists()


def test_dtype_cannot_be_changed_after_use() -> None:
    # In numpy's own classes the array's items would grow to 4096 bytes over 4 bytes of memory.
    stored = pickle.dumps([np.array([b"abcd"])], protocol=2)
    state = pickle.dumps((3, "|", None, None, None, 4096, 1, 0), protocol=2)[2:-1]
    memoized = range(stored.count(b"q"))
    attacks = [stored[:-1] + b"h" + bytes([index]) + state + b"b\x86." for index in memoized]
    for attack in attacks:
        with pytest.raises(FeatureFileError, match=r"alters|never stored"):
            safe_load(io.BytesIO(attack))


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(FeatureFileError, match="does not exist"):
        safe_load(tmp_path / "no.pkl")
    with pytest.raises(FeatureFileError, match="is a folder"):
        safe_load(tmp_path)


def zipped(member: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(member, "content")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"id,label\na,1\n", "is not a pickle.* text file"),
        (b'{"train": {}}', "is not a pickle.* JSON file"),
        (b"\xef\xbb\xbf[1, 2]", "JSON file"),
        (b"\n<!DOCTYPE html><html>", "web page.*download the file"),
        (b"\x00\x01\x02\x03", "is not a pickle"),
        (b"PK\x03\x04rest", "a zip archive. Unpack it"),
        (zipped("audio.npy"), r"numpy arrays \(.npz\).*numpy.load"),
        (zipped("archive/data.pkl"), r"PyTorch checkpoint \(a zip archive\)"),
        (b"\x1f\x8b\x08rest", "gzip.*Unpack"),
        (b"BZh91AY", "bzip2"),
        (b"\xfd7zXZ\x00", "xz archive"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x93NUMPY\x01\x00", r"a \.npy file"),
        (b"\0" * 257 + b"ustar", "tar archive"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer.*git lfs pull"),
        (b"\x80\x04\xff\xff\xff", "is damaged"),
    ],
)
def test_files_that_are_no_pickles(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.pkl"
    path.write_bytes(content)
    with pytest.raises(FeatureFileError, match=message) as error:
        safe_load(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_checkpoints_of_pytorch(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "model.pth"
    torch.save({"weight": torch.zeros(2)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(FeatureFileError, match=r"PyTorch checkpoint.*numpy array"):
        safe_load(path)


LONG_FILE = {
    "text": np.random.default_rng(0).normal(size=(50, 500)),
    "id": [f"id {index}" for index in range(50)],
}


@pytest.mark.parametrize("protocol", range(6))
def test_carriage_returns_that_were_added(protocol: int) -> None:
    stored = pickle.dumps(LONG_FILE, protocol).replace(b"\n", b"\r\n")
    with pytest.raises(FeatureFileError, match=r"before every line feed.*text mode.*binary mode"):
        safe_load(io.BytesIO(stored))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    ("lost", "left"), [(b"\r\n", b"\n"), (b"\r", b"")], ids=["before line feeds", "all"]
)
def test_carriage_returns_that_were_lost(protocol: int, lost: bytes, left: bytes) -> None:
    large = LONG_FILE | {"audio": np.random.default_rng(1).bytes(2**21)}
    large["audio"] = np.frombuffer(large["audio"], np.uint8)
    stored = pickle.dumps(large, protocol).replace(lost, left)
    assert stored.count(b"\r\n") == 0
    with pytest.raises(FeatureFileError, match=r"lost.*text mode.*binary mode"):
        safe_load(io.BytesIO(stored))


def test_bytes_that_were_lost_inside() -> None:
    stored = pickle.dumps(LONG_FILE | {"zeros": np.zeros(9)}, 4)
    with pytest.raises(FeatureFileError, match="has its end, and lost bytes before it"):
        safe_load(io.BytesIO(stored[:-300] + stored[-299:]))


@pytest.mark.parametrize("most", [70_000, 3 << 20, 1 << 30])
def test_fingerprint_is_the_sha256_of_every_byte(most: int) -> None:
    array = np.random.default_rng(0).normal(size=1_500_000)
    stored = pickle.dumps([array, "between", array[::-1].copy()], protocol=4)
    stored += b"behind the pickle" * 200_000
    result = load_pickle(Trickle(stored, most))
    assert result.fingerprint == hashlib.sha256(stored).hexdigest()
    assert result.size == len(stored)
    np.testing.assert_array_equal(result.data[0], array)


def test_a_pipe_has_no_size() -> None:
    reading, writing = os.pipe()
    array = np.arange(500_000.0)
    with ThreadPoolExecutor(1) as pool, os.fdopen(reading, "rb", buffering=0) as file:
        pool.submit(_write, writing, pickle.dumps(array))
        np.testing.assert_array_equal(safe_load(file), array)


def _write(descriptor: int, content: bytes) -> None:
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def test_a_large_array_that_ends_too_early_is_truncated() -> None:
    stored = pickle.dumps(np.zeros(1_500_000), protocol=4)
    with pytest.raises(FeatureFileError, match="truncated"):
        load_pickle(io.BytesIO(stored[: 9 << 20]))


@pytest.mark.parametrize(("protocol", "times"), [(0, 5), (2, 5), (3, 1), (4, 1), (5, 1)])
def test_memory_is_in_proportion_to_the_file(tmp_path: Path, protocol: int, times: int) -> None:
    array = np.random.default_rng(0).normal(size=1_000_000)
    path = tmp_path / "large.pkl"
    path.write_bytes(pickle.dumps([array], protocol))
    tracemalloc.start()
    result = safe_load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(result[0], array)
    assert result[0].flags.writeable
    assert peak < times * array.nbytes + 4 * 2**20


def test_shared_cases_end_well(shared_cases: Path) -> None:
    files = sorted((shared_cases / "pickles").glob("*.pkl"))

    def attempt(number: int) -> str:
        path = files[number]
        try:
            safe_load(path)
            check_features(path).render()
        except FeatureFileError as error:
            if "more memory" in str(error) or str(path) not in str(error):
                return str(error)
            return "refused"
        return "content"

    tally = Tally("shared cases", ("content", "refused"))
    guarded(tally, len(files), attempt, lambda number: files[number].stem).check()
    assert tally.outcomes["refused"] > 10 * tally.outcomes["content"]
