"""A tiny model on a file of features, as a trainer gets it."""

import pytest
import torch

from MMSA_ext import mmsa_bridge
from MMSA_ext.config.resolve import resolve
from MMSA_ext.data.features import read_features
from MMSA_ext.data.loader import make_loaders
from tests.conftest import TINY_SHAPES, tiny_config


@pytest.fixture
def setting(feature_file, tiny_encoder, tmp_path):
    """Complete configuration, model and loaders; the features of the test may be changed."""

    def make(model="text_only", data="mosi", seed=0, **more):
        overrides = tiny_config(model, tiny_encoder, **TINY_SHAPES, **more)
        args = mmsa_bridge.complete_args(
            resolve(model, data, "", overrides | {"featurePath": str(feature_file)}),
            device=torch.device("cpu"),
            model_save_path=tmp_path / "weights.pth",
        )
        mmsa_bridge.setup_seed(seed)
        split = read_features(feature_file, data)
        loaders = make_loaders(split, args.batch_size, args.eval_batch_size)
        return args, mmsa_bridge.build_model(args), loaders

    return make
