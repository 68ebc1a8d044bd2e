"""InfoEnh reads what MISA discards and stands where MISA's vectors stood; frame lengths."""

import pytest
import torch

from MMSA_ext import mmsa_bridge
from MMSA_ext.config.resolve import resolve
from MMSA_ext.errors import ConfigError
from MMSA_ext.models.hosts import misa
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


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_features(tmp_path_factory.mktemp("misa") / "mosi.pkl")


@pytest.fixture
def made(path, tiny_encoder):
    """Model in evaluation mode, its configuration and a batch."""

    def make(name="misa_infoenh", **config):
        args = make_args(name, path, tiny_encoder, **config)
        model, loaders = build(args)
        return model.eval(), args, whole_batch(loaders)

    return make


@torch.no_grad()
def prediction(model, args, batch):
    return predict(model, args, batch)["M"]


@pytest.mark.parametrize("frame_lengths", ["text", "own"])
def test_its_own_vectors_give_its_own_prediction(made, frame_lengths):
    """With a silent InfoEnh and the residual, what goes back is what MISA had."""
    host = made("misa_infoenh", infoenh=None, frame_lengths=frame_lengths)
    variant = made(infoenh=INFOENH | {"residual": True}, frame_lengths=frame_lengths)
    as_the_host(variant[0], host[0])
    torch.testing.assert_close(prediction(*variant), prediction(*host))


def test_it_reads_encoder_and_second_recurrent_layers(made):
    model, args, batch = made()
    core, seen = model.Model, {}
    core.infoenh.register_forward_pre_hook(lambda module, inputs: seen.update(inputs=inputs))
    prediction(model, args, batch)
    sequences, masks, labels = seen["inputs"]
    text_lengths = batch["text"][:, 1].sum(1)
    assert {m: s.shape for m, s in sequences.items()} == {
        "text": (16, 10, 16), "audio": (16, 10, 10), "vision": (16, 10, 8)
    }  # fmt: skip
    assert labels is None
    for mask in masks.values():
        assert torch.equal(mask.sum(1), text_lengths.long())


class TestFrameLengths:
    def test_lengths_end_at_the_last_frame_that_is_not_zero(self):
        frames = torch.zeros(3, 5, 2)
        frames[0, 1, 1], frames[0, 3, 0], frames[1, 4] = 1.0, -1.0, 1.0
        assert misa.frame_lengths(frames).tolist() == [4, 5, 1]

    @pytest.mark.parametrize("infoenh", [INFOENH, None], ids=["InfoEnh", "host"])
    @pytest.mark.parametrize("frame_lengths", ["text", "own"])
    def test_frames_after_the_text_are_seen_with_own_only(self, made, infoenh, frame_lengths):
        model, args, batch = made(infoenh=infoenh, frame_lengths=frame_lengths)
        before = prediction(model, args, batch)
        late = batch["text"][:, 1].sum(1)[:, None] <= torch.arange(12)[None]
        late &= batch["audio"].abs().sum(-1) > 0
        assert late.any()
        batch["audio"] = batch["audio"] + late[..., None]
        changed = (prediction(model, args, batch) - before).abs().squeeze(1) > 0
        assert torch.equal(changed, late.any(1) & (frame_lengths == "own"))

    def test_padding_is_never_read(self, made):
        model, args, batch = made(frame_lengths="own")
        longer = {**batch, "audio": torch.nn.functional.pad(batch["audio"], (0, 0, 0, 5))}
        torch.testing.assert_close(prediction(model, args, longer), prediction(model, args, batch))

    def test_without_infoenh_it_has_misas_parameters(self, made):
        own, plain = made(infoenh=None, frame_lengths="own")[0], made("misa")[0]
        assert isinstance(own.Model, mmsa_bridge.model_class("misa"))
        assert list(own.state_dict()) == list(plain.state_dict())

    def test_other_values_are_refused(self):
        with pytest.raises(ConfigError, match="frame_lengths"):
            resolve("misa_infoenh", "mosi", overrides={"frame_lengths": "audio"})

    def test_it_trains(self, path, tiny_encoder):
        args = make_args("misa_infoenh", path, tiny_encoder, frame_lengths="own")
        assert train(args, also_predict=()).best_epoch == 1


class TestWiden:
    def test_projections_read_the_hidden_width(self, made):
        model, args, batch = made(infoenh=INFOENH | {"vector": "widen", "hidden": 5})
        core = model.Model
        projections = (core.project_t, core.project_a, core.project_v)
        assert [p[0].in_features for p in projections] == [5, 5, 5]
        assert torch.isfinite(prediction(model, args, batch)).all()

    def test_not_with_residual(self, made):
        with pytest.raises(ConfigError, match="residual"):
            made(infoenh=INFOENH | {"vector": "widen", "residual": True})
