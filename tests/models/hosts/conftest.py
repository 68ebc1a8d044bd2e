"""Tiny variants of MMSA's models on one file of features."""

import pytest

from tests.models.hosts.variants import build, make_args, whole_batch, write_features


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_features(tmp_path_factory.mktemp("variants") / "mosi.pkl")


@pytest.fixture(scope="module")
def args_of(path, tiny_encoder):
    return lambda model, **config: make_args(model, path, tiny_encoder, **config)


@pytest.fixture
def made(args_of):
    """Model in evaluation mode, its configuration and a batch."""

    def make(name, **config):
        args = args_of(name, **config)
        model, loaders = build(args)
        return model.eval(), args, whole_batch(loaders)

    return make
