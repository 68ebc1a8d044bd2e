"""Files of `torch.save` are read as torch reads them, and nothing else is."""

import errno
import os
import pickle
import struct
import threading
import tracemalloc
import zipfile
from pathlib import Path

import pytest
import torch

from MMSA_ext.errors import CheckpointError, WriteError
from MMSA_ext.training import weights_file


def saved(path, content, **options):
    torch.save(content, path, **options)
    return path


def archive(path, program, records=None, compression=zipfile.ZIP_STORED):
    """An archive in torch's layout around any pickle."""
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in {"data.pkl": program, "byteorder": b"little"}.items():
            file.writestr(f"archive/{name}", data)
        for key, data in (records or {}).items():
            file.writestr(f"archive/data/{key}", data)
    return path


def tensor(
    size, stride=(1,), offset=0, storage="FloatStorage", count=4, rebuild="_rebuild_tensor_v2"
):
    """The pickle of one tensor, which may lie about its shape."""

    def number(value):
        return b"\x8a\x08" + struct.pack("<q", value)

    def numbers(values):
        return b"(" + b"".join(map(number, values)) + b"t"

    return (
        b"\x80\x02}X\x01\0\0\0wctorch._utils\n" + rebuild.encode() + b"\n((X\7\0\0\0storage"
        b"ctorch\n" + storage.encode() + b"\nX\1\0\0\x000X\3\0\0\0cpu" + number(count) + b"tQ"
        + number(offset) + numbers(size) + numbers(stride)
        + b"\x89ccollections\nOrderedDict\n)RtRs."
    )  # fmt: skip


def same(ours, theirs):
    assert type(ours) is type(theirs)
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        for key in theirs:
            same(ours[key], theirs[key])
    elif isinstance(theirs, torch.Tensor):
        assert (ours.dtype, ours.shape, ours.stride()) == (
            theirs.dtype, theirs.shape, theirs.stride(),
        )  # fmt: skip
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
    else:
        assert ours == theirs


DTYPES = [
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.bool, torch.complex64),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
]


def test_it_reads_what_torch_reads(tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    content = {
        "dtypes": {str(dtype): torch.ones(3).to(dtype) for dtype in DTYPES},
        "shapes": {"scalar": torch.tensor(1.5), "empty": torch.zeros(0, 3), "none": torch.zeros(0)},
        "views": {"whole": base, "row": base[1], "transposed": base.T, "repeated": base[:1, :1]},
        "not finite": torch.tensor([float("nan"), float("-inf"), -0.0]),
        "facts": {"a": [1, -1, 2**40, 1.5, None, True, "é"], "b": {}, "c": []},
    }
    path = saved(tmp_path / "a.pth", content)
    ours, theirs = weights_file.read(path), torch.load(path, weights_only=True)
    same(ours, theirs)
    shared = ours["views"]
    assert shared["row"].untyped_storage().data_ptr() == shared["whole"].data_ptr()


def test_a_state_dict_of_a_module_and_its_parameters(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    path = saved(tmp_path / "a.pth", module.state_dict())
    same(weights_file.read(path), dict(module.state_dict()))
    path = saved(tmp_path / "b.pth", dict(module.named_parameters()))
    read = weights_file.read(path)
    assert torch.equal(read["0.weight"], module[0].weight)
    assert not read["0.weight"].requires_grad


class Hostile:
    def __reduce__(self):
        return (print, ("executed",))


DEEP = b"\x80\x02}" + b")" + b"\x85" * 20_000 + b"K\1s."
BOMB = b"\x80\x02]q\0" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(60)) + b"."
ZEROS = {"0": b"\0" * 16}
MALFORMED = {
    "empty": lambda path: path.write_bytes(b""),
    "Git LFS pointer": lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1"),
    "web page": lambda path: path.write_bytes(b"\n<!DOCTYPE html><html></html>"),
    "no whole archive": lambda path: path.write_bytes(b"text " * 100),
    r"asks for \S+ \w*print": lambda path: saved(path, Hostile()),
    "layout of torch before 1.6": lambda path: saved(
        path, {"w": torch.zeros(2)}, _use_new_zipfile_serialization=False
    ),
    "no record data.pkl": lambda path: zipfile.ZipFile(path, "w").writestr("a/b", b"c"),
    "compressed": lambda path: archive(
        path, tensor([4]), {"0": b"\0" * 10**7}, zipfile.ZIP_DEFLATED
    ),
    "asks for torch.serialization _get_layout": lambda path: saved(
        path, {"w": torch.eye(3).to_sparse()}
    ),
    "no storage of weights": lambda path: archive(path, tensor([4], storage="QInt8Storage"), ZEROS),
    "dictionary whose keys are no names": lambda path: saved(path, {1: torch.zeros(2)}),
    "another byte order": lambda path: saved(path, {}) and _other_byte_order(path),
    "without a shape": lambda path: archive(path, tensor([-4]), ZEROS),
    "larger than its storage": lambda path: archive(path, tensor([10**9], [0]), ZEROS),
    "of another size": lambda path: archive(path, tensor([4], count=10**9), ZEROS),
    "is missing": lambda path: archive(path, tensor([4])),
    "exhausted before seeing STOP": lambda path: archive(path, b"\x80\x02}"),
    "operation LONG4": lambda path: archive(path, b"\x80\x02\x8b\1\0\0\0\1."),
    "unsound": lambda path: archive(path, b"\x80\x02h\7."),
}
MALFORMED_ALSO = {
    "deep": lambda path: archive(path, DEEP),
    "lying stride": lambda path: archive(path, tensor([2], [10**9]), ZEROS),
    "lying offset": lambda path: archive(path, tensor([4], offset=10**9), ZEROS),
    "too many dimensions": lambda path: archive(path, tensor([1] * 60, [1] * 60), ZEROS),
    "overflow": lambda path: archive(path, tensor([2**62, 4], [0, 0]), ZEROS),
    "meta": lambda path: saved(path, {"w": torch.zeros(10**12, device="meta")}),
    "nested": lambda path: saved(path, {"w": torch.nested.nested_tensor([torch.zeros(2)])}),
    "memo without content": lambda path: archive(path, b"\x80\x02j\xff\xff\xff\xff."),
    "huge string": lambda path: archive(path, b"\x80\x02X\xff\xff\xff\x7fa."),
    "plain pickle": lambda path: path.write_bytes(pickle.dumps({"w": 1})),
    "other language": lambda path: path.write_bytes(torch.zeros(1000).numpy().tobytes()),
}


def _other_byte_order(path):
    content = path.read_bytes().replace(b"little", b"bigbig")
    with zipfile.ZipFile(path) as file:
        info = file.getinfo(next(n for n in file.namelist() if n.endswith("byteorder")))
    old, new = (zipfile.crc32(word) for word in (b"little", b"bigbig"))
    assert old == info.CRC
    path.write_bytes(content.replace(struct.pack("<L", old), struct.pack("<L", new)))


@pytest.mark.parametrize("kind", [*MALFORMED, *MALFORMED_ALSO])
def test_anything_else_is_refused_in_a_sentence(tmp_path, kind, capsys):
    path = tmp_path / "a.pth"
    (MALFORMED | MALFORMED_ALSO)[kind](path)
    expected = kind if kind in MALFORMED else r"a\.pth"
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=expected) as error:
            weights_file.read(path)
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()
    assert "a.pth" in str(error.value)
    assert "\n" not in str(error.value)
    assert "executed" not in capsys.readouterr().out


