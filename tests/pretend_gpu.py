"""A GPU that is pretended: real code, computed on the CPU, while storages carry a device label.

What a label shows without a GPU: operations on tensors of two devices, which fail on a real one
(`mixes`); places where the host waits for the device (`waits`); and how many operations a step
launches (`operations`). Labels belong to storages, so views, saved tensors and gradients have them.

    gpu = PretendGPU()
    gpu.put(model)
    with gpu:
        model(x.to(GPU)).sum().backward()
    assert not gpu.mixes

Random numbers of dropout are not a CPU's, as on a GPU; inside of attention none is dropped.

torch's own code is trusted: what it allocates for an operation on a GPU is there too. Code of
Python is not: `torch.arange(3)` without a device is on the CPU.
"""

import sys
from collections import Counter
from contextlib import ExitStack
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import _engine_run_backward
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

GPU = torch.device("cuda", 0)
CPU = torch.device("cpu")

aten = torch.ops.aten
# Their result, or its shape, depends on values, which the host fetches from the device.
_WAITING = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.equal.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
    aten.repeat_interleave.Tensor,
    aten.bincount.default,
    aten._linalg_check_errors.default,
}
_INDEXING = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
}
# Lengths of packed sequences stay on the host; these give them, and take them.
_GIVING_LENGTHS = (torch._VF._pack_padded_sequence, torch._VF._pad_packed_sequence)
_TAKING_LENGTHS = {aten._pack_padded_sequence.default, aten.lstm.data, aten.gru.data}
# Code whose functions are named as places.
_NAMED = ("/MMSA_ext/", "/MMSA/", "/transformers/", "/tests/")


