"""The other writer: what is converted into shards is what the feature file would have."""

from pathlib import Path

import numpy as np
import pytest

from MMSA_ext.data.convert.forms import FORMS
from MMSA_ext.data.features import safe_load
from MMSA_ext.data.shards import load_shards
from MMSA_ext.errors import FeatureFileError
from tests.data.convert import sources
from tests.data.convert.test_forms import FOLDERS, SOURCES, converted


@pytest.mark.parametrize("form", FORMS)
def test_shards_hold_what_the_file_holds(form: str, tmp_path: Path) -> None:
    getattr(sources, form)(tmp_path)
    source, options = SOURCES[form]
    report = converted(tmp_path, source, **options)
    sharded = converted(tmp_path, source, "shards", **options, shards=3)
    assert len(list((tmp_path / "shards").glob("*.parquet"))) == 3
    assert sharded.samples == report.samples
    padded, ragged = safe_load(tmp_path / "out.pkl"), load_shards(tmp_path / "shards").data
    assert ragged["recipe"] == padded.get("recipe", {})
    for split in sources.SPLITS:
        assert padded[split].keys() == ragged[split].keys()
        for key, value in padded[split].items():
            other = np.asarray(ragged[split][key])
            within = tuple(map(slice, other.shape))
            np.testing.assert_array_equal(np.asarray(value)[within], other)


def test_a_source_with_problems_leaves_no_shard(tmp_path: Path) -> None:
    sources.table(tmp_path)
    for name in ("audio/train5.npy", "vision/test3.npy"):
        (tmp_path / name).unlink()
    with pytest.raises(FeatureFileError, match=r"(?s)'train5'.*'test3'"):
        converted(tmp_path, "utterances.csv", "shards", **FOLDERS, shards=2)
    assert not list((tmp_path / "shards").rglob("*.parquet"))
