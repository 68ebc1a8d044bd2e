"""Reading inside MMSA's loader: once a file, and transformed once where asked for."""

import pickle
from pathlib import Path

import pytest

from MMSA_ext import mmsa_bridge
from MMSA_ext.mmsa_bridge.feature_reading import feature_cache, transformed_features


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "content.pkl"
    path.write_bytes(pickle.dumps({"a": 1}))
    return path


def read(path: Path):
    """As MMSA's loader reads."""
    import MMSA.data_loader

    with mmsa_bridge.registered(), path.open("rb") as file:
        return MMSA.data_loader.pickle.load(file)


def test_a_file_is_transformed_once_and_the_reading_stays_as_it_is(file):
    calls = []

    def transform(content):
        calls.append(content)
        return {**content, "b": 2}

    with feature_cache():
        with transformed_features(transform):
            first, second = read(file), read(file)
        assert first is second
        assert first == {"a": 1, "b": 2}
        assert calls == [{"a": 1}]
        assert read(file) == {"a": 1}


def test_every_file_is_transformed(file, tmp_path):
    other = tmp_path / "other.pkl"
    other.write_bytes(pickle.dumps({"c": 3}))
    with transformed_features(lambda content: list(content)):
        assert [read(file), read(other)] == [["a"], ["c"]]


def test_none_transforms_nothing_and_an_error_leaves_nothing_behind(file):
    with transformed_features(None):
        assert read(file) == {"a": 1}
    with pytest.raises(KeyError), transformed_features(lambda content: content["none"]):
        read(file)
    assert read(file) == {"a": 1}


def test_the_innermost_counts(file):
    with transformed_features(lambda _: "outer"):
        with transformed_features(lambda _: "inner"):
            assert read(file) == "inner"
        assert read(file) == "outer"
