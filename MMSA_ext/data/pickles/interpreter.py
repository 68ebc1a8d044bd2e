"""Pickles read as data: the operations that feature files are made of, and nothing else.

A pickle is a program, and the code of pickle and numpy that runs it believes what it says: sizes,
shapes, names, the depth to which things lie in one another. Feature files come from strangers, so
none of that code sees them. This interpreter knows the operations of protocols 0 to 5 by which
Python 2 and 3 write arrays, numbers, text, lists, tuples and dicts; any other refuses the file.

What is made is bounded by the size of the file, whatever the file says:

- An operation takes at least one byte and makes at most one small value. What it makes of the
  content of other values (an array of a list, bytes of a text) is counted: `_Machine.spend`.
- An array is made of as many bytes, or items, as its shape and dtype ask for. That is computed in
  Python's integers before anything is allocated.
- Keys are text or integers, so that nothing deep is hashed; nothing lies in itself, or deeper than
  features as nested lists do; what is in many places weighs as often as it is there, so that a few
  bytes never stand for more than a reader of the content can bear: `weight.check_weight`.
"""

import codecs
import collections
import pickle
import re
from collections.abc import Callable, Sequence
from struct import Struct
from types import FunctionType
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from MMSA_ext.data.pickles.arrays import (
    Content,
    array_of,
    bytes_of,
    dtype_of,
    in_native_order,
    is_dtype_code,
)
from MMSA_ext.data.pickles.errors import DamagedError, RefusedError, TruncatedError, kind_of, shown
from MMSA_ext.data.pickles.source import ByteSource
from MMSA_ext.data.pickles.weight import check_weight

__all__ = ["interpret"]

_LONGEST_ARGUMENT = 8  # bytes of a number behind an operation
_LONGEST_LINE = 1000  # bytes of a name or a number
_LONGEST_INTEGER = 16  # bytes
_MOST_MARKS = 64  # that are open at once: three for each container in another are sound

_DIRECT_BYTES = 4096  # few bytes may be the content of several arrays: Python has one b"" for all

_SAVE_AGAIN = "Save it again with pickle.dump(..., protocol=4)."
_KEY_BITS = 60
_KEY_TYPES = {str, int, np.str_}
_INTEGER = re.compile(rb"[+-]?\d{1,40}L?")


def interpret(source: ByteSource) -> Any:
    """Read one pickle.

    Args:
        source: bytes from the start of the pickle on; left behind its end.

    Returns:
        What the pickle holds; arrays have memory of their own and may be written to.

    Raises:
        TruncatedError: the file ends before the pickle does.
        DamagedError: the bytes make no sense.
        RefusedError: the pickle holds, or asks for, what no feature file needs.
        MemoryError: there is less memory than the file has content.
    """
    try:
        value = _Machine(source).run()
    except IndexError:
        raise DamagedError("an operation without the values that it takes") from None
    except ValueError as error:  # what cannot be decoded
        raise DamagedError(str(error)[:200]) from None
    check_weight(value, source.position)
    return value


class _Unfinished:
    """An array or dtype between its creation and its state; the memo has it by then.

    Attributes:
        code: of a dtype; None for an array.
        value: what it has become, or None.
    """

    __slots__ = ("code", "value")

    def __init__(self, code: str | None = None) -> None:
        self.code = code
        self.value: Any = None


