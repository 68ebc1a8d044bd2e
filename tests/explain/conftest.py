"""Tiny trained models to look into."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from MMSA_ext import MMSA_run
from MMSA_ext.explain.trained_model import TrainedModel, load_trained
from tests.conftest import tiny_config
from tests.models.hosts.variants import INFOENH, tiny_overrides, write_features

OWN = {"dashfusion", "dashfusion_released", "text_only"}


@pytest.fixture(scope="session")
def planted_file(tmp_path_factory) -> Path:
    """16, 8 and 8 samples whose modalities all tell the label."""
    return write_features(tmp_path_factory.mktemp("planted") / "features.pkl", planted=True)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, tiny_encoder, planted_file) -> Callable[..., Path]:
    """Train a tiny model, once for each name and set of options."""
    folder = tmp_path_factory.mktemp("trained")

    @cache
    def train(model: str, *options: tuple[str, object]) -> Path:
        if model in OWN:
            config = tiny_config(model, tiny_encoder, num_epochs=1)
        else:
            host = model.removesuffix("_infoenh")
            config = tiny_overrides(host, tiny_encoder)
            if model != host:
                config |= {"infoenh": INFOENH}
        results = MMSA_run(
            model, "mosi", config=config | {"featurePath": str(planted_file)} | dict(options),
            seeds=[1], num_workers=0, verbose_level=0,
            model_save_dir=folder / "m", res_save_dir=folder / "r", log_dir=folder / "l",
        )  # fmt: skip
        return results.seeds[0].checkpoint

    return train


@pytest.fixture(scope="session")
def explained(checkpoint, planted_file) -> Callable[..., TrainedModel]:
    """A tiny trained model with the test split's samples."""

    @cache
    def load(model: str, *options: tuple[str, object]) -> TrainedModel:
        return load_trained(checkpoint(model, *options), planted_file, gpu_ids="cpu")

    return load