class PretendGPU:
    """Labels tensors as those of a GPU and counts, while entered as a context.

    Attributes:
        mixes: Operations on tensors of both devices, by place.
        waits: Places where the host waits for the device: a value is fetched, or copied there
            without `non_blocking`.
        operations: Operations on the device, views included, by their name.
    """

    def __init__(self) -> None:
        self.mixes: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.operations: Counter[str] = Counter()
        self._labelled = WeakIdKeyDictionary()
        self._modes = (_Functions(self), _Operations(self))
        self.calls: list[bool] = []  # of torch's functions: whether they were given a GPU's tensor

    def __enter__(self) -> "PretendGPU":
        with ExitStack() as stack:
            for mode in self._modes:
                stack.enter_context(mode)
            engine = patch.object(torch.autograd, "_engine_run_backward", self._run_backward)
            stack.enter_context(engine)
            self._leave = stack.pop_all().close
        return self

    def __exit__(self, *error: object) -> None:
        self._leave()

    def _run_backward(self, *args: object, **kwargs: object) -> object:
        """Python code of a backward pass is looked at as any other; torch lets it out."""
        with self._modes[0]:
            return _engine_run_backward(*args, **kwargs)

    def put(self, *modules: nn.Module) -> None:
        """Move modules, in place."""
        for module in modules:
            for tensor in (*module.parameters(), *module.buffers()):
                self.label(tensor.data)

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor is on the device."""
        return tensor.untyped_storage() in self._labelled

    def label(self, tensor: Tensor) -> Tensor:
        """A tensor, now on the device."""
        self._labelled[tensor.untyped_storage()] = True
        return tensor

    def forget(self, tensor: Tensor) -> Tensor:
        """A tensor, now on the CPU."""
        self._labelled.pop(tensor.untyped_storage(), None)
        return tensor

    def wait(self) -> None:
        """The host waits here."""
        self.waits[_place()] += 1


def _dropout(x, p=0.5, training=True, inplace=False):
    return torch.native_dropout(x, p, training)[0]


class _Functions(TorchFunctionMode):
    """What Python code calls: devices asked for, copies between them, new tensors."""

    def __init__(self, gpu: PretendGPU) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_function__(self, function, types, args=(), kwargs=None):
        gpu, kwargs = self.gpu, dict(kwargs or {})
        first = args[0] if args and isinstance(args[0], Tensor) else None
        held = first is not None and gpu.holds(first)
        if function == Tensor.device.__get__:
            return GPU if held else function(*args)
        if function == Tensor.is_cuda.__get__:
            return held
        if function == Tensor.is_cpu.__get__:
            return not held
        # Dropout is one operation of a GPU, and part of its attention; a CPU has several for it.
        if held and function is F.dropout:
            function = _dropout
        if held and function is F.scaled_dot_product_attention:
            kwargs["dropout_p"] = 0.0
        if function in (Tensor.backward, torch.autograd.backward, torch.autograd.grad):
            return function(*args, **kwargs)
        if held and function in (Tensor.numpy, Tensor.__array__):
            raise TypeError(f"can't convert {GPU} device type tensor to numpy")
        if held and function is Tensor.tolist:
            gpu.wait()
            return Tensor.tolist(first.detach().clone()) if first.dim() else first.item()
        if function in (Tensor.to, Tensor.cpu, Tensor.cuda):
            return self._move(function, first, args[1:], kwargs)
        asked = kwargs.get("device")
        if asked is not None and torch.device(asked).type == GPU.type:
            made = self._call(function, args, kwargs | {"device": CPU})
            if function in (torch.tensor, torch.as_tensor):
                gpu.wait()  # the values are copied
            return gpu.label(made)
        made = self._call(function, args, kwargs)
        if held and function is Tensor.new_tensor:
            gpu.wait()
            gpu.label(made)
        if function in _GIVING_LENGTHS:
            gpu.forget(made[1])
        return made

    def _call(self, function, args, kwargs):
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        self.gpu.calls.append(any(map(self.gpu.holds, given)))
        try:
            return function(*args, **kwargs)
        finally:
            self.gpu.calls.pop()

    def _move(self, function, tensor, options, kwargs):
        gpu, was_there = self.gpu, self.gpu.holds(tensor)
        dtype, there = kwargs.get("dtype"), kwargs.get("device")
        if function is not Tensor.to:
            there = CPU if function is Tensor.cpu else GPU
        for option in options:
            if isinstance(option, torch.dtype):
                dtype = option
            elif isinstance(option, Tensor):
                dtype, there = option.dtype, GPU if gpu.holds(option) else CPU
            elif isinstance(option, str | torch.device):
                there = option
            elif isinstance(option, bool):
                kwargs.setdefault("non_blocking", option)
        to_gpu = was_there if there is None else torch.device(there).type == GPU.type
        moved = tensor if dtype is None else self._call(Tensor.to, (tensor, dtype), {})
        if to_gpu == was_there:
            return moved
        if not (to_gpu and kwargs.get("non_blocking")):
            gpu.wait()
        return _Copied.apply(moved, gpu, to_gpu)


class _Copied(torch.autograd.Function):
    """A copy on the other device, through which gradients go back."""

    @staticmethod
    def forward(ctx, tensor, gpu, to_gpu):
        ctx.gpu, ctx.to_gpu = gpu, to_gpu
        return _Copied.copy(tensor, gpu, to_gpu)

    @staticmethod
    def backward(ctx, gradient):
        return _Copied.copy(gradient, ctx.gpu, not ctx.to_gpu), None, None

    @staticmethod
    def copy(tensor, gpu, to_gpu):
        copied = tensor.detach().clone()
        if to_gpu:
            return gpu.label(copied)
        return gpu.forget(copied)


class _Operations(TorchDispatchMode):
    """What is computed: on which device, and whether the host waits for it."""

    def __init__(self, gpu: PretendGPU) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        gpu = self.gpu
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        on_gpu = any(map(gpu.holds, given))
        if on_gpu:
            self._count(operation, args, given)
        elif not given:  # a new tensor: torch's own is where the call is that needs it
            on_gpu = gpu.calls[-1] if gpu.calls else True
        made = operation(*args, **(kwargs or {}))
        if on_gpu:
            for tensor in tree_leaves(made):
                if isinstance(tensor, Tensor):
                    gpu.label(tensor)
        return made

    def _count(self, operation, args, given) -> None:
        gpu = self.gpu
        gpu.operations[operation.overloadpacket.__name__] += 1
        if operation in _WAITING:
            gpu.wait()
        if operation in _INDEXING:
            index = [x for x in args[1] if x is not None]
            # A mask's number of True is fetched, and an index of the host is copied.
            if any(x.dtype in (torch.bool, torch.uint8) or not gpu.holds(x) for x in index):
                gpu.wait()
            given = [x for x in (args[0], *args[2:3]) if isinstance(x, Tensor)]
        # A scalar of the host may take part, and a copy may have its source there.
        elsewhere = [x for x in given if x.dim() and not gpu.holds(x)]
        if operation is aten.copy_.default:
            if elsewhere:
                gpu.wait()
        elif elsewhere and operation not in _TAKING_LENGTHS:
            shapes = ", ".join(str(tuple(x.shape)) for x in elsewhere)
            gpu.mixes[f"{_place()}: {operation} with {shapes} of the CPU"] += 1


def _place() -> str:
    """The innermost function of the code that is looked at: its file and name."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file != __file__:
            for part in _NAMED:
                if part in file:
                    return f"{part[1:]}{file.rpartition(part)[2]}:{frame.f_code.co_qualname}"
        frame = frame.f_back
    return "torch"