class _Machine:
    """The state of reading one pickle.

    Attributes:
        source: where the operations come from.
        stack: values since the last mark.
        outer: the stacks in front of the open marks.
        memo: index -> value, which may be unfinished.
        spent: elements and bytes that were made of the content of other values.
    """

    def __init__(self, source: ByteSource) -> None:
        self.source = source
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.spent = 0

    def run(self) -> Any:
        source, operations, stop = self.source, _TABLE, pickle.STOP[0]
        while True:
            if source.at + _LONGEST_ARGUMENT >= len(source.buffer):
                source.ensure(1 + _LONGEST_ARGUMENT)
                if source.at == len(source.buffer):
                    raise TruncatedError
            code = source.buffer[source.at]
            source.at += 1
            if code == stop:
                break
            operations[code](self)
        if self.outer or len(self.stack) != 1:
            raise DamagedError("values that belong to nothing")
        return self.stack[0]

    def spend(self, count: int) -> None:
        """Count what is made of content that the file has once.

        Bytes may be made of text, and an array of the bytes, so twice its size is sound.
        """
        self.spent += count
        if self.spent > 2 * self.source.position:
            raise RefusedError("makes many values of one content")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self) -> None:
        if len(self.outer) == _MOST_MARKS:
            raise RefusedError("has containers in one another without an end")
        self.outer.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        values = self.stack
        self.stack = self.outer.pop()
        return values

    def top(self, count: int) -> tuple[Any, ...]:
        values = tuple(self.stack[-count:])
        if len(values) < count:
            raise IndexError
        del self.stack[-count:]
        return values

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def memoize(self) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise DamagedError(f"use of value {index}, which was never stored")
        value = self.memo[index]
        if isinstance(value, _Unfinished):
            value = value.value
            if value is None:
                raise RefusedError("has an array that holds itself")
        self.stack.append(value)

    def line(self) -> bytes:
        """A name or a number of a text protocol."""
        return self.source.take_line(_LONGEST_LINE)

    def integer(self, size: int) -> int:
        if not 0 <= size <= _LONGEST_INTEGER:
            raise RefusedError(f"holds an integer of {8 * size} bits")
        return int.from_bytes(self.source.take(size), "little", signed=True)

    def text_integer(self) -> None:
        line = self.line()
        # Protocol 0 writes truth values as integers of two digits.
        self.push(line == b"01" if line in (b"00", b"01") else _integer(line))

    def protocol(self) -> None:
        if (number := self.source.take(1)[0]) > pickle.HIGHEST_PROTOCOL:
            raise RefusedError(f"is of protocol {number}, which nobody knows", _SAVE_AGAIN)

    def content_follows(self) -> bool:
        """Whether the next value will be the content of an array."""
        if len(self.stack) == 4:  # of its state: version, shape, dtype, order
            return isinstance(self.stack[2], np.dtype)
        return bool(not self.stack and self.outer and self.outer[-1]) and (
            self.outer[-1][-1] is _frombuffer
        )

    def content(self, count: int, make: Callable[[Any], Any]) -> None:
        """Push that many bytes of the file: read into an array's memory, or `make` of them."""
        if count < 0:
            raise DamagedError("bytes whose number is negative")
        if count >= _DIRECT_BYTES and self.content_follows():
            self.push(Content(self.source.take_array(count)))
        else:
            self.push(make(self.source.take(count)))

    def escaped_string(self) -> None:
        line = self.source.take_line()
        if len(line) < 2 or line[:1] not in (b"'", b'"') or line[-1:] != line[:1]:
            raise DamagedError("text without quotation marks")
        content, _ = codecs.escape_decode(line[1:-1])
        self.push(content if self.content_follows() else str(content, "latin-1"))

    def append(self, values: Sequence[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise DamagedError(f"items for {kind_of(target)}")
        target += values

    def set_items(self, values: Sequence[Any]) -> None:
        _update(self.stack[-1], values[::2], values[1::2])

    def new_dict(self, values: Sequence[Any]) -> None:
        self.push({})
        self.set_items(values)

    def name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise DamagedError("a name that is no text")
        module = _PYTHON_2.get(module, module)
        # numpy 2 moved numpy.core to numpy._core; files name either.
        function = _NAMES.get((module.replace("numpy._core.", "numpy.core."), name))
        if function is None:
            _refuse_name(module, name)
        self.push(function)

    def name_lines(self) -> list[str]:
        return [str(self.line(), "utf-8") for _ in range(2)]

    def call(self) -> None:
        function, arguments = self.top(2)
        if type(function) is not FunctionType or type(arguments) is not tuple:
            raise DamagedError(f"a call of {kind_of(function)}")
        self.push(function(self, arguments))

    def set_state(self) -> None:
        target, state = self.top(2)
        if not isinstance(target, _Unfinished) or target.value is not None:
            raise RefusedError(f"alters {kind_of(target)} by setting its state")
        if target.code is not None:
            target.value = dtype_of(target.code, state)
        else:
            target.value = self.array_with(state)
        self.push(target.value)

    def array_with(self, state: Any) -> NDArray[Any]:
        match state:
            case (int(), tuple() as shape, np.dtype() as dtype, int() as fortran, content):
                array = array_of(shape, dtype, content, bool(fortran), self.spend)
                return in_native_order(array)  # as numpy does with a state, not with a buffer
        raise DamagedError("an array of unknown structure")


def _update(target: Any, keys: Sequence[Any], values: Sequence[Any]) -> None:
    if not isinstance(target, dict) or len(keys) != len(values):
        raise DamagedError(f"keys and values for {kind_of(target)}")
    for key in keys:
        if type(key) not in _KEY_TYPES:
            raise RefusedError(f"has {kind_of(key)} as a key")
        # Larger integers can be chosen to have one hash, which takes a dict quadratic time.
        if type(key) is int and key.bit_length() > _KEY_BITS:
            raise RefusedError(f"has an integer of {key.bit_length()} bits as a key")
    target.update(zip(keys, values, strict=True))


def _refuse_name(module: str, name: str) -> NoReturn:
    raise RefusedError(
        f"names {shown(f'{module}.{name}')}, and loading that could run code", RefusedError.CONVERT
    )


def _integer(line: bytes) -> int:
    if not _INTEGER.fullmatch(line):
        raise DamagedError("a number that is no integer of reasonable length")
    return int(line.rstrip(b"L"))


# What the names in a file stand for; each gets the machine and the arguments of the call.


def _new_array(machine: _Machine, arguments: tuple[Any, ...]) -> _Unfinished:
    if not arguments or arguments[0] is not _ndarray:
        raise DamagedError("an array of an unknown class")
    return _Unfinished()


def _ndarray(machine: _Machine, arguments: tuple[Any, ...]) -> NoReturn:
    raise RefusedError("calls numpy.ndarray")


def _dtype(machine: _Machine, arguments: tuple[Any, ...]) -> _Unfinished:
    code = arguments[0] if arguments else None
    if not is_dtype_code(code):
        name = shown(code) if isinstance(code, str) else kind_of(code)
        raise RefusedError(f"holds an array of dtype {name}, which is not a plain number or text")
    return _Unfinished(code)


def _frombuffer(machine: _Machine, arguments: tuple[Any, ...]) -> NDArray[Any]:
    match arguments:
        case (content, np.dtype() as dtype, tuple() as shape, str() as order):
            if order in ("C", "F"):
                return array_of(shape, dtype, content, order == "F", machine.spend)
        case (content, np.dtype() as dtype, tuple() as shape, str() as order, tuple() as axes):
            # Recent numpy: the memory order of an array that is neither C nor Fortran contiguous.
            if order == "K" and _is_permutation(axes, len(shape)):
                return array_of(shape, dtype, content, False, machine.spend).transpose(axes)
    raise DamagedError("an array of unknown structure")


def _is_permutation(axes: tuple[Any, ...], count: int) -> bool:
    return all(type(axis) is int for axis in axes) and sorted(axes) == list(range(count))


def _scalar(machine: _Machine, arguments: tuple[Any, ...]) -> Any:
    match arguments:
        case (np.dtype() as dtype, bytes() | str() as content) if not dtype.hasobject:
            return array_of((), dtype, content, False, machine.spend)[()]
    raise DamagedError("a numpy scalar of unknown structure")


def _encoded(machine: _Machine, arguments: tuple[Any, ...]) -> bytes | Content:
    """Bytes, as protocols 0 to 2 write them in Python 3."""
    match arguments:
        case (str() as text, str() as encoding):
            if encoding not in ("latin1", "latin-1"):
                raise RefusedError(f"holds bytes encoded as {shown(encoding)}")
            if len(text) >= _DIRECT_BYTES and machine.content_follows():
                return Content(bytes_of(text, machine.spend))
            machine.spend(len(text))
            return text.encode("latin-1")
    raise DamagedError("bytes of unknown structure")


def _empty_bytes(machine: _Machine, arguments: tuple[Any, ...]) -> bytes:
    if arguments:
        raise DamagedError("bytes of unknown structure")
    return b""


def _bytearray(machine: _Machine, arguments: tuple[Any, ...]) -> bytearray:
    match arguments:
        case ():
            return bytearray()
        case (bytes() as content,):
            machine.spend(len(content))
            return bytearray(content)
        case (str() as text, "latin-1"):
            machine.spend(len(text))
            return bytearray(text, "latin-1")
    raise DamagedError("a bytearray of unknown structure")


def _ordered_dict(
    machine: _Machine, arguments: tuple[Any, ...]
) -> collections.OrderedDict[Any, Any]:
    made: collections.OrderedDict[Any, Any] = collections.OrderedDict()
    match arguments:
        case ():
            return made
        case (list() as pairs,) if all(type(p) is list and len(p) == 2 for p in pairs):  # Python 2
            machine.spend(len(pairs))
            _update(made, [key for key, _ in pairs], [value for _, value in pairs])
            return made
    raise DamagedError("an OrderedDict of unknown structure")


def _refused(what: str, mend: str = RefusedError.REWRITE) -> Callable[..., NoReturn]:
    def refuse(*_: Any) -> NoReturn:
        raise RefusedError(what, mend)

    return refuse


_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}
_NAMES: dict[tuple[str, str], Callable[[_Machine, tuple[Any, ...]], Any]] = {
    ("numpy", "dtype"): _dtype,
    ("numpy", "ndarray"): _ndarray,
    ("numpy.core.multiarray", "_reconstruct"): _new_array,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("_codecs", "encode"): _encoded,
    ("builtins", "bytes"): _empty_bytes,
    ("builtins", "bytearray"): _bytearray,
    ("builtins", "set"): _refused("holds a set"),
    ("builtins", "frozenset"): _refused("holds a frozenset"),
    ("builtins", "complex"): _refused("holds a complex number"),
    ("collections", "OrderedDict"): _ordered_dict,
}

_BUFFERS = _refused("keeps the content of its arrays outside itself", _SAVE_AGAIN)
_OUTSIDE = _refused(
    "refers to objects outside itself, as PyTorch files do",
    "Convert tensors to numpy arrays before saving.",
)
_CLASS = _refused("holds an object of a class", RefusedError.CONVERT)
_RECURSIVE = _refused("has an operation that only lists and tuples in themselves need")
_SET = _refused("holds a set")

_Operation = Callable[[_Machine], Any]
_UINT1, _UINT2, _UINT4, _UINT8 = (Struct(f"<{code}") for code in "BHIQ")
_INT4 = Struct("<i")
_NUMBERS = {
    pickle.BININT[0]: _INT4,
    pickle.BININT1[0]: _UINT1,
    pickle.BININT2[0]: _UINT2,
    pickle.BINFLOAT[0]: Struct(">d"),
}


def _numbers(machine: _Machine) -> None:
    """Push the number of this operation and, as lists of numbers are long, those behind it."""
    source, push = machine.source, machine.stack.append
    buffer, at, last = source.buffer, source.at - 1, len(source.buffer) - 1
    while at < last and (layout := _NUMBERS.get(buffer[at])) and at + layout.size <= last:
        push(layout.unpack_from(buffer, at + 1)[0])
        at += 1 + layout.size
    if at < source.at:
        raise TruncatedError
    source.at = at


def _text(layout: Struct) -> _Operation:
    def push(machine: _Machine) -> None:
        source = machine.source
        raw = source.take(source.number(layout))
        machine.stack.append(str(raw, "utf-8", "surrogatepass"))

    return push


def _bytes(layout: Struct, make: Callable[[Any], Any]) -> _Operation:
    return lambda m: m.content(m.source.number(layout), make)


def _latin_1(raw: bytes | memoryview) -> str:
    return str(raw, "latin-1")


_OPERATIONS: dict[bytes, _Operation] = {
    pickle.PROTO: _Machine.protocol,
    pickle.FRAME: lambda m: m.source.expect(m.source.number(_UINT8)),
    pickle.NONE: lambda m: m.push(None),
    pickle.NEWTRUE: lambda m: m.push(True),
    pickle.NEWFALSE: lambda m: m.push(False),
    pickle.INT: _Machine.text_integer,
    pickle.LONG: lambda m: m.push(_integer(m.line())),
    pickle.LONG1: lambda m: m.push(m.integer(m.source.number(_UINT1))),
    pickle.LONG4: lambda m: m.push(m.integer(m.source.number(_INT4))),
    pickle.FLOAT: lambda m: m.push(float(m.line())),
    pickle.BININT: _numbers,
    pickle.BININT1: _numbers,
    pickle.BININT2: _numbers,
    pickle.BINFLOAT: _numbers,
    pickle.STRING: _Machine.escaped_string,
    pickle.BINSTRING: _bytes(_INT4, _latin_1),
    pickle.SHORT_BINSTRING: _bytes(_UINT1, _latin_1),
    pickle.UNICODE: lambda m: m.push(str(m.source.take_line(), "raw-unicode-escape")),
    pickle.SHORT_BINUNICODE: _text(_UINT1),
    pickle.BINUNICODE: _text(_UINT4),
    pickle.BINUNICODE8: _text(_UINT8),
    pickle.SHORT_BINBYTES: _bytes(_UINT1, bytes),
    pickle.BINBYTES: _bytes(_UINT4, bytes),
    pickle.BINBYTES8: _bytes(_UINT8, bytes),
    pickle.BYTEARRAY8: _bytes(_UINT8, bytearray),
    pickle.MARK: _Machine.mark,
    pickle.EMPTY_TUPLE: lambda m: m.push(()),
    pickle.TUPLE: lambda m: m.push(tuple(m.since_mark())),
    pickle.TUPLE1: lambda m: m.push(m.top(1)),
    pickle.TUPLE2: lambda m: m.push(m.top(2)),
    pickle.TUPLE3: lambda m: m.push(m.top(3)),
    pickle.EMPTY_LIST: lambda m: m.push([]),
    pickle.LIST: lambda m: m.push(m.since_mark()),
    pickle.APPEND: lambda m: m.append(m.top(1)),
    pickle.APPENDS: lambda m: m.append(m.since_mark()),
    pickle.EMPTY_DICT: lambda m: m.push({}),
    pickle.DICT: lambda m: m.new_dict(m.since_mark()),
    pickle.SETITEM: lambda m: m.set_items(m.top(2)),
    pickle.SETITEMS: lambda m: m.set_items(m.since_mark()),
    pickle.PUT: lambda m: m.put(_integer(m.line())),
    pickle.BINPUT: lambda m: m.put(m.source.number(_UINT1)),
    pickle.LONG_BINPUT: lambda m: m.put(m.source.number(_UINT4)),
    pickle.MEMOIZE: _Machine.memoize,
    pickle.GET: lambda m: m.get(_integer(m.line())),
    pickle.BINGET: lambda m: m.get(m.source.number(_UINT1)),
    pickle.LONG_BINGET: lambda m: m.get(m.source.number(_UINT4)),
    pickle.GLOBAL: lambda m: m.name(*m.name_lines()),
    pickle.STACK_GLOBAL: lambda m: m.name(*m.top(2)),
    pickle.REDUCE: _Machine.call,
    pickle.BUILD: _Machine.set_state,
    # Known, and in no feature file:
    pickle.EMPTY_SET: _SET,
    pickle.ADDITEMS: _SET,
    pickle.FROZENSET: _SET,
    pickle.POP: _RECURSIVE,
    pickle.POP_MARK: _RECURSIVE,
    pickle.DUP: _RECURSIVE,
    pickle.PERSID: _OUTSIDE,
    pickle.BINPERSID: _OUTSIDE,
    pickle.NEXT_BUFFER: _BUFFERS,
    pickle.READONLY_BUFFER: _BUFFERS,
    pickle.INST: lambda m: _refuse_name(*m.name_lines()),
    pickle.OBJ: _CLASS,
    pickle.NEWOBJ: _CLASS,
    pickle.NEWOBJ_EX: _CLASS,
    pickle.EXT1: _CLASS,
    pickle.EXT2: _CLASS,
    pickle.EXT4: _CLASS,
}


def _unknown(machine: _Machine) -> NoReturn:
    code = machine.source.buffer[machine.source.at - 1]
    raise DamagedError(f"byte 0x{code:02x}, where there must be an operation")


_TABLE = [_OPERATIONS.get(bytes([code]), _unknown) for code in range(256)]
