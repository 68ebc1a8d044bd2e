"""What MMSA is told about: the bridge's only view of the rest of the package."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from MMSA_ext.mmsa_files import Kind


class RegisteredModel(Protocol):
    """What MMSA needs of a model: how to build it, how to train it, what to cite."""

    @property
    def build(self) -> Callable[[Any], Any]:
        """Makes the model from MMSA's `args`."""

    @property
    def trainer(self) -> Callable[[Any], Any]:
        """Makes the trainer from MMSA's `args`."""

    @property
    def paper(self) -> str:
        """Title and place of the paper."""


@dataclass(frozen=True)
class Extension:
    """The models that MMSA gets. All is asked anew at each use, so that later additions count.

    Attributes:
        list_models: Names of the added models, as far as they are registered.
        get_model: The entry of a name.
        configuration: Configuration of the added models in MMSA's schema, by kind of file.
        run: Replacement of `MMSA.MMSA_run`.
        test: Replacement of `MMSA.MMSA_test`.
        building: Inside what it gives, MMSA builds a model of these `args`.
    """

    list_models: Callable[[], Iterable[str]]
    get_model: Callable[[str], RegisteredModel]
    configuration: Callable[[Kind], Mapping[str, Any]]
    run: Callable[..., Any]
    test: Callable[..., Any]
    building: Callable[[Any], AbstractContextManager[None]] = nullcontext