def test_repetition_by_reference_costs_nothing_to_read(tmp_path):
    assert len(weights_file.read(archive(tmp_path / "a.pth", BOMB))) == 2


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "loop", "name", "zero", "forbidden"])
def test_what_is_no_readable_file(tmp_path, kind):
    path = tmp_path / ("n" * 4000 if kind == "name" else "a\0b" if kind == "zero" else "a.pth")
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        if not hasattr(os, "mkfifo"):
            pytest.skip("there are no named pipes here")
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "forbidden":
        saved(path, {}).chmod(0)
        if os.access(path, os.R_OK):
            pytest.skip("this user may read every file")
    with pytest.raises(CheckpointError, match=r"no such|folder|regular|cannot be read"):
        weights_file.read(path)


def test_every_changed_or_missing_byte_is_seen_or_changes_nothing(tmp_path):
    """Whatever is not covered by a checksum is not part of the content."""
    whole = {"w": torch.arange(3.0), "b": torch.arange(2), "facts": {"rate": 0.5}}
    path = saved(tmp_path / "a.pth", whole)
    content = path.read_bytes()
    seen = 0
    for position in range(0, len(content), 7):
        path.write_bytes(
            content[:position] + bytes([content[position] ^ 0x41]) + content[position + 1 :]
        )
        try:
            same(weights_file.read(path), whole)
        except CheckpointError:
            seen += 1
    assert seen > 40
    for length in range(0, len(content), 41):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            weights_file.read(path)


def test_reading_from_threads(tmp_path):
    path = saved(tmp_path / "a.pth", {"w": torch.arange(1000.0)})
    read = []
    threads = [
        threading.Thread(target=lambda: read.append(weights_file.read(path))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(content["w"], torch.arange(1000.0)) for content in read)
    assert len(read) == 4


@pytest.mark.parametrize("write", [weights_file.write, weights_file.write_scratch])
def test_a_full_disk_is_said_as_such(small_disk, write):
    path = small_disk / "weights.pth"
    write(path, {"w": torch.zeros(10)})
    with pytest.raises(WriteError, match=r"weights\.pth.*the disk of .* is full") as error:
        write(path, {"w": torch.zeros(1024, 1024)})
    assert "MiB free" in str(error.value)
    if write is weights_file.write:
        assert torch.equal(weights_file.read(path)["w"], torch.zeros(10))
    else:
        assert not path.exists()
    assert [entry.name for entry in small_disk.iterdir()] in ([], ["weights.pth"])


def test_what_the_disk_says_gets_through_the_writer_of_torch():
    device = Path("/dev/full")
    if not device.is_char_device():
        pytest.skip("there is no device that is always full here")
    with pytest.raises(OSError, match="No space left") as error:
        weights_file._dump(device, {"w": torch.zeros(10**6)})
    assert error.value.errno == errno.ENOSPC
