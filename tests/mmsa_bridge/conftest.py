"""MMSA in a known state: as it comes, with the shims, or with a toy model registered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mmsa_toys import NARROW, SMALL, WIDE, ToyPackage, write_encoder, write_features

from MMSA_ext import mmsa_bridge
from MMSA_ext.config.files import read_config


@pytest.fixture(scope="session")
def features(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Path of a feature file of `mosi` or `sims` layout, 30 samples."""
    folder = tmp_path_factory.mktemp("features")
    return lambda dataset: write_features(folder / f"{dataset}.pkl", dataset)


@pytest.fixture
def stock_mmsa() -> Iterator[None]:
    """MMSA as it is without this package; the registration is taken up again afterwards."""
    before = mmsa_bridge.in_force()
    mmsa_bridge.unregister()
    yield
    mmsa_bridge.unregister()
    if before:
        mmsa_bridge.register()


@pytest.fixture
def toy_package(stock_mmsa: None) -> ToyPackage:
    """MMSA with the toy model registered."""
    package = ToyPackage()
    mmsa_bridge.register(package.extension())
    return package


@pytest.fixture
def patched_mmsa(stock_mmsa: None) -> None:
    """MMSA with the shims but no further model."""
    package = ToyPackage()
    package.models = {}
    mmsa_bridge.register(package.extension())


@pytest.fixture(scope="session")
def wide_encoder(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path) -> Path:
    """An encoder as wide as MMSA takes every encoder to be."""
    return write_encoder(tmp_path_factory.mktemp("wide_encoder"), tiny_encoder, hidden_size=WIDE)


@pytest.fixture(scope="session")
def narrow_encoder(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path) -> Path:
    """An encoder 16 wide."""
    folder = tmp_path_factory.mktemp("narrow_encoder")
    return write_encoder(folder, tiny_encoder, hidden_size=NARROW)


@pytest.fixture
def train(
    stock_mmsa: None, features: Callable[[str], Path], tmp_path: Path
) -> Callable[..., mmsa_bridge.StockRun]:
    """Train a model of MMSA on 16 samples, with seed 1."""

    def run(model: str, dataset: str, **config: Any) -> mmsa_bridge.StockRun:
        args = read_config("regression", model, dataset)
        args.update(SMALL | {"featurePath": str(features(dataset))} | config)
        cpu = torch.device("cpu")
        args = mmsa_bridge.complete_args(args, device=cpu, model_save_path=tmp_path / "m.pth")
        with mmsa_bridge.progress_bars(False):
            return mmsa_bridge.train_and_test(args, seed=1, splits=("test",))

    return run
