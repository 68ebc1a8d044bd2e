"""The interpreter: sound pickles as pickle reads them, and nothing that a hostile one can do."""

import base64
import collections
import contextlib
import io
import pickle
import pickletools
import struct
import zlib
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st

from MMSA_ext.data.pickles import interpreter
from MMSA_ext.data.pickles.errors import DamagedError, RefusedError, TruncatedError
from MMSA_ext.data.pickles.interpreter import interpret
from MMSA_ext.data.pickles.source import ByteSource
from tests.attack.guarded import guarded
from tests.attack.tally import Tally
from tests.data.comparing import assert_same

from .assembler import (
    PROTOCOL,
    array,
    byte_string,
    dtype,
    integer,
    name,
    reference,
    shape,
    split,
    text,
)
from .written import WRITTEN

PROTOCOLS = range(6)
DTYPES = ["?", "i1", ">i4", "<i8", "u1", "u8", "<f2", ">f4", "f8", "S3", "<U2", ">U3"]

numbers = st.none() | st.booleans() | st.integers(-(2**100), 2**100) | st.floats()
texts = st.text(max_size=8) | st.binary(max_size=8)
scalars = st.sampled_from(
    [np.float32(1.5), np.int64(-3), np.bool_(True), np.str_("é"), np.float16(2)]
)
shapes = np_st.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)


@st.composite
def layouts(draw: st.DrawFn, arrays: st.SearchStrategy[np.ndarray]) -> np.ndarray:
    """Arrays in C's and in Fortran's order, transposed, and with steps."""
    value = draw(arrays)
    layout = draw(st.sampled_from([np.ascontiguousarray, np.asfortranarray, np.transpose]))
    made = layout(value).reshape(value.shape) if value.ndim == 0 else layout(value)
    return made[::2] if made.ndim and draw(st.booleans()) else made


plain_arrays = layouts(
    st.sampled_from(DTYPES).flatmap(
        lambda code: np_st.arrays(code, shapes, elements=_elements(np.dtype(code)))
    )
)


def _elements(of: np.dtype) -> st.SearchStrategy[Any]:
    if of.kind == "U":  # no surrogates, which numpy does not take
        return st.text(st.characters(exclude_categories=["Cs"]), max_size=of.itemsize // 4)
    return np_st.from_dtype(of)


object_arrays = layouts(np_st.arrays("O", shapes, elements=numbers | texts))
values = st.recursive(
    numbers | texts | scalars | plain_arrays | object_arrays,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(-9, 2**40), inner, max_size=4)
        | st.dictionaries(st.text(max_size=3), inner, max_size=4).map(collections.OrderedDict)
    ),
    max_leaves=8,
)


def read(stored: bytes) -> Any:
    return interpret(ByteSource(io.BytesIO(stored)))


class Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 writes its texts, which are bytes."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_string(self, value: bytes) -> None:
        if not self.bin:
            self.write(pickle.STRING + repr(value)[1:].encode("ascii") + b"\n")
        elif len(value) < 256:
            self.write(pickle.SHORT_BINSTRING + bytes([len(value)]) + value)
        else:
            self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    dispatch[bytes] = save_string


def in_python_2(value: Any, protocol: int) -> bytes:
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol).dump(value)
    return buffer.getvalue().replace(b"numpy._core.", b"numpy.core.")


@given(values, st.sampled_from(PROTOCOLS))
def test_sound_pickles_are_read_as_pickle_reads_them(value: Any, protocol: int) -> None:
    stored = pickle.dumps(value, protocol)
    assert_same(read(stored), pickle.loads(stored))


@given(values, st.sampled_from(PROTOCOLS[:3]))
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_python_2_wrote_texts_that_are_bytes(value: Any, protocol: int) -> None:
    stored = in_python_2(value, protocol)
    assert_same(read(stored), pickle.loads(stored, encoding="latin-1"))


