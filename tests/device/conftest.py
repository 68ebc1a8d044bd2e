"""The device whose numbers are compared with the CPU's.

It is CUDA's first GPU, or what `MMSA_EXT_TEST_DEVICE` names: `cpu` and `pretended` (see
`tests/pretend_gpu.py`) show without a GPU that the tests themselves are sound.
"""

import os
from contextlib import contextmanager, nullcontext

import pytest
import torch

from tests.models.conftest import dataset, tiny_model  # noqa: F401 (fixtures)
from tests.pretend_gpu import GPU, PretendGPU
from tests.training.conftest import setting  # noqa: F401 (a fixture)

NAME = os.environ.get("MMSA_EXT_TEST_DEVICE", "cuda")


@contextmanager
def pretended():
    with PretendGPU() as gpu:
        yield GPU
    assert not gpu.mixes


@pytest.fixture
def on_device(monkeypatch):
    """A context in which the device computes; what the CPU is to compute stays outside of it."""
    if NAME == "pretended":
        return pretended()
    if NAME == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("torch sees no GPU; MMSA_EXT_TEST_DEVICE=cpu tries these tests on the CPU")
        # Otherwise convolutions and recurrent layers have 10 bits of mantissa.
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return nullcontext(torch.device(NAME))


@pytest.fixture
def device(on_device):
    """A device of which all of torch knows, autocast and random streams included."""
    if NAME == "pretended":
        pytest.skip("torch itself knows nothing of a GPU that is pretended")
    return on_device.enter_result
