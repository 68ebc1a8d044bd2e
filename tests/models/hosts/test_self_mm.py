"""InfoEnh in front of Self-MM's fusion, and what its unimodal heads read."""

import pytest
import torch

from tests.models.hosts.variants import INFOENH, outputs, predict, train

HEADS = ("filtered", "enhanced", "host")


@pytest.fixture
def variant(made):
    return lambda **infoenh: made("self_mm_infoenh", infoenh=INFOENH | infoenh)


def test_heads_read_the_host_if_told_so(variant, made):
    """Without residual the fusion is another one, and the heads are Self-MM's."""
    host, reads_host = made("self_mm"), variant(unimodal_heads="host")
    reads_host[0].load_state_dict(host[0].state_dict(), strict=False)
    expected, given = outputs(*host), outputs(*reads_host)
    assert not torch.allclose(given["M"], expected["M"])
    for key in ("T", "A", "V", "Feature_t", "Feature_a", "Feature_v"):
        torch.testing.assert_close(given[key], expected[key], msg=key)


@pytest.mark.parametrize("heads", HEADS)
def test_unimodal_heads_stay_unimodal_unless_they_read_what_is_aligned(variant, heads):
    model, args, batch = variant(unimodal_heads=heads)
    before = outputs(model, args, batch)
    batch["vision"] = torch.randn_like(batch["vision"])
    after = outputs(model, args, batch)
    same = {key: torch.equal(after[key], before[key]) for key in ("M", "T", "A", "V")}
    assert same == {"M": False, "T": heads != "enhanced", "A": heads != "enhanced", "V": False}


@pytest.mark.parametrize(("heads", "widths"), [("filtered", 5), ("enhanced", 5), ("host", None)])
def test_widen(variant, args_of, heads, widths):
    core = variant(vector="widen", hidden=5, unimodal_heads=heads)[0].Model
    assert core.post_fusion_layer_1.in_features == 15
    read = [getattr(core, f"post_{m}_layer_1").in_features for m in ("text", "audio", "video")]
    assert read == ([widths] * 3 if widths else [16, 16, 32])
    options = INFOENH | {"vector": "widen", "hidden": 5, "unimodal_heads": heads}
    args = args_of("self_mm_infoenh", infoenh=options)
    assert train(args, splits=("test",)).best_epoch == 1


def test_with_the_residual_the_hosts_own_projections_learn(variant):
    """Without, they are the only parameters of Self-MM that InfoEnh leaves without a use."""
    for residual in (False, True):
        model, args, batch = variant(residual=residual)
        predict(model.train(), args, batch)["M"].sum().backward()
        core = model.Model
        for subnet in (core.audio_model, core.video_model):
            assert (subnet.linear_1.weight.grad is not None) is residual