@pytest.mark.parametrize("writer", WRITTEN)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_old_pythons_and_numpys_wrote(writer: str) -> None:
    stored = zlib.decompress(base64.b64decode(WRITTEN[writer]))
    found = read(stored)
    assert_same(found, pickle.loads(stored, encoding="latin-1"))
    train = found["train"]
    assert type(train) is collections.OrderedDict
    assert train["raw_text"] == ["h\xe9llo", "\u4f60\n"]
    assert train["bytes"] == "caf\xe9\0\n'\"\\"
    np.testing.assert_array_equal(train["audio"], np.arange(6, dtype="f4").reshape(1, 2, 3))
    assert train["fortran"].flags.f_contiguous


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("code", ["f4", ">f8", "U7"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_large_contents(code: str, protocol: int) -> None:
    numbers = np.random.default_rng(0).integers(0, 10**6, 60_000).astype(code).reshape(300, 200)
    value = [numbers, "between", np.asfortranarray(numbers), b"x" * 300_000, "y" * 300_000]
    stored = pickle.dumps(value, protocol)
    found = read(stored)
    assert_same(found, pickle.loads(stored))
    assert all(item.flags.writeable for item in (found[0], found[2]))
    if protocol < 3:
        stored = in_python_2(value, protocol)
        assert_same(read(stored), pickle.loads(stored, encoding="latin-1"))


def test_what_is_shared_stays_shared() -> None:
    shared = [np.zeros(2), [1, 2]]
    first, second, array = read(pickle.dumps([shared, {"again": shared}, shared[0]]))
    assert second["again"] is first
    assert array is first[0]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_long_lists_of_numbers(protocol: int) -> None:
    value = [*range(-300, 70_000, 9), *np.linspace(0, 1, 3000).tolist(), 1, 2.5, 300, "end"]
    assert read(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_empty_values_and_bytearrays(protocol: int) -> None:
    value = [b"", bytearray(), bytearray(b"x"), np.str_(""), np.zeros((2, 0, 3), "f4"), {}, ()]
    stored = pickle.dumps(value, protocol)
    assert_same(read(stored), pickle.loads(stored))


def test_every_operation_is_known() -> None:
    known = set(interpreter._OPERATIONS) | {pickle.STOP}
    assert known == {code.code.encode("latin-1") for code in pickletools.opcodes}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_truncation_is_truncated_or_damaged(protocol: int) -> None:
    value = {"a": np.arange(40.0), "b": ["x", 3, 2.5], "c": np.array(["y", None], object)}
    stored = pickle.dumps(value, protocol)
    for end in range(len(stored)):
        with pytest.raises((TruncatedError, DamagedError)):
            read(stored[:end])


@given(st.binary(max_size=60), st.integers(0, 2**16))
def test_changed_bytes_raise_nothing_else(inserted: bytes, seed: int) -> None:
    value = {"a": np.arange(4.0), "b": ["x", 3], "c": np.array(["y", None], object), "d": (1,)}
    stored = pickle.dumps(value, seed % 6)
    at = seed % len(stored)
    with contextlib.suppress(RefusedError, DamagedError, TruncatedError):
        read(stored[:at] + inserted + stored[at + seed % 7 :])


def levels(count: int, width: int) -> bytes:
    """Lists of `width` references to the list before, `count` times; pushes a list of them all."""
    lists = [b"]\x94(" + reference(level) * width + b"e" for level in range(count)]
    return b"(]\x94(K\x01K\x02e" + b"".join(lists) + b"l"


def objects(count: int) -> bytes:
    """An array of objects in a list in an array of objects, and so on."""
    new = name("numpy.core.multiarray", "_reconstruct") + name("numpy", "ndarray")
    start = b"(" + dtype("O8").replace(b"R", b"R\x94", 1) + b"]\x94"
    one = b"]\x94" + new + b"K\x00\x85C\x01b\x87R(K\x01K\x01\x85" + reference(0) + b"\x89]"
    return start + b"".join(one + reference(1 + i) + b"atba" for i in range(count)) + b"t"


ITSELF = (
    name("numpy.core.multiarray", "_reconstruct")
    + name("numpy", "ndarray")
    + (b"K\x00\x85C\x01b\x87R\x94(K\x01" + shape(1) + dtype("O8") + b"\x89](h\x00etb.")
)
BIG = 100_000
DEEP = 200_000  # hashing a tuple of so many levels overflows the stack of C
HUGE = {
    "memo of 2^28": PROTOCOL + b"Nr" + struct.pack("<I", 2**28) + b".",
    "bytes of 2^63": PROTOCOL + b"\x8e" + struct.pack("<Q", 2**63) + b"ab.",
    "bytearray of 2.5e9": PROTOCOL
    + name("builtins", "bytearray")
    + integer(2500000000)
    + b"\x85R.",
    "array of 1e12": PROTOCOL + array(shape(10**12), dtype("f4", "<"), b"C\x04abcd") + b".",
    "1e9 empty texts": PROTOCOL + array(shape(10**9), dtype("S0"), b"C\x00") + b".",
    "0 by 1e18": PROTOCOL + array(shape(0, 10**18), dtype("f4", "<"), b"C\x00") + b".",
    "objects that are not there": PROTOCOL + array(shape(200), dtype("O8"), b"](NNe") + b".",
    "tuples deep as key": PROTOCOL + b"})" + b"\x85" * DEEP + b"Ns.",
    "tuples deep in a set": PROTOCOL + b"\x8f()" + b"\x85" * DEEP + b"\x90.",
    "tuples deep": PROTOCOL + b")" + b"\x85" * DEEP + b".",
    "lists deep": PROTOCOL + b"]" * DEEP + b"a" * (DEEP - 1) + b".",
    "marks deep": PROTOCOL + b"(" * DEEP + b".",
    "arrays 2e4 deep": PROTOCOL + objects(20_000) + b".",
    "list in itself": PROTOCOL + b"]\x94h\x00a.",
    "dict in itself": PROTOCOL + b"}\x94" + text("a") + b"h\x00s.",
    "60 levels of 2": PROTOCOL + levels(60, 2) + b".",
    "5 levels of 1000": PROTOCOL + levels(5, 1000) + b".",
    "one text 1e5 times": PROTOCOL + b"(" + text("x" * BIG) + b"\x94" + reference(0) * BIG + b"l.",
    "integer of 2^31 bytes": PROTOCOL + b"\x8b" + struct.pack("<i", 2**31 - 1) + b"ab.",
    "integer of 1e6 digits": PROTOCOL + b"L" + b"1" * 10**6 + b"L\n.",
    "keys of one hash": (
        PROTOCOL + b"}(" + b"".join(integer(k * (2**61 - 1)) + b"N" for k in range(5000)) + b"u."
    ),
    "arrays of one content": (
        PROTOCOL
        + (b"(" + byte_string(b"x" * BIG) + b"\x94")
        + array(shape(BIG), dtype("u1"), reference(0)) * 2000
        + b"l."
    ),
    "object arrays of one list": (
        PROTOCOL
        + (b"((" + b"N" * BIG + b"l\x94")
        + array(shape(BIG), dtype("O8"), reference(0)) * 2000
        + b"l."
    ),
    "bytes of one text": (
        PROTOCOL
        + (b"(" + text("x" * BIG) + b"\x94")
        + (name("_codecs", "encode") + reference(0) + text("latin1") + b"\x86R") * 2000
        + b"l."
    ),
    "dicts of one list": (
        PROTOCOL
        + (b"((" + b"".join(b"(K\x01Nl" for _ in range(BIG // 10)) + b"l\x94")
        + (name("collections", "OrderedDict") + reference(0) + b"\x85R") * 2000
        + b"l."
    ),
    "long texts beside short": split(
        audio=b"(" + text("x" * 30_000) + text("a") * 30_000 + b"l", id=b"(K\x01l"
    ),
}


def test_a_few_bytes_take_neither_time_nor_memory() -> None:
    names = list(HUGE)

    def attempt(number: int) -> str:
        try:
            read(HUGE[names[number]])
        except (RefusedError, DamagedError, TruncatedError):
            return "refused"
        except MemoryError:
            return "memory"
        return "content"

    tally = guarded(Tally("huge", ("refused", "content")), len(names), attempt, names.__getitem__)
    tally.check()
    assert tally.examples["content"] == ["memo of 2^28", "long texts beside short"]


@pytest.mark.parametrize(
    ("stored", "what"),
    [
        (pickle.dumps({1}, 4), "holds a set"),
        (pickle.dumps({1}, 2), "holds a set"),
        (pickle.dumps(frozenset("a"), 4), "holds a set"),
        (pickle.dumps(1j, 4), "holds a complex number"),
        (pickle.dumps({(1, 2): 3}, 4), "has a tuple as a key"),
        (pickle.dumps({b"a": 3}, 4), "has a bytes as a key"),
        (pickle.dumps({None: 3}, 4), "has a NoneType as a key"),
        (pickle.dumps({2**61: 3}, 4), "has an integer of 62 bits as a key"),
        (pickle.dumps(2**200, 4), "holds an integer of 208 bits"),
        (pickle.dumps(np.zeros(2, "c8"), 4), "holds an array of dtype 'c8'"),
        (pickle.dumps(np.zeros(2, [("a", "f4")]), 4), "holds an array of dtype"),
        (pickle.dumps(np.zeros(2, "M8[D]"), 4), "holds an array of dtype"),
        (pickle.dumps(np.dtype("f4"), 4), "holds a"),
        (
            PROTOCOL + name("_codecs", "encode") + text("x") + text("zlib") + b"\x86R.",
            "holds bytes encoded as 'zlib'",
        ),
        (b"\x80\x06N.", "is of protocol 6"),
        (PROTOCOL + b"N\x98.", "keeps the content of its arrays outside itself"),
        (PROTOCOL + b"N0.", "has an operation that only lists and tuples in themselves need"),
        (PROTOCOL + b"(" * 200 + b".", "has containers in one another without an end"),
        (PROTOCOL + ITSELF, "has an array that holds itself"),
        (pickle.dumps(len, 4), "names 'builtins.len'"),
        (HUGE["list in itself"], "has containers in one another"),
        (HUGE["5 levels of 1000"], "stands for far more content"),
        (HUGE["arrays of one content"], "makes many values of one content"),
        (PROTOCOL + name("numpy.core", "multiarray._reconstruct") + b".", "names 'numpy.core.mult"),
        (PROTOCOL + name("numpy", "ndarray") + b")R.", "calls numpy.ndarray"),
        (PROTOCOL + name("numpy", "ndarray") + b".", "holds a function"),
        (PROTOCOL + name("collections", "OrderedDict") + b")R}b.", "alters an OrderedDict"),
    ],
)
def test_what_is_refused_is_named(stored: bytes, what: str) -> None:
    with pytest.raises(RefusedError) as error:
        read(stored)
    assert error.value.what.startswith(what)
    assert error.value.mend


@pytest.mark.parametrize(
    ("stored", "what"),
    [
        (HUGE["array of 1e12"], r"an array of shape \(1000000000000,\) and dtype float32 in 4"),
        (HUGE["objects that are not there"], "an array of 200 objects without a list"),
        (PROTOCOL + array(shape(-1), dtype("f4"), b"C\x00") + b".", "impossible shape"),
        (PROTOCOL + array(shape(*[1] * 70), dtype("u1"), b"C\x01a") + b".", "70 dimensions"),
        (PROTOCOL + array(shape(1), dtype("U1"), b"C\x04aaaa") + b".", "do not exist"),
        (PROTOCOL + array(shape(1), dtype("b1"), b"C\x01\x02") + b".", "neither 0 nor 1"),
        (PROTOCOL + b"NN.", "belong to nothing"),
        (PROTOCOL + b"(.", "belong to nothing"),
        (PROTOCOL + b"\x86.", "without the values"),
        (PROTOCOL + b"h\x07.", "value 7"),
        (PROTOCOL + b"\xff.", "byte 0xff"),
        (PROTOCOL + b"T\xff\xff\xff\xff.", "negative"),
        (PROTOCOL + b"\x8c\x01\xff.", "utf-8"),
        (b"Ix\n.", "no integer"),
    ],
)
def test_what_is_damaged_is_named(stored: bytes, what: str) -> None:
    with pytest.raises(DamagedError, match=what):
        read(stored)
