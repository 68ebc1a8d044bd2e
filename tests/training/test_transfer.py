"""Batches on their way to the device: what arrives, in how many copies, and made by whom."""

import threading
from dataclasses import dataclass
from typing import NamedTuple

import torch

from MMSA_ext.training.transfer import prefetched, to_device
from tests.pretend_gpu import GPU, PretendGPU

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Part:
    rows: torch.Tensor
    name: str


class Pair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor | None


def content():
    return {
        "part": Part(torch.arange(3), "a"),
        "pair": Pair(torch.rand(2, 3).T, None),
        "more": [torch.zeros(2, 1, 0), torch.tensor([True, False])],
        "id": ["x"],
    }


def test_all_arrives_as_it_was_in_one_copy_a_dtype():
    gpu, given = PretendGPU(), content()
    with gpu:
        there = to_device(given, GPU)
        assert there["part"].rows.device == GPU
    assert not gpu.waits
    assert not gpu.mixes
    assert (there["part"].name, there["id"], there["pair"].second) == ("a", ["x"], None)
    pairs = [
        (there["part"].rows, given["part"].rows),
        (there["pair"].first, given["pair"].first),
        *zip(there["more"], given["more"], strict=True),
    ]
    for found, wanted in pairs:
        assert torch.equal(found, wanted)
    floats = [there["pair"].first, there["more"][0]]
    assert len({x.untyped_storage().data_ptr() for x in floats}) == 1


def test_on_the_cpu_nothing_is_copied_and_no_thread_is_started():
    given = content()
    assert to_device(given, CPU) is given
    names = []
    list(prefetched([lambda: names.append(threading.current_thread().name)], CPU))
    assert names == [threading.main_thread().name]


def test_one_is_made_ahead_in_order():
    drawn, made = [], []

    def makes():
        for number in range(4):
            drawn.append(threading.current_thread().name)
            yield lambda number=number: made.append(number) or torch.tensor([number])

    with PretendGPU():
        for number, there in enumerate(prefetched(makes(), GPU)):
            assert there.device == GPU
            assert there.tolist() == [number]
            assert len(drawn) == min(4, number + 2)
    assert made == [0, 1, 2, 3]
    assert set(drawn) == {threading.main_thread().name}
