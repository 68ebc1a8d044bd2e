import pytest
import torch

from MMSA_ext.models.parts.blockwise_attention import attend_in_blocks


def sequences(queries, keys, heads=3, width=4, dtype=torch.float64):
    torch.manual_seed(0)
    shapes = [(heads, length, width) for length in (queries, keys, keys)]
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def plainly(query, key, value, lead, keep=1.0, mask=None):
    logits = query @ key.transpose(1, 2)
    seen = torch.ones_like(logits, dtype=torch.bool)
    if lead is not None:
        seen = seen.tril(lead)
    if mask is not None:
        seen = seen & mask[:, None]
    weights = logits.masked_fill(~seen, -torch.inf).softmax(-1)
    return (weights.nan_to_num(0.0) * keep) @ value


def ragged(heads, keys):
    """One head reads all keys, one some, one none."""
    return torch.arange(keys) < torch.tensor([keys, keys // 2, 0])[:heads, None]


@pytest.mark.parametrize(
    ("queries", "keys", "lead"),
    [(70, 90, None), (70, 90, 20), (90, 70, 20), (130, 130, 0), (1, 5, None), (3, 200, 197)],
)
def test_values_and_gradients(queries, keys, lead):
    given = sequences(queries, keys)
    read = attend_in_blocks(*given, lead=lead, dropout=0.0)
    wanted = plainly(*given, lead)
    torch.testing.assert_close(read, wanted)
    weight = torch.randn_like(read)
    found = torch.autograd.grad(read, given, weight)
    torch.testing.assert_close(found, torch.autograd.grad(wanted, given, weight))


@pytest.mark.parametrize("lead", [None, 20])
def test_keys_that_a_mask_hides(lead):
    given, mask = sequences(70, 90), ragged(3, 90)
    read = attend_in_blocks(*given, lead=lead, dropout=0.0, mask=mask)
    wanted = plainly(*given, lead, mask=mask)
    torch.testing.assert_close(read, wanted)
    weight = torch.randn_like(read)
    # Where a head reads nothing, the plain form has no gradient but nan.
    found = torch.autograd.grad(read, given, weight)
    wanted = torch.autograd.grad(wanted[:2], given, weight[:2])
    torch.testing.assert_close([g[:2] for g in found], [g[:2] for g in wanted])
    assert not any(g[2].any() for g in found)
    hidden = (
        given[1].masked_fill(~mask[..., None], 1e6),
        given[2].masked_fill(~mask[..., None], 9.0),
    )
    again = attend_in_blocks(given[0], *hidden, lead=lead, dropout=0.0, mask=mask)
    torch.testing.assert_close(again, read)


@pytest.mark.parametrize("lead", [None, 20])
def test_dropout_is_a_plain_one_of_the_same_mask(lead):
    """Values that are unit vectors show what was dropped; the masks do not depend on values."""
    query, key, value = given = sequences(150, 140, width=140)
    mask, rate = ragged(3, 140)[[0, 1, 1]], 0.5

    def attend(value):
        torch.manual_seed(3)
        return attend_in_blocks(query, key, value, lead=lead, dropout=rate, mask=mask)

    shown = attend(torch.eye(140, dtype=torch.float64).expand(3, -1, -1)).detach()
    read = attend(value)
    wanted = plainly(*given, lead, keep=(shown != 0) / (1 - rate), mask=mask)
    torch.testing.assert_close(read, wanted)
    weight = torch.randn_like(read)
    found = torch.autograd.grad(read, given, weight)
    torch.testing.assert_close(found, torch.autograd.grad(wanted, given, weight))


def test_heads_of_several_blocks(monkeypatch):
    monkeypatch.setattr("MMSA_ext.models.parts.blockwise_attention._WEIGHTS", 1000)
    given = sequences(20, 30, heads=5)
    read = attend_in_blocks(*given, lead=10, dropout=0.0)
    torch.testing.assert_close(read, plainly(*given, 10))


def test_gradients_are_those_of_the_masks_that_were_drawn():
    def attend(*given):
        torch.manual_seed(3)
        return attend_in_blocks(*given, lead=2, dropout=0.3)

    assert torch.autograd.gradcheck(attend, sequences(65, 3, heads=1, width=2))


@pytest.mark.parametrize("dropout", [0.1, 0.5])
def test_weights_are_dropped_one_by_one_and_scaled(dropout):
    """Values that are unit vectors show the weights."""
    query, key, _ = sequences(200, 100, heads=4, width=100, dtype=torch.float32)
    query, value = query / 10, torch.eye(100).expand(4, 100, 100)
    weights = attend_in_blocks(query, key, value, lead=None, dropout=dropout)
    whole = attend_in_blocks(query, key, value, lead=None, dropout=0.0)
    kept = weights != 0
    torch.testing.assert_close(weights[kept], whole[kept] / (1 - dropout), rtol=1e-3, atol=1e-6)
    assert kept.float().mean().item() == pytest.approx(1 - dropout, abs=0.01)
    assert (kept.float().mean((1, 2)) - (1 - dropout)).abs().max() < 0.02  # in each head
    assert not torch.equal(kept[0], kept[1])


def test_masks_follow_torchs_seed():
    given = sequences(20, 30)

    def read(seed):
        torch.manual_seed(seed)
        return attend_in_blocks(*given, lead=None, dropout=0.5)

    assert torch.equal(read(1), read(1))
    assert not torch.equal(read(1), read(2))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    attend_in_blocks(*given, lead=None, dropout=0.0)
    assert torch.equal(torch.get_rng_state(), before)
