"""From the host to the device: one pinned copy a dtype, and the next batch made meanwhile.

On the CPU nothing is copied and no thread is started.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

__all__ = ["prefetched", "to_device"]

T = TypeVar("T")

# Kernels read a tensor fastest from where its memory would begin if it had some of its own.
_ALIGNMENT = 512  # bytes


def to_device(content: T, device: torch.device) -> T:
    """Tensors on a device, whatever holds them: dictionaries, lists, tuples and dataclasses.

    Returns:
        The same with its tensors on the device, as views of one buffer a dtype; on the CPU itself.
    """
    return content if device.type == "cpu" else _Parcel.of(content).sent(device)


def prefetched(makes: Iterable[Callable[[], T]], device: torch.device) -> Iterator[T]:
    """What some functions make, in their order, on a device.

    One result is made ahead, in a thread of its own, while the caller works on the one before; the
    functions themselves are drawn from `makes` by the caller's thread, in order, so that what is
    random in them is the same each time.

    Args:
        makes: Functions that compute on the host and draw no random number.
        device: Where their results are wanted.
    """
    if device.type == "cpu":
        yield from (make() for make in makes)
        return
    with ThreadPoolExecutor(1, "prefetch") as thread:
        ahead = None
        for make in makes:
            following = thread.submit(_packed, make)
            if ahead is not None:
                yield ahead.result().sent(device)
            ahead = following
        if ahead is not None:
            yield ahead.result().sent(device)


def _packed(make: Callable[[], T]) -> _Parcel:
    return _Parcel.of(make())


@dataclass(frozen=True)
class _Parcel:
    """Content whose tensors lie one behind the other, ready to be sent.

    Attributes:
        content: As it was given.
        buffers: By dtype, `(N,)`, pinned where there is CUDA: without that no copy is asynchronous.
        starts: By a tensor's id, where it begins in the buffer of its dtype.
    """

    content: Any
    buffers: dict[torch.dtype, Tensor]
    starts: dict[int, int]

    @classmethod
    def of(cls, content: Any) -> _Parcel:
        found: dict[int, Tensor] = {}
        _mapped(content, lambda tensor: found.setdefault(id(tensor), tensor))
        sizes: dict[torch.dtype, int] = {}
        starts = {}
        for key, tensor in found.items():
            starts[key] = sizes.get(tensor.dtype, 0)
            room = _ALIGNMENT // tensor.dtype.itemsize
            sizes[tensor.dtype] = starts[key] + -(-tensor.numel() // room) * room
        pinned = torch.cuda.is_available()
        buffers = {
            dtype: torch.empty(size, dtype=dtype, pin_memory=pinned)
            for dtype, size in sizes.items()
        }
        for key, tensor in found.items():
            _part(buffers[tensor.dtype], starts[key], tensor).copy_(tensor)
        return cls(content, buffers, starts)

    def sent(self, device: torch.device) -> Any:
        there = {t: flat.to(device, non_blocking=True) for t, flat in self.buffers.items()}
        return _mapped(
            self.content,
            lambda tensor: _part(there[tensor.dtype], self.starts[id(tensor)], tensor),
        )


def _part(flat: Tensor, start: int, like: Tensor) -> Tensor:
    """The part of a buffer that holds a tensor of this shape."""
    return flat[start : start + like.numel()].view(like.shape)


def _mapped(content: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same with other tensors."""
    if isinstance(content, Tensor):
        return change(content)
    if isinstance(content, dict):
        return {key: _mapped(value, change) for key, value in content.items()}
    if isinstance(content, tuple) and hasattr(content, "_fields"):
        return type(content)(*(_mapped(value, change) for value in content))
    if isinstance(content, list | tuple):
        return type(content)(_mapped(value, change) for value in content)
    if is_dataclass(content) and not isinstance(content, type):
        values = {f.name: _mapped(getattr(content, f.name), change) for f in fields(content)}
        return replace(cast("Any", content), **values)
    return content
