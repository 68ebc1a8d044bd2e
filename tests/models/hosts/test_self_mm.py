"""InfoEnh in front of Self-MM's fusion, and what its unimodal heads read."""

import pytest
import torch

from MMSA_ext.config.resolve import resolve
from MMSA_ext.errors import ConfigError
from tests.models.hosts.variants import (
    INFOENH,
    as_the_host,
    build,
    make_args,
    predict,
    train,
    whole_batch,
    write_features,
)

HEADS = ("filtered", "enhanced", "host")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_features(tmp_path_factory.mktemp("self_mm") / "mosi.pkl")


@pytest.fixture
def made(path, tiny_encoder):
    """Model in evaluation mode, its configuration and a batch."""

    def make(name="self_mm_infoenh", **infoenh):
        config = {"infoenh": INFOENH | infoenh} if name == "self_mm_infoenh" else {}
        args = make_args(name, path, tiny_encoder, **config)
        model, loaders = build(args)
        return model.eval(), args, whole_batch(loaders)

    return make


@torch.no_grad()
def outputs(model, args, batch):
    return predict(model, args, batch)


@pytest.mark.parametrize("aligned", [False, True], ids=["own lengths", "text's lengths"])
@pytest.mark.parametrize("heads", HEADS)
def test_its_own_vectors_give_its_own_outputs(made, heads, aligned):
    """With a silent InfoEnh and the residual, what goes back is what Self-MM had."""
    host, variant = made("self_mm"), made(residual=True, unimodal_heads=heads)
    as_the_host(variant[0], host[0])
    host[0].Model.aligned = variant[0].Model.aligned = aligned
    expected = outputs(*host)
    for key, value in outputs(*variant).items():
        torch.testing.assert_close(value, expected[key], msg=key)


def test_heads_read_the_host_if_told_so(made):
    """Without residual the fusion is another one, and the heads are Self-MM's."""
    host, variant = made("self_mm"), made(unimodal_heads="host")
    variant[0].load_state_dict(host[0].state_dict(), strict=False)
    expected, given = outputs(*host), outputs(*variant)
    assert not torch.allclose(given["M"], expected["M"])
    for key in ("T", "A", "V", "Feature_t", "Feature_a", "Feature_v"):
        torch.testing.assert_close(given[key], expected[key], msg=key)


@pytest.mark.parametrize("heads", HEADS)
def test_unimodal_heads_stay_unimodal_unless_they_read_what_is_aligned(made, heads):
    model, args, batch = made(unimodal_heads=heads)
    before = outputs(model, args, batch)
    batch["vision"] = torch.randn_like(batch["vision"])
    after = outputs(model, args, batch)
    same = {key: torch.equal(after[key], before[key]) for key in ("M", "T", "A", "V")}
    assert same == {"M": False, "T": heads != "enhanced", "A": heads != "enhanced", "V": False}


def test_frames_beyond_the_length_are_not_read(made):
    model, args, batch = made()
    before = outputs(model, args, batch)
    for modality in ("audio", "vision"):
        lengths = torch.as_tensor(batch[f"{modality}_lengths"])
        padding = torch.arange(12)[None] >= lengths[:, None]
        batch[modality] = batch[modality] + padding[..., None]
    after = outputs(model, args, batch)
    assert all(torch.equal(after[key], before[key]) for key in before)


@pytest.mark.parametrize(("heads", "widths"), [("filtered", 5), ("enhanced", 5), ("host", None)])
def test_widen(made, path, tiny_encoder, heads, widths):
    core = made(vector="widen", hidden=5, unimodal_heads=heads)[0].Model
    assert core.post_fusion_layer_1.in_features == 15
    read = [getattr(core, f"post_{m}_layer_1").in_features for m in ("text", "audio", "video")]
    assert read == ([widths] * 3 if widths else [16, 16, 32])
    options = INFOENH | {"vector": "widen", "hidden": 5, "unimodal_heads": heads}
    args = make_args("self_mm_infoenh", path, tiny_encoder, infoenh=options)
    assert train(args, also_predict=()).best_epoch == 1


def test_with_the_residual_the_hosts_own_projections_learn(made):
    """Without, they are the only parameters of Self-MM that InfoEnh leaves without a use."""
    for residual in (False, True):
        model, args, batch = made(residual=residual)
        predict(model.train(), args, batch)["M"].sum().backward()
        core = model.Model
        for subnet in (core.audio_model, core.video_model):
            assert (subnet.linear_1.weight.grad is not None) is residual


def test_infoenh_is_in_the_optimizer_group_of_the_rest(made):
    core = made()[0].Model
    names = [name for name, _ in core.named_parameters() if "infoenh" in name]
    taken = ("text_model", "audio_model", "video_model")
    assert names
    assert not any(part in name for name in names for part in taken)


def test_other_heads_are_refused():
    with pytest.raises(ConfigError, match=r"infoenh\.unimodal_heads"):
        resolve("self_mm_infoenh", "mosi", overrides={"infoenh": {"unimodal_heads": "none"}})
