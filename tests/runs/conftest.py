"""Checkpoints of tiny models, trained once for all files that score with them."""

import pytest

from MMSA_ext.data.features import write_features
from tests.conftest import make_feature_data, tiny_config, train


@pytest.fixture(scope="module")
def data():
    return make_feature_data()


@pytest.fixture(scope="session")
def features(tmp_path_factory):
    """`data` as a file."""
    return write_features(tmp_path_factory.mktemp("features") / "features.pkl", make_feature_data())


@pytest.fixture(scope="session")
def checkpoints(features, tmp_path_factory, tiny_encoder):
    """Models of this package, one of MMSA that reads word vectors and one that reads tokens."""
    folder = tmp_path_factory.mktemp("models")
    configs = {
        "text_only": tiny_config("text_only", tiny_encoder, num_epochs=1),
        "dashfusion": tiny_config("dashfusion", tiny_encoder, num_epochs=1),
        "lf_dnn": {"early_stop": 1},
        "self_mm": {"early_stop": 1, "update_epochs": 1, "pretrained": str(tiny_encoder)},
    }
    return {
        model: train(model, features, folder, config=config).checkpoint
        for model, config in configs.items()
    }
