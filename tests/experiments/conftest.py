"""A small experiment of two rows, and where it is run."""

import json
from functools import partial

import pytest

from MMSA_ext.experiments import Experiment, load
from MMSA_ext.records.store import RunStore
from tests.conftest import tiny_config

CONTENT = {
    "title": "Two rates",
    "source": {"paper": "A paper", "table": "Table 9", "csv": "table9.csv"},
    "datasets": ["mosi"],
    "seeds": [1, 2],
    "columns": {"mosi": ["MAE", "Corr"]},
    "rows": [
        {"label": "slow", "model": "text_only", "config": {"learning_rate": 0.0005}},
        {"label": "fast", "model": "text_only", "published": "Fast"},
    ],
}

PRINTED = """row,dataset,metric,value,mark,source
Fast,mosi,MAE,0.709,‡,"A paper, Table 9"
Fast,mosi,Non0_acc_2,84.5,‡,"A paper, Table 9"
Fast,mosei,Corr,0.5,‡,"A paper, Table 9"
"""


def written(folder, printed=PRINTED, **changes) -> Experiment:
    """An experiment from `CONTENT` with some of it replaced, and the numbers of its paper."""
    (folder / "published").mkdir(exist_ok=True)
    (folder / "published" / "table9.csv").write_text(printed, "utf-8")
    path = folder / "rates.json"
    path.write_text(json.dumps(CONTENT | changes))
    return load(path)


def options_in(folder, features):
    folders = {"model_save_dir": "m", "res_save_dir": "r", "log_dir": "l"}
    own = {"custom_feature": features, "gpu_ids": "cpu", "num_workers": 0, "verbose_level": 0}
    return own | {key: folder / name for key, name in folders.items()}


@pytest.fixture
def make(tmp_path):
    return partial(written, tmp_path)


@pytest.fixture
def options(tmp_path, feature_file):
    return options_in(tmp_path, feature_file)


@pytest.fixture
def tiny(tiny_encoder):
    return tiny_config("text_only", tiny_encoder)


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "r" / "runs")
