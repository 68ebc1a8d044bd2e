"""Reach into a host's forward without copying it.

The hosts reduce each modality to one vector and discard the sequences. These helpers catch the
sequences while the host computes them, and put other vectors where the host reads its own. Nothing
stays on the host's modules between two forward passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence


@contextmanager
def recorded_outputs(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, Any]]:
    """Inside, the last output of each module is kept under its name in the dictionary given."""
    outputs: dict[str, Any] = {}

    def keep(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        outputs[name] = output

    with ExitStack() as stack:
        for name, module in modules.items():
            stack.callback(module.register_forward_hook(partial(keep, name)).remove)
        yield outputs


@contextmanager
def replaced_inputs(replace: Mapping[nn.Module, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Inside, each module reads what its function makes of the tensor that it is called with."""

    def before(function: Callable[[Tensor], Tensor], module: nn.Module, inputs: Any) -> Tensor:
        return function(*inputs)

    with ExitStack() as stack:
        for module, function in replace.items():
            stack.callback(module.register_forward_pre_hook(partial(before, function)).remove)
        yield


@contextmanager
def given_outputs(owner: nn.Module, outputs: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, calling the submodule `owner.<name>` gives `outputs[name]` and computes nothing.

    An entry in the instance's own dictionary is found before the submodule, which `nn.Module` looks
    up only where nothing else answers.
    """

    def answer(output: Tensor, *inputs: Any) -> Tensor:
        return output

    attributes = vars(owner)
    attributes.update({name: partial(answer, output) for name, output in outputs.items()})
    try:
        yield
    finally:
        for name in outputs:
            del attributes[name]


def unpacked(packed: PackedSequence) -> tuple[Tensor, Tensor]:
    """What a recurrent layer gave on packed input, in the order of the batch.

    Args:
        packed: Of B sequences, rows of width d.

    Returns:
        Sequences `(B, L, d)`, zero where padded, L the longest length; mask `(B, L)` bool.
    """
    # By length first: for lengths in the order of the batch torch would wait for a device.
    by_length = PackedSequence(packed.data, packed.batch_sizes)
    sequences, lengths = pad_packed_sequence(by_length, batch_first=True)
    mask = torch.arange(sequences.shape[1]) < lengths[:, None]
    mask = mask.to(sequences.device, non_blocking=True)
    if (order := packed.unsorted_indices) is None:
        return sequences, mask
    return sequences.index_select(0, order), mask.index_select(0, order)
