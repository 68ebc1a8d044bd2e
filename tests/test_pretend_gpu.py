"""The pretended GPU sees what a real one would refuse or wait for, and changes no number."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tests.pretend_gpu import GPU, PretendGPU


@pytest.fixture
def gpu():
    return PretendGPU()


@pytest.fixture
def x(gpu):
    return gpu.label(torch.arange(6.0).view(2, 3))


class Planted(torch.autograd.Function):
    """Its backward pass forgets the device."""

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient * torch.arange(3.0)


def test_a_tensor_made_without_a_device_is_found(gpu, x):
    with gpu:
        _ = x + torch.arange(3.0, device=x.device)
        assert not gpu.mixes
        _ = x + torch.arange(3.0)
    (place,) = gpu.mixes
    assert "test_a_tensor_made_without_a_device_is_found: aten.add.Tensor with (3,)" in place


def test_an_index_of_the_device_into_the_cpu_is_found(gpu, x):
    with gpu:
        _ = torch.arange(3.0)[x[0].long()]
    assert "aten.index.Tensor with (3,) of the CPU" in next(iter(gpu.mixes))


def test_one_in_a_backward_pass_is_found(gpu, x):
    with gpu:
        Planted.apply(x.requires_grad_()).sum().backward()
    assert [place for place in gpu.mixes if "Planted.backward" in place]


@pytest.mark.parametrize(
    "look",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 1).all()),
        lambda x: int(x.max()),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x[x > 1],
        lambda x: x.nonzero(),
        lambda x: torch.unique(x),
        lambda x: torch.bincount(x.long().flatten()),
        lambda x: x.new_tensor(3.0),
        lambda x: torch.tensor([1.0], device=x.device),
        lambda x: torch.zeros(3).to(x),
    ],
)
def test_what_the_host_waits_for_is_found(gpu, x, look):
    with gpu:
        look(x)
    assert sum(gpu.waits.values()) == 1
    assert "tests/test_pretend_gpu.py:" in next(iter(gpu.waits))


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: x.new_zeros(3) + x,
        lambda x: torch.full((3,), 2.0, device=x.device) * x,
        lambda x: torch.where(x > 1, x, 0.0).sum(),
        lambda x: x[:, torch.arange(2, device=x.device)],
        lambda x: torch.zeros(3).to(x.device, non_blocking=True) + x,
        lambda x: nn.functional.dropout(x, 0.5).softmax(-1),
        lambda x: x.shape[0] * x,
    ],
)
def test_what_needs_no_waiting_is_let_be(gpu, x, compute):
    with gpu:
        made = compute(x)
        assert made.device == GPU
        assert made.is_cuda
    assert not gpu.waits
    assert not gpu.mixes


def test_numpy_does_not_take_what_is_on_the_device(gpu, x):
    with gpu:
        with pytest.raises(TypeError, match="numpy"):
            x.numpy()
        assert x.cpu().numpy().shape == (2, 3)


def loss_of(model, tokens, lengths, target):
    embedded = model["embedding"](tokens)
    packed = pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
    states, _ = pad_packed_sequence(model["lstm"](packed)[0], batch_first=True)
    q = states.unsqueeze(1)
    read = nn.functional.scaled_dot_product_attention(q, q, q).squeeze(1)
    return nn.functional.mse_loss(model["norm"](read).mean(dim=(1, 2)), target)


def test_loss_and_gradients_are_those_of_a_plain_run(gpu):
    torch.manual_seed(0)
    parts = {"embedding": nn.Embedding(9, 4), "lstm": nn.LSTM(4, 8, batch_first=True)}
    model = nn.ModuleDict(parts | {"norm": nn.LayerNorm(8)})
    tokens, target, lengths = torch.randint(9, (3, 5)), torch.randn(3), torch.tensor([5, 2, 3])
    want = loss_of(model, tokens, lengths, target)
    want.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    gpu.put(model)
    with gpu:
        given = tokens.to(GPU, non_blocking=True), lengths, target.to(GPU, non_blocking=True)
        loss = loss_of(model, *given)
        loss.backward()
        assert loss.device == GPU
        assert all(p.grad.device == GPU for p in model.parameters())
    assert torch.equal(loss, want)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.grad, gradients[name]), name
    assert not gpu.mixes


def test_operations_are_counted_with_views(gpu, x):
    with gpu:
        _ = (x.view(3, 2) * 2).t()
        _ = torch.zeros(3) + 1
    assert gpu.operations == {"view": 1, "mul": 1, "t": 1}
