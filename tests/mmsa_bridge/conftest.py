"""MMSA in a known state: as it comes, with the shims, or with a toy model registered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mmsa_toys import ToyPackage, write_features

from MMSA_ext import mmsa_bridge


@pytest.fixture(scope="session")
def features(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Path of a feature file of `mosi` or `sims` layout, 30 samples."""
    folder = tmp_path_factory.mktemp("features")
    return lambda dataset: write_features(folder / f"{dataset}.pkl", dataset)


@pytest.fixture
def stock_mmsa() -> Iterator[None]:
    """MMSA as it is without this package; the registration is taken up again afterwards."""
    before = mmsa_bridge.is_registered()
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
