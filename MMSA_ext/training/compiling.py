"""The training step, compiled by `torch.compile`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from typing import TypeVar, cast

import torch

from MMSA_ext.errors import ConfigError

T = TypeVar("T", bound=Callable[..., object])


def compiled(step: T, backend: str, device: torch.device) -> T:
    """A function that computes the same, compiled when it is first called; lengths may vary.

    Args:
        step: The function.
        backend: The key `compile` of the configuration; `off` leaves the function as it is.
        device: Where it will compute.

    Raises:
        ConfigError: What the backend needs is not on this machine.
    """
    if backend == "off":
        return step
    if backend == "inductor":
        _check_tools(device)
    return cast("T", torch.compile(step, backend=backend, dynamic=True))


def _check_tools(device: torch.device) -> None:
    named = os.environ.get("CXX")
    compilers = [named] if named else ["g++", "clang++", "c++"]
    if device.type == "cpu" and not any(map(shutil.which, compilers)):
        raise ConfigError(
            f"compile=true needs a C++ compiler on a CPU, and {' or '.join(compilers)} is not "
            "found; install one (Debian: apt install g++), set CXX to it, or leave compile out."
        )
    if device.type == "cuda" and find_spec("triton") is None:
        raise ConfigError(
            "compile=true needs the package triton on a GPU, which torch's own wheels for CUDA "
            "bring along; install one of these, or leave compile out."
        )
